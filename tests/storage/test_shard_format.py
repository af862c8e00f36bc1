"""Token shards: mapped without a copy, readable by anything, right whatever the layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import BadInput
from storage.formats.shards import open_shard, write_shard


def arrays(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random tokens and a mask, [rows, 64] and [rows, 64]."""
    generator = np.random.default_rng(rows)
    tokens = generator.integers(0, 60_000, (rows, 64)).astype(np.uint16)
    return tokens, (tokens % 2).astype(np.uint8)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [1, 1000, 50_000])
def test_columns_are_mapped_and_equal(tmp_path: Path, rows: int) -> None:
    """Catches a page layout (a second page after 20,000 rows) that the map would misread."""
    tokens, mask = arrays(rows)
    extra = pa.table({"language": ["en"] * rows})
    write_shard(tmp_path / "s.parquet", {"tokens": tokens, "mask": mask}, extra, {"pad_id": 3})
    shard = open_shard(tmp_path / "s.parquet")
    assert shard.zero_copy and shard.num_rows == rows and shard.metadata == {"pad_id": 3}
    assert all(isinstance(block, np.memmap) for block in shard.blocks["tokens"])
    np.testing.assert_array_equal(shard.columns["tokens"], tokens)
    np.testing.assert_array_equal(shard.columns["mask"], mask)
    some = np.array([rows - 1, 0, rows // 2])
    np.testing.assert_array_equal(shard.rows("tokens", some), tokens[some])
    assert shard.extra("language").to_pylist() == ["en"] * rows


def test_pyarrow_reads_the_same_bytes(tmp_path: Path) -> None:
    """Catches a file that only we can read: the second implementation is pyarrow itself."""
    tokens, _ = arrays(100)
    write_shard(tmp_path / "s.parquet", {"tokens": tokens}, None, {})
    column = pq.read_table(tmp_path / "s.parquet").column("tokens").to_pylist()
    np.testing.assert_array_equal(np.frombuffer(b"".join(column), "<u2").reshape(-1, 64), tokens)


@pytest.mark.parametrize("options", [{"compression": "zstd"}, {"data_page_size": 4096}, {}])
def test_a_rewritten_file_is_read_by_pyarrow(tmp_path: Path, options: dict[str, object]) -> None:
    """Catches mapping the bytes of a compressed, paged or dictionary-encoded column, and silence.

    A user whose shards do not fit into memory has to be told why they are read into it.
    """
    tokens, _ = arrays(3000)
    write_shard(tmp_path / "s.parquet", {"tokens": tokens}, None, {})
    pq.write_table(pq.read_table(tmp_path / "s.parquet"), tmp_path / "t.parquet", **options)
    with pytest.warns(UserWarning, match=r"t\.parquet .* was read into memory"):
        shard = open_shard(tmp_path / "t.parquet")
    assert not shard.zero_copy
    np.testing.assert_array_equal(shard.columns["tokens"], tokens)


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    """Catches a time stamp or a dict order in the file, which would end every reuse below it."""
    tokens, mask = arrays(100)
    for name in ("a", "b"):
        write_shard(tmp_path / name, {"tokens": tokens, "mask": mask}, None, {"x": 1, "a": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_is_no_shard_is_refused(tmp_path: Path) -> None:
    """Catches a traceback where a user points at the wrong file."""
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "y.parquet")
    for name in ("x.parquet", "y.parquet", "none.parquet"):
        with pytest.raises(BadInput, match="not a token shard"):
            open_shard(tmp_path / name)
