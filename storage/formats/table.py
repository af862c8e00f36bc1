"""Rows in Parquet: streamed in and out by row groups, zstd, equal bytes for equal rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_GROUP = 4096


class TableWriter:
    """A Parquet file to add rows to; one row group is in memory at a time.

    For code that fills several tables in one pass over a dump. The caller makes the file appear at
    once (`Workspace.part`, `storage.files.replacing`).
    """

    def __init__(self, path: Path, schema: pa.Schema, rows_per_group: int = ROWS_PER_GROUP) -> None:
        self.num_rows = 0
        self._schema = schema
        self._rows_per_group = rows_per_group
        self._rows: list[dict[str, Any]] = []
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=3)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one row."""
        self.num_rows += 1
        self._rows.append(dict(row))
        if len(self._rows) == self._rows_per_group:
            self._flush()

    def __enter__(self) -> TableWriter:
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what is left and close the file."""
        if error is None:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()


def write_table(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    schema: pa.Schema,
    rows_per_group: int = ROWS_PER_GROUP,
) -> int:
    """Write rows as they come, `rows_per_group` in memory at a time; return their number."""
    with TableWriter(path, schema, rows_per_group) as table:
        for row in rows:
            table.add(row)
    return table.num_rows


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
