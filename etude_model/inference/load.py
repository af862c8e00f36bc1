"""A checkpoint folder -> a model ready to use; anything else is refused with words.

Reads JSON and safetensors only, so that opening a stranger's checkpoint runs none of its code.
The folder holds config.json, model.safetensors, tokenizer.model and training.json, and beside
them adapter.safetensors and adapter.json if the checkpoint is a LoRA.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from etude_model.checkpoint_folder import checked_files
from etude_model.config import EtudeConfig
from etude_model.inference.adapters import Adapters
from etude_model.model.adapter import check_finite
from etude_model.model.adapter_files import has_adapter
from etude_model.model.lora import load_lora, merge_lora, remove_lora
from etude_model.model.moe import SparseMOE
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from storage.errors import BadInput

CONFIG, WEIGHTS, TOKENIZER, TRAINING = (
    "config.json",
    "model.safetensors",
    "tokenizer.model",
    "training.json",
)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with what is needed to use it."""

    model: Etude
    tokenizer: Tokenizer
    config: EtudeConfig
    stage: str
    adapters: Adapters | None = None


def load_checkpoint(
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    merge: bool = True,
    adapters: Mapping[str, Path] | None = None,
) -> LoadedModel:
    """Load the checkpoint in `folder` in float32, in evaluation mode.

    An adapter is merged into the weights, which leaves a plain model; with merge=False it stays
    beside them, and the base is frozen. `adapters`, folders by name, are loaded in the place of the
    checkpoint's own, to be chosen row by row. Missing files, other shapes, a foreign tokenizer or
    an adapter of another base are BadInput.
    """
    checked_files(folder, (CONFIG, WEIGHTS, TOKENIZER, TRAINING))
    model = load_model(folder, device="cpu")
    tokenizer = Tokenizer(folder / TOKENIZER)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise BadInput(
            f"{folder / TOKENIZER} has {tokenizer.vocab_size} ids, the model vocab_size="
            f"{model.config.vocab_size}; put the tokenizer there that the model was trained with"
        )
    if adapters is None and has_adapter(folder):
        load_lora(model, folder)
        if merge:
            merge_lora(model)
            remove_lora(model)
    stage = _stage(folder / TRAINING)
    model = model.to(device).eval()
    bank = None
    if adapters is not None:
        bank = Adapters(model)
        for name, path in adapters.items():
            bank.load(name, path)
    return LoadedModel(model, tokenizer, model.config, stage, bank)


def load_model(folder: Path, *, device: str | torch.device = "cpu") -> Etude:
    """Load config.json and model.safetensors alone, in float32; no NaN is let in."""
    try:
        config = EtudeConfig.model_validate_json((folder / CONFIG).read_bytes())
        weights = load_file(folder / WEIGHTS, device=str(device))
    except (OSError, ValidationError, SafetensorError) as error:
        raise BadInput(
            f"{folder} cannot be read ({error}); give a folder with {CONFIG} and {WEIGHTS}"
        ) from error
    with torch.device("meta"):
        model = Etude(config)
    check_shapes(folder / WEIGHTS, model.state_dict(), weights)
    check_finite(folder / WEIGHTS, weights)
    weights = {name: weight.float() for name, weight in weights.items()}
    model.load_state_dict(weights, assign=True)
    for module in model.modules():
        if isinstance(module, SparseMOE):  # its counts of this process are in no file
            module.expert_counts = torch.zeros_like(module.expert_counts, device=device)
    return model


def check_shapes(path: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Refuse weights whose names or shapes are not those of the model; `path` is for the words."""
    for name in sorted(expected.keys() | found.keys()):
        needs = tuple(expected[name].shape) if name in expected else "no such weight"
        has = tuple(found[name].shape) if name in found else "no such weight"
        if needs != has:
            raise BadInput(
                f"{path}: {name} is {has}, {CONFIG} asks for {needs}; "
                f"use the {CONFIG} that was written with these weights"
            )


def _stage(path: Path) -> str:
    try:
        return str(json.loads(path.read_bytes())["stage"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f'{path} names no "stage" ({error!r}); copy the whole checkpoint') from error
