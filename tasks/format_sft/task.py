"""corpus + user files -> dialogues: one schema, every answer checked, every broken row named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from storage.artifact import ArtifactRef, Counts, canonical_json, sha256_file
from storage.errors import BadInput
from storage.formats.schemas import DIALOGUES, LEDGER
from storage.formats.table import num_rows, read_rows, write_table
from storage.workspace import Workspace
from tasks.format_sft.config import FormatSftConfig
from tasks.format_sft.derive import choose, derive_dialogue
from tasks.format_sft.files import UserRows, read_files
from tasks.paths import resolve
from tasks.stage import stage

COLUMNS = ("wiki", "language", "page_id", "title", "split", "text", "sections")


def identity(config: FormatSftConfig) -> str:
    """Return the names and digests of the user's files: they decide the output."""
    paths = [resolve(path) for path in config.files]
    return canonical_json([[path.name, sha256_file(path)] for path in paths])


@stage("format_sft", version=3, kind="dialogues", identity=identity)
def format_sft(corpus: ArtifactRef, config: FormatSftConfig, workspace: Workspace) -> Counts:
    """Write dialogues.parquet, the same as dialogues.jsonl for people, and rejects.jsonl."""
    user = read_files(
        [resolve(path) for path in config.files],
        max_rejected_share=config.max_rejected_share,
        validation_share=config.validation_share,
        earlier_answers_weight=config.earlier_answers_weight,
    )
    _write_lines(workspace.path / "rejects.jsonl", user.rejects)
    derived: list[dict[str, Any]] = []
    if config.derive_from_wiki:
        derived = _derive(corpus, config, workspace, user)
    rows = user.rows + derived
    if not rows:
        raise BadInput(
            "format_sft: no file and no page gave a dialogue; name files with format_sft.files, or "
            "set format_sft.derive_from_wiki=true for a wiki in English or Chinese"
        )
    write_table(workspace.path / "dialogues.parquet", rows, DIALOGUES)
    write_table(workspace.path / "ledger.parquet", user.ledger, LEDGER)
    lines = ({"messages": row["messages"]} for row in rows)
    _write_lines(workspace.path / "dialogues.jsonl", lines)
    metrics = {
        "derived": len(derived),
        "from_files": len(user.rows),
        "validation_dialogues": sum(row["split"] == "validation" for row in rows),
    }
    dropped = Counter(row["reason"] for row in user.ledger)
    return Counts(user.seen, len(rows), dropped, metrics=metrics)


def _derive(
    corpus: ArtifactRef, config: FormatSftConfig, workspace: Workspace, ledger: UserRows
) -> list[dict[str, Any]]:
    """Return the dialogues of the chosen pages; every page is seen, the others enter the ledger."""
    paths = corpus.files("corpus.parquet")
    total = num_rows(paths)
    titles: dict[str, str] = {}

    def candidates() -> Iterator[dict[str, Any]]:
        for number, page in enumerate(read_rows(paths, COLUMNS), start=1):
            workspace.progress(number, total, "pages")
            ledger.seen += 1
            row = derive_dialogue(
                page, patterns=config.patterns, max_answer_chars=config.max_answer_chars
            )
            if isinstance(row, str):
                ledger.drop(f"{page['wiki']}:{page['page_id']}", page["title"], row, None)
            else:
                titles[row["id"]] = page["title"]
                yield row

    chosen = list(choose(candidates(), config.max_derived))
    for id in sorted(titles.keys() - {row["id"] for row in chosen}):
        ledger.drop(id, titles[id], "over_max_derived", None)
    return chosen


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
