"""pages -> documents: wikitext becomes clean text."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from storage.artifact import ArtifactRef, Counts
from storage.errors import BadInput
from storage.files import read_json
from storage.formats.schemas import DOCUMENTS, LEDGER
from storage.formats.table import TableWriter, num_rows, read_rows, read_table
from storage.workspace import Workspace
from tasks.clean.config import CleanConfig
from tasks.clean.documents import Cleaned, clean_batch
from tasks.clean.languages import Site
from tasks.figures import histogram
from tasks.stage import stage

BATCH = 64
Batch = list[dict[str, Any]]


@stage("clean", version=1, kind="documents")
def clean(pages: ArtifactRef, config: CleanConfig, workspace: Workspace) -> Counts:
    """Clean every part of the pages into a part of the same name; draw the lengths."""
    aliases = read_aliases(pages.files("redirects.parquet"))
    files = pages.files("pages.parquet")
    total, done, counts = num_rows(files), 0, []
    for file in files:

        def build(folder: Path, file: Path = file, before: int = done) -> Counts:
            return clean_part(file, folder, config, aliases, workspace, before, total)

        counts.append(workspace.part(file.parent.name, build))
        done += num_rows([file])
    ledger = Counts.total(counts)
    if not ledger.kept:
        raise BadInput(
            f"no document is left of {ledger.seen:,} pages, {dict(ledger.dropped)}; "
            "lower clean.min_chars or give another dump"
        )
    written = sorted(workspace.path.glob("*/documents.parquet"))
    lengths = read_table(written, ["num_chars"]).column(0).to_pylist()
    histogram(
        workspace.logs / "document_length.png", lengths, "Length of the documents", "characters"
    )
    return ledger


def clean_part(
    file: Path,
    folder: Path,
    config: CleanConfig,
    aliases: dict[str, list[str]],
    workspace: Workspace,
    before: int,
    total: int,
) -> Counts:
    """Write `documents.parquet` and `ledger.parquet` of one file of pages."""
    info = read_json(file.parent / "siteinfo.json")
    site = Site.of(info["language"], info["namespaces"], config.drop_sections)
    work = partial(clean_batch, site=site, config=config)
    seen = kept = characters = 0
    dropped: Counter[str] = Counter()
    residues: Counter[str] = Counter()
    with (
        TableWriter(folder / "documents.parquet", DOCUMENTS, rows_per_group=1024) as documents,
        TableWriter(folder / "ledger.parquet", LEDGER) as ledger,
    ):
        for page, cleaned in in_order(work, read_rows([file]), config.workers):
            seen += 1
            workspace.progress(before + seen, total, "pages")
            if cleaned.row is None:
                reason = cleaned.reason or "error"
                dropped[reason] += 1
                row = {"id": str(page["page_id"]), "title": page["title"], "reason": reason}
                ledger.add(row | {"detail": cleaned.detail})
                continue
            kept += 1
            characters += cleaned.row["num_chars"]
            residues.update(cleaned.residues or {})
            documents.add(cleaned.row | {"redirects": aliases.get(page["title"], [])})
    metrics = {"characters": characters} | {f"residue/{k}": n for k, n in residues.items()}
    return Counts(seen, kept, dropped, metrics=metrics)


def in_order(work: Any, rows: Iterable[dict[str, Any]], workers: int) -> Iterator[tuple[Any, Any]]:
    """Yield (row, result) in the rows' order; a few batches ahead in other processes if told so."""
    batches = _batches(iter(rows))
    if workers == 1:
        for batch in batches:
            yield from zip(batch, work(batch), strict=True)
        return
    ahead: deque[tuple[Batch, Future[list[Cleaned]]]] = deque()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while True:
            for batch in islice(batches, 4 * workers - len(ahead)):
                ahead.append((batch, pool.submit(work, batch)))
            if not ahead:
                return
            batch, future = ahead.popleft()
            yield from zip(batch, future.result(), strict=True)


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[Batch]:
    while batch := list(islice(rows, BATCH)):
        yield batch


def read_aliases(files: Iterable[Path]) -> dict[str, list[str]]:
    """Return the redirects to each title, sorted."""
    aliases: dict[str, list[str]] = {}
    for row in read_rows(files):
        target = row["target"].partition("#")[0].strip()
        if target:
            aliases.setdefault(target[0].upper() + target[1:], []).append(row["title"])
    return {target: sorted(set(titles)) for target, titles in aliases.items()}
