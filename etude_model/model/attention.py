"""Hidden states -> hidden states: every token gathers from the tokens that it may look at.

`SingleHeadAttention` is the formula written out, to be read first. `MultiHeadAttention` is the
same for many heads at once with a fused kernel; a test holds the two together. Both are Qwen3's:
queries and keys are normalised per head before they are turned by their positions, and several
query heads share a key/value head (GQA, Ainslie et al. 2023, arXiv 2305.13245).

What may be looked at is decided once per forward and shared by all layers (`Sight`). A packed row
with segments 0 0 0 1 1 -1 (-1 = padding) under a causal mask, x = may look:

        key 0 1 2 3 4 5
  query 0   x . . . . .
        1   x x . . . .
        2   x x x . . .
        3   . . . x . .
        4   . . . x x .
        5   . . . . . x      padding sees padding, so that no row of the softmax is empty

B rows · T tokens · S keys · D hidden_size · H query heads · G key/value heads · K head_dim
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude_model.config import EtudeConfig
from etude_model.model.norm import RMSNorm
from etude_model.model.rope import rotate


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


@dataclass(frozen=True, slots=True)
class Sight:
    """What the attention of every layer shares: rotations and who may look at whom.

    `mask` is bool [B or 1, 1, T, S], True = may look. Without a mask, `is_causal` decides: the
    kernel's own triangle, or everything.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    is_causal: bool
    cache: KVCache | None = None
    slots_BT: Tensor | None = None


class SingleHeadAttention(nn.Module):
    """The readable reference: one head, the textbook formula, no cache."""

    def __init__(self, hidden_size: int, head_dim: int, rms_norm_eps: float = 1e-6) -> None:
        """Make the three projections of one head and the norms of queries and keys."""
        super().__init__()
        self.q_proj = nn.Linear(hidden_size, head_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, head_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, head_dim, bias=False)
        self.q_norm = RMSNorm(head_dim, rms_norm_eps)
        self.k_norm = RMSNorm(head_dim, rms_norm_eps)

    def forward(self, x_BTD: Tensor, sight: Sight) -> Tensor:
        """Map [B, T, D] to the head's [B, T, K]: softmax(q k^T / sqrt(K)) v."""
        q_BTK = rotate(self.q_norm(self.q_proj(x_BTD))[:, :, None], sight.cos, sight.sin)[:, :, 0]
        k_BTK = rotate(self.k_norm(self.k_proj(x_BTD))[:, :, None], sight.cos, sight.sin)[:, :, 0]
        scores_BTT = q_BTK @ k_BTK.transpose(1, 2) / q_BTK.shape[-1] ** 0.5
        if sight.mask is not None:
            scores_BTT = scores_BTT.masked_fill(~sight.mask[:, 0], float("-inf"))
        elif sight.is_causal:
            later = torch.ones_like(scores_BTT, dtype=torch.bool).triu(diagonal=1)
            scores_BTT = scores_BTT.masked_fill(later, float("-inf"))
        return scores_BTT.softmax(dim=-1) @ self.v_proj(x_BTD)


class MultiHeadAttention(nn.Module):
    """Grouped-query attention of one layer, with a fused kernel and an optional cache."""

    def __init__(self, config: EtudeConfig, layer: int = 0) -> None:
        """Make the projections of `layer`; the number finds its place in a cache."""
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        query_width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(self, x_BTD: Tensor, sight: Sight) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        q_BTHK = self.q_proj(x_BTD).unflatten(-1, (self.num_heads, self.head_dim))
        k_BTGK = self.k_proj(x_BTD).unflatten(-1, (self.num_kv_heads, self.head_dim))
        v_BTGK = self.v_proj(x_BTD).unflatten(-1, (self.num_kv_heads, self.head_dim))
        q_BTHK = rotate(self.q_norm(q_BTHK), sight.cos, sight.sin)
        k_BTGK = rotate(self.k_norm(k_BTGK), sight.cos, sight.sin)
        if sight.cache is not None and sight.slots_BT is not None:
            k_BGSK, v_BGSK = sight.cache.put(self.layer, sight.slots_BT, k_BTGK, v_BTGK)
            k_BGSK, v_BGSK = k_BGSK.to(q_BTHK.dtype), v_BGSK.to(q_BTHK.dtype)
        else:
            k_BGSK, v_BGSK = k_BTGK.transpose(1, 2), v_BTGK.transpose(1, 2)
        gathered_BHTK = F.scaled_dot_product_attention(
            q_BTHK.transpose(1, 2),
            k_BGSK,
            v_BGSK,
            attn_mask=sight.mask,
            is_causal=sight.is_causal and sight.mask is None,
            enable_gqa=self.num_heads != self.num_kv_heads,
        )
        return self.o_proj(gathered_BHTK.transpose(1, 2).flatten(2))
