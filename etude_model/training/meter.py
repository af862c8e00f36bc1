"""What steps cost: tokens per second, the share of the device's peak, memory, the time left.

MFU is the work that the model needs (counts.py: training FLOPs per token) over the work the devices
could have done (plan.py). Nothing here decides anything.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from torch import Tensor

from etude_model.training.plan import Plan


class Meter:
    """Turns the tokens and seconds of steps, those of all processes, into figures."""

    def __init__(self, plan: Plan, num_steps: int, device: torch.device) -> None:
        """Measure the steps of a run of `num_steps` against its plan."""
        self.plan, self.num_steps, self.device = plan, num_steps, device
        self._began: tuple[int, float] | None = None

    def figures(self, step: int, num_tokens: int, seconds: float) -> dict[str, Any]:
        """Return the figures of step `step`, counted from 1, which took `seconds`."""
        now = time.perf_counter()
        if self._began is None:
            self._began = (step - 1, now - seconds)
        first, began = self._began
        rate = num_tokens / seconds
        found: dict[str, Any] = {"tokens_per_second": rate}
        if self.plan.peak_flops:
            found["mfu"] = rate * self.plan.flops_per_token / self.plan.peak_flops
        found["memory_bytes"] = peak_memory(self.device)
        found["eta_seconds"] = (now - began) / (step - first) * (self.num_steps - step)
        return found


def expert_load(counts_LE: Tensor) -> dict[str, float]:
    """Return how evenly a step's tokens went to the experts, from counts per layer and expert.

    Entropy is 1 where all get the same and 0 where one gets all, the mean over layers; the largest
    share is that of the busiest expert of any layer, 1/E at best.
    """
    shares_LE = counts_LE.double() / counts_LE.sum(dim=1, keepdim=True).clamp(min=1)
    entropy_L = torch.special.entr(shares_LE).sum(dim=1)
    most = torch.log(torch.tensor(float(max(2, counts_LE.shape[1]))))
    return {
        "expert_entropy": (entropy_L.mean() / most).item(),
        "expert_max_share": shares_LE.max().item(),
    }


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has held: on a GPU by torch, else altogether."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024
