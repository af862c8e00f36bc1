"""parameters -> AdamW, or Muon with AdamW beside it, and the learning rate of a step.

The schedules are pure functions of the step, so there is no scheduler state to save.

    wsd       /-----------\\        warm-up, stable, linear decay over the last decay_share
    cosine    /--..__               warm-up, half a cosine down to min_learning_rate_ratio
    linear    /\\__                  warm-up, then a straight line down to it
    constant  /------------         warm-up, then flat
"""

from __future__ import annotations

import math

import torch
from torch import nn

from etude_model.config import TrainConfig
from etude_model.training.muon import Muon

NOT_DECAYED = ("embed_tokens.weight", "lm_head.weight")
STACKED = "gate_up_proj"  # two matrices above each other in one tensor


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict]:
    """Return AdamW's groups: matrices decay; embeddings, norms and other vectors do not.

    Only what requires a gradient is in a group, and a tied weight is in one of them once.
    """
    decayed, kept = _matrices_and_rest(model)
    groups = [
        {"params": list(decayed.values()), "weight_decay": weight_decay},
        {"params": list(kept.values()), "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def muon_groups(model: nn.Module, *, weight_decay: float) -> list[dict]:
    """Return the same for Muon: the matrices that decay are its own, stacks of two apart."""
    matrices, rest = _matrices_and_rest(model)
    groups: list[dict] = [{"params": list(rest.values()), "weight_decay": 0.0}]
    for parts in (1, 2):
        own = [one for name, one in matrices.items() if name.endswith(STACKED) == (parts == 2)]
        groups.append(
            {"params": own, "weight_decay": weight_decay, "is_muon": True, "parts": parts}
        )
    return [group for group in groups if group["params"]]


def _matrices_and_rest(
    model: nn.Module,
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Split the trainable parameters; a matrix has two axes, or three as a stack of experts."""
    matrices: dict[str, nn.Parameter] = {}
    rest: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and not name.endswith(NOT_DECAYED)
            (matrices if is_matrix else rest)[name] = parameter
    return matrices, rest


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser that the config names, over the model's trainable parameters."""
    peak, decay = config.learning_rate or 0.0, config.weight_decay  # each step sets its own rate
    if config.optimizer == "muon":
        return Muon(muon_groups(model, weight_decay=decay), lr=peak, betas=config.betas)
    groups = parameter_groups(model, weight_decay=decay)
    if config.precision == "pure_bfloat16":  # AdamW all the same, with float32 weights of its own
        return Muon(groups, lr=peak, betas=config.betas)
    return torch.optim.AdamW(groups, lr=peak, betas=config.betas, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of step `step`, counted from 0, of `config.num_steps`."""
    peak = config.peak_learning_rate
    floor = peak * config.min_learning_rate_ratio
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return peak
    if config.schedule in ("cosine", "linear"):
        first = config.warmup_steps
    else:
        first = max(config.warmup_steps, round(config.num_steps * (1 - config.decay_share)))
    if step < first:
        return peak
    # The first decaying step is already below the peak, and the last step is at the floor.
    done = min(1.0, (step - first + 1) / max(1, config.num_steps - first))
    shape = (1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else 1 - done
    return floor + (peak - floor) * shape
