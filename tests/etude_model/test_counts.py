"""Parameters, FLOPs and memory against models that are really built and run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from etude_model.config import (
    PRESETS,
    EtudeConfig,
    LoraTrainConfig,
    PretrainConfig,
    TrainConfig,
    preset,
)
from etude_model.counts import (
    available_memory,
    check_memory,
    count,
    describe,
    peak_flops,
    predict_memory,
)
from etude_model.model import attention, fused, moe, norm
from etude_model.model.lora import add_lora
from etude_model.model.transformer import Etude
from etude_model.training.optimizer import build_optimizer
from storage.errors import BadInput

SHAPE: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 32,
    "intermediate_size": 192,
    "context_length": 64,
}
EXPERTS = {"num_experts": 8, "moe_intermediate_size": 48}
SHARED = EXPERTS | {"num_shared_experts": 2, "router_score": "sigmoid", "num_dense_layers": 1}


@pytest.fixture(autouse=True)
def one_thread(keep_threads: None) -> None:
    """Compute with one replica of a model."""
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", [*PRESETS, "d4", "d13"])
@pytest.mark.parametrize("is_tied", [True, False])
def test_total_parameters_are_exact(name: str, is_tied: bool) -> None:
    """Catches a formula that forgets a norm, a router, or counts a tied matrix twice."""
    config = preset(name, tie_embeddings=is_tied)
    with torch.device("meta"):
        model = Etude(config)
    assert count(config).total_parameters == sum(one.numel() for one in model.parameters())


@pytest.mark.parametrize("experts", [{}, EXPERTS, SHARED])
def test_active_parameters_are_those_a_token_meets(experts: dict[str, Any]) -> None:
    """Catches shared experts or a dense layer that are counted as idle: asks the gradients."""
    torch.manual_seed(0)
    model = Etude(EtudeConfig(**SHAPE | experts))
    tokens = torch.randint(1000, (1, 1))
    model(tokens).sum().backward()
    active = 0
    for name, weight in model.named_parameters():
        if name.endswith("embed_tokens.weight"):
            active += weight.numel()
        elif ".experts." in name:
            assert weight.grad is not None
            active += int((weight.grad.abs().sum(dim=(1, 2)) > 0).sum()) * weight[0].numel()
        else:
            active += weight.numel()
    assert count(model.config).active_parameters == active


def test_flops_follow_the_convention() -> None:
    """Catches FLOPs that count idle experts, a table that is only looked up, or a hidden window."""
    nano = count(preset("nano"))
    assert nano.flops_per_token == 6 * 1_312_128 + 12 * 4 * (4 * 32) * 256
    untied = count(preset("nano", tie_embeddings=False))
    assert untied.flops_per_token == nano.flops_per_token
    assert untied.embedding_parameters == 2 * nano.embedding_parameters == 2 * 4096 * 128
    windowed = count(preset("nano", sliding_window=64, full_attention_every=4))
    assert nano.flops_per_token - windowed.flops_per_token == 12 * 3 * (4 * 32) * (256 - 64)
    sparse = count(preset("nano-moe"))
    assert sparse.total_parameters > 1.25 * sparse.active_parameters
    assert sparse.flops_per_token == pytest.approx(nano.flops_per_token, rel=0.01)


@contextmanager
def kept_for_backward(model: Etude) -> Iterator[dict[int, int]]:
    """Collect storage -> bytes of what autograd keeps, weights left out."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        alive.append(tensor)  # or the next tensor may get the same address
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def run_and_weigh(
    config: EtudeConfig, dtype: torch.dtype, *, recomputes: bool = False, is_masked: bool = False
) -> int:
    """Return the bytes that 16 rows of 64 tokens leave for the backward pass."""
    model = Etude(config).train()
    model.activation_checkpointing = recomputes
    tokens = torch.randint(1000, (16, 64))
    segments = tokens.cumsum(dim=1) // 9000 if is_masked else None
    is_half = dtype == torch.bfloat16
    with (
        kept_for_backward(model) as kept,
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_half),
    ):
        model(tokens, segments_BT=segments)
    return sum(kept.values())


def predicted_bytes(
    config: EtudeConfig, dtype: torch.dtype, device: str = "cpu", **train: bool
) -> int:
    """Return what is predicted for the same: activations and half-precision weights.

    The copy of the table is not among them: it is the loss's, not the layers'.
    """
    changed = TrainConfig.model_validate({"batch_size": 16, "document_mask": False} | train)
    memory = predict_memory(config, changed, device=device, dtype=dtype)
    copies = memory.weights - 4 * count(config).total_parameters
    table = 2 * 64 * 1000 if dtype == torch.bfloat16 else 0
    return memory.activations + copies - table


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("experts", [{}, EXPERTS, SHARED])
@pytest.mark.parametrize("where", ["cpu", "cpu, packed", "gpu"])
def test_activations_are_what_autograd_keeps(
    dtype: torch.dtype, experts: dict[str, Any], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a prediction that the forward pass has outgrown."""
    config = EtudeConfig(**SHAPE | experts)
    if where == "gpu":  # takes the plain operations, which a CPU has too
        for module in (attention, fused, norm):
            monkeypatch.setattr(module, "is_fused", lambda _: False)
    monkeypatch.setattr(moe, "best_block", lambda *_: 1)  # filling is left out of the prediction
    is_masked = where == "cpu, packed"
    found = run_and_weigh(config, dtype, is_masked=is_masked)
    device = "cuda" if where == "gpu" else "cpu"
    predicted = predicted_bytes(config, dtype, device, document_mask=is_masked)
    assert found == pytest.approx(predicted, rel=0.005)


@pytest.mark.parametrize("experts", [{}, SHARED])
def test_recomputing_keeps_the_inputs_of_layers_alone(experts: dict[str, Any]) -> None:
    """Catches checkpointing that keeps all it promises to forget, or a prediction without it."""
    config = EtudeConfig(**SHAPE | experts | {"num_layers": 6})
    plain = predicted_bytes(config, torch.float32)
    predicted = predicted_bytes(config, torch.float32, activation_checkpointing=True)
    found = run_and_weigh(config, torch.float32, recomputes=True)
    one_layer = (plain - predicted) / 5
    assert found < predicted < 0.4 * plain
    assert found == pytest.approx(predicted - one_layer, rel=0.3)  # that comes with the backward


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("experts", [{}, SHARED])
def test_weights_gradients_and_moments_are_exact(optimizer: str, experts: dict[str, Any]) -> None:
    """Catches a moment too many for Muon, or one too few for AdamW."""
    train = PretrainConfig.model_validate({"optimizer": optimizer, "batch_size": 1})
    config = EtudeConfig(**SHAPE | experts)
    model = Etude(config)
    state = build_optimizer(model, train)
    model(torch.zeros(1, 8, dtype=torch.int64)).sum().backward()
    state.step()
    memory = predict_memory(config, train)
    moments = [
        one.nbytes for states in state.state.values() for one in states.values() if one.numel() > 1
    ]
    sizes = {name: weight.nbytes for name, weight in model.named_parameters()}
    joined = ("q_proj.weight", "k_proj.weight", "v_proj.weight")  # copied to be one product
    copies = sum(size for name, size in sizes.items() if name.endswith(joined))
    assert memory.weights == sum(sizes.values()) + copies
    assert memory.gradients == sum(sizes.values())
    assert predict_memory(config, train, device="cuda").weights == memory.gradients
    assert memory.moments == pytest.approx(sum(moments), rel=0.001)


def test_lora_trains_its_updates_only() -> None:
    """Catches gradients and moments counted for frozen weights."""
    train = LoraTrainConfig()
    config = EtudeConfig(**SHAPE)
    model = Etude(config)
    add_lora(model, train.lora)
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    memory = predict_memory(config, train)
    assert (memory.gradients, memory.moments) == (trained, 2 * trained)
    assert memory.weights == sum(weight.nbytes for weight in model.parameters())


def test_memory_follows_rows_ranks_and_shards() -> None:
    """Catches a prediction for the global batch on each of several processes."""
    config = preset("nano")
    whole = predict_memory(config, TrainConfig(batch_size=32))
    micro = predict_memory(config, TrainConfig(batch_size=32, micro_batch_size=8))
    ranks = predict_memory(config, TrainConfig(batch_size=32), world_size=4)
    shards = predict_memory(config, TrainConfig(batch_size=32, parallel="shard"), world_size=4)
    assert whole.activations == 4 * micro.activations == 4 * ranks.activations
    assert micro.weights == ranks.weights == 4 * shards.weights
    assert whole.total == sum(
        (whole.weights, whole.gradients, whole.moments, whole.activations, whole.logits)
    )


def test_what_does_not_fit_is_refused_with_a_setting_that_does() -> None:
    """Catches a run that dies of memory after an hour of preparation, or advice that dies too."""
    config, train = preset("small"), PretrainConfig(batch_size=64, micro_batch_size=32)
    assert check_memory(config, train, available=10**12).total > 2e10

    def advice(available: float) -> str:
        with pytest.raises(
            BadInput, match=r"needs about 4\d\.\d\d GB of memory: weights 0\.45"
        ) as info:
            check_memory(config, train, available=int(available))
        assert f"cpu has {available / 1e9:.2f} GB free; " in str(info.value)
        return str(info.value).rpartition("; ")[2]

    for available, recomputes in ((20e9, False), (3e9, True)):
        match = re.fullmatch(r"set micro_batch_size to (\d+)(.*)", advice(available))
        assert match is not None
        assert match[2] == (" and activation_checkpointing to true" if recomputes else "")
        size, changes = int(match[1]), {"activation_checkpointing": recomputes}
        fitting = train.model_copy(update=changes | {"micro_batch_size": size})
        check_memory(config, fitting, available=int(available))
        with pytest.raises(BadInput):  # twice as many rows would not have fitted
            larger = train.model_copy(update=changes | {"micro_batch_size": 2 * size})
            check_memory(config, larger, available=int(available))
    match = re.fullmatch(r"take the preset (\w+) with micro_batch_size 1 or more", advice(1.2e9))
    assert match is not None
    smaller = preset(match[1], vocab_size=config.vocab_size)
    one_row = train.model_copy(update={"micro_batch_size": 1})
    check_memory(smaller, one_row, available=int(1.2e9))
    assert advice(1e6) == "take a smaller model"


def test_devices_are_known_by_their_names() -> None:
    """Catches a utilisation of 74% on an A100, measured against another card's peak."""
    assert peak_flops("NVIDIA H100 80GB HBM3", torch.bfloat16) == 989e12
    assert peak_flops("NVIDIA H100 PCIe", torch.bfloat16) == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", torch.float32) == 19.5e12
    assert peak_flops("NVIDIA L40S", torch.bfloat16) == 362e12
    assert peak_flops("NVIDIA GeForce RTX 4090", torch.float16) == 165.2e12
    assert peak_flops("some processor", torch.bfloat16) is None


def test_the_line_says_what_matters() -> None:
    """Catches a planner that shows idle experts as work, or leaves out what the run needs."""
    assert describe(preset("nano")) == "1.31M parameters, 9.45MFLOP per token to train"
    line = describe(preset("nano-moe"), PretrainConfig())
    assert line.startswith("1.71M parameters (1.31M active), 9.46MFLOP per token to train, about ")
    assert "GB of memory: weights" in line


def test_free_memory_is_less_than_a_petabyte() -> None:
    """Catches a unit that is off by 1024, where the system says how much is free."""
    free = available_memory("cpu")
    assert free is None or 10**7 < free < 10**15
