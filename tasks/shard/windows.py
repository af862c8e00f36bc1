"""Rows of a stage's input -> windows: which rows go into which shard, before any is encoded.

    rows     t t v t t t v t | t t t v t ...        t train, v validation, | a file border
    train    [ 0     ] [ 1     ]  [ 2   ] ...        each of about the same size in bytes
    shards   train-00000  train-00001  ...

The plan depends on the input alone, and each shard on its own window alone: a shard that was lost
is rebuilt without the others, and no more than a window is ever in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from storage.artifact import Counts
from storage.workspace import Workspace

SPLITS = ("train", "validation")


@dataclass(frozen=True, slots=True)
class Window:
    """A shard's share of the input: rows of one split in slices (file, first, stop)."""

    name: str
    split: str
    slices: tuple[tuple[Path, int, int], ...]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the window's rows in order."""
        for path, first, stop in self.slices:
            frame = pl.scan_parquet(path).slice(first, stop - first).collect()
            yield from frame.filter(pl.col("split") == self.split).iter_rows(named=True)


def plan_windows(paths: Sequence[Path], size: pl.Expr, window_size: float) -> list[Window]:
    """Return windows of about `window_size` each, a row's size being the value of `size`."""
    slices: dict[tuple[str, int], list[tuple[Path, int, int]]] = {}
    totals = dict.fromkeys(SPLITS, 0.0)
    for path in paths:
        frame = pl.scan_parquet(path).select("split", size=size).collect()
        for split in SPLITS:
            rows = np.flatnonzero((frame["split"] == split).to_numpy())
            if not len(rows):
                continue
            sizes = frame["size"].to_numpy()[rows]
            ends = totals[split] + np.cumsum(sizes)
            numbers = ((ends - sizes) // window_size).astype(np.int64)
            totals[split] = float(ends[-1])
            for number in np.unique(numbers):
                own = rows[numbers == number]
                slices.setdefault((split, int(number)), []).append(
                    (path, int(own[0]), int(own[-1]) + 1)
                )
    windows = []
    for split in SPLITS:
        groups = [group for (of, _), group in sorted(slices.items()) if of == split]
        for number, group in enumerate(groups):
            windows.append(Window(f"{split}-{number:05d}", split, tuple(group)))
    return windows


def build_shards(
    windows: Sequence[Window],
    workspace: Workspace,
    build: Callable[[Window, Path], Counts],
) -> Counts:
    """Build the shards that are missing, one part each; return the ledger of all."""
    parts = []
    for number, window in enumerate(windows):

        def build_this(directory: Path, window: Window = window) -> Counts:
            return build(window, directory)

        parts.append(workspace.part(window.name, build_this))
        workspace.progress(number + 1, len(windows), "shards")
    return Counts.total(parts)
