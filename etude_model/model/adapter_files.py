"""An adapter folder, ours or PEFT's <-> its config, its tensors, the base it belongs to.

    adapter.json           LoraConfig, and "base_weights": the SHA-256 of the base's weights
    adapter.safetensors    `model.layers.0.self_attn.q_proj.lora_A.weight` and so on

A folder of a stranger is only read: safetensors and JSON, no links out of it. Whether the tensors
fit a model is for `etude_model.model.lora` to say.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError
from safetensors.torch import save_file

from etude_model.checkpoint_folder import checked_files, read_json_object
from etude_model.config import LoraConfig
from etude_model.model.adapter import BASE, Adapter, first_error, read_tensors
from etude_model.model.peft_format import PEFT_CONFIG, read_peft
from storage.errors import BadInput
from storage.files import replacing, write_json

WEIGHTS, CONFIG = "adapter.safetensors", "adapter.json"


def read_adapter(folder: Path) -> Adapter:
    """Read the adapter in a checkpoint folder of ours or in one that PEFT wrote.

    Missing or damaged files, pickles and what we cannot represent are BadInput.
    """
    if not (folder / CONFIG).is_file() and (folder / PEFT_CONFIG).is_file():
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
