"""(seed, position) -> rows of several languages, mixed by how much text each has.

A language with n tokens gets a share of the tokens that is proportional to n**alpha (Conneau et
al. 2020, arXiv 1911.02116): 1 leaves the data as it is, 0.5 lifts the small ones, 0 makes all
alike. Positions are dealt out in rounds; in every round each language has the same number of
places, and only their order changes. So the rows that a language has had before position p are
counted without looking at them, and each language goes on by its own epochs (data/order.py), in
which no row comes twice:

    round of 8, en 5 places, zh 3    en en zh en zh en en zh | zh en en en zh zh en en | ...
    rows of zh taken                       0     1        2    3           4  5
"""

from __future__ import annotations

import numpy as np

from etude_model.data.order import RowOrder, epoch_generator

ROUND = 1024
_ROUND_STREAM = 0x6D6978  # keeps the shuffles of the rounds apart from those of the rows


class MixtureOrder:
    """The endless order of rows in which language l has a share of about n_l ** alpha tokens."""

    def __init__(
        self, languages: np.ndarray, tokens: np.ndarray, *, alpha: float, seed: int
    ) -> None:
        """Take the language of each row and its number of tokens, both [rows]."""
        assert len(languages) > 0, "an order needs at least one row"
        self.seed = seed
        self.names, numbers = np.unique(languages.astype(str), return_inverse=True)
        self._rows = [np.flatnonzero(numbers == number) for number in range(len(self.names))]
        self._orders = [
            RowOrder(len(rows), seed=seed + number) for number, rows in enumerate(self._rows)
        ]
        num_tokens = np.bincount(numbers, weights=tokens)
        tokens_per_row = num_tokens / np.bincount(numbers)
        self.places = _places(num_tokens**alpha / tokens_per_row, ROUND)
        self._cached: tuple[int, np.ndarray] | None = None

    def take(self, start: int, count: int) -> np.ndarray:
        """Return the rows at positions start .. start+count-1 as int64 [count]."""
        pieces = []
        while count > 0:
            number, offset = divmod(start, ROUND)
            round_ = self._round(number)
            piece = round_[offset : offset + count]
            rows = np.empty(len(piece), dtype=np.int64)
            for language, order in enumerate(self._orders):
                here = piece == language
                before = number * self.places[language] + (round_[:offset] == language).sum()
                if here.any():
                    rows[here] = self._rows[language][order.take(int(before), int(here.sum()))]
            pieces.append(rows)
            start, count = start + len(piece), count - len(piece)
        return np.concatenate(pieces)

    def _round(self, number: int) -> np.ndarray:
        """Return the language at each place of a round, int64 [ROUND]."""
        if self._cached is None or self._cached[0] != number:
            places = np.repeat(np.arange(len(self.places)), self.places)
            generator = epoch_generator(self.seed ^ _ROUND_STREAM, number)
            self._cached = number, generator.permutation(places)
        return self._cached[1]


def _places(weights: np.ndarray, total: int) -> np.ndarray:
    """Return whole numbers that sum to `total`, at least 1 each, about in ratio of `weights`."""
    exact = weights / weights.sum() * (total - len(weights))
    places = np.floor(exact).astype(np.int64)
    rest = total - len(weights) - int(places.sum())
    places[np.argsort(places - exact, kind="stable")[:rest]] += 1
    return places + 1
