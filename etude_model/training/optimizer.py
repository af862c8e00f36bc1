"""parameters -> AdamW in two groups, and the learning rate of a step.

The schedules are pure functions of the step, so there is no scheduler state to save.

    wsd       /-----------\\        warm-up, stable, linear decay over the last decay_share
    cosine    /--..__               warm-up, half a cosine down to min_learning_rate_ratio
    constant  /------------         warm-up, then flat
"""

from __future__ import annotations

import math

import torch
from torch import nn

from etude_model.config import TrainConfig

NOT_DECAYED = ("embed_tokens.weight", "lm_head.weight")


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict]:
    """Return AdamW's groups: matrices decay; embeddings, norms and other vectors do not.

    Only what requires a gradient is in a group, and a tied weight is in one of them once.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and not name.endswith(NOT_DECAYED)
            (decayed if is_matrix else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return the fused AdamW over the model's trainable parameters."""
    groups = parameter_groups(model, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of step `step`, counted from 0, of `config.num_steps`."""
    peak, floor = config.learning_rate, config.learning_rate * config.min_learning_rate_ratio
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return peak
    if config.schedule == "cosine":
        first = config.warmup_steps
    else:
        first = max(config.warmup_steps, round(config.num_steps * (1 - config.decay_share)))
    if step < first:
        return peak
    # The first decaying step is already below the peak, and the last step is at the floor.
    done = min(1.0, (step - first + 1) / max(1, config.num_steps - first))
    shape = (1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else 1 - done
    return floor + (peak - floor) * shape
