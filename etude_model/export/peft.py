"""LoRA checkpoint <-> an adapter folder that PEFT loads on top of the exported base.

base = AutoModelForCausalLM.from_pretrained(export_huggingface(checkpoint, base, merge=False))
model = PeftModel.from_pretrained(base, export_peft(checkpoint, adapter))
"""

from __future__ import annotations

import shutil
from pathlib import Path

from etude_model.export.folder import new_folder
from storage.errors import BadInput
from storage.files import read_json, write_json


def export_peft(checkpoint: Path, out: Path) -> Path:
    """Write the checkpoint's adapter as a PEFT folder `out` and return it.

    A checkpoint without an adapter, one that PEFT would read otherwise (`fits_peft`) and an `out`
    that is not empty are BadInput.
    """
    from etude_model.model.adapter_files import read_adapter
    from etude_model.model.peft_format import write_peft

    if not has_adapter(checkpoint):
        raise BadInput(f"{checkpoint} has no LoRA adapter; export it with format hf")
    adapter = read_adapter(checkpoint)
    with new_folder(out) as folder:
        write_peft(adapter, folder, is_sparse=_is_sparse(checkpoint))
        text = _README.format(base=adapter.base or "not recorded")
        (folder / "README.md").write_text(text, encoding="utf-8")
    return out


def import_peft(adapter: Path, base: Path, out: Path) -> Path:
    """Write a LoRA checkpoint `out`: the checkpoint `base` and PEFT's folder `adapter` beside it.

    An adapter that does not fit the base, or that is more than low-rank updates, is BadInput.
    """
    from dataclasses import replace

    from etude_model.inference.load import CONFIG, TOKENIZER, TRAINING, WEIGHTS, load_checkpoint
    from etude_model.model.adapter import weights_digest
    from etude_model.model.adapter_files import read_adapter, write_adapter
    from etude_model.model.lora import check_fits

    if has_adapter(base):
        raise BadInput(f"{base} has an adapter of its own; give the checkpoint below it")
    model = load_checkpoint(base).model
    digest = weights_digest(model.state_dict())
    found = read_adapter(adapter)
    check_fits(found, model, base=digest)
    with new_folder(out) as folder:
        for name in (CONFIG, WEIGHTS, TOKENIZER):
            shutil.copyfile(base / name, folder / name)
        write_adapter(replace(found, base=digest), folder)
        values = {"stage": "lora", "steps": 0, "tokens_seen": 0, "evaluations": {}}
        write_json(folder / TRAINING, values | {"imported": "peft"})
    return out


def has_adapter(checkpoint: Path) -> bool:
    """Tell whether a checkpoint folder holds a LoRA adapter beside its base weights."""
    return (checkpoint / "adapter.safetensors").is_file()


def fits_peft(checkpoint: Path) -> bool:
    """Tell whether a checkpoint folder holds an adapter that PEFT can represent."""
    from etude_model.model.adapter_files import read_adapter
    from etude_model.model.peft_format import peft_problem

    if not has_adapter(checkpoint):
        return False
    return peft_problem(read_adapter(checkpoint).config, is_sparse=_is_sparse(checkpoint)) is None


def _is_sparse(checkpoint: Path) -> bool:
    return bool(read_json(checkpoint / "config.json").get("num_experts"))


_README = """\
---
library_name: peft
license: cc-by-sa-4.0
---
A LoRA adapter made by Etude. It belongs on top of one base model only: the weights (all of them in
float32, by name) with the SHA-256 `{base}`.

Write that base with `export_huggingface(checkpoint, "base", merge=False)`, then

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("base")
model = PeftModel.from_pretrained(base, "this folder")
```

Programs without DoRA or rank_pattern (vLLM among them) take the merged export, `--format hf`.
"""
