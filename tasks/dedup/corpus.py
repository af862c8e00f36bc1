"""documents -> corpus: which documents stay, and on which side of the split.

In: documents.parquet files of any number of wikis. Out: a plan (one small row per document), then
one part per file, streamed by it.

- A page that comes twice (two dumps of one wiki) stays in its newest revision.
- Of documents with equal text the first by (wiki, page_id) stays. Equal means equal after case
  folding and collapsing of white space, by BLAKE2b.
- The split hashes the id of the page, not its text: a page stays on its side when it is edited,
  when others come or go, and in any order of the files.

Only the plan is held in memory, about 100 bytes a document; the texts stream through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifact import Counts
from storage.formats.schemas import CORPUS, LEDGER
from storage.formats.table import write_table
from storage.hashing import stable_hash

BATCH_ROWS = 512
_BUCKETS = 10_000
_EMPTY = pl.DataFrame(
    schema={
        "file": pl.UInt32,
        "wiki": pl.String,
        "language": pl.String,
        "page_id": pl.Int64,
        "rev_id": pl.Int64,
        "content_hash": pl.String,
    }
)


def content_hash(text: str) -> str:
    """Return the hash by which two texts count as equal, 32 hex digits."""
    normal = " ".join(text.casefold().split())
    return hashlib.blake2b(normal.encode(), digest_size=16).hexdigest()


def split_hash(cluster: str, salt: str) -> int:
    """Return the hash that decides a cluster's side of the split."""
    return stable_hash(f"{salt}{cluster}")


def plan_corpus(paths: Sequence[Path], *, validation_share: float, salt: str = "") -> pl.DataFrame:
    """Return one row per document, in the order of the files.

    Columns: file, content_hash, cluster, split, and reason and detail (null = the document stays).
    """
    frames = [
        _EMPTY,
        *(frame for number, path in enumerate(paths) for frame in _index(number, path)),
    ]
    documents = pl.concat(frames).with_row_index("row")
    documents = documents.with_columns(
        cluster=pl.concat_str("wiki", pl.col("page_id").cast(pl.String), separator=":")
    )
    newest = documents.sort("wiki", "page_id", -pl.col("rev_id"), "row").unique(
        "cluster", keep="first", maintain_order=True
    )
    kept = newest.unique("content_hash", keep="first", maintain_order=True)
    kept = kept.with_columns(split=_splits(kept, validation_share, salt))
    return (
        documents.join(kept.select("row", "split"), on="row", how="left")
        .join(newest.select("row", newest=True), on="row", how="left")
        .join(kept.select("content_hash", kept="cluster"), on="content_hash", how="left")
        .with_columns(
            reason=pl.when(pl.col("newest").is_null())
            .then(pl.lit("older_revision"))
            .when(pl.col("split").is_null())
            .then(pl.lit("duplicate")),
        )
        .with_columns(
            detail=pl.when(pl.col("reason") == "duplicate")
            .then("kept")
            .when(pl.col("reason") == "older_revision")
            .then("cluster")
        )
        .sort("row")
        .select("file", "content_hash", "cluster", "split", "reason", "detail")
    )


def write_part(path: Path, plan: pl.DataFrame, directory: Path) -> Counts:
    """Write one file's documents that stay (corpus.parquet) and the others' reasons (ledger)."""
    dropped: list[dict[str, str | None]] = []
    kept = num_chars = num_validation = start = 0
    with pq.ParquetWriter(
        directory / "corpus.parquet", CORPUS, compression="zstd", compression_level=3
    ) as writer:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS):
            rows = plan[start : start + batch.num_rows]
            start += batch.num_rows
            table = _with_columns(pa.Table.from_batches([batch]), rows)
            for number in rows["reason"].is_not_null().arg_true():
                title = batch["title"][number].as_py()
                id, reason, detail = rows["cluster", "reason", "detail"].row(number)
                dropped.append({"id": id, "title": title, "reason": reason, "detail": detail})
            table = table.filter(pa.array(rows["reason"].is_null().to_list(), pa.bool_()))
            if table.num_rows:
                writer.write_table(table)
            kept += table.num_rows
            num_chars += sum(table["num_chars"].to_pylist())
            num_validation += table["split"].to_pylist().count("validation")
    write_table(directory / "ledger.parquet", dropped, LEDGER)
    reasons = [str(row["reason"]) for row in dropped]
    return Counts(
        start,
        kept,
        {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        metrics={"characters": num_chars, "validation_documents": num_validation},
    )


def _index(number: int, path: Path) -> Iterator[pl.DataFrame]:
    """Yield the ids and content hashes of a file's documents, batch by batch."""
    columns = [name for name in _EMPTY.columns if name not in ("file", "content_hash")]
    for batch in pq.ParquetFile(path).iter_batches(
        batch_size=BATCH_ROWS, columns=[*columns, "text"]
    ):
        hashes = [content_hash(text) for text in batch["text"].to_pylist()]
        ids = pl.DataFrame({name: batch[name].to_pylist() for name in columns})
        frame = ids.with_columns(
            file=pl.lit(number), content_hash=pl.Series(hashes, dtype=pl.String)
        )
        yield frame.select(_EMPTY.columns).cast(_EMPTY.schema)


def _splits(kept: pl.DataFrame, validation_share: float, salt: str) -> pl.Series:
    """Return the side of each document; every language of two documents or more has both.

    Where chance gives a language no validation document, the one next in line is taken (the
    smallest bucket): what a slightly larger share would have chosen. Likewise for training.
    """
    hashes = [split_hash(cluster, salt) for cluster in kept["cluster"]]
    order = pl.Series([hash % _BUCKETS for hash in hashes], dtype=pl.Int64)
    frame = kept.select("language", "cluster").with_columns(
        bucket=order, hash=pl.Series(hashes, dtype=pl.UInt64)
    )
    rank = pl.struct("bucket", "hash", "cluster").rank("ordinal").over("language")
    count = pl.len().over("language")
    by_share = (pl.col("bucket") < validation_share * _BUCKETS).sum().over("language")
    num_validation = (
        pl.when(count > 1).then(by_share.clip(1, count - 1)).otherwise(pl.lit(0, pl.UInt32))
    )
    split = pl.when(rank <= num_validation).then(pl.lit("validation")).otherwise(pl.lit("train"))
    return frame.select(split=split)["split"]


def _with_columns(table: pa.Table, rows: pl.DataFrame) -> pa.Table:
    """Return the documents with the corpus's own columns, in the corpus's schema."""
    for name in ("content_hash", "split", "cluster"):
        table = table.append_column(name, pa.array(rows[name].to_list(), pa.string()))
    return table.select(CORPUS.names).cast(CORPUS)
