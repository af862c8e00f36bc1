"""Experts: the fast path against a loop, the router's choice, balance, and what is counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude_model.config import EtudeConfig
from etude_model.model import moe
from etude_model.model.dispatch import best_block, dispatch
from etude_model.model.moe import (
    Experts,
    MOERouter,
    SparseMOE,
    load_balancing_loss,
    without_counts,
    z_loss,
)
from etude_model.model.transformer import Etude

SHAPE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 16,
    "num_layers": 3,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 8,
    "intermediate_size": 48,
    "context_length": 32,
    "num_experts": 6,
    "num_experts_per_token": 2,
    "moe_intermediate_size": 8,
}


def config(**changes: Any) -> EtudeConfig:
    """Return a tiny shape with experts."""
    return EtudeConfig(**SHAPE | changes)


def layer(seed: int = 0, **changes: Any) -> SparseMOE:
    """Return one expert layer with random weights."""
    torch.manual_seed(seed)
    made = SparseMOE(config(**changes))
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.3)
    return made


def token_by_token(
    experts: Experts, x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor
) -> Tensor:
    """Compute the experts as the paper writes them: a sum for each token."""
    rows = []
    for x_D, weights_K, numbers_K in zip(x_ND, weights_NK, experts_NK, strict=True):
        answers = []
        for weight, number in zip(weights_K, numbers_K, strict=True):
            gate, up = (experts.gate_up_proj[number] @ x_D).chunk(2)
            answers.append(weight * (experts.down_proj[number] @ (F.silu(gate) * up)))
        rows.append(torch.stack(answers).sum(dim=0))
    return torch.stack(rows)


def gradients(
    experts: Experts, x_ND: Tensor, weights_NK: Tensor, compute: Callable[..., Tensor]
) -> list[Tensor]:
    """Return an output and its gradients of input, router weights and both stacks."""
    x_ND, weights_NK = x_ND.clone().requires_grad_(), weights_NK.clone().requires_grad_()
    y_ND = compute(x_ND, weights_NK)
    weights = [x_ND, weights_NK, experts.gate_up_proj, experts.down_proj]
    # A plain sum's gradient has no strides of its own, which the grouped kernel refuses.
    return [y_ND, *torch.autograd.grad((y_ND * torch.arange(16.0)).sum(), weights)]


CHOICES = {
    "random": torch.stack(
        [torch.randperm(6, generator=torch.manual_seed(n))[:2] for n in range(9)]
    ),
    "all to one": torch.tensor([[3, 0]] * 9),
    "one token": torch.tensor([[5, 2]]),
    "one expert each": torch.tensor([[4]] * 9),
}


@pytest.mark.parametrize("path", ["grouped", "loop"])
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("block", [1, 4])
def test_experts_equal_the_formula(
    path: str, choice: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a wrong permutation, a lost token, or a gradient lost where an expert is idle."""
    can_group = path == "grouped"
    monkeypatch.setattr(moe, "_can_group", lambda *_: can_group)
    experts, experts_NK = layer().experts, CHOICES[choice]
    x_ND, weights_NK = torch.randn(len(experts_NK), 16), torch.rand(experts_NK.shape)
    plan, counts_E = dispatch(experts_NK, 6, block)
    assert torch.equal(counts_E, experts_NK.flatten().bincount(minlength=6))
    assert all(end % block == 0 for end in plan.ends_E)
    found = gradients(experts, x_ND, weights_NK, lambda x, w: experts(x, w, plan))
    expected = gradients(
        experts, x_ND, weights_NK, lambda x, w: token_by_token(experts, x, w, experts_NK)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_grouped_kernel_is_used_and_equals_the_loop(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a torch whose kernel is silently not taken, or computes otherwise than the loop."""
    assert moe._kernel_works("cpu", dtype)
    called = []
    real = moe._GROUPED_MM
    monkeypatch.setattr(moe, "_GROUPED_MM", lambda *a, **k: called.append(1) or real(*a, **k))
    made = layer(num_shared_experts=1)
    x_BTD = torch.randn(2, 7, 16)

    def run() -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            y_BTD = made(x_BTD)
        loss = (y_BTD.float() * torch.arange(16.0)).sum()
        return [y_BTD, *torch.autograd.grad(loss, list(made.parameters()))]

    grouped = run()
    assert called == [1, 1]
    assert grouped[0].dtype == dtype
    monkeypatch.setattr(moe, "_can_group", lambda *_: False)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    for one, other in zip(grouped, run(), strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
    assert called == [1, 1]


def test_rows_that_the_kernel_refuses_take_the_loop() -> None:
    """Catches a crash deep in the kernel for widths that are not multiples of 16 bytes."""
    made = layer(hidden_size=18, moe_intermediate_size=7)
    assert made(torch.randn(2, 5, 18)).shape == (2, 5, 18)


def test_all_experts_chosen_equal_one_dense_sum() -> None:
    """Catches weights that are not those of the softmax: with K = E nothing is left to choose."""
    made = layer(num_experts_per_token=6)
    x_BTD = torch.randn(2, 5, 16)
    scores_BTE = made.gate.weight.matmul(x_BTD[..., None])[..., 0].softmax(dim=-1)
    dense_BTED = torch.stack(
        [
            (lambda gate, up: (F.silu(gate) * up) @ down.T)(*(x_BTD @ gate_up.T).chunk(2, dim=-1))
            for gate_up, down in zip(made.experts.gate_up_proj, made.experts.down_proj, strict=True)
        ],
        dim=2,
    )
    expected = (scores_BTE[..., None] * dense_BTED).sum(dim=2)
    torch.testing.assert_close(made(x_BTD), expected, atol=1e-5, rtol=1e-5)


def test_ties_go_to_the_lower_number() -> None:
    """Catches a choice among equal scores that depends on the kernel or on the batch."""
    router = MOERouter(config(num_experts_per_token=3))
    nn.init.zeros_(router.weight)
    for num_tokens in (1, 1000):
        weights_NK, experts_NK, _ = router(torch.randn(num_tokens, 16))
        assert torch.equal(experts_NK, torch.arange(3).expand(num_tokens, -1))
        torch.testing.assert_close(weights_NK, torch.full((num_tokens, 3), 1 / 3))


def test_the_bias_chooses_but_does_not_weigh() -> None:
    """Catches the mistake that makes the balancing bias part of the output."""
    router = layer(router_score="sigmoid", norm_topk_prob=False).gate
    assert router.e_score_correction_bias is not None
    router.e_score_correction_bias[4] = 10.0
    weights_NK, experts_NK, logits_NE = router(torch.randn(20, 16))
    assert (experts_NK[:, 0] == 4).all()
    torch.testing.assert_close(weights_NK, logits_NE.sigmoid().gather(1, experts_NK))


def test_the_router_stays_in_float32() -> None:
    """Catches autocast in the router, and a bias whose steps bfloat16 would swallow."""
    router = layer(router_score="sigmoid").gate
    assert router.e_score_correction_bias is not None
    router.e_score_correction_bias.fill_(1.001)
    x_ND = torch.randn(4, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights_NK, _, logits_NE = router(x_ND)
    assert weights_NK.dtype == logits_NE.dtype == torch.float32
    torch.testing.assert_close(logits_NE, x_ND @ router.weight.T)
    router.to(torch.bfloat16)
    assert router.weight.dtype == torch.bfloat16
    assert (router.e_score_correction_bias == torch.tensor(1.001)).all()


@pytest.mark.parametrize("num_tokens", [6, 600])
def test_the_balancing_loss_is_one_when_balanced(num_tokens: int) -> None:
    """Catches the loss that sums over tokens instead of averaging, and so grows with the batch."""
    even = torch.full((num_tokens, 6), 1 / 6)
    counts = torch.full((6,), num_tokens // 3)
    assert load_balancing_loss(even, counts) == pytest.approx(1.0)
    assert load_balancing_loss(2.5 * even, counts) == pytest.approx(1.0)
    crowded = torch.zeros(num_tokens, 6)
    crowded[:, 1] = 1.0
    assert load_balancing_loss(crowded, num_tokens * F.one_hot(torch.tensor(1), 6)) == (
        pytest.approx(6.0)
    )
    assert z_loss(torch.zeros(num_tokens, 6)).item() == pytest.approx(math.log(6) ** 2)


def test_the_losses_are_weighted_and_reach_the_router_only() -> None:
    """Catches losses that are not part of the graph, or are summed over layers wrongly."""
    torch.manual_seed(0)
    tokens = torch.randint(61, (2, 16))
    assert Etude(config()).train().router_loss() is None
    model = Etude(config(router_aux_loss_weight=0.5, router_z_loss_weight=0.25)).train()
    model(tokens)
    loss = model.router_loss()
    assert loss is not None
    assert loss.item() == pytest.approx(3 * (0.5 + 0.25 * math.log(6) ** 2), rel=0.05)
    loss.backward()
    last = model.sparse_layers()[-1]
    assert last.gate.weight.grad is not None
    assert last.gate.weight.grad.abs().sum() > 0
    assert last.experts.down_proj.grad is None


@pytest.mark.parametrize("routing", ["bias", "loss"])
def test_balancing_moves_the_load_towards_even(routing: str) -> None:
    """Catches a bias or a loss with the wrong sign: it would feed one expert until all starve."""
    how = {"router_score": "sigmoid", "router_bias_update_rate": 0.02}
    if routing == "loss":
        how = {"router_aux_loss_weight": 1.0}
    made = layer(**how).train()
    with torch.no_grad():
        made.gate.weight[2] += 1.0
    x_BTD = torch.randn(1, 512, 16) + 0.5

    def crowding() -> float:
        made.expert_counts.zero_()
        made(x_BTD)
        return float(made.expert_counts.max() / made.expert_counts.float().mean())

    before = crowding()
    optimizer = torch.optim.SGD([made.gate.weight], lr=0.3)
    for _ in range(60):
        made.expert_counts.zero_()
        made(x_BTD)
        if routing == "bias":
            made.update_bias(made.expert_counts)
        else:
            assert made.router_loss is not None
            optimizer.zero_grad()
            made.router_loss.backward()
            optimizer.step()
    assert before > 2.5
    assert crowding() < 1.5


def test_the_bias_moves_by_its_rate_and_softmax_has_none() -> None:
    """Catches a step that grows with the load, and an update that breaks models without a bias."""
    model = Etude(config(router_score="sigmoid", router_bias_update_rate=0.01))
    model.update_router_bias(torch.tensor([[9, 3, 6, 6, 6, 6]] * 3))
    for made in model.sparse_layers():
        assert made.gate.e_score_correction_bias is not None
        expected = torch.tensor([-0.01, 0.01, 0.0, 0.0, 0.0, 0.0])
        torch.testing.assert_close(made.gate.e_score_correction_bias, expected)
    Etude(config()).update_router_bias(torch.ones(3, 6))


def test_counts_are_those_of_training_passes_alone() -> None:
    """Catches counters that evaluation moves, or that are never emptied."""
    model = Etude(config(num_dense_layers=1)).train()
    tokens = torch.randint(61, (2, 16))
    model(tokens)
    model(tokens)
    with without_counts(model):
        model(tokens)
    model.eval()
    model(tokens)
    counts = model.take_expert_counts()
    assert counts is not None
    assert counts.shape == (2, 6)
    assert counts.sum(dim=1).tolist() == [2 * 2 * 16 * 2] * 2
    again = model.take_expert_counts()
    assert again is not None
    assert again.sum() == 0
    assert not any("expert_counts" in name for name in model.state_dict())
    assert Etude(config(num_experts=0, moe_intermediate_size=None)).take_expert_counts() is None


@pytest.mark.parametrize("routing", ["softmax", "sigmoid"])
def test_activation_checkpointing_changes_nothing(routing: str) -> None:
    """Catches tokens counted twice, or a router loss whose graph the second pass cuts off."""
    results = []
    for recomputes in (False, True):
        torch.manual_seed(0)
        model = Etude(
            config(
                router_score=routing,
                num_shared_experts=1,
                router_aux_loss_weight=0.1,
                router_z_loss_weight=0.1,
            )
        ).train()
        model.activation_checkpointing = recomputes
        tokens = torch.randint(61, (2, 16))
        nats, count = model.loss(model(tokens), tokens)
        router_loss = model.router_loss()
        assert router_loss is not None
        loss = nats / count + router_loss
        loss.backward()
        counts = model.take_expert_counts()
        assert counts is not None
        grads = [weight.grad for weight in model.parameters()]
        results.append([loss.detach(), counts, *grads])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_fresh_model_is_small_where_it_writes_and_the_same_for_a_seed() -> None:
    """Catches experts that keep torch's uninitialised memory as weights."""
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(Etude(config(num_experts=40, num_shared_experts=1)))
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
    made = models[0].sparse_layers()[0]
    assert made.experts.gate_up_proj.std().item() == pytest.approx(0.02, rel=0.1)
    assert made.experts.down_proj.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.1)
    assert made.gate.weight.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("routing", ["dense", "softmax", "sigmoid"])
def test_one_batch_is_learned_by_heart(routing: str) -> None:
    """Catches gradients or balancing that keep the experts from learning what a dense model can.

    A token that changes its expert raises the loss for some steps; which, the processor decides.
    """
    how: dict[str, Any] = {"num_experts": 0, "moe_intermediate_size": None}
    if routing != "dense":
        how = {"router_score": routing, "num_shared_experts": 1, "router_aux_loss_weight": 0.01}
    torch.manual_seed(0)
    model = Etude(config(hidden_size=32, **how)).train()
    rows = torch.randint(61, (4, 17))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95))
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        nats, num_targets = model.loss(model(rows[:, :-1]), rows[:, 1:])
        losses.append((nats / num_targets).item())
        router_loss = model.router_loss()
        (nats / num_targets + (0 if router_loss is None else router_loss)).backward()
        optimizer.step()
        counts = model.take_expert_counts()
        if counts is not None:
            model.update_router_bias(counts)
    assert min(losses[-20:]) < 0.05


def test_pieces_are_filled_where_kernels_are_compiled_for_shapes() -> None:
    """Catches filling where it costs more than it saves: float32, GPUs, a few tokens."""
    many = 8 * 128 * 6
    assert best_block(many, 6, "cpu", torch.bfloat16) == 128
    assert best_block(many - 1, 6, "cpu", torch.bfloat16) == 1
    assert best_block(many, 6, "cpu", torch.float32) == 1
    assert best_block(many, 6, "cuda", torch.bfloat16) == 1
    made = layer(router_score="sigmoid").train()
    x_BTD = torch.randn(4, many // 8, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        filled = made(x_BTD)
        alone = torch.cat([made(row[None]) for row in x_BTD.flatten(0, 1).chunk(8)], dim=1)
    torch.testing.assert_close(filled.flatten(0, 1), alone[0], atol=0.02, rtol=0.02)
    assert made.expert_counts.sum() == 2 * many
