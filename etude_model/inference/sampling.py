"""Logits -> the next token of each row, the same whoever else is in the batch.

The noise of a sample is a function of (seed, step, token id) and nothing else: no generator has a
state that a neighbour could move. Adding Gumbel noise to the logits and taking the largest is the
same as drawing from their softmax (Maddison et al. 2014, arXiv 1411.0030).

B rows · V vocab_size
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from storage.config import Config


class SamplingConfig(Config):
    """How to choose the next token."""

    max_new_tokens: int = Field(default=128, ge=1)
    """Most tokens to write."""
    temperature: float = Field(default=0.8, ge=0, le=5)
    """Logits are divided by this; 0 takes the likeliest token always."""
    top_k: int = Field(default=0, ge=0)
    """Choose among this many likeliest tokens; 0 means all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Choose among the fewest likeliest tokens that hold this much probability."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Above 1, tokens that the text has already become less likely."""
    seed: int = Field(default=0, ge=0)
    """Equal seeds and prompts give equal texts."""


def next_tokens(
    logits_BV: Tensor, sampling: SamplingConfig, *, seen_BV: Tensor, seeds_B: Tensor, step: int
) -> Tensor:
    """Return int64 [B]: one token per row.

    `seen_BV` (bool) marks the tokens of prompt and text so far, `step` counts the tokens written.
    """
    if sampling.repetition_penalty != 1.0:
        logits_BV = torch.where(
            seen_BV, _penalised(logits_BV, sampling.repetition_penalty), logits_BV
        )
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    logits_BV = logits_BV / sampling.temperature
    if 0 < sampling.top_k < logits_BV.shape[1]:
        least_B1 = logits_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))
    if sampling.top_p < 1.0:
        logits_BV = _nucleus(logits_BV, sampling.top_p)
    noise_BV = gumbel_noise(seeds_B, step, logits_BV.shape[1])
    return (logits_BV.double() + noise_BV).argmax(dim=-1)


def _penalised(logits_BV: Tensor, penalty: float) -> Tensor:
    """Push logits down: divide positive ones, multiply negative ones (Keskar et al. 2019, CTRL)."""
    return torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)


def _nucleus(logits_BV: Tensor, top_p: float) -> Tensor:
    """Keep the likeliest tokens until their probabilities reach top_p (Holtzman et al. 2019)."""
    ordered_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    shares_BV = ordered_BV.softmax(dim=-1)
    before_BV = shares_BV.cumsum(dim=-1) - shares_BV
    ordered_BV = ordered_BV.masked_fill(before_BV >= top_p, float("-inf"))
    return torch.empty_like(logits_BV).scatter_(1, order_BV, ordered_BV)


def gumbel_noise(seeds_B: Tensor, step: int, vocab_size: int) -> Tensor:
    """Return float64 [B, V] standard Gumbel noise, a pure function of (seed, step, id)."""
    ids_V = torch.arange(vocab_size, dtype=torch.int64, device=seeds_B.device)
    bits_BV = _mix(_mix(seeds_B + _signed(step * _GOLDEN))[:, None] + ids_V * _GOLDEN)
    uniform_BV = ((bits_BV >> 11 & (1 << 53) - 1).double() + 0.5) * 2.0**-53
    return -(-uniform_BV.log()).log()


def _signed(number: int) -> int:
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


_GOLDEN = _signed(0x9E3779B97F4A7C15)


def _mix(x: Tensor) -> Tensor:
    """Scramble int64 numbers: the finaliser of SplitMix64 (Steele et al. 2014), wrapping."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * _signed(factor)
    return x ^ (x >> 31 & (1 << 33) - 1)
