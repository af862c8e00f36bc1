"""An adapter by itself: its config, its tensors, and which base weights it was trained beside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from etude_model.config import LoraConfig
from storage.errors import BadInput

BASE = "base_weights"


@dataclass(frozen=True, slots=True)
class Adapter:
    """Low-rank updates by themselves; `base` is None where nobody recorded it."""

    config: LoraConfig
    tensors: dict[str, Tensor]
    base: str | None
    source: str


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file in float32; all must be finite numbers."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path} cannot be read ({error}); copy the adapter again") from error
    check_finite(path, tensors)
    return {name: tensor.float() for name, tensor in tensors.items()}


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that hold NaN, infinities or integers; `path` is for the words."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise BadInput(
                f"{path}: {name} ({tensor.dtype}) holds something else than finite numbers; "
                "go back to an earlier one"
            )


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors as float32, in order of their names.

    It depends on the numbers alone: not on the file, its order, its metadata or the device.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(json.dumps([name, list(tensor.shape)]).encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def first_error(error: ValidationError) -> str:
    """Say in one line what is wrong with the first bad field."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'values'}: {first['msg']}"
