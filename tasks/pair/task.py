"""corpus -> pairs: titles and headings ask, leads and sections answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from storage.artifact import ArtifactRef, Counts
from storage.formats.schemas import LEDGER, PAIRS
from storage.formats.table import read_rows, write_table
from storage.workspace import Workspace
from tasks.pair.config import PairConfig
from tasks.pair.pairs import page_pairs
from tasks.stage import stage

COLUMNS = ("wiki", "language", "page_id", "split")


@stage("pair", version=1, kind="pairs")
def pair(corpus: ArtifactRef, config: PairConfig, workspace: Workspace) -> Counts:
    """Take every good pair of every page; a page that gives none is dropped with the reason."""
    paths = corpus.files("corpus.parquet")
    parts = []
    for number, path in enumerate(paths):
        parts.append(workspace.part(path.parent.name, partial(_pair_file, path, config)))
        workspace.progress(number + 1, len(paths), "files")
    return Counts.total(parts)


def _pair_file(path: Path, config: PairConfig, directory: Path) -> Counts:
    """Write one file's pairs. The ledger counts pages; the metrics count the pairs not taken."""
    without: list[dict[str, Any]] = []
    not_taken: Counter[str] = Counter()
    seen = 0

    def pairs() -> Iterator[dict[str, Any]]:
        nonlocal seen
        for page in read_rows([path], (*COLUMNS, "title", "text", "sections")):
            seen += 1
            candidates = list(page_pairs(page, config))
            reasons = [candidate.reason for candidate in candidates if candidate.reason]
            not_taken.update(f"not_taken/{reason}" for reason in reasons)
            if len(reasons) == len(candidates):
                id, reason = f"{page['wiki']}:{page['page_id']}", (reasons or ["no_section"])[0]
                row = {"id": id, "title": page["title"], "reason": reason, "detail": None}
                without.append(row)
            ids = {name: page[name] for name in COLUMNS}
            for one in candidates:
                if one.reason is None:
                    row = {"source": one.source, "query": one.query, "positive": one.positive}
                    yield ids | row

    rows = write_table(directory / "pairs.parquet", pairs(), PAIRS)
    write_table(directory / "ledger.parquet", without, LEDGER)
    dropped = Counter(row["reason"] for row in without)
    return Counts(seen, seen - len(without), dropped, rows, not_taken)
