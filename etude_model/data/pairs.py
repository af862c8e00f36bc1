"""Pair shards -> batches of (query, positive) whose other positives are fair negatives.

In-batch negatives only teach something if the batch does not give the answer away. So a batch
comes from one source kind and one language (else the negatives are told apart by style or
script), and holds an article once where that can be had (two sections of one article are no
negatives of each other). The plan of an epoch, per (source, language):

    rows sorted by article, articles in random order     a a a b c c d ...
    dealt out in turn to the m batches of the group      0 1 2 0 1 2 0 ...

An article with at most m rows then never meets itself. What does not fill a batch of its own
group goes, over all groups, into mixed batches at the end (whose negatives the loss takes from the
own group only); the batches are then shuffled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from etude_model.data.order import epoch_generator
from etude_model.data.rows import ShardRows


@dataclass(frozen=True, slots=True)
class PairBatch:
    """int64 token ids [B, T] padded at the end, lengths [B], and article numbers per pair.

    `articles_B` is what the positive is about, `query_articles_B` where the query was found: the
    same but for the context of a link.
    """

    query_BT: Tensor
    query_lengths_B: Tensor
    positive_BT: Tensor
    positive_lengths_B: Tensor
    articles_B: Tensor
    query_articles_B: Tensor

    @property
    def num_tokens(self) -> int:
        """Return the tokens of both sides, padding left out."""
        return int(self.query_lengths_B.sum() + self.positive_lengths_B.sum())

    def __getitem__(self, rows: slice) -> PairBatch:
        """Return some of the pairs as a batch."""
        return PairBatch(*(part[rows] for part in self._parts()))

    def to(self, device: torch.device) -> PairBatch:
        """Return the batch on a device."""
        return PairBatch(*(part.to(device) for part in self._parts()))

    def _parts(self) -> tuple[Tensor, ...]:
        return (
            *(self.query_BT, self.query_lengths_B, self.positive_BT, self.positive_lengths_B),
            *(self.articles_B, self.query_articles_B),
        )


class PairRows(ShardRows):
    """The pairs of several shards, with the articles numbered in order of first appearance."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(paths, format="pairs")
        self.articles = self.query_articles = self.groups = np.zeros(0, dtype=np.int64)
        self.group_names: list[str] = []
        if self.shards:
            self.pad_id = int(self.shards[0].metadata.get("pad_id", 3))
            articles = self.extra("article").to_pylist()
            found_in = [
                article
                for shard in self.shards
                for article in shard.extra(
                    "query_article" if shard.has_extra("query_article") else "article"
                ).to_pylist()
            ]
            numbers = _numbered(articles + found_in)
            self.articles, self.query_articles = np.split(numbers, 2)
            sources, languages = self.extra("source"), self.extra("language")
            kinds = zip(sources.to_pylist(), languages.to_pylist(), strict=True)
            names = [f"{source}/{language}" for source, language in kinds]
            self.groups, self.group_names = _numbered(names), list(dict.fromkeys(names))

    def batch(self, indices: np.ndarray) -> PairBatch:
        """Return the given pairs, padding cut to the longest of the batch."""
        query, query_lengths = self._padded("query", indices)
        positive, positive_lengths = self._padded("positive", indices)
        articles = torch.from_numpy(self.articles[indices])
        found_in = torch.from_numpy(self.query_articles[indices])
        return PairBatch(query, query_lengths, positive, positive_lengths, articles, found_in)

    def _padded(self, name: str, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        tokens_BT = self.column(name, indices).astype(np.int64)
        # At least one token, or the mean of an empty text would make the whole batch NaN.
        lengths_B = np.maximum(1, (tokens_BT != self.pad_id).sum(axis=1))
        return torch.from_numpy(tokens_BT[:, : lengths_B.max()]), torch.from_numpy(lengths_B)


class PairOrder:
    """Batch n of pairs as a pure function of (seed, n)."""

    def __init__(
        self, articles: np.ndarray, groups: np.ndarray, *, batch_size: int, seed: int
    ) -> None:
        assert len(articles) > 0, "an order needs at least one pair"
        self.articles, self.groups = articles, groups
        self.batch_size, self.seed = batch_size, seed
        sizes = np.bincount(groups)
        num_left = int((sizes % batch_size).sum())
        self.batches_per_epoch = int((sizes // batch_size).sum()) + -(-num_left // batch_size)
        self._cached: tuple[int, list[np.ndarray]] | None = None

    def batch(self, number: int) -> np.ndarray:
        """Return the rows of batch `number`, int64 [batch_size]."""
        epoch, position = divmod(number, self.batches_per_epoch)
        if self._cached is None or self._cached[0] != epoch:
            self._cached = epoch, self._plan(epoch)
        return self._cached[1][position]

    def _plan(self, epoch: int) -> list[np.ndarray]:
        generator = epoch_generator(self.seed, epoch)
        article_rank = generator.permutation(int(self.articles.max()) + 1)
        shuffled = generator.permutation(len(self.articles))
        by_article = shuffled[np.argsort(article_rank[self.articles[shuffled]], kind="stable")]
        batches: list[np.ndarray] = []
        left: list[np.ndarray] = []
        for group in range(int(self.groups.max()) + 1):
            rows = by_article[self.groups[by_article] == group]
            num_batches, num_left = divmod(len(rows), self.batch_size)
            is_left = np.zeros(len(rows), dtype=bool)
            is_left[np.linspace(0, len(rows) - 1, num_left).astype(int)] = True
            batches += _deal(rows[~is_left], num_batches)
            left.append(rows[is_left])
        rest = np.concatenate(left)
        if len(rest):
            num_batches = -(-len(rest) // self.batch_size)
            rows = np.concatenate([rest, shuffled[~np.isin(shuffled, rest)]])
            # Filled up with pairs of other articles first, so that these too are fair negatives.
            is_other = np.arange(len(rows)) >= len(rest)
            rows = rows[
                np.argsort(is_other * (1 + _appearance(self.articles[rows])), kind="stable")
            ]
            filled = np.resize(rows, num_batches * self.batch_size)
            ranks = article_rank[self.articles[filled]]
            batches += _deal(filled[np.argsort(ranks, kind="stable")], num_batches)
        return [batches[number] for number in generator.permutation(len(batches))]


def spread_over_groups(groups: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` rows, int64, sorted: as many of each group, spread evenly over it.

    What a small group cannot give is shared out among the others. Depends on nothing but the data.
    """
    own = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    chosen, left = [], min(count, len(groups))
    for number, rows in enumerate(sorted(own, key=len)):  # the smallest first, for what they lack
        share = min(len(rows), left // (len(own) - number))
        chosen.append(rows[np.linspace(0, len(rows) - 1, share).astype(np.int64)])
        left -= share
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)


def _deal(rows: np.ndarray, num_batches: int) -> list[np.ndarray]:
    return [rows[start::num_batches] for start in range(num_batches)]


def _appearance(values: np.ndarray) -> np.ndarray:
    """Return for each value how often it stood before: 5 7 5 5 -> 0 0 1 2."""
    order = np.argsort(values, kind="stable")
    _, first, counts = np.unique(values[order], return_index=True, return_counts=True)
    appearance = np.empty(len(values), dtype=np.int64)
    appearance[order] = np.arange(len(values)) - np.repeat(first, counts)
    return appearance


def _numbered(values: list) -> np.ndarray:
    numbers: dict = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)
