"""Muon against an SVD, against torch's own, slice by slice, and with AdamW beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from etude_model.config import EtudeConfig, TrainConfig
from etude_model.model.transformer import Etude
from etude_model.training import muon
from etude_model.training.muon import Muon, orthogonalise
from etude_model.training.optimizer import build_optimizer, muon_groups
from etude_model.training.run import build_trainer, read_run
from storage.errors import Stopped


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in float32 on every processor, so that the oracles can be close."""
    monkeypatch.setattr(muon, "has_bfloat16", lambda device: False)


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 24, 96), (2, 96, 24), (5, 16, 48)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_are_in_a_band(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Catches wrong constants or too few rounds: directions 1000 times weaker must come up too."""
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    strengths = torch.logspace(0, -2, min(shape[-2:]))
    found = orthogonalise(u * strengths @ vh * 300, dtype)
    assert found.shape == shape and found.dtype == dtype
    values = torch.linalg.svdvals(found.float())
    assert values.min() > 0.6 and values.max() < 1.3
    # The directions are kept: U^T found V is near diagonal and positive.
    core = (u.mT @ found.float() @ vh.mT).diagonal(dim1=-2, dim2=-1)
    assert core.min() > 0.55


def test_zero_gradient_is_zero_step() -> None:
    """Catches 0 / 0 in a matrix that no token reached, such as an expert's."""
    assert not orthogonalise(torch.zeros(2, 4, 8)).any()


def steps(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], count: int) -> None:
    """Take steps with the same made-up gradients whatever the optimiser."""
    for step in range(count):
        for weight in weights:
            generator = torch.Generator().manual_seed(step * 31 + weight.numel())
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("shape", [(16, 48), (48, 16)])
def test_equals_torch_muon(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches another momentum, length or decay than torch.optim.Muon with match_rms_adamw."""
    monkeypatch.setattr(muon, "MOMENTUM_START", 0.95)
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(shape))
    theirs = nn.Parameter(ours.detach().clone())
    group = {"params": [ours], "weight_decay": 0.1, "is_muon": True}
    steps(Muon([group], lr=0.02), [ours], 5)
    reference = torch.optim.Muon(
        [theirs], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    steps(reference, [theirs], 5)
    # torch's rounds are in bfloat16, so the steps agree to its 3 digits.
    assert (ours - theirs).norm() / (5 * 0.02 * 0.2 * 48**0.5 * 4) < 0.02


def test_a_stack_equals_its_slices() -> None:
    """Catches one norm for all experts, and gate and up mixed with each other."""
    torch.manual_seed(0)
    stack = nn.Parameter(torch.randn(3, 16, 12))
    slices = [nn.Parameter(one.clone()) for expert in stack.detach() for one in expert.chunk(2)]
    together = Muon(
        [{"params": [stack], "weight_decay": 0.1, "is_muon": True, "parts": 2}], lr=0.02
    )
    apart = Muon([{"params": slices, "weight_decay": 0.1, "is_muon": True}], lr=0.02)
    for _ in range(3):
        stack.grad = torch.randn(stack.shape)
        gradients = [one for expert in stack.grad for one in expert.chunk(2)]
        for weight, gradient in zip(slices, gradients, strict=True):
            weight.grad = gradient.clone()
        together.step()
        apart.step()
    expected = torch.stack(slices).reshape(stack.shape)
    torch.testing.assert_close(stack.detach(), expected, rtol=1e-5, atol=1e-6)


def test_shapes_share_a_product_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches updates given to the wrong matrix of a batch, and a batch that is never cut."""
    torch.manual_seed(0)
    shapes = [(8, 24), (24, 8), (8, 8), (8, 24), (2, 24, 8)]
    weights = [[nn.Parameter(torch.zeros(shape)) for shape in shapes] for _ in range(3)]
    for weight, *others in zip(*weights, strict=True):
        for other in (weight, *others):
            other.grad = torch.ones(weight.shape).cumsum(-1).cumsum(-2).cos()
    Muon([{"params": weights[0], "is_muon": True}], lr=1.0).step()
    for weight in weights[1]:
        Muon([{"params": [weight], "is_muon": True}], lr=1.0).step()
    monkeypatch.setattr(muon, "BATCH_NUMBERS", 8 * 24 * 2)
    Muon([{"params": weights[2], "is_muon": True}], lr=1.0).step()
    for one, two, three in zip(*weights, strict=True):
        assert one.abs().max() > 0.1
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one, three, rtol=1e-5, atol=1e-5)


def test_step_is_as_long_as_adamw() -> None:
    """Catches a scale that would ask for another learning rate than AdamW's."""
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.zeros(96, 32)) for _ in range(2)]
    ours = Muon([{"params": [weights[0]], "is_muon": True}], lr=1.0)
    for weight, optimizer in zip(
        weights, (ours, torch.optim.AdamW([weights[1]], lr=1.0)), strict=True
    ):
        steps(optimizer, [weight], 1)
    muon_rms, adamw_rms = (weight.square().mean().sqrt() for weight in weights)
    assert 0.15 < muon_rms / adamw_rms < 0.3  # AdamW's first step is 1, a later one 0.2 to 0.4


def test_the_rest_is_adamw_to_the_bit(tiny_model_config: EtudeConfig) -> None:
    """Catches an embedding or a norm that is moved by something else than torch's AdamW."""
    torch.manual_seed(0)
    ours, theirs = Etude(tiny_model_config), Etude(tiny_model_config)
    theirs.load_state_dict(ours.state_dict())
    config = {"num_steps": 20, "learning_rate": 0.01, "weight_decay": 0.3}
    optimizers = [
        build_optimizer(ours, TrainConfig(optimizer="muon", **config)),
        build_optimizer(theirs, TrainConfig(**config)),
    ]
    before = {name: weight.detach().clone() for name, weight in ours.named_parameters()}
    for model, optimizer in zip((ours, theirs), optimizers, strict=True):
        steps(optimizer, list(model.parameters()), 3)
    twins = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        is_matrix = weight.ndim == 2 and "embed_tokens" not in name
        assert torch.equal(weight, twins[name]) == (not is_matrix), name
        assert not torch.equal(weight, before[name]), name


def test_half_precision_weights_have_a_float32_self() -> None:
    """Catches steps that are lost because they are shorter than half precision can show."""
    torch.manual_seed(0)
    half = [nn.Parameter((1 + torch.rand(8, 16)).bfloat16()) for _ in range(2)]
    wide = [nn.Parameter(one.detach().float()) for one in half]

    def build(weights: list[nn.Parameter]) -> Muon:
        groups = [{"params": weights[:1], "is_muon": True, "lr": 1e-3}, {"params": weights[1:]}]
        return Muon(groups, lr=1e-4)

    ours, reference = build(half), build(wide)
    before = [one.detach().clone() for one in half]
    for step in range(50):
        for one, other in zip(half, wide, strict=True):
            generator = torch.Generator().manual_seed(step % 2)
            one.grad = (1 + torch.rand(8, 16, generator=generator)).bfloat16()
            other.grad = one.grad.float()
        ours.step()
        reference.step()
        if step == 0:
            assert all(torch.equal(one, old) for one, old in zip(half, before, strict=True))
    for one, other, old in zip(half, wide, before, strict=True):
        assert torch.equal(ours.state[one]["master"], other)
        assert torch.equal(one, other.bfloat16()) and not torch.equal(one, old)


def test_every_parameter_is_in_one_group() -> None:
    """Catches an expert stack or a router that nothing trains, or that two groups do."""
    config = EtudeConfig(
        vocab_size=48, hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8,
        intermediate_size=24, context_length=16, num_experts=4, num_shared_experts=1,
        router_score="sigmoid", num_dense_layers=1, tie_embeddings=False,
    )  # fmt: skip
    model = Etude(config)
    groups = muon_groups(model, weight_decay=0.1)
    grouped = [id(one) for group in groups for one in group["params"]]
    assert sorted(grouped) == sorted(id(one) for one in model.parameters())
    names = {id(one): name for name, one in model.named_parameters()}
    for group in groups:
        for one in group["params"]:
            is_table = names[id(one)].endswith(("embed_tokens.weight", "lm_head.weight"))
            assert group.get("is_muon", False) == (one.ndim >= 2 and not is_table)
            assert (group.get("parts") == 2) == names[id(one)].endswith("gate_up_proj")
            assert group["weight_decay"] == (0.1 if group.get("is_muon") else 0.0)


def test_momentum_warms_up() -> None:
    """Catches a momentum that does not follow the step: it must be resumed from the state."""
    weight = nn.Parameter(torch.zeros(4, 4))
    optimizer = Muon([{"params": [weight], "is_muon": True}], lr=0.0)
    for step, momentum in ((0, 0.85), (150, 0.90), (300, 0.95), (999, 0.95)):
        optimizer.state[weight] = {"step": torch.tensor(float(step)), "momentum": torch.zeros(4, 4)}
        weight.grad = torch.ones(4, 4)
        optimizer.step()
        found = 1 - optimizer.state[weight]["momentum"][0, 0].item()
        assert found == pytest.approx(momentum, abs=1e-6)


@pytest.mark.parametrize("precision", ["float32", "pure_bfloat16"])
def test_resumed_equals_uninterrupted(
    precision: str, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    """Catches a momentum, its warm-up, or float32 weights that a checkpoint does not hold."""
    knobs = {"optimizer": "muon", "precision": precision, "num_steps": 8}
    weights = []
    for name, stops in (("straight", ()), ("stopped", (2, 3))):
        folder = write_run(tmp_path / name, "pretrain", **knobs)
        for stop_after in (*stops, None):
            made: list[int] = []
            trainer = build_trainer(
                read_run(folder), folder, stop=lambda m=made, s=stop_after: len(m) == s
            )
            try:
                for event in trainer.events():
                    made.extend([1] * (event["kind"] == "step"))
            except Stopped:
                assert stop_after is not None
        weights.append(load_file(folder / "model.safetensors"))
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
