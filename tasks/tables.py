"""Rows that are pushed into Parquet one by one, where one pass over a dump fills several tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.formats.table import ROWS_PER_GROUP


class TableWriter:
    """A Parquet file to add rows to; one row group is in memory at a time.

    The same bytes as `storage.formats.table.write_table` would write, for code that cannot be an
    iterator of one kind of row.
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
