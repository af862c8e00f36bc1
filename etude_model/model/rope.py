r"""Positions -> rotations: a pair of a head's numbers turns by an angle that grows with position.

The dot product of a turned query and a turned key depends on their distance only, which is how
attention learns about order (Su et al. 2021, arXiv 2104.09864). Pairs are (i, i + head_dim / 2),
the half-split layout of Qwen3 in transformers, so that weights move over unchanged.

A context longer than the one of training asks for angles never seen. YaRN (Peng et al. 2023, arXiv
2309.00071) slows the slow pairs down by the factor of the extension, so that they stay in the
range they know, leaves the fast ones alone, because they tell neighbours apart, and goes from one
to the other along a ramp:

    speed  | original   \        pair 0 turns fastest
           |             \
           |              \______ original / factor
           +--------------------- pair

T tokens · B rows · H heads · K head_dim
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etude_model.config import YarnScaling


def rotations(
    positions_BT: Tensor, *, head_dim: int, theta: float, scaling: YarnScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of all angles, float32 [B, T, 1, K/2]; the 1 stands for heads."""
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions_BT.device)
    speeds = 1.0 / theta ** (pairs / head_dim)  # in this order, or late positions round differently
    if scaling is None:
        angles = positions_BT[:, :, None, None].float() * speeds
        return angles.cos(), angles.sin()
    slowed = 1.0 / (scaling.factor * theta ** (pairs / head_dim))
    share_slowed = yarn_ramp(scaling, head_dim=head_dim, theta=theta).to(pairs.device)
    speeds = slowed * share_slowed + speeds * (1 - share_slowed)
    angles = positions_BT[:, :, None, None].float() * speeds
    # Longer rows spread attention thinner; larger queries and keys sharpen it again.
    size = scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1.0
    return angles.cos() * size, angles.sin() * size


def yarn_ramp(scaling: YarnScaling, *, head_dim: int, theta: float) -> Tensor:
    """Return for each pair [K/2] how far it is slowed down, from 0 to 1."""

    def pair_turning(times: float) -> float:
        """Return the pair, as a fraction, that turns so many times in the original context."""
        wavelength = scaling.original_context_length / (times * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(theta))

    first = max(math.floor(pair_turning(scaling.beta_fast)), 0)
    last = min(math.ceil(pair_turning(scaling.beta_slow)), head_dim - 1)
    width = last - first or 0.001
    return ((torch.arange(head_dim // 2, dtype=torch.float32) - first) / width).clamp(0, 1)


def rotate(x_BTHK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of `x_BTHK` by its angle and return the same shape and dtype."""
    first, second = x_BTHK.float().chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x_BTHK.dtype)
