"""Hidden states -> hidden states: every token gathers from the tokens that it may look at.

`SingleHeadAttention` is the formula written out, to be read first. `MultiHeadAttention` is the
same for many heads at once with a fused kernel; a test holds the two together. Both are Qwen3's:
queries and keys are normalised per head before they are turned by their positions, and several
query heads share a key/value head (GQA, Ainslie et al. 2023, arXiv 2305.13245).

What may be looked at is decided once per forward and shared by all layers (sight.py). A windowed
layer sees the last few tokens only (Beltagy et al. 2020, arXiv 2004.05150).

B rows · T tokens · S keys · D hidden_size · H query heads · G key/value heads · K head_dim
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etude_model.config import EtudeConfig
from etude_model.model.cache import KVCache
from etude_model.model.fused import attention, is_fused, joint_linear, norm_rotate
from etude_model.model.norm import RMSNorm
from etude_model.model.rope import rotate
from etude_model.model.sight import Sight, varlen_attention, varlen_takes_groups

__all__ = ["KVCache", "MultiHeadAttention", "Sight", "SingleHeadAttention"]


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
            scores_BTT = scores_BTT + sight.mask[:, 0]
        elif sight.is_causal:
            later = torch.ones_like(scores_BTT, dtype=torch.bool).triu(diagonal=1)
            scores_BTT = scores_BTT.masked_fill(later, float("-inf"))
        return scores_BTT.softmax(dim=-1) @ self.v_proj(x_BTD)


def _norm_and_rotate(norm: RMSNorm, x_BTHK: Tensor, sight: Sight) -> Tensor:
    """Normalise queries or keys and turn them by their positions."""
    if is_fused(x_BTHK):
        return norm_rotate(x_BTHK, norm.weight, norm.eps, sight.cos, sight.sin)
    return rotate(norm(x_BTHK), sight.cos, sight.sin)


class MultiHeadAttention(nn.Module):
    """Grouped-query attention of one layer, with a fused kernel and an optional cache."""

    def __init__(self, config: EtudeConfig, layer: int = 0) -> None:
        """Make the projections of `layer`; the number finds its place in a cache."""
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        is_windowed = config.layer_types[layer] == "sliding_attention"
        self.window = config.sliding_window if is_windowed else None
        query_width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(self, x_BTD: Tensor, sight: Sight) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        q_BTHK, k_BTGK, v_BTGK = (
            side.unflatten(-1, (-1, self.head_dim))
            for side in joint_linear(x_BTD, self.q_proj, self.k_proj, self.v_proj)
        )
        q_BTHK = _norm_and_rotate(self.q_norm, q_BTHK, sight)
        k_BTGK = _norm_and_rotate(self.k_norm, k_BTGK, sight)
        if sight.starts is not None:
            gathered_BTHK = self._attend_documents(q_BTHK, k_BTGK, v_BTGK, sight)
        else:
            gathered_BTHK = self._attend(q_BTHK, k_BTGK, v_BTGK, sight)
        return self.o_proj(gathered_BTHK.flatten(2))

    def _attend(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, sight: Sight) -> Tensor:
        """Look at this batch or at the cache, through a mask."""
        mask = sight.mask if self.window is None else sight.window_mask
        if sight.cache is not None and sight.slots_BT is not None:
            k_BGSK, v_BGSK = sight.cache.put(self.layer, sight.slots_BT, k_BTGK, v_BTGK)
            k_BGSK, v_BGSK = k_BGSK.to(q_BTHK.dtype), v_BGSK.to(v_BTGK.dtype)
        else:
            k_BGSK, v_BGSK = k_BTGK.transpose(1, 2), v_BTGK.transpose(1, 2)
        if q_BTHK.is_cuda and (mask is not None or q_BTHK.dtype == torch.float32):
            # Of torch's kernels only flash knows groups, and it takes neither; the others would
            # leave the work to the formula, with all scores in memory.
            share = self.num_heads // self.num_kv_heads
            k_BGSK, v_BGSK = (one.repeat_interleave(share, dim=1) for one in (k_BGSK, v_BGSK))
        gathered_BHTK = attention(
            q_BTHK.transpose(1, 2), k_BGSK, v_BGSK, mask, is_causal=sight.is_causal
        )
        return gathered_BHTK.transpose(1, 2)

    def _attend_documents(
        self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, sight: Sight
    ) -> Tensor:
        """Look at each document by itself; documents lie one after the other in the batch."""
        assert varlen_attention is not None and sight.starts is not None
        num_rows, num_tokens = q_BTHK.shape[:2]
        if self.window is None:
            reach = (-1, 0 if sight.is_causal else -1)
        else:
            reach = (self.window - 1, 0) if sight.is_causal else (self.window, self.window)
        share = self.num_heads // self.num_kv_heads
        if share > 1 and not varlen_takes_groups:
            k_BTGK, v_BTGK = (one.repeat_interleave(share, dim=2) for one in (k_BTGK, v_BTGK))
        groups = {"enable_gqa": share > 1} if varlen_takes_groups else {}
        gathered = varlen_attention(
            q_BTHK.flatten(0, 1),
            k_BTGK.flatten(0, 1),
            v_BTGK.flatten(0, 1),
            sight.starts,
            sight.starts,
            num_tokens,
            num_tokens,
            window_size=reach,
            **groups,
        )
        documents: Tensor = gathered.unflatten(0, (num_rows, num_tokens))
        return documents
