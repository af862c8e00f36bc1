"""Shard files -> one long table of rows: several shards read as if they were one.

The tokens stay in the files (memory-mapped); only what is small (languages, piece lengths,
article names) is held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.errors import BadInput
from storage.formats.shards import open_shard


def find_shards(paths: Iterable[str | Path], file_name: str, *, split: str) -> list[Path]:
    """Return the shard files of one split, sorted.

    Each path is a shard file or a folder of parts. A part's folder name says its split
    (`train-00000`, `validation-00003`); a file in a folder that names no split counts as train.
    """
    found: set[Path] = set()
    for path in map(Path, paths):
        if not path.exists():
            raise BadInput(f"shards {path} do not exist; give a shard file or a folder of shards")
        found.update(path.rglob(file_name) if path.is_dir() else [path])
    return sorted(path for path in found if _split_of(path) == split)


def _split_of(path: Path) -> str:
    return "validation" if path.parent.name.startswith("validation") else "train"


class ShardRows:
    """The rows of several shards of one format, numbered through."""

    def __init__(self, paths: Sequence[Path], *, format: str) -> None:
        self.paths = tuple(paths)
        self.shards = [open_shard(path) for path in self.paths]
        for path, shard in zip(self.paths, self.shards, strict=True):
            if shard.metadata.get("format") != format:
                raise BadInput(
                    f"shard {path} has format={shard.metadata.get('format')!r}, expected "
                    f"{format!r}; give shards made for this stage"
                )
        if len({shard.metadata.get("tokenizer") for shard in self.shards}) > 1:
            raise BadInput(
                "shards of different tokenizers are mixed; shard them with one tokenizer"
            )
        self._starts = np.cumsum([0] + [shard.num_rows for shard in self.shards])

    @property
    def num_rows(self) -> int:
        """Return the number of rows of all shards."""
        return int(self._starts[-1])

    @property
    def tokenizer_digest(self) -> str | None:
        """Return the digest of the tokenizer that made the shards, None without shards."""
        return self.shards[0].metadata.get("tokenizer") if self.shards else None

    def column(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Return rows `indices` of a fixed-width column, [len(indices), width], in their order."""
        shard_of_row = np.searchsorted(self._starts, indices, side="right") - 1
        first = self.shards[0].blocks[name][0]
        out = np.empty((len(indices), first.shape[1]), dtype=first.dtype)
        for number in np.unique(shard_of_row):
            here = shard_of_row == number
            local = indices[here] - self._starts[number]
            out[here] = self.shards[number].rows(name, local)
        return out

    def extra(self, name: str) -> pa.ChunkedArray:
        """Return a small column of all shards, one value a row."""
        chunks = [chunk for shard in self.shards for chunk in shard.extra(name).chunks]
        return pa.chunked_array(chunks)
