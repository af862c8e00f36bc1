"""LoRA checkpoint -> an adapter folder that PEFT loads on top of the exported base.

base = AutoModelForCausalLM.from_pretrained(export_huggingface(checkpoint, base, merge=False))
model = PeftModel.from_pretrained(base, export_peft(checkpoint, adapter))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from etude_model.config import LoraConfig
from etude_model.export.folder import new_folder
from storage.artifact import sha256_file
from storage.errors import BadInput
from storage.files import read_json, write_json

PREFIX = "base_model.model."


def export_peft(checkpoint: Path, out: Path) -> Path:
    """Write the checkpoint's adapter as a PEFT folder `out` and return it.

    A checkpoint without an adapter and an `out` that is not empty are BadInput.
    """
    from safetensors.torch import load_file, save_file

    if not has_adapter(checkpoint):
        raise BadInput(f"{checkpoint} has no LoRA adapter; export it with format hf")
    lora = LoraConfig.model_validate(read_json(checkpoint / "adapter.json"))
    tensors = load_file(checkpoint / "adapter.safetensors")
    with new_folder(out) as folder:
        renamed = {PREFIX + name: tensor for name, tensor in tensors.items()}
        save_file(renamed, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        write_json(folder / "adapter_config.json", adapter_config(lora))
        text = _README.format(base=sha256_file(checkpoint / "model.safetensors"))
        (folder / "README.md").write_text(text, encoding="utf-8")
    return out


def has_adapter(checkpoint: Path) -> bool:
    """Tell whether a checkpoint folder holds a LoRA adapter beside its base weights."""
    return (checkpoint / "adapter.safetensors").is_file()


def adapter_config(lora: LoraConfig) -> dict[str, Any]:
    """Return adapter_config.json: the same update W + (alpha / rank) B A."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }


_README = """\
---
library_name: peft
license: cc-by-sa-4.0
---
A LoRA adapter made by Etude. It belongs on top of one base model only: the checkpoint whose
`model.safetensors` has the SHA-256 `{base}`.

Write that base with `export_huggingface(checkpoint, "base", merge=False)`, then

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("base")
model = PeftModel.from_pretrained(base, "this folder")
```
"""
