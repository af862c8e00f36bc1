"""Pages that belong together: a union-find whose representative is the oldest page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


class Clusters:
    """Which cluster each of n rows is in; 4 bytes a row. A cluster is named by its smallest row."""

    def __init__(self, num_rows: int) -> None:
        self._parent = np.arange(num_rows, dtype=np.int32)

    def join(self, pairs: Iterable[Sequence[int]]) -> None:
        """Put both rows of each pair into one cluster."""
        for first, second in pairs:
            first, second = self.find(first), self.find(second)
            self._parent[max(first, second)] = min(first, second)

    def find(self, row: int) -> int:
        """Return the smallest row of the cluster of a row."""
        while (parent := int(self._parent[row])) != row:
            self._parent[row] = self._parent[parent]  # halves the way for the next who asks
            row = parent
        return row

    def names(self) -> NDArray[np.int32]:
        """Return the smallest row of each row's cluster."""
        names = self._parent
        while (names != names[names]).any():
            names = names[names]
        return names
