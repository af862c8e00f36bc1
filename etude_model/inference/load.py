"""A checkpoint folder -> a model ready to use; anything else is refused with words.

Reads JSON and safetensors only, so that opening a stranger's checkpoint runs none of its code.
The folder holds config.json, model.safetensors, tokenizer.model and training.json, and beside
them adapter.safetensors and adapter.json if the checkpoint is a LoRA.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from etude_model.config import EtudeConfig
from etude_model.model.lora import WEIGHTS as ADAPTER
from etude_model.model.lora import load_lora, merge_lora, remove_lora
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


def load_checkpoint(
    folder: Path, *, device: str | torch.device = "cpu", merge: bool = True
) -> LoadedModel:
    """Load the checkpoint in `folder` in float32, in evaluation mode.

    An adapter is merged into the weights, which leaves a plain model; with merge=False it stays
    beside them, and the base is frozen. Missing files, other shapes or a foreign tokenizer are
    BadInput.
    """
    missing = [n for n in (CONFIG, WEIGHTS, TOKENIZER, TRAINING) if not (folder / n).is_file()]
    if missing:
        raise BadInput(
            f"{folder} is not a checkpoint, it lacks {', '.join(missing)}; "
            "give the folder of a finished training stage"
        )
    model = load_model(folder, device="cpu")
    tokenizer = Tokenizer(folder / TOKENIZER)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise BadInput(
            f"{folder / TOKENIZER} has {tokenizer.vocab_size} ids, the model vocab_size="
            f"{model.config.vocab_size}; put the tokenizer there that the model was trained with"
        )
    if (folder / ADAPTER).exists():
        load_lora(model, folder)
        if merge:
            merge_lora(model)
            remove_lora(model)
    stage = _stage(folder / TRAINING)
    return LoadedModel(model.to(device).eval(), tokenizer, model.config, stage)


def load_model(folder: Path, *, device: str | torch.device = "cpu") -> Etude:
    """Load config.json and model.safetensors alone, in float32."""
    try:
        config = EtudeConfig.model_validate_json((folder / CONFIG).read_bytes())
        weights = load_file(folder / WEIGHTS, device=str(device))
    except (OSError, ValidationError, SafetensorError) as error:
        raise BadInput(
            f"{folder} cannot be read ({error}); give a folder with {CONFIG} and {WEIGHTS}"
        ) from error
    with torch.device("meta"):
        model = Etude(config)
    _check_shapes(folder / WEIGHTS, model.state_dict(), weights)
    weights = {name: weight.float() for name, weight in weights.items()}
    model.load_state_dict(weights, assign=True)
    return model


def _check_shapes(path: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
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
