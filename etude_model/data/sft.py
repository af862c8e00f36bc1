"""SFT shards -> batches in which only the assistant's words are targets.

The mask of a shard is aligned with the token itself (1 = this token is to be learned), so it is
shifted together with the tokens: position i is trained when token i+1 is marked.

    tokens    ...  <|im_start|> assistant \\n  Hi  <|im_end|>  \\n
    mask                0           0      0   1       1        0
    targets             .           .      Hi  <|im_end|>  .    .

An answer is one run of ones, for a header always stands between two. Where some answers count
more than others, the shard's column `weights` holds one number per run, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from etude_model.data.lm import TokenRows


class SftRows(TokenRows):
    """Packed dialogues; the pieces of a row are whole dialogues and must not see each other."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(paths, format="sft")
        self._weights: list[list[float] | None] | None = None
        if any(shard.has_extra("weights") for shard in self.shards):
            self._weights = [
                weights
                for shard in self.shards
                for weights in (
                    shard.extra("weights").to_pylist()
                    if shard.has_extra("weights")
                    else [None] * shard.num_rows
                )
            ]

    def trained(self, indices: np.ndarray) -> np.ndarray:
        """Return which tokens are targets to learn, bool [B, T]."""
        return self.column("mask", indices).astype(bool)

    def weights(self, indices: np.ndarray) -> np.ndarray | None:
        """Return how much each position's target counts, float32 [B, T]; None means one each."""
        if self._weights is None or all(self._weights[index] is None for index in indices):
            return None
        mask_BT = self.trained(indices)
        weights_BT = np.ones(mask_BT.shape, dtype=np.float32)
        for row, index in enumerate(indices):
            if (of_runs := self._weights[index]) is not None:
                weights_BT[row, :-1] = spread_over_runs(mask_BT[row], of_runs)[1:]
        return weights_BT


def spread_over_runs(mask_T: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Return for each token the weight of its run of ones, float32 [T]; 1 outside of runs."""
    starts_T = mask_T & ~np.concatenate([[False], mask_T[:-1]])
    assert starts_T.sum() == len(weights), "a shard's weights must be one per answer"
    runs_T = np.cumsum(starts_T) - 1
    of_runs = np.append(np.asarray(weights, dtype=np.float32), np.float32(1))
    return np.where(mask_T, of_runs[runs_T], np.float32(1))
