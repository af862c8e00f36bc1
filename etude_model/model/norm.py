"""Vectors -> vectors of root mean square 1, times a learned weight per number.

Computed in float32 whatever comes in, as Qwen3 does (Zhang and Sennrich 2019, arXiv 1910.07467).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude_model.model.fused import is_fused, rms_norm


class RMSNorm(nn.Module):
    """weight * x / sqrt(mean(x^2) + eps) over the last axis."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        """Start with a weight of ones."""
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised x in x's own dtype and shape."""
        if is_fused(x):
            return rms_norm(x, self.weight, self.eps)
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)
