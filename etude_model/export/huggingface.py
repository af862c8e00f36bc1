"""checkpoint -> a folder that transformers and vLLM load unchanged.

The parameters bear transformers' names already, so the weights are a copy but for experts, which
go one by one (export/weights.py); a LoRA adapter is merged first. What others trip over is written
down beside them: RoPE's base in the new place and in the old, the size of a head, every token that
ends a text (an end that is missing means answers without end).

tokenizer.model lies beside tokenizer.json for `etude import`. For llama.cpp write GGUF directly
(export/gguf.py): its converter takes this folder, but puts a space in front of every text (299 of
300 texts got another first token).

    etude export CKPT OUT --format hf
    python -c "import transformers; transformers.pipeline('text-generation', 'OUT')"
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude_model.byte_level import is_byte_level
from etude_model.export.architecture import model_config
from etude_model.export.card import model_card
from etude_model.export.folder import new_folder
from etude_model.export.tokenizer_json import tokenizer_config, tokenizer_json
from etude_model.tokenizer import FILE_NAME, Tokenizer
from storage.errors import BadInput
from storage.files import read_json, write_json

if TYPE_CHECKING:
    from etude_model.inference.load import LoadedModel

DTYPES = ("float32", "bfloat16", "float16")


def export_huggingface(
    checkpoint: Path, out: Path, *, dtype: str = "float32", merge: bool = True
) -> Path:
    """Write the checkpoint as a Hugging Face folder `out` and return it.

    `merge=False` leaves an adapter out: the base that `export_peft`'s folder goes on top of. An
    unknown dtype, a folder that is no checkpoint and an `out` that is not empty are BadInput.
    """
    check_dtype(dtype)
    with new_folder(out) as folder:
        loaded = write_weights(checkpoint, folder / "model.safetensors", dtype, merge)
        config = loaded.config
        write_json(folder / "config.json", model_config(config, dtype=dtype))
        write_json(folder / "generation_config.json", generation_config())
        tokenizer = loaded.tokenizer.path
        write_tokenizer(tokenizer, folder, tokenizer_json(tokenizer), config.context_length)
        card = model_card(config, read_json(checkpoint / "training.json"))
        (folder / "README.md").write_text(card, encoding="utf-8")
    return out


def write_tokenizer(path: Path, folder: Path, values: Mapping[str, Any], context: int) -> None:
    """Write the tokenizer.json `values` and what belongs beside it; `path` is the tokenizer.model.

    A byte-level BPE is all in the JSON; under the name tokenizer.model others would take it for
    sentencepiece.
    """
    write_json(folder / "tokenizer.json", values)
    write_json(folder / "tokenizer_config.json", tokenizer_config(path, context_length=context))
    if not is_byte_level(path):
        shutil.copyfile(path, folder / FILE_NAME)


def check_dtype(dtype: str) -> None:
    """Refuse a number format that safetensors of an export cannot have."""
    if dtype not in DTYPES:
        raise BadInput(f"dtype={dtype!r} is unknown; choose one of {', '.join(DTYPES)}")


def generation_config() -> dict[str, Any]:
    """Return generation_config.json: a text ends with `</s>`, an answer with `<|im_end|>`."""
    return {
        "bos_token_id": Tokenizer.bos_id,
        "eos_token_id": [Tokenizer.eos_id, Tokenizer.im_end_id],
        "pad_token_id": Tokenizer.pad_id,
    }


def write_weights(checkpoint: Path, path: Path, dtype: str, merge: bool = True) -> LoadedModel:
    """Write the weights as transformers reads them, and return the loaded checkpoint."""
    import torch  # only needed here: the rest of an export is words
    from safetensors.torch import save_file

    from etude_model.export.weights import BALANCING_BIAS, to_huggingface
    from etude_model.inference.load import load_checkpoint
    from etude_model.model.lora import base_state_dict

    loaded = load_checkpoint(checkpoint, merge=merge)
    weights = {
        name: weight.detach().to(
            torch.float32 if name.endswith(BALANCING_BIAS) else getattr(torch, dtype)
        )
        for name, weight in to_huggingface(base_state_dict(loaded.model), loaded.config).items()
    }
    weights = {name: weight.contiguous() for name, weight in weights.items()}
    save_file(weights, path, metadata={"format": "pt"})  # transformers refuses it without
    return loaded
