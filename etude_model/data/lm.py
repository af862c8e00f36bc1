"""LM shards -> batches of tokens, targets and segments.

A row holds several pieces of text, then padding. Position i predicts token i+1, but never across
a border: the first token of the next piece cannot be known, and padding is nothing to learn.

    tokens     <s>  a   b  </s> <s>  c  </s> pad pad
    segments    0   0   0   0    1   1   1   -1  -1
    targets     a   b  </s>  .   c  </s>  .   .   .      . = -100, ignored

Try: python -m pytest tests/etude_model/data -q
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from etude_model.data.rows import ShardRows

IGNORED = -100


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows ready for the model: int64 tokens and targets, int64 segments, all [B, T].

    `weights_BT` (float32) says how much each target counts; None means one each.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    segments_BT: Tensor
    weights_BT: Tensor | None = None

    @property
    def num_targets(self) -> int:
        """Return how many positions have something to learn."""
        return int((self.targets_BT != IGNORED).sum())

    @property
    def total_weight(self) -> float:
        """Return what the targets count together: the number of them unless they have weights."""
        if self.weights_BT is None:
            return float(self.num_targets)
        return float(self.weights_BT[self.targets_BT != IGNORED].double().sum())

    @property
    def num_tokens(self) -> int:
        """Return how many tokens are not padding."""
        return int((self.segments_BT >= 0).sum())

    def __getitem__(self, rows: slice) -> TokenBatch:
        """Return some of the rows as a batch."""
        weights = None if self.weights_BT is None else self.weights_BT[rows]
        parts = self.tokens_BT[rows], self.targets_BT[rows], self.segments_BT[rows]
        return TokenBatch(*parts, weights)

    def split(self, rows: int) -> Iterator[TokenBatch]:
        """Yield the batch in micro-batches of at most `rows` rows."""
        for start in range(0, len(self.tokens_BT), rows):
            yield self[start : start + rows]

    def to(self, device: torch.device) -> TokenBatch:
        """Return the batch on a device."""
        return TokenBatch(
            self.tokens_BT.to(device),
            self.targets_BT.to(device),
            self.segments_BT.to(device),
            None if self.weights_BT is None else self.weights_BT.to(device),
        )

    def num_target_bytes(self, token_bytes: np.ndarray) -> int:
        """Return the UTF-8 bytes that the targets stand for; call it before `to`."""
        targets = self.targets_BT[self.targets_BT != IGNORED]
        return int(token_bytes[targets.numpy()].sum())


class TokenRows(ShardRows):
    """LM rows; `format="sft"` reads the same layout with a mask of what is trained on."""

    def __init__(self, paths: Sequence[Path], *, format: str = "lm") -> None:
        super().__init__(paths, format=format)
        self.languages = np.array([], dtype=object)
        self.lengths = np.zeros(0, dtype=np.int64)
        if self.shards:
            self.languages = np.array(self.extra("language").to_pylist(), dtype=object)
            segments = self.extra("segments").combine_chunks()
            self._lengths = segments.flatten().to_numpy()
            self._first = np.concatenate([[0], np.cumsum(segments.value_lengths().to_numpy())])
            ends = np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)])
            self.lengths = np.diff(ends[self._first])  # tokens of each row, padding left out

    @property
    def context_length(self) -> int:
        """Return the width of the rows, in tokens."""
        return int(self.shards[0].metadata["context_length"])

    def batch(self, indices: np.ndarray) -> TokenBatch:
        """Return the given rows as a batch."""
        tokens = self.column("tokens", indices).astype(np.int64)
        segments = self.segments(indices)
        targets = next_token_targets(tokens, segments, self.trained(indices))
        weights = self.weights(indices)
        return TokenBatch(
            torch.from_numpy(tokens),
            torch.from_numpy(targets),
            torch.from_numpy(segments),
            None if weights is None else torch.from_numpy(weights),
        )

    def segments(self, indices: np.ndarray) -> np.ndarray:
        """Return the number of the piece each token belongs to, int64 [B, T]; -1 is padding."""
        segments_BT = np.full((len(indices), self.context_length), -1, dtype=np.int64)
        for row, index in enumerate(indices):
            lengths = self._lengths[self._first[index] : self._first[index + 1]]
            pieces = np.repeat(np.arange(len(lengths)), lengths)
            segments_BT[row, : len(pieces)] = pieces
        return segments_BT

    def trained(self, indices: np.ndarray) -> np.ndarray | None:
        """Return which tokens are targets to learn, bool [B, T]; None means all."""
        return None

    def weights(self, indices: np.ndarray) -> np.ndarray | None:
        """Return how much each position's target counts, float32 [B, T]; None means one each."""
        return None


def next_token_targets(
    tokens_BT: np.ndarray, segments_BT: np.ndarray, trained_BT: np.ndarray | None = None
) -> np.ndarray:
    """Return for each position the token that follows it in the same piece, else -100."""
    targets_BT = np.full_like(tokens_BT, IGNORED)
    same_piece = (segments_BT[:, 1:] == segments_BT[:, :-1]) & (segments_BT[:, 1:] >= 0)
    if trained_BT is not None:
        same_piece &= trained_BT[:, 1:]
    targets_BT[:, :-1] = np.where(same_piece, tokens_BT[:, 1:], IGNORED)
    return targets_BT


def validation_batches(
    rows: TokenRows, *, num_rows: int, batch_size: int
) -> Iterator[tuple[str, TokenBatch]]:
    """Yield (language, batch) over at most `num_rows` rows, spread evenly over each language.

    The choice depends on nothing but the shards, so every evaluation reads the same rows.
    """
    languages = sorted(set(rows.languages))
    for number, language in enumerate(languages):
        share = num_rows // len(languages) + (number < num_rows % len(languages))
        own = np.flatnonzero(rows.languages == language)
        chosen = own[np.unique(np.linspace(0, len(own) - 1, min(share, len(own))).astype(int))]
        for start in range(0, len(chosen), batch_size):
            yield language, rows.batch(chosen[start : start + batch_size])
