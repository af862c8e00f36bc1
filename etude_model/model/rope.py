"""Positions -> rotations: each pair of a head's numbers turns by an angle that grows with position.

The dot product of a turned query and a turned key depends on their distance only, which is how
attention learns about order (Su et al. 2021, arXiv 2104.09864). Pairs are (i, i + head_dim / 2),
the half-split layout of Qwen3 in transformers, so that weights move over unchanged.

T tokens · B rows · H heads · K head_dim
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotations(positions_BT: Tensor, *, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of all angles, float32 [B, T, 1, K/2]; the 1 stands for heads."""
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions_BT.device)
    speeds = 1.0 / theta ** (pairs / head_dim)  # in this order, or late positions round differently
    angles = positions_BT[:, :, None, None].float() * speeds
    return angles.cos(), angles.sin()


def rotate(x_BTHK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of `x_BTHK` by its angle and return the same shape and dtype."""
    first, second = x_BTHK.float().chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x_BTHK.dtype)
