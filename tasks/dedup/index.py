"""documents -> index: one small row per document; the first reading of the texts.

Also the second: the 5-grams of the pages that MinHash proposes. Batches are of `BATCH_ROWS` rows,
so what is in memory does not grow with the file.

    index.parquet        ids, hashes, sizes, what the filters look at, and 14 bands
    paragraphs.parquet   position of the page in its file, hash and size of the paragraph
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifact import Counts
from tasks.dedup.exact import normal_hash
from tasks.dedup.near import NUM_BANDS, NgramFile, band_hashes
from tasks.dedup.ngrams import ngram_hashes
from tasks.dedup.paragraphs import body_chars, paragraph_hashes
from tasks.dedup.quality import measure
from tasks.dedup.skeleton import skeleton_hash

BATCH_ROWS = 256
CONTENT_BYTES = 12  # what fits into a row of polars without memory of its own
IDS = ("wiki", "language", "page_id", "rev_id")
BANDS = [f"band_{number:02d}" for number in range(NUM_BANDS)]
INDEX = pa.schema(
    {
        "wiki": pa.string(),
        "language": pa.string(),
        "page_id": pa.int64(),
        "rev_id": pa.int64(),
        "content": pa.binary(),
        "skeleton": pa.uint64(),
        "num_ngrams": pa.int32(),
        "num_chars": pa.int32(),
        "body_chars": pa.int32(),
        "alpha_ratio": pa.float32(),
        "link_density": pa.float32(),
        **dict.fromkeys(BANDS, pa.uint64()),
    }
)
PARAGRAPHS = pa.schema({"position": pa.uint32(), "num_chars": pa.int32(), "hash": pa.uint64()})
_COLUMNS = (*IDS, "title", "text", "links")


def index_documents(path: Path, directory: Path, tell: Callable[[float], None]) -> Counts:
    """Write the index of one file of documents into the directory."""
    num_rows = pq.read_metadata(path).num_rows
    with (
        pq.ParquetWriter(directory / "index.parquet", INDEX) as index,
        pq.ParquetWriter(directory / "paragraphs.parquet", PARAGRAPHS) as paragraphs,
    ):
        for start, batch in _batches(path, _COLUMNS):
            rows = batch.to_pylist()
            ngrams = [ngram_hashes(row["text"], row["language"]) for row in rows]
            entries = [_entry(row) | {"num_ngrams": len(ngrams[at])} for at, row in enumerate(rows)]
            bands = band_hashes(ngrams)
            for column, name in enumerate(BANDS):
                for entry, value in zip(entries, bands[:, column].tolist(), strict=True):
                    entry[name] = value
            index.write_table(pa.Table.from_pylist(entries, schema=INDEX))
            places = [
                {"position": start + at, "num_chars": size, "hash": hash}
                for at, row in enumerate(rows)
                for hash, size in paragraph_hashes(row["text"]).items()
            ]
            paragraphs.write_table(pa.Table.from_pylist(places, schema=PARAGRAPHS))
            tell((start + len(rows)) / num_rows)
    return Counts(num_rows, num_rows)


def write_ngrams(path: Path, rows: Mapping[int, int], ngrams: NgramFile) -> None:
    """Add the n-grams of some pages of a file; `rows` maps positions in it to rows of the plan."""
    for start, batch in _batches(path, ("language", "text")):
        for at in range(batch.num_rows):
            if start + at in rows:
                text, language = batch["text"][at].as_py(), batch["language"][at].as_py()
                ngrams.write(rows[start + at], ngram_hashes(text, language))


def _batches(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield a file's batches, each with the position of its first row."""
    start = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns)):
            yield start, batch
            start += batch.num_rows


def _entry(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the index says of a document by itself."""
    text, title, language = row["text"], row["title"], row["language"]
    links = row["links"] or ()
    quality = measure(text, language=language, num_links=len(links))
    return {name: row[name] for name in IDS} | {
        "content": normal_hash(text, CONTENT_BYTES),
        "skeleton": skeleton_hash(text, title=title, links=links, language=language),
        "num_chars": len(text),
        "body_chars": body_chars(text),
        "alpha_ratio": quality.alpha_ratio,
        "link_density": quality.link_density,
    }
