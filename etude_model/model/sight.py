"""Positions and documents of a batch -> who may look at whom, decided once for all layers.

A packed row with segments 0 0 0 1 1 -1 (-1 = padding) under a causal mask, x = may look, and the
same in a layer with a window of 2:

        key 0 1 2 3 4 5             0 1 2 3 4 5
  query 0   x . . . . .             x . . . . .
        1   x x . . . .             x x . . . .
        2   x x x . . .             . x x . . .
        3   . . . x . .             . . . x . .
        4   . . . x x .             . . . x x .
        5   . . . . . x             . . . . . x
                  padding sees padding, so that no row of the softmax is empty

On a GPU a packed batch needs no mask: a kernel for rows of any length gets the documents' starts.

B rows · T tokens · S keys
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from etude_model.config import EtudeConfig
from etude_model.model.cache import KVCache
from etude_model.model.rope import rotations


def _import_varlen() -> Callable[..., Any] | None:
    """Return torch's attention over rows of any length, if it knows windows (2.11)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in signature(varlen_attn).parameters else None


varlen_attention = _import_varlen()
# From 2.12 on, query heads may share keys there; in 2.11 each needs its own.
varlen_takes_groups = (
    varlen_attention is not None and "enable_gqa" in signature(varlen_attention).parameters
)


@dataclass(frozen=True, slots=True)
class Sight:
    """What the attention of every layer shares: rotations and who may look at whom.

    `mask` [B or 1, 1, T, S] is added to the scores: 0 = may look, -inf = may not. Without a mask,
    `is_causal` decides: the kernel's own triangle, or everything. Windowed layers have a mask of
    their own. With `starts` (int32, of all documents in the flattened batch, and its end) there
    are no masks.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    is_causal: bool
    cache: KVCache | None = None
    slots_BT: Tensor | None = None
    window_mask: Tensor | None = None
    starts: Tensor | None = None


def look(
    config: EtudeConfig,
    tokens_BT: Tensor,
    *,
    positions: Tensor | None,
    segments_BT: Tensor | None,
    is_causal: bool,
    cache: KVCache | None,
    dtype: torch.dtype,
) -> Sight:
    """Return the sight of a forward pass in `dtype`; moves the cache's end on."""
    num_rows, num_tokens = tokens_BT.shape
    start = cache.num_used if cache is not None else 0
    in_order = positions is None
    if positions is None:
        positions = torch.arange(start, start + num_tokens, device=tokens_BT.device)
    positions = positions.expand(num_rows, -1) if positions.dim() == 2 else positions[None]
    cos, sin = rotations(
        positions, head_dim=config.head_dim, theta=config.rope_theta, scaling=config.rope_scaling
    )
    window = config.sliding_window
    if cache is None:
        if segments_BT is not None and has_varlen(tokens_BT.device, dtype):
            return Sight(cos, sin, None, is_causal, starts=document_starts(segments_BT))
        mask = None
        if segments_BT is not None:
            mask = (segments_BT[:, :, None] == segments_BT[:, None, :])[:, None]
            mask = mask.tril() if is_causal else mask
        places_T = torch.arange(num_tokens, device=tokens_BT.device)
        windowed = _narrow(mask, places_T[None], places_T, window, is_causal)
        masks = additive(mask, dtype), additive(windowed, dtype)
        return Sight(cos, sin, masks[0], is_causal, window_mask=masks[1])
    cache.num_used = max(start, int(positions.max()) + 1)
    if cache.num_used > cache.capacity:
        raise ValueError(f"position {cache.num_used - 1} is beyond the cache's {cache.capacity}")
    slots_BT = positions.expand(num_rows, -1)
    keys_S = torch.arange(cache.num_used, device=tokens_BT.device)
    mask = None
    if not (in_order and start == 0):  # else the cache holds just these tokens
        mask = (keys_S <= positions[:, :, None])[:, None]
    windowed = _narrow(mask, positions, keys_S, window, True)
    return Sight(cos, sin, additive(mask, dtype), True, cache, slots_BT, additive(windowed, dtype))


def additive(may_look: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return 0 where True, -inf where False.

    The kernel adds; given booleans, it would make these numbers in every layer, and keep them all
    for the backward pass.
    """
    if may_look is None:
        return None
    zeros = torch.zeros(may_look.shape, dtype=dtype, device=may_look.device)
    return zeros.masked_fill_(~may_look, float("-inf"))


def _narrow(
    mask: Tensor | None, queries_BT: Tensor, keys_S: Tensor, window: int | None, is_causal: bool
) -> Tensor | None:
    """Return what of a mask lies in the window; the mask itself where all of it does.

    Both ways a token sees `window` others on each side, as in transformers; looking back only,
    it sees itself and window - 1 others.
    """
    if window is None or len(keys_S) <= window:
        return mask
    distance_BTS = queries_BT[:, :, None] - keys_S
    if is_causal:
        near = (distance_BTS < window) & (distance_BTS >= 0)
    else:
        near = distance_BTS.abs() <= window
    return near[:, None] if mask is None else mask & near[:, None]


def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether the kernel for rows of any length takes this device and dtype."""
    is_half = dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and is_half and varlen_attention is not None


def document_starts(segments_BT: Tensor, multiple: int = 64) -> Tensor:
    """Return where the runs of equal numbers start in the flattened batch, and its end, int32.

    The end is repeated up to a multiple of so many entries, so that compiled code and the kernel
    meet few shapes; a document of no tokens costs nothing.
    """
    is_start_BT = torch.ones_like(segments_BT, dtype=torch.bool)
    is_start_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    starts = is_start_BT.flatten().nonzero()[:, 0]
    padded = (len(starts) // multiple + 1) * multiple
    ends = starts.new_full((padded - len(starts),), segments_BT.numel())
    return torch.cat([starts, ends]).to(torch.int32)
