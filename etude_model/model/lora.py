"""A model + LoraConfig -> the same model with small trainable updates beside frozen linears.

    y = x W^T + scale * dropout(x) A^T B^T      A [rank, in], B [out, rank], B starts at 0

Hu et al. 2021, arXiv 2106.09685; `scale` is alpha / rank, or alpha / sqrt(rank) for rsLoRA
(Kalajdzievski 2023, arXiv 2312.03732). DoRA (Liu et al. 2024, arXiv 2402.09353) multiplies y by
m / |W + scale B A|, row by row, where the trained m starts as the length of the row of W.

The base weight keeps its place and name (`q_proj.weight`), the update lies beside it
(`q_proj.lora_A.weight`, `q_proj.lora_B.weight`, `q_proj.lora_magnitude_vector`): with the prefix
`base_model.model.` these are the names that PEFT reads. Embeddings and the output matrix, tied or
not, take no update.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude_model.config import LoraConfig
from etude_model.lora_config import ends_with
from etude_model.model.adapter import Adapter, weights_digest
from etude_model.model.adapter_files import CONFIG, WEIGHTS, read_adapter, write_adapter
from storage.errors import BadInput

__all__ = ["CONFIG", "WEIGHTS", "LoraLinear", "add_lora", "load_lora", "save_lora"]

SMALLEST = torch.finfo(torch.float32).tiny  # a row of zeros has a length all the same


class FrozenWeight(Protocol):
    """A base weight that is not held as a plain matrix (`etude_model.model.quantize`)."""

    def multiply(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out]; differentiable in x."""

    def dequantized(self) -> Tensor:
        """Return the matrix [out, in]."""


class LoraLinear(nn.Linear):
    """A linear with a low-rank update; takes over the weight of the linear that it replaces."""

    lora_magnitude_vector: nn.Parameter | None
    unmerged_weight: Tensor | None
    frozen: FrozenWeight | None = None

    def __init__(self, base: nn.Linear, config: LoraConfig, name: str) -> None:
        """Wrap `base`, the linear called `name`; with B = 0 the outputs stay what they were."""
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        assert base.bias is None, "the model has no biases"
        self.weight, self.training = base.weight, base.training
        rank = config.rank_of(name)
        self.lora_A: nn.Linear = nn.Linear(base.in_features, rank, bias=False).to(base.weight)
        self.lora_B: nn.Linear = nn.Linear(rank, base.out_features, bias=False).to(base.weight)
        nn.init.zeros_(self.lora_B.weight)
        self.scale: float = config.scale_of(name)
        self.dropout: float = config.dropout
        self.is_merged: bool = False
        self.register_parameter("lora_magnitude_vector", None)
        if config.use_dora:
            lengths = base.weight.detach().float().norm(dim=1)
            self.lora_magnitude_vector = nn.Parameter(lengths.to(base.weight.dtype))
        self.register_buffer("unmerged_weight", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        y = self.base(x)
        if self.is_merged:
            return y
        x = F.dropout(x, self.dropout, training=self.training) if self.dropout else x
        y = y + self.scale * self.lora_B(self.lora_A(x))
        if self.lora_magnitude_vector is None:
            return y
        return (y * (self.lora_magnitude_vector / self.row_lengths())).to(y.dtype)

    def base(self, x: Tensor) -> Tensor:
        """Return what the frozen weight makes of x."""
        return F.linear(x, self.weight) if self.frozen is None else self.frozen.multiply(x)

    def base_weight(self) -> Tensor:
        """Return the frozen weight [out, in]."""
        return self.weight if self.frozen is None else self.frozen.dequantized()

    @torch.no_grad()
    def freeze(self, frozen: FrozenWeight) -> None:
        """Hold the base weight in another form from now on; for updates that are still fresh."""
        self.frozen = frozen
        self.register_parameter("weight", None)
        if self.lora_magnitude_vector is not None:
            self.lora_magnitude_vector.copy_(self.base_weight().float().norm(dim=1))

    @torch.no_grad()
    def updated_weight(self) -> Tensor:
        """Return W + scale * B A, in float32."""
        with torch.autocast(self.lora_A.weight.device.type, enabled=False):
            update = self.lora_B.weight.float() @ self.lora_A.weight.float()
            return self.base_weight().float() + self.scale * update

    def row_lengths(self) -> Tensor:
        """Return |W + scale * B A| of each row [out], a constant to the gradient (DoRA, 4.3)."""
        return self.updated_weight().norm(dim=1).clamp_min(SMALLEST)

    @torch.no_grad()
    def set_merged(self, is_merged: bool) -> None:
        """Put the update into the weight, or the old weight back; asking twice changes nothing.

        While merged, the old weight is kept aside, so that it comes back bit for bit.
        """
        if is_merged == self.is_merged:
            return
        if self.frozen is not None:
            raise BadInput("a quantised weight takes no merge; save the adapter and load it plain")
        if is_merged:
            merged = self.updated_weight()
            if self.lora_magnitude_vector is not None:
                lengths = merged.norm(dim=1).clamp_min(SMALLEST)
                merged *= (self.lora_magnitude_vector.float() / lengths)[:, None]
            self.unmerged_weight = self.weight.data
            self.weight.data = merged.to(self.weight.dtype)
        else:
            assert self.unmerged_weight is not None
            self.weight.data, self.unmerged_weight = self.unmerged_weight, None
        self.is_merged = is_merged


def add_lora(model: nn.Module, config: LoraConfig) -> None:
    """Freeze `model` and put a trainable update beside each linear that the config names."""
    if any(True for _ in _lora_linears(model)):
        raise BadInput("the model has low-rank updates already; merge them or load the base first")
    linears = target_linears(model, config)
    model.requires_grad_(False)
    for name, base in linears.items():
        _replace(model, name, LoraLinear(base, config, name))


def target_linears(model: nn.Module, config: LoraConfig) -> dict[str, nn.Linear]:
    """Return the linears that the config names, by their full names.

    A single word may find nothing (`up_proj` where all layers have routed experts alone); a longer
    ending has to, and so has the whole list.
    """
    linears = {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear)}
    chosen = {name: one for name, one in linears.items() if config.is_target(name)}
    for target in config.targets:
        is_there = any(ends_with(name, target) for name in chosen)
        if not is_there and ("." in target or not chosen):
            words = sorted({name.rpartition(".")[2] for name in linears})
            raise BadInput(
                f"targets has {target!r}, but no linear of this model is called so; its linears "
                f"end with {', '.join(words)}"
            )
    return chosen


def remove_lora(model: nn.Module) -> None:
    """Make plain linears of all LoraLinears again, with their weights as they stand."""
    for name, linear in list(model.named_modules()):
        if isinstance(linear, LoraLinear):
            bare = nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
            bare.weight = linear.weight
            _replace(model, name, bare)
    model.requires_grad_(True)


def merge_lora(model: nn.Module) -> None:
    """Put every update into its base weight: same outputs, no extra work per token."""
    for linear in _lora_linears(model):
        linear.set_merged(True)


def unmerge_lora(model: nn.Module) -> None:
    """Undo `merge_lora`, bit for bit."""
    for linear in _lora_linears(model):
        linear.set_merged(False)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the updates alone, under names like `model.layers.0.mlp.up_proj.lora_A.weight`."""
    return {name: weight for name, weight in model.state_dict().items() if ".lora_" in name}


def base_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return all but the updates, under Qwen3's names (with the updates in them if merged)."""
    return {name: weight for name, weight in model.state_dict().items() if ".lora_" not in name}


def save_lora(
    model: nn.Module, folder: Path, config: LoraConfig, *, base: str | None = None
) -> None:
    """Write the adapter's two files into `folder`.

    `base` is the `weights_digest` of the base, for a model that no longer holds it as it was.
    """
    assert not any(linear.is_merged for linear in _lora_linears(model)), "unmerge before saving"
    tensors = {
        name: weight.detach().cpu().contiguous() for name, weight in lora_state_dict(model).items()
    }
    base = base or weights_digest(base_state_dict(model))
    write_adapter(Adapter(config, tensors, base, str(folder)), folder)


def load_lora(model: nn.Module, folder: Path) -> LoraConfig:
    """Add the adapter in `folder`, ours or PEFT's, to a plain model and return its config."""
    adapter = read_adapter(folder)
    check_fits(adapter, model)
    add_lora(model, adapter.config)
    model.load_state_dict(adapter.tensors, strict=False)
    return adapter.config


def check_fits(adapter: Adapter, model: nn.Module, *, base: str | None = None) -> None:
    """Refuse an adapter of another base: other linears, other shapes or other weights.

    `base` spares counting the digest of the model's weights again.
    """
    expected = _shapes(target_linears(model, adapter.config), adapter.config)
    found = {name: tuple(tensor.shape) for name, tensor in adapter.tensors.items()}
    if expected != found:
        names = (name for name in expected | found if expected.get(name) != found.get(name))
        first = min(names)
        raise BadInput(
            f"{adapter.source}: {first} is {found.get(first)}, the model needs "
            f"{expected.get(first)}; use the adapter with the base model it was trained on"
        )
    base = base or weights_digest(base_state_dict(model)) if adapter.base else None
    if adapter.base != base:
        raise BadInput(
            f"{adapter.source} was trained on base weights {str(adapter.base)[:16]}…, this model "
            f"has {str(base)[:16]}…; load the checkpoint it was trained on"
        )


def _shapes(linears: dict[str, nn.Linear], config: LoraConfig) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of an adapter's tensors, before anything is allocated."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, linear in linears.items():
        rank = config.rank_of(name)
        shapes[f"{name}.lora_A.weight"] = (rank, linear.in_features)
        shapes[f"{name}.lora_B.weight"] = (linear.out_features, rank)
        if config.use_dora:
            shapes[f"{name}.lora_magnitude_vector"] = (linear.out_features,)
    return shapes


def _lora_linears(model: nn.Module) -> Iterator[LoraLinear]:
    return (module for module in model.modules() if isinstance(module, LoraLinear))


def _replace(model: nn.Module, name: str, linear: nn.Linear) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, linear)
