"""corpus -> pairs: titles, names, headings, links and facts ask, the right text answers."""

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
from tasks.pair.leads import Leads
from tasks.pair.pairs import page_pairs
from tasks.stage import stage

IDS = ("wiki", "language", "split")
COLUMNS = (*IDS, "page_id", "title", "text", "sections", "redirects", "links", "facts")
LEADS = "leads.tmp"


@stage("pair", version=2, kind="pairs")
def pair(corpus: ArtifactRef, config: PairConfig, workspace: Workspace) -> Counts:
    """Take every good pair of every page; a page that gives none is dropped with the reason."""
    paths = corpus.files("corpus.parquet")
    leads_file = workspace.path / LEADS
    leads = None
    if "link-lead" in config.sources:
        leads = Leads(paths, leads_file, max_chars=config.max_positive_chars)
    parts = []
    for number, path in enumerate(paths):
        parts.append(workspace.part(path.parent.name, partial(_pair_file, path, config, leads)))
        workspace.progress(number + 1, len(paths), "files")
    leads_file.unlink(missing_ok=True)
    return Counts.total(parts)


def _pair_file(path: Path, config: PairConfig, leads: Leads | None, directory: Path) -> Counts:
    """Write one file's pairs. The ledger counts pages; the metrics count the pairs by source."""
    without: list[dict[str, Any]] = []
    pair_counts: Counter[str] = Counter()
    seen = 0

    def pairs() -> Iterator[dict[str, Any]]:
        nonlocal seen
        for page in read_rows([path], COLUMNS):
            seen += 1
            candidates = list(page_pairs(page, config, leads))
            reasons = [candidate.reason for candidate in candidates if candidate.reason]
            pair_counts.update(f"not_taken/{reason}" for reason in reasons)
            if len(reasons) == len(candidates):
                id, reason = f"{page['wiki']}:{page['page_id']}", (reasons or ["no_section"])[0]
                row = {"id": id, "title": page["title"], "reason": reason, "detail": None}
                without.append(row)
            ids = {name: page[name] for name in IDS} | {"query_page_id": page["page_id"]}
            for one in candidates:
                if one.reason is None:
                    pair_counts[f"pairs/{one.source}"] += 1
                    row = {"source": one.source, "query": one.query, "positive": one.positive}
                    yield ids | row | {"page_id": one.page_id}

    rows = write_table(directory / "pairs.parquet", pairs(), PAIRS)
    write_table(directory / "ledger.parquet", without, LEDGER)
    dropped = Counter(row["reason"] for row in without)
    return Counts(seen, seen - len(without), dropped, rows, pair_counts)
