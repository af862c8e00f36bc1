"""documents + plan -> corpus: the documents that stay, with their quality, cluster and side.

The last reading of the texts: one file of documents, one part of the corpus, a batch at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.artifact import Counts
from storage.formats.schemas import CORPUS, DOCUMENTS, LEDGER
from storage.formats.table import TableWriter
from tasks.dedup.exact import content_hash
from tasks.dedup.paragraphs import remove_paragraphs
from tasks.dedup.quality import Quality, measure

BATCH_ROWS = 512


@dataclass(frozen=True, slots=True)
class PartJob:
    """One part of the corpus: its documents, and what the plan says of them."""

    documents: Path
    plan: Path


def write_part(job: PartJob, directory: Path, tell: Callable[[float], None]) -> Counts:
    """Write one file's documents that stay (corpus.parquet) and the others' reasons (ledger)."""
    plan = pq.read_table(job.plan)
    dropped: Counter[str] = Counter()
    metrics = {"characters": 0, "validation_documents": 0, "shortened_documents": 0}
    kept = start = 0
    with (
        pq.ParquetFile(job.documents) as documents,
        pq.ParquetWriter(
            directory / "corpus.parquet", CORPUS, compression="zstd", compression_level=3
        ) as corpus,
        TableWriter(directory / "ledger.parquet", LEDGER) as ledger,
    ):
        for batch in documents.iter_batches(batch_size=BATCH_ROWS):
            verdicts = plan.slice(start, batch.num_rows)
            start += batch.num_rows
            stays = pc.is_null(verdicts["reason"])
            _tell_why(batch, verdicts, ledger, dropped)
            rows = _corpus_rows(
                pa.Table.from_batches([batch]).filter(stays), verdicts.filter(stays)
            )
            if rows.num_rows:
                corpus.write_table(rows)
            kept += rows.num_rows
            metrics["characters"] += pc.sum(rows["num_chars"], min_count=0).as_py()
            metrics["validation_documents"] += rows["split"].to_pylist().count("validation")
            shortened = pc.and_(stays, pc.is_valid(verdicts["lost"]))
            metrics["shortened_documents"] += shortened.to_pylist().count(True)
            tell(start / documents.metadata.num_rows)
    return Counts(start, kept, dropped, metrics=metrics)


def _tell_why(
    batch: pa.RecordBatch, verdicts: pa.Table, ledger: TableWriter, dropped: Counter[str]
) -> None:
    """Add the documents that go to the ledger."""
    for at, verdict in enumerate(verdicts.select(["reason", "detail"]).to_pylist()):
        if verdict["reason"]:
            dropped[verdict["reason"]] += 1
            id = f"{batch['wiki'][at]}:{batch['page_id'][at]}"
            ledger.add({"id": id, "title": batch["title"][at].as_py(), **verdict})


def _corpus_rows(table: pa.Table, verdicts: pa.Table) -> pa.Table:
    """Return the documents with the corpus's own columns; the shortened ones shortened."""
    for field in DOCUMENTS:  # a documents file of one's own may lack columns
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    new = {name: verdicts[name].to_pylist() for name in ("cluster", "split")}
    texts, places = table["text"].to_pylist(), {}
    for at, lost in enumerate(verdicts["lost"].to_pylist()):
        if lost:
            sections = table["sections"][at].as_py() or []
            texts[at], places[at] = remove_paragraphs(texts[at], sections, frozenset(lost))
    if places:
        old = table["sections"].to_pylist()
        new["sections"] = [places.get(at, sections) for at, sections in enumerate(old)]
    new |= {
        "text": texts,
        "num_chars": list(map(len, texts)),
        "content_hash": list(map(content_hash, texts)),
    }
    quality = list(_quality(table, texts))
    new |= {name: [getattr(one, name) for one in quality] for name in Quality.__slots__}
    columns = [
        pa.array(new[field.name], field.type)
        if field.name in new
        else table[field.name].cast(field.type)
        for field in CORPUS
    ]
    return pa.table(columns, schema=CORPUS)


def _quality(table: pa.Table, texts: Sequence[str]) -> Iterator[Quality]:
    """Yield the quality of each document with its text."""
    num_links = pc.list_value_length(table["links"]).to_pylist()
    others = (table[name].to_pylist() for name in ("language", "num_refs", "flags"))
    for text, links, language, num_refs, flags in zip(texts, num_links, *others, strict=True):
        yield measure(
            text, language=language, num_links=links or 0, num_refs=num_refs, flags=flags or ()
        )
