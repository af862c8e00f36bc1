"""corpus -> passages: every page is cut into pieces that a model can read at once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from storage.artifact import ArtifactRef, Counts
from storage.formats.schemas import LEDGER, PASSAGES
from storage.formats.table import read_rows, write_table
from storage.workspace import Workspace
from tasks.cut.config import CutConfig
from tasks.cut.passages import cut_page
from tasks.stage import stage

COLUMNS = ("wiki", "language", "page_id", "title", "split")


@stage("cut", version=1, kind="passages")
def cut(corpus: ArtifactRef, config: CutConfig, workspace: Workspace) -> Counts:
    """Cut every page at the best borders; only a page without any text is dropped."""
    paths = corpus.files("corpus.parquet")
    parts = []
    for number, path in enumerate(paths):
        parts.append(workspace.part(path.parent.name, partial(_cut_file, path, config)))
        workspace.progress(number + 1, len(paths), "files")
    return Counts.total(parts)


def _cut_file(path: Path, config: CutConfig, directory: Path) -> Counts:
    """Cut one file's pages into passages.parquet."""
    empty: list[dict[str, Any]] = []
    seen = num_chars = 0

    def passages() -> Iterator[dict[str, Any]]:
        nonlocal seen, num_chars
        for page in read_rows([path], (*COLUMNS, "text", "sections")):
            seen += 1
            sections = [
                (section["start"], section["title"] if section["level"] > 1 else "")
                for section in page["sections"] or []
            ]
            pieces = cut_page(
                page["text"], sections, max_chars=config.max_chars, min_chars=config.min_chars
            )
            ids = {name: page[name] for name in COLUMNS}
            if not pieces:
                id = f"{page['wiki']}:{page['page_id']}"
                empty.append({"id": id, "title": page["title"], "reason": "empty", "detail": None})
            for index, piece in enumerate(pieces):
                num_chars += len(piece.text)
                yield ids | {"index": index, "heading": piece.heading, "text": piece.text}

    rows = write_table(directory / "passages.parquet", passages(), PASSAGES)
    write_table(directory / "ledger.parquet", empty, LEDGER)
    dropped = {"empty": len(empty)} if empty else {}
    return Counts(seen, seen - len(empty), dropped, rows, {"characters": num_chars})
