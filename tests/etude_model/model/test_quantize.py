"""QLoRA: refused with words where it cannot be, exact arithmetic around the 4 bits where it can."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from etude_model.config import LoraConfig, preset
from etude_model.model.lora import LoraLinear, add_lora, lora_state_dict, merge_lora
from etude_model.model.quantize import NF4Weight, quantize_base
from etude_model.model.transformer import Etude
from storage.errors import BadInput

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra qlora"
)
TOKENS = torch.arange(60).reshape(2, 30) % 61


def model_with_updates(use_dora: bool = False) -> Etude:
    """Return a small model with fresh updates."""
    torch.manual_seed(0)
    model = Etude(preset("nano", vocab_size=61, num_layers=2))
    add_lora(model, LoraConfig(rank=4, use_dora=use_dora))
    return model


def test_a_cpu_is_refused_with_words() -> None:
    """Catches a run that starts and then fails deep inside a library."""
    with pytest.raises(
        BadInput, match=r"needs a GPU and this run is on cpu; set quantization=none"
    ):
        quantize_base(model_with_updates(), torch.float32)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a ModuleNotFoundError where an extra was not installed."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(BadInput, match=r"pip install 'etude\[qlora\]'"):
        NF4Weight(torch.zeros(64, 64))


def check(model: Etude, dtype: torch.dtype) -> None:
    """Compare a quantised model with the plain model that holds the same 16 levels."""
    tokens = TOKENS.to(model.output_weight.device)
    linears = [module for module in model.modules() if isinstance(module, LoraLinear)]
    before = [linear.weight.detach().clone() for linear in linears]
    for linear in linears:
        linear.freeze(NF4Weight(linear.weight.detach().to(dtype)))
    losses = []
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(4):
        nats, count = model.loss(model(tokens[:, :-1]), tokens[:, 1:])
        (nats / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(nats.item())
    assert losses[-1] < losses[0]
    with pytest.raises(BadInput, match="takes no merge"):
        merge_lora(model)
    with torch.no_grad():
        quantised = model(tokens)
        for linear, weight in zip(linears, before, strict=True):
            near = linear.base_weight().float()
            assert 0 < (near - weight).norm() / weight.norm() < 0.12  # nf4 of normal weights: 0.09
            linear.weight, linear.frozen = torch.nn.Parameter(near), None
        difference = (model(tokens) - quantised).abs().max()
        assert difference < (1e-5 if dtype == torch.float32 else 0.05), difference
    assert all(torch.isfinite(weight).all() for weight in lora_state_dict(model).values())


@needs_bitsandbytes
@pytest.mark.parametrize("use_dora", [False, True])
def test_four_bits_are_an_ordinary_base(use_dora: bool) -> None:
    """Catches a transposed product, a gradient that stops, and lengths of the wrong rows.

    The library has kernels for CPUs too; only their use in training makes no sense.
    """
    check(model_with_updates(use_dora), torch.float32)


@pytest.mark.gpu
@needs_bitsandbytes
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_four_bits_on_a_gpu() -> None:
    """Catches the same where QLoRA is meant to run, under bfloat16 autocast, and the memory."""
    model = model_with_updates().cuda()
    plain = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    with torch.autocast("cuda", torch.bfloat16):
        check(model, torch.bfloat16)
    model = model_with_updates().cuda()
    quantize_base(model, torch.bfloat16)
    left = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    frozen = [module.frozen for module in model.modules() if isinstance(module, LoraLinear)]
    packed = sum(one.packed.nbytes for one in frozen if isinstance(one, NF4Weight))
    assert packed > 0 and left + packed < plain / 6
