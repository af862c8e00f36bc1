"""Near-duplicates: MinHash bands propose pairs, the exact Jaccard of their 5-grams decides.

MinHash-LSH as in Lee et al. 2021 and datatrove: 14 bands of 8 hashes, so two pages with a Jaccard
of 0.72 meet in a band with 65% probability, of 0.8 with 92%, of 0.9 with 99.9%. Sketches are those
of `rensa`. A band proposes, for each page, its next `WINDOW` neighbours in length; that keeps a
family of a hundred thousand pages linear, and of a small one every pair is proposed.

Of a chain of similar pages only those go that are near-duplicates of a page that stays: the longest
is looked at first and stays, the next goes if the page its neighbours went for is like it too.

In memory: a number a page per band while that band is read, 8 bytes a proposed pair. The n-grams
of the pages proposed (a few in a hundred) lie in a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import numpy as np
import rensa
from numpy.typing import NDArray

from tasks.dedup.ngrams import Hashes, jaccard, mix

NUM_BANDS, ROWS_PER_BAND = 14, 8
WINDOW = 8
SEED = 1
Rows = NDArray[np.int64]


def band_hashes(ngrams: Sequence[Hashes]) -> Hashes:
    """Return one row of `NUM_BANDS` hashes per page; 0 for a page without n-grams."""
    offsets = np.cumsum([0, *(len(one) for one in ngrams)]).tolist()
    flat = np.concatenate([np.empty(0, np.uint64), *ngrams])
    sketches = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        flat, offsets, NUM_BANDS * ROWS_PER_BAND, SEED
    )
    values = np.array(sketches.to_rows(), np.uint64).reshape(-1, NUM_BANDS, ROWS_PER_BAND)
    hashes = np.zeros(values.shape[:2], np.uint64)
    for row in range(ROWS_PER_BAND):
        hashes = mix(hashes ^ values[:, :, row])
    hashes[[len(one) == 0 for one in ngrams]] = 0
    return hashes


def propose_pairs(band: Hashes, sizes: Rows, min_jaccard: float) -> Rows:
    """Return the pairs (i, j), i < j, that one band proposes: an array of two columns.

    Pages too unlike in their number of n-grams cannot reach the Jaccard and are left out.
    """
    order = np.lexsort((sizes, band))
    order = order[band[order] != 0]
    band, sizes = band[order], sizes[order]
    found = [np.empty((0, 2), np.int64)]
    for step in range(1, WINDOW + 1):
        near = (band[step:] == band[:-step]) & (sizes[:-step] >= min_jaccard * sizes[step:])
        pairs = np.stack([order[:-step][near], order[step:][near]], axis=1)
        found.append(np.sort(pairs, axis=1))
    return np.concatenate(found)


class NgramFile:
    """The n-grams of some pages, written once, read back one page at a time."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb+")
        self._places: dict[int, tuple[int, int]] = {}
        self.read = lru_cache(maxsize=64)(self._read)

    def write(self, row: int, ngrams: Hashes) -> None:
        """Add the n-grams of a page."""
        self._places[row] = (self._file.tell(), len(ngrams))
        self._file.write(ngrams.tobytes())

    def jaccard(self, first: int, second: int) -> float:
        """Return the exact Jaccard of two pages."""
        return jaccard(self.read(first), self.read(second))

    def __enter__(self) -> NgramFile:
        """Return the file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, row: int) -> Hashes:
        start, count = self._places[row]
        self._file.seek(start)
        return np.frombuffer(self._file.read(8 * count), np.uint64)


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """A page that goes, the page that stays for it, and their Jaccard."""

    row: int
    kept: int
    jaccard: float


def choose(
    pairs: Iterable[Sequence[int]],
    lengths: Sequence[int] | Rows,
    ngrams: NgramFile,
    min_jaccard: float,
) -> tuple[list[tuple[int, int]], list[NearDuplicate]]:
    """Return the pairs that are near-duplicates indeed, and the pages that go for another.

    The longest page stays (of equal ones the one of the smallest row).
    """
    alike = [(int(i), int(j)) for i, j in pairs if ngrams.jaccard(int(i), int(j)) >= min_jaccard]
    neighbours: dict[int, list[int]] = {}
    for i, j in alike:
        neighbours.setdefault(i, []).append(j)
        neighbours.setdefault(j, []).append(i)
    keeper: dict[int, int] = {}
    gone: list[NearDuplicate] = []
    for row in sorted(neighbours, key=lambda row: (-lengths[row], row)):
        keeper[row] = row
        for kept in sorted({keeper[one] for one in neighbours[row] if one in keeper} - {row}):
            similarity = ngrams.jaccard(row, kept)
            if similarity >= min_jaccard:
                keeper[row] = kept
                gone.append(NearDuplicate(row, kept, similarity))
                break
    return alike, gone
