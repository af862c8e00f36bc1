"""A model + LoraConfig -> the same model with small trainable updates beside frozen linears.

    y = x W^T + (alpha / rank) * dropout(x) A^T B^T      A [rank, in], B [out, rank], B starts at 0

Hu et al. 2021, arXiv 2106.09685. The base weight keeps its place and name (`q_proj.weight`), the
update lies beside it (`q_proj.lora_A.weight`, `q_proj.lora_B.weight`): with the prefix
`base_model.model.` these are the names that PEFT reads. An adapter on disk is
`adapter.safetensors` (names without the prefix) and `adapter.json` (the LoraConfig).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from etude_model.config import LoraConfig
from storage.errors import BadInput

WEIGHTS, CONFIG = "adapter.safetensors", "adapter.json"


class LoraLinear(nn.Linear):
    """A linear with a low-rank update; takes over the weight of the linear that it replaces."""

    def __init__(self, base: nn.Linear, config: LoraConfig) -> None:
        """Wrap `base`; with B = 0 the outputs stay what they were."""
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        assert base.bias is None, "the model has no biases"
        self.weight = base.weight
        self.lora_A: nn.Linear = nn.Linear(base.in_features, config.rank, bias=False).to(
            base.weight
        )
        self.lora_B: nn.Linear = nn.Linear(config.rank, base.out_features, bias=False).to(
            base.weight
        )
        nn.init.zeros_(self.lora_B.weight)
        self.scale: float = config.alpha / config.rank
        self.dropout: float = config.dropout
        self.is_merged: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        y = F.linear(x, self.weight)
        if self.is_merged:
            return y
        x = F.dropout(x, self.dropout, training=self.training) if self.dropout else x
        return y + self.scale * self.lora_B(self.lora_A(x))

    @torch.no_grad()
    def set_merged(self, is_merged: bool) -> None:
        """Add the update to the weight, or take it off; asking twice changes nothing."""
        if is_merged != self.is_merged:
            update = self.lora_B.weight.float() @ self.lora_A.weight.float()
            sign = self.scale if is_merged else -self.scale
            self.weight.copy_(self.weight.float() + sign * update)
            self.is_merged = is_merged


def add_lora(model: nn.Module, config: LoraConfig) -> None:
    """Freeze `model` and put a trainable update beside each linear that the config names."""
    if any(True for _ in _lora_linears(model)):
        raise BadInput("the model has low-rank updates already; merge them or load the base first")
    model.requires_grad_(False)
    _replace(model, nn.Linear, config.targets, lambda base: LoraLinear(base, config))


def remove_lora(model: nn.Module) -> None:
    """Make plain linears of all LoraLinears again, with their weights as they stand."""

    def plain(linear: nn.Linear) -> nn.Linear:
        bare = nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
        bare.weight = linear.weight
        return bare

    _replace(model, LoraLinear, None, plain)
    model.requires_grad_(True)


def merge_lora(model: nn.Module) -> None:
    """Add every update to its base weight: same outputs, no extra work per token."""
    for linear in _lora_linears(model):
        linear.set_merged(True)


def unmerge_lora(model: nn.Module) -> None:
    """Undo `merge_lora`, to the rounding of the weights' dtype."""
    for linear in _lora_linears(model):
        linear.set_merged(False)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the updates alone, under names like `model.layers.0.mlp.up_proj.lora_A.weight`."""
    return {name: weight for name, weight in model.state_dict().items() if ".lora_" in name}


def base_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return all but the updates, under Qwen3's names (with the updates in them if merged)."""
    return {name: weight for name, weight in model.state_dict().items() if ".lora_" not in name}


def save_lora(model: nn.Module, folder: Path, config: LoraConfig) -> None:
    """Write the adapter's two files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: weight.cpu().contiguous() for name, weight in lora_state_dict(model).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True)
    (folder / CONFIG).write_text(f"{text}\n", encoding="utf-8")


def load_lora(model: nn.Module, folder: Path) -> LoraConfig:
    """Add the adapter in `folder` to a plain model and return its config."""
    try:
        config = LoraConfig.model_validate_json((folder / CONFIG).read_bytes())
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValidationError, SafetensorError) as error:
        raise BadInput(
            f"{folder} holds no adapter that can be read ({error}); "
            f"give a folder with {WEIGHTS} and {CONFIG}"
        ) from error
    add_lora(model, config)
    expected = {name: tuple(weight.shape) for name, weight in lora_state_dict(model).items()}
    found = {name: tuple(weight.shape) for name, weight in tensors.items()}
    if expected != found:
        names = (name for name in expected | found if expected.get(name) != found.get(name))
        first = min(names)
        remove_lora(model)
        raise BadInput(
            f"{folder / WEIGHTS}: {first} is {found.get(first)}, the model needs "
            f"{expected.get(first)}; use the adapter with the base model it was trained on"
        )
    model.load_state_dict(tensors, strict=False)
    return config


def _lora_linears(model: nn.Module) -> Iterator[LoraLinear]:
    return (module for module in model.modules() if isinstance(module, LoraLinear))


def _replace(
    model: nn.Module,
    kind: type[nn.Linear],
    names: tuple[str, ...] | None,
    make: Callable[[Any], nn.Linear],
) -> None:
    """Put make(linear) in the place of every linear of a kind, where `names` has its name."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind) and (names is None or name in names):
                setattr(parent, name, make(child))
