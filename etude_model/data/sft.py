"""SFT shards -> batches in which only the assistant's words are targets.

The mask of a shard is aligned with the token itself (1 = this token is to be learned), so it is
shifted together with the tokens: position i is trained when token i+1 is marked.

    tokens    ...  <|im_start|> assistant \\n  Hi  <|im_end|>  \\n
    mask                0           0      0   1       1        0
    targets             .           .      Hi  <|im_end|>  .    .
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

    def trained(self, indices: np.ndarray) -> np.ndarray:
        """Return which tokens are targets to learn, bool [B, T]."""
        return self.column("mask", indices).astype(bool)
