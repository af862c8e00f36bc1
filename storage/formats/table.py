"""Rows in Parquet: streamed in and out by row groups, zstd, equal bytes for equal rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_GROUP = 4096


def write_table(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    schema: pa.Schema,
    rows_per_group: int = ROWS_PER_GROUP,
) -> int:
    """Write rows as they come, `rows_per_group` in memory at a time; return their number.

    The caller makes the file appear at once (`Workspace.part`, `storage.files.replacing`).
    """
    iterator = iter(rows)
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=3) as writer:
        while batch := list(islice(iterator, rows_per_group)):
            writer.write_table(pa.Table.from_pylist([dict(row) for row in batch], schema=schema))
            count += len(batch)
    return count


def read_rows(
    paths: Iterable[Path], columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of several files in order, a few hundred in memory at a time."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, columns=columns and list(columns)):
                yield from batch.to_pylist()


def read_table(paths: Iterable[Path], columns: Sequence[str] | None = None) -> pa.Table:
    """Return all rows of several files of one schema as one table."""
    return pa.concat_tables(
        [pq.read_table(path, columns=columns and list(columns)) for path in paths]
    )


def num_rows(paths: Iterable[Path]) -> int:
    """Return how many rows the files have, from their footers."""
    return sum(pq.read_metadata(path).num_rows for path in paths)
