"""One part of pages -> one part of documents; runs in a worker, so it imports nothing heavy.

    documents.parquet   the pages that are kept, cleaned now or copied from an earlier run
    ledger.parquet      id, title, reason and detail of the others: seen == kept + dropped
    unresolved.parquet  templates that nothing is known of, with the number of pages they are on
    seen.parquet        what the next dump's run compares its pages with

The files are the same bytes whether rows were copied or not. Parts that are no artifact, because
no stage and no later run will read them, have neither of the last two.
"""

from __future__ import annotations

import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifact import Counts
from storage.files import write_json
from storage.formats.schemas import DOCUMENTS, LEDGER, SEEN, UNRESOLVED
from storage.formats.table import TableWriter, write_table
from tasks.clean.aliases import read_aliases
from tasks.clean.config import CleanConfig
from tasks.clean.documents import clean_page
from tasks.clean.incremental import OVER_BUDGET, Earlier, Known
from tasks.clean.languages import Site
from tasks.clean.plan import Plan, load_site
from tasks.clean.tidy import count_residues

BATCH_ROWS = 64
GROUP_ROWS = 1024  # a row group ends at either limit, so that a part fits in memory
GROUP_BYTES = 16_000_000  # of wikitext
REPETITIVE = ("wiki", "language", "kind", "variant")  # columns worth a dictionary
IDENTITY = ["wiki", "language", "page_id", "rev_id", "timestamp", "title", "url"]
CONTENT = pa.schema(field for field in DOCUMENTS if field.name not in (*IDENTITY, "redirects"))


@dataclass(frozen=True, slots=True)
class CleanJob:
    """A part to clean: where its pages and aliases lie, and where to leave what it cost."""

    pages: Path
    aliases: Path
    stats: Path
    plan: Plan
    config: CleanConfig
    is_artifact: bool = True


def clean_part(job: CleanJob, folder: Path, tell: Callable[[float], None]) -> Counts:
    """Fill `folder`; where the earlier run's files turn out to be unreadable, without them."""
    predecessor = job.plan.predecessor
    try:
        return _Part(job, folder, tell).build()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        if predecessor is None:
            raise
        for file in folder.iterdir():
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        note = f"{predecessor.name} could not be read ({error}): nothing is copied from it"
        return _Part(job, folder, tell, note).build()


class _Part:
    """The state of one part's pass."""

    def __init__(
        self, job: CleanJob, folder: Path, tell: Callable[[float], None], note: str | None = None
    ) -> None:
        self.job, self.folder, self.tell, self.note = job, folder, tell, note
        self.site = load_site(job.plan.folder, job.plan.templates, job.config)
        self.file = job.pages / "pages.parquet"
        keys = pq.read_table(self.file, columns=["page_id", "title"])
        self.num_pages = keys.num_rows
        self.aliases = read_aliases(job.aliases, keys.column("title"))
        predecessor = None if note else job.plan.predecessor
        ids = keys.column("page_id").combine_chunks()
        self.earlier = Earlier(predecessor, ids, lambda name: _role(self.site, name) == "rules")
        self.dropped: Counter[str] = Counter()
        self.sums = {"wikitext_bytes": 0}
        if job.is_artifact:
            self.sums |= {f"residue/{name}": 0 for name in count_residues("")}

    def build(self) -> Counts:
        """Go through the pages once."""
        began, cpu = time.monotonic(), time.process_time()
        seen = 0
        is_artifact = self.job.is_artifact
        seen_file = self.folder / "seen.parquet"
        with (
            _Documents(self.folder / "documents.parquet", self.earlier) as documents,
            TableWriter(self.folder / "ledger.parquet", LEDGER) as self.ledger,
            TableWriter(seen_file, SEEN) if is_artifact else nullcontext() as self.seen,
            pq.ParquetFile(self.file) as pages,
        ):
            columns = [*IDENTITY, "wikitext"]
            for batch in pages.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                texts = batch.column("wikitext")
                for page, text in zip(batch.select(IDENTITY).to_pylist(), texts, strict=True):
                    self._take(page, text, documents)
                seen += batch.num_rows
                self.tell(seen / self.num_pages)
        if is_artifact:
            self._write_unresolved(documents.templates)
        seconds = time.monotonic() - began, time.process_time() - cpu
        self._write_stats(*seconds, documents.over_budget)
        sizes = {"characters": documents.num_chars, "over_budget": len(documents.over_budget)}
        metrics = self.sums | sizes
        return Counts(seen, documents.num_rows, self.dropped, metrics=metrics)

    def _take(self, page: dict[str, Any], text: pa.Scalar, documents: _Documents) -> None:
        """Copy or clean one page, and write down what came of it."""
        buffer = text.as_buffer() or pa.py_buffer(b"")
        self.sums["wikitext_bytes"] += buffer.size
        number: int | None = documents.num_rows
        known, digest = None, b""
        if self.seen:
            digest = blake2b(buffer, digest_size=16).digest()
            known = self.earlier.find(page["page_id"], page["rev_id"], page["title"], digest)
        content: Known | dict[str, Any] | None = known
        residues: Mapping[str, int] = known.residues if known else {}
        if not known:
            full = page | {"wikitext": text.as_py() or ""}
            cleaned = clean_page(full, site=self.site, config=self.job.config)
            content = cleaned.row
            if content is None:
                self._drop(page, cleaned.reason or "error", cleaned.detail)
                number = None
            elif self.seen:
                residues = count_residues(content["text"])
        if content is not None:
            page["redirects"] = self.aliases.get(page["title"], [])
            documents.add(page, content, buffer.size)
            for name, count in residues.items():
                self.sums[f"residue/{name}"] += count
        if not self.seen:
            return
        row = {name: page[name] for name in ("page_id", "rev_id", "title")}
        left = [(name, count) for name, count in residues.items() if count]
        self.seen.add(row | {"digest": digest, "document": number, "residues": left})

    def _drop(self, page: Mapping[str, Any], reason: str, detail: str | None) -> None:
        self.dropped[reason] += 1
        row = {"id": str(page["page_id"]), "title": page["title"], "reason": reason}
        self.ledger.add(row | {"detail": detail})

    def _write_unresolved(self, templates: Mapping[str, tuple[int, str]]) -> None:
        rows = [
            {"name": name, "pages": pages, "example": example}
            for name, (pages, example) in sorted(templates.items())
            if _role(self.site, name) == "unknown"
        ]
        write_table(self.folder / "unresolved.parquet", rows, UNRESOLVED)

    def _write_stats(
        self, seconds: float, cpu_seconds: float, over_budget: list[tuple[int, str, str]]
    ) -> None:
        """Leave what differs from run to run outside the part, whose bytes do not."""
        plan = self.job.plan
        used = plan.predecessor if not self.note else None
        stats = {
            "wiki": plan.wiki,
            "cleaner": plan.cleaner,
            "groups": plan.groups,
            "predecessor": used.name if used else None,
            "pages": self.earlier.counts,
            "over_budget": over_budget,
            "seconds": round(seconds, 3),
            "cpu_seconds": round(cpu_seconds, 3),
            "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "note": self.note,
        }
        write_json(self.job.stats, stats)


class _Documents:
    """documents.parquet, written by row groups of cleaned and copied rows in the pages' order."""

    def __init__(self, path: Path, earlier: Earlier) -> None:
        self.num_rows = self.num_chars = 0
        self.templates: dict[str, tuple[int, str]] = {}  # name -> pages, title of the first
        self.over_budget: list[tuple[int, str, str]] = []  # page id, title, flag
        self._earlier = earlier
        self._pages: list[dict[str, Any]] = []
        self._contents: list[Known | dict[str, Any]] = []
        self._bytes = 0
        self._writer = pq.ParquetWriter(
            path,
            DOCUMENTS,
            compression="zstd",
            compression_level=3,
            use_dictionary=list(REPETITIVE),
        )

    def add(self, page: dict[str, Any], content: Known | dict[str, Any], size: int) -> None:
        """Add a document: what the dump says of the page, and what its text became."""
        self.num_rows += 1
        self._pages.append(page)
        self._contents.append(content)
        self._bytes += size
        if len(self._pages) == GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def __enter__(self) -> _Documents:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if not self._pages:
            return
        content = self._content()
        known = pa.Table.from_pylist(
            self._pages, pa.schema(DOCUMENTS.field(name) for name in (*IDENTITY, "redirects"))
        )
        columns = [
            (content if name in content.column_names else known).column(name)
            for name in DOCUMENTS.names
        ]
        table = pa.table(columns, schema=DOCUMENTS)
        self._writer.write_table(table, row_group_size=table.num_rows)
        self.num_chars += sum(table.column("num_chars").to_pylist())
        used, flags = (table.column(name).to_pylist() for name in ("templates", "flags"))
        for page, names, marks in zip(self._pages, used, flags, strict=True):
            for name in names or ():
                pages, example = self.templates.get(name, (0, page["title"]))
                self.templates[name] = pages + 1, example
            for mark in OVER_BUDGET.intersection(marks or ()):
                self.over_budget.append((page["page_id"], page["title"], mark))
        self._pages, self._contents, self._bytes = [], [], 0

    def _content(self) -> pa.Table:
        """Return the columns that come of the text, in the order of the pages."""
        is_known = [isinstance(one, Known) for one in self._contents]
        known = [one for one in self._contents if isinstance(one, Known)]
        fresh = [one for one in self._contents if isinstance(one, dict)]
        table = pa.Table.from_pylist(fresh, schema=CONTENT)
        if not known:
            return table
        copied = self._earlier.rows(known, CONTENT.names).cast(CONTENT)
        next_fresh, next_known = iter(range(len(fresh))), iter(range(len(fresh), len(is_known)))
        order = [next(next_known if one else next_fresh) for one in is_known]
        return pa.concat_tables([table, copied]).take(order).combine_chunks()


def _role(site: Site, name: str) -> str:
    """Return the role of a template by its name."""
    role: str = site.templates.look_up(name).role
    return role
