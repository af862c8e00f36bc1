"""Keys and values of the tokens so far, so that writing the next token computes one token only.

L layers · B rows · T new tokens · S slots · G key/value heads · K head_dim
"""

from __future__ import annotations

import torch
from torch import Tensor

from etude_model.config import EtudeConfig


class KVCache:
    """Keys and values of all layers for `capacity` positions, allocated once.

    The slot of a token is its position, row by row, so rows of different lengths need no padding
    on the left: a shorter row simply writes its next token at a lower slot.
    """

    def __init__(
        self,
        config: EtudeConfig,
        *,
        num_rows: int,
        capacity: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Allocate zeros; memory is 2 * layers * rows * capacity * G * K numbers."""
        shape = (config.num_layers, num_rows, config.num_kv_heads, capacity, config.head_dim)
        self.keys_LBGSK = torch.zeros(shape, device=device, dtype=dtype)
        self.values_LBGSK = torch.zeros(shape, device=device, dtype=dtype)
        self.num_used = 0  # slots that some row has written; the forward pass moves it on

    @property
    def capacity(self) -> int:
        """Return how many positions fit."""
        return self.keys_LBGSK.shape[3]

    def put(
        self, layer: int, slots_BT: Tensor, keys_BTGK: Tensor, values_BTGK: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values; return all used ones, [B, G, S, K] each."""
        rows_B1 = torch.arange(len(slots_BT), device=slots_BT.device)[:, None]
        for store, new in ((self.keys_LBGSK, keys_BTGK), (self.values_LBGSK, values_BTGK)):
            store[layer].transpose(1, 2)[rows_B1, slots_BT] = new.to(store.dtype)
        used = slice(0, self.num_used)
        return self.keys_LBGSK[layer, :, :, used], self.values_LBGSK[layer, :, :, used]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but those listed (int64), in that order."""
        self.keys_LBGSK = self.keys_LBGSK[:, rows]
        self.values_LBGSK = self.values_LBGSK[:, rows]
