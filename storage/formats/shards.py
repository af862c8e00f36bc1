"""Token shards: Parquet that is read as fast as a raw memory map.

A token column is fixed-size binary (one row = one training sequence), required, uncompressed, and
one page per row group; so its bytes lie in the file exactly as in a numpy array, and `open_shard`
maps them without a copy. Any Parquet reader opens the same file. Other columns are zstd.

    +------+---------------------------+---------------------------+--------+
    | PAR1 | page header | row 0 row 1 … (uint16 x T) | …zstd columns | footer |
    +------+---------------------------+---------------------------+--------+

Where a file's layout differs (rewritten by another tool), the columns are read by pyarrow into
memory instead, `zero_copy` is False, and a warning says so, once a process for each file.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import BadInput

ROWS_PER_GROUP = 1 << 14  # Arrow starts a new page after 20,000 rows whatever data_page_size says
MAX_PAGE_HEADER = 40  # one header takes 21 to 28 bytes; a second page would make it more
_KEY = b"etude.shard"


@dataclass(frozen=True, slots=True)
class Shard:
    """An open shard. `blocks[name]` holds one read-only [rows, width] array per row group."""

    path: Path
    num_rows: int
    metadata: dict[str, Any]
    blocks: dict[str, list[np.ndarray]]
    zero_copy: bool

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Return each token column as one [rows, width] array (a view where there is one group)."""
        return {
            name: arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
            for name, arrays in self.blocks.items()
        }

    def rows(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Return the given rows of a column, [len(indices), width], copied out of the map."""
        arrays = self.blocks[name]
        if len(arrays) == 1:
            return arrays[0][indices]
        starts = np.cumsum([0] + [len(array) for array in arrays])
        groups = np.searchsorted(starts, indices, side="right") - 1
        return np.stack(
            [arrays[g][i - starts[g]] for g, i in zip(groups, np.asarray(indices), strict=True)]
        )

    def has_extra(self, name: str) -> bool:
        """Return whether there is such a column."""
        return name in pq.read_schema(self.path).names

    def extra(self, name: str) -> pa.ChunkedArray:
        """Return one of the other columns."""
        return pq.read_table(self.path, columns=[name]).column(0)


def write_shard(
    path: Path,
    columns: Mapping[str, np.ndarray],
    extra: pa.Table | None,
    metadata: Mapping[str, Any],
    rows_per_group: int = ROWS_PER_GROUP,
) -> None:
    """Write integer arrays [rows, width] as mapped columns, and a table of other columns."""
    layout: dict[str, dict[str, Any]] = {}
    fields: list[pa.Field] = []
    arrays: list[pa.Array | pa.ChunkedArray] = []
    for name, array in columns.items():
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        width = little.shape[1] * little.itemsize
        layout[name] = {"dtype": little.dtype.str, "width": little.shape[1]}
        fields.append(pa.field(name, pa.binary(width), nullable=False))
        buffers = [None, pa.py_buffer(little.reshape(-1).view(np.uint8))]
        arrays.append(pa.Array.from_buffers(pa.binary(width), len(little), buffers))
    if extra is not None:
        fields += list(extra.schema)
        arrays += extra.columns
    header = json.dumps({"columns": layout, "metadata": dict(metadata)}, sort_keys=True)
    table = pa.table(arrays, schema=pa.schema(fields, metadata={_KEY: header.encode()}))
    pq.write_table(
        table,
        path,
        row_group_size=rows_per_group,
        compression={f.name: "NONE" if f.name in columns else "ZSTD" for f in fields},
        use_dictionary=False,
        write_statistics=False,
        data_page_size=1 << 30,
        write_batch_size=rows_per_group,
        store_schema=True,
    )


def open_shard(path: Path) -> Shard:
    """Open a shard; refuse a file that is not one."""
    try:
        footer = pq.read_metadata(path)
        header = json.loads(footer.metadata[_KEY])
    except (OSError, KeyError, TypeError, pa.ArrowInvalid) as error:
        raise BadInput(
            f"{path} is not a token shard ({error}); run the shard stage again"
        ) from error
    blocks: dict[str, list[np.ndarray]] = {}
    zero_copy = True
    for name, layout in header["columns"].items():
        mapped = _map_column(path, footer, name, np.dtype(layout["dtype"]), layout["width"])
        zero_copy = zero_copy and mapped is not None
        blocks[name] = mapped or [_read_column(path, name, layout)]
    if not zero_copy:
        warnings.warn(
            f"{path} is not laid out as a token shard and was read into memory; "
            "run the shard stage again to have it mapped",
            stacklevel=2,
        )
    return Shard(path, footer.num_rows, header["metadata"], blocks, zero_copy)


def _map_column(
    path: Path, footer: pq.FileMetaData, name: str, dtype: np.dtype, width: int
) -> list[np.ndarray] | None:
    """Map a column's pages; None where the layout is not the one `write_shard` makes."""
    index = footer.schema.to_arrow_schema().get_field_index(name)
    arrays: list[np.ndarray] = []
    for group in range(footer.num_row_groups):
        chunk = footer.row_group(group).column(index)
        payload = chunk.num_values * width * dtype.itemsize
        header_bytes = chunk.total_compressed_size - payload
        plain = chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page
        if not plain or not 0 < header_bytes <= MAX_PAGE_HEADER:
            return None
        offset = chunk.data_page_offset + header_bytes
        shape = (chunk.num_values, width)
        arrays.append(np.memmap(path, dtype, mode="r", offset=offset, shape=shape))
    return arrays or None


def _read_column(path: Path, name: str, layout: Mapping[str, Any]) -> np.ndarray:
    """Read a column through pyarrow, [rows, width]."""
    column = pq.read_table(path, columns=[name]).column(0)
    data = b"".join(column.to_pylist())
    return np.frombuffer(data, np.dtype(layout["dtype"])).reshape(-1, layout["width"])
