"""An adapter folder, ours or PEFT's <-> its config, its tensors, the base it belongs to.

    adapter.json           LoraConfig, and "base_weights": the SHA-256 of the base's weights
    adapter.safetensors    `model.layers.0.self_attn.q_proj.lora_A.weight` and so on

A folder of a stranger is only read: safetensors and JSON, no links out of it. Whether the tensors
fit a model is for `etude_model.model.lora` to say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from etude_model.checkpoint_folder import checked_files, read_json_object
from etude_model.config import LoraConfig
from storage.errors import BadInput
from storage.files import replacing, write_json

WEIGHTS, CONFIG = "adapter.safetensors", "adapter.json"
PEFT_CONFIG = "adapter_config.json"
BASE = "base_weights"


@dataclass(frozen=True, slots=True)
class Adapter:
    """Low-rank updates by themselves; `base` is None where nobody recorded it."""

    config: LoraConfig
    tensors: dict[str, Tensor]
    base: str | None
    source: str


def read_adapter(folder: Path) -> Adapter:
    """Read the adapter in a checkpoint folder of ours or in one that PEFT wrote.

    Missing or damaged files, pickles and what we cannot represent are BadInput.
    """
    if not (folder / CONFIG).is_file() and (folder / PEFT_CONFIG).is_file():
        from etude_model.model.peft_format import read_peft

        return read_peft(folder)
    if not (folder / CONFIG).is_file():
        raise BadInput(
            f"{folder} holds no adapter, neither {CONFIG} nor {PEFT_CONFIG}; give the folder of a "
            "finished LoRA stage or of PEFT"
        )
    files = checked_files(folder, (CONFIG, WEIGHTS))
    values = read_json_object(files[CONFIG])
    base = values.pop(BASE, None)
    try:
        config = LoraConfig.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"{files[CONFIG]}: {first_error(error)}") from error
    return Adapter(config, read_tensors(files[WEIGHTS]), base, str(folder))


def has_adapter(folder: Path) -> bool:
    """Say whether a folder holds an adapter of ours, be it broken or half of one."""
    paths = [folder / name for name in (CONFIG, WEIGHTS)]
    return any(path.exists() or path.is_symlink() for path in paths)


def write_adapter(adapter: Adapter, folder: Path) -> None:
    """Write the adapter's two files into `folder`; equal adapters give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS) as beside:
        save_file(adapter.tensors, beside, metadata={"format": "pt"})
    write_json(folder / CONFIG, {**adapter.config.model_dump(mode="json"), BASE: adapter.base})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file in float32; all must be finite numbers."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path} cannot be read ({error}); copy the adapter again") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.float()).all()):
            raise BadInput(
                f"{path}: {name} ({tensor.dtype}) holds something else than finite numbers; "
                "go back to an earlier adapter"
            )
    return {name: tensor.float() for name, tensor in tensors.items()}


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
