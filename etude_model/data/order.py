"""(seed, position) -> rows: the endless order in which a stream reads its rows.

One permutation per epoch, laid end to end; position p is row p of that line. Nothing is carried
from batch to batch, so batch n can be had without the n before it: a resumed run, or one with
another micro-batch, sees the same rows.

    epoch 0          epoch 1          epoch 2
    3 0 4 1 2        1 4 0 2 3        ...
        |---------------|   <- take(start=2, count=5) may cross an epoch's end
"""

from __future__ import annotations

import numpy as np


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """Return the generator that belongs to one epoch of one stream."""
    return np.random.default_rng([seed, epoch])


class RowOrder:
    """The endless shuffled order of `num_rows` rows."""

    def __init__(self, num_rows: int, *, seed: int) -> None:
        assert num_rows > 0, "an order needs at least one row"
        self.num_rows = num_rows
        self.seed = seed
        self._cached: tuple[int, np.ndarray] | None = None

    def take(self, start: int, count: int) -> np.ndarray:
        """Return the rows at positions start .. start+count-1 as int64 [count]."""
        pieces = []
        while count > 0:
            epoch, offset = divmod(start, self.num_rows)
            piece = self._permutation(epoch)[offset : offset + count]
            pieces.append(piece)
            start, count = start + len(piece), count - len(piece)
        return np.concatenate(pieces)

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._cached is None or self._cached[0] != epoch:
            permutation = epoch_generator(self.seed, epoch).permutation(self.num_rows)
            self._cached = epoch, permutation
        return self._cached[1]
