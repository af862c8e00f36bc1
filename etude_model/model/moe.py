"""Hidden states -> hidden states through a few of many feed-forward networks, chosen per token.

A router scores the experts for each token; the token goes through the best ones, and their answers
are added by score. Shared experts take every token. Nothing is dropped: the copies of the tokens
are sorted by expert, and one grouped product serves each expert its piece (dispatch.py).

Two ways keep the experts busy. The bias (sigmoid routing; Wang et al. 2024, arXiv 2408.15664, as in
DeepSeek-V3) is added to the scores for the choice only, and moves after each optimiser step against
the load. The losses (Switch, Fedus et al. 2021, arXiv 2101.03961; ST-MoE, Zoph et al. 2022, arXiv
2202.08906) are the classic way. Names are those of Qwen3-MoE and Dots1 in transformers.

B rows · T tokens of a row · D hidden_size · N tokens of a batch · E experts · K experts per token
P places of copies of tokens · F expert_size · I inputs · O outputs of a product
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude_model.config import EtudeConfig
from etude_model.model.dispatch import Dispatch, best_block, dispatch
from etude_model.model.feed_forward import FeedForward


class MOERouter(nn.Module):
    """Scores of all experts for a token, and the choice among them; in float32 always."""

    e_score_correction_bias: Tensor | None

    def __init__(self, config: EtudeConfig) -> None:
        """Make the score matrix, and for sigmoid scores the balancing bias, which starts at 0."""
        super().__init__()
        self.num_chosen, self.score = config.num_experts_per_token, config.router_score
        self.is_normalised, self.scale = config.norm_topk_prob, config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        has_bias = config.router_score == "sigmoid"
        bias = torch.zeros(config.num_experts) if has_bias else None
        self.register_buffer("e_score_correction_bias", bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MOERouter:
        """Move with the module, but stay float32: bfloat16 would swallow the bias's small steps."""
        before = self.e_score_correction_bias
        super()._apply(fn, recurse)
        after = self.e_score_correction_bias
        if before is not None and after is not None and after.dtype != before.dtype:
            self.e_score_correction_bias = before.to(after.device)
        return self

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights and numbers of the chosen experts, [N, K] each, and all logits [N, E].

        Of experts with equal scores the one with the lower number is chosen, on every device.
        """
        with torch.autocast(x_ND.device.type, enabled=False):
            logits_NE = F.linear(x_ND.float(), self.weight.float())
            scores_NE = self.scores(logits_NE)
            choice_NE = scores_NE.detach()
            if self.e_score_correction_bias is not None:
                choice_NE = choice_NE + self.e_score_correction_bias
            ranking_NE = choice_NE.sort(dim=-1, descending=True, stable=True).indices
            experts_NK = ranking_NE[:, : self.num_chosen].contiguous()
            weights_NK = scores_NE.gather(1, experts_NK)
            if self.is_normalised:
                weights_NK = weights_NK / (weights_NK.sum(dim=-1, keepdim=True) + 1e-20)
            return weights_NK * self.scale, experts_NK, logits_NE

    def scores(self, logits_NE: Tensor) -> Tensor:
        """Return the scores [N, E] in (0, 1) of router logits."""
        return logits_NE.softmax(dim=-1) if self.score == "softmax" else logits_NE.sigmoid()


class Experts(nn.Module):
    """The weights of all experts of a layer, stacked, and SwiGLU through those of each token."""

    def __init__(self, num_experts: int, hidden_size: int, expert_size: int) -> None:
        """Make both stacks; gates are the first half of `gate_up_proj`, values the second."""
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * expert_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, expert_size))

    def forward(self, x_ND: Tensor, weights_NK: Tensor, plan: Dispatch) -> Tensor:
        """Return [N, D]: for each token the weighted sum over its experts."""
        dtype, num_chosen = compute_dtype(x_ND), weights_NK.shape[1]
        x_PD = plan.spread(x_ND.to(dtype), num_chosen)
        weights_P = plan.spread(weights_NK.flatten(), 1)
        if plan.is_real_P is not None:
            weights_P = weights_P * plan.is_real_P
        multiply = grouped_product if _can_group(x_PD, self.down_proj) else looped_product
        gate_up_PF = multiply(x_PD, self.gate_up_proj.to(dtype), plan.ends_E)
        gate_PF, up_PF = gate_up_PF.chunk(2, dim=-1)
        # A weight may come before the last product as well as after it, and F is less than D.
        h_PF = F.silu(gate_PF) * up_PF * weights_P[:, None].to(dtype)
        y_PD = multiply(h_PF, self.down_proj.to(dtype), plan.ends_E)
        return plan.collect(y_PD, num_chosen)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which products with `x` are computed here: autocast's, or its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def looped_product(x_PI: Tensor, weight_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """Return [P, O]: the rows of `x_PI` up to each end, times the matrix of their expert.

    The readable reference for `grouped_product`; waits for the device to know the ends.
    """
    starts = [0, *ends_E.tolist()]
    pieces = [
        F.linear(x_PI[start:end], weight_OI)
        for start, end, weight_OI in zip(starts, starts[1:], weight_EOI, strict=False)
    ]
    return torch.cat(pieces)


def grouped_product(x_PI: Tensor, weight_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """Do the same in one kernel, without asking the device where the pieces end."""
    return _GROUPED_MM(x_PI, weight_EOI.transpose(1, 2), offs=ends_E)


# Public since torch 2.10; older builds for some platforms have the private name only.
_GROUPED_MM: Any = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


def _can_group(x_PI: Tensor, down_EDF: Tensor) -> bool:
    """Say whether the grouped kernel takes these: rows of whole 16 bytes, a dtype that it knows.

    A compiler can follow it in bfloat16 only (torch 2.13), so other dtypes take the loop there.
    """
    if any(size * x_PI.element_size() % 16 for size in down_EDF.shape[1:]):
        return False
    if torch.compiler.is_compiling():
        return _GROUPED_MM is not None and x_PI.dtype == torch.bfloat16
    return _kernel_works(x_PI.device.type, x_PI.dtype)


@cache
def _kernel_works(device: str, dtype: torch.dtype) -> bool:
    """Try the grouped kernel once: torch 2.11 to 2.13 have it for some devices and dtypes only."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
        x_PI = torch.ones(8, 8, device=device, dtype=dtype, requires_grad=True)
        weight_EOI = torch.ones(1, 8, 8, device=device, dtype=dtype, requires_grad=True)
        ends_E = torch.tensor([8], device=device, dtype=torch.int32)
        try:
            grouped_product(x_PI, weight_EOI, ends_E).backward(torch.ones_like(x_PI))
        except (RuntimeError, TypeError):
            return False
    return True


class SparseMOE(nn.Module):
    """The sparse feed-forward network of a layer: router, experts and shared experts.

    In training it keeps `router_loss` (a float32 scalar, or None if both weights are 0) of its last
    forward pass, and adds to `expert_counts` (int64 [E]) how many tokens each expert got.
    """

    expert_counts: Tensor

    def __init__(self, config: EtudeConfig) -> None:
        """Make router, experts and, where the config has them, shared experts."""
        super().__init__()
        self.aux_weight, self.z_weight = config.router_aux_loss_weight, config.router_z_loss_weight
        self.bias_update_rate = config.router_bias_update_rate
        self.gate = MOERouter(config)
        self.experts = Experts(config.num_experts, config.hidden_size, config.expert_size)
        if config.num_shared_experts:
            width = config.num_shared_experts * config.expert_size
            self.shared_experts = FeedForward(config.hidden_size, width)
        self.has_shared = config.num_shared_experts > 0
        self.keeps_counts = True
        self.router_loss: Tensor | None = None
        counts = torch.zeros(config.num_experts, dtype=torch.int64)
        self.register_buffer("expert_counts", counts, persistent=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        x_ND = x_BTD.flatten(0, 1)
        weights_NK, experts_NK, logits_NE = self.gate(x_ND)
        num_experts, device = logits_NE.shape[1], x_ND.device.type
        block = best_block(experts_NK.numel(), num_experts, device, compute_dtype(x_ND))
        plan, counts_E = dispatch(experts_NK, num_experts, block)
        if self.training:
            self._keep_statistics(logits_NE, counts_E)
        y_BTD = self.experts(x_ND, weights_NK, plan).view(x_BTD.shape)
        return y_BTD + self.shared_experts(x_BTD) if self.has_shared else y_BTD

    def _keep_statistics(self, logits_NE: Tensor, counts_E: Tensor) -> None:
        if self.keeps_counts:
            self.expert_counts += counts_E
        self.router_loss = None
        if self.aux_weight or self.z_weight:
            aux = load_balancing_loss(self.gate.scores(logits_NE), counts_E)
            self.router_loss = self.aux_weight * aux + self.z_weight * z_loss(logits_NE)

    @torch.no_grad()
    def update_bias(self, counts_E: Tensor) -> None:
        """Make experts with fewer tokens than the mean more likely, those with more less."""
        bias_E = self.gate.e_score_correction_bias
        if bias_E is not None:
            load_E = counts_E.to(bias_E)
            bias_E += self.bias_update_rate * (load_E.mean() - load_E).sign()


def load_balancing_loss(scores_NE: Tensor, counts_E: Tensor) -> Tensor:
    """Return E * sum(share of the tokens * mean share of the scores): 1 when all is balanced.

    Both are means over tokens, so their number does not matter; scores count as shares of a
    token's sum, which changes nothing for softmax.
    """
    share_E = counts_E / counts_E.sum()
    score_share_E = (scores_NE / scores_NE.sum(dim=-1, keepdim=True)).mean(dim=0)
    return len(share_E) * (share_E * score_share_E).sum()


def z_loss(logits_NE: Tensor) -> Tensor:
    """Return the mean over tokens of the squared log of the sum of exponentials."""
    return logits_NE.logsumexp(dim=-1).square().mean()


@contextmanager
def without_counts(module: nn.Module) -> Iterator[None]:
    """Leave `expert_counts` alone: for forward passes that are done twice, or for another loss."""
    layers = [part for part in module.modules() if isinstance(part, SparseMOE)]
    before = [layer.keeps_counts for layer in layers]
    for layer in layers:
        layer.keeps_counts = False
    try:
        yield
    finally:
        for layer, kept in zip(layers, before, strict=True):
            layer.keeps_counts = kept
