"""Gradients -> steps of equal strength in every direction of a matrix: Muon, with AdamW beside it.

The momentum of a matrix is dominated by a few directions. Muon sets all of its singular values to
about 1 before it steps, so the rare directions are learned as fast as the common ones (Jordan
2024, Muon; Liu et al. 2025, arXiv 2502.16982). No SVD is needed: five rounds of an odd polynomial
push every singular value s in (0, 1] into a band around 1.

    s -> 3.4445 s - 4.7750 s^3 + 2.0315 s^5        steep at 0, bounded near 1

A step is 0.2 sqrt(max(rows, columns)) long, which has the root mean square of an AdamW step, so
that one learning rate and one weight decay serve both (Moonlight). What has one axis, embeddings
and the output matrix are left to AdamW: their rows are looked up one by one.

    momentum <- mu momentum + (1 - mu) gradient            mu rises from 0.85 to 0.95
    weight   <- (1 - lr decay) weight - lr 0.2 sqrt(max(A, B)) orthogonal(nesterov momentum)

N matrices · A rows · B columns
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from etude_model.device import has_bfloat16
from etude_model.training.distributed import full, place

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
MOMENTUM_START, MOMENTUM_WARMUP_STEPS = 0.85, 300
RMS_OF_ADAMW = 0.2
BATCH_NUMBERS = 1 << 27  # 256 MB in bfloat16; a few such tensors live at once

Member = tuple[Tensor, dict[str, Any]]  # a weight and its group


@torch.no_grad()
def orthogonalise(matrices_NAB: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return each matrix with its singular values moved to about 1 (0.65 to 1.25), in `dtype`."""
    a, b, c = COEFFICIENTS
    x_NAB = matrices_NAB.to(dtype)
    is_tall = x_NAB.shape[-2] > x_NAB.shape[-1]
    if is_tall:
        x_NAB = x_NAB.mT
    x_NAB = x_NAB / torch.linalg.matrix_norm(x_NAB, keepdim=True).clamp(min=1e-7)
    next_NAB = torch.empty_like(x_NAB)
    square_NAA, factor_NAA = x_NAB.new_empty(2, *x_NAB.shape[:-1], x_NAB.shape[-2])
    for _ in range(ROUNDS):
        torch.bmm(x_NAB, x_NAB.mT, out=square_NAA)
        torch.baddbmm(square_NAA, square_NAA, square_NAA, beta=b, alpha=c, out=factor_NAA)
        factor_NAA.diagonal(dim1=-2, dim2=-1).add_(a)  # here, or x would be copied to be added
        torch.bmm(factor_NAA, x_NAB, out=next_NAB)
        x_NAB, next_NAB = next_NAB, x_NAB
    return x_NAB.mT if is_tall else x_NAB


class Muon(torch.optim.Optimizer):
    """Muon for the groups with `is_muon`, fused AdamW for the others.

    A stack [E, A, B] of experts is E matrices; a group's `parts` says how many matrices lie above
    each other in one (2 for gate_up_proj). The state of a parameter is named tensors, as AdamW's:
    step and momentum, or step, exp_avg and exp_avg_sq. A parameter in half precision has its
    float32 self there too, as `master`: that one is moved, and rounded into the parameter, for
    most steps are too short to show in half precision.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        momentum: float = 0.95,
    ) -> None:
        """Take groups with "params", "weight_decay", and for matrices "is_muon" and "parts"."""
        defaults = {"lr": lr, "betas": betas, "eps": eps, "momentum": momentum}
        super().__init__(groups, defaults | {"weight_decay": 0.0, "is_muon": False, "parts": 1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None, "Muon takes one look at the gradients"
        self._muon([group for group in self.param_groups if group["is_muon"]])
        for group in self.param_groups:
            if not group["is_muon"]:
                self._adamw(group)

    def _master(self, weight: Tensor) -> Tensor:
        """Return what is moved: the parameter, or its float32 self."""
        if weight.dtype == torch.float32:
            return weight
        state = self.state[weight]
        if "master" not in state:
            state["master"] = weight.detach().float()
        master: Tensor = state["master"]
        return master

    def _muon(self, groups: list[dict[str, Any]]) -> None:
        """Step all matrices; those of equal shape, lying or standing, go through one product."""
        batches: dict[tuple, list[Member]] = defaultdict(list)
        for group in groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    sides = weight.shape[-2] // group["parts"], weight.shape[-1]
                    batches[tuple(sorted(sides)), weight.device].append((weight, group))
        for (sides, device), members in batches.items():
            dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
            for part in _at_most(members, BATCH_NUMBERS):
                updates = [
                    _matrices(full(self._nesterov(weight, group)), group["parts"]).to(dtype)
                    for weight, group in part
                ]
                lying = [u.mT if u.shape[-2] > u.shape[-1] else u for u in updates]
                steps = orthogonalise(torch.cat(lying), dtype).split([len(u) for u in lying])
                for (weight, group), update_NAB, step in zip(part, updates, steps, strict=True):
                    step = step if update_NAB.shape[-2:] == step.shape[-2:] else step.mT
                    length = group["lr"] * RMS_OF_ADAMW * max(sides) ** 0.5
                    master = self._master(weight)
                    master.mul_(1 - group["lr"] * group["weight_decay"])
                    shaped = step.reshape(weight.shape).to(master.dtype)
                    master.add_(place(shaped, weight), alpha=-length)
                    if master is not weight:
                        weight.copy_(master)

    def _nesterov(self, weight: Tensor, group: dict[str, Any]) -> Tensor:
        """Move the momentum on and return what Nesterov looks at: the momentum one step ahead."""
        assert weight.grad is not None
        state, gradient = self.state[weight], weight.grad.float()
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["momentum"] = torch.zeros_like(gradient)
        state["step"] = state["step"].cpu()  # a resume puts it on the GPU, to be waited for
        share = min(1.0, state["step"].item() / MOMENTUM_WARMUP_STEPS)
        momentum = MOMENTUM_START + share * (group["momentum"] - MOMENTUM_START)
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)

    def _adamw(self, group: dict[str, Any]) -> None:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        masters = [self._master(weight) for weight in weights]
        for weight, master in zip(weights, masters, strict=True):
            state = self.state[weight]
            if "step" not in state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
                state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(master) for _ in "12")
        states = [self.state[weight] for weight in weights]
        adamw(
            masters,
            [weight.grad.float() for weight in weights if weight.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        for weight, master in zip(weights, masters, strict=True):
            if master is not weight:
                weight.copy_(master)


def _matrices(tensor: Tensor, parts: int) -> Tensor:
    """Return [A, B] or [E, A, B] as [N, A / parts, B]."""
    return tensor.reshape(-1, tensor.shape[-2] // parts, tensor.shape[-1])


def _at_most(members: list[Member], limit: int) -> Iterator[list[Member]]:
    """Yield the members in batches of at most `limit` numbers; one member is never cut."""
    batch: list[Member] = []
    size = 0
    for member in members:
        if batch and size + member[0].numel() > limit:
            yield batch
            batch, size = [], 0
        batch.append(member)
        size += member[0].numel()
    yield batch
