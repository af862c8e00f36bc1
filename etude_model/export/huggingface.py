"""checkpoint -> a folder that transformers, vLLM and llama.cpp's converter load unchanged.

The parameters bear Qwen3ForCausalLM's names already, so the weights are a copy; a LoRA adapter is
merged first. What others trip over is written down beside them: RoPE's base in the new place and
in the old, the size of a head, every token that ends a text (an end that is missing means answers
without end). tokenizer.model lies beside tokenizer.json because llama.cpp's converter prefers it.

    etude export CKPT OUT --format hf
    python -c "import transformers; transformers.pipeline('text-generation', 'OUT')"
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from etude_model.config import EtudeConfig
from etude_model.export.card import model_card
from etude_model.export.folder import new_folder
from etude_model.export.tokenizer_json import tokenizer_config, tokenizer_json
from etude_model.tokenizer import FILE_NAME, Tokenizer
from storage.errors import BadInput
from storage.files import read_json, write_json

DTYPES = ("float32", "bfloat16", "float16")


def export_huggingface(
    checkpoint: Path, out: Path, *, dtype: str = "float32", merge: bool = True
) -> Path:
    """Write the checkpoint as a Hugging Face folder `out` and return it.

    `merge=False` leaves an adapter out: the base that `export_peft`'s folder goes on top of. An
    unknown dtype, a folder that is no checkpoint and an `out` that is not empty are BadInput.
    """
    if dtype not in DTYPES:
        raise BadInput(f"dtype={dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    with new_folder(out) as folder:
        loaded = _write_weights(checkpoint, folder / "model.safetensors", dtype, merge)
        config = loaded.config
        write_json(folder / "config.json", model_config(config, dtype=dtype))
        write_json(folder / "generation_config.json", generation_config())
        tokenizer = loaded.tokenizer.path
        write_json(folder / "tokenizer.json", tokenizer_json(tokenizer))
        settings = tokenizer_config(tokenizer, context_length=config.context_length)
        write_json(folder / "tokenizer_config.json", settings)
        shutil.copyfile(tokenizer, folder / FILE_NAME)
        card = model_card(config, read_json(checkpoint / "training.json"))
        (folder / "README.md").write_text(card, encoding="utf-8")
    return out


def model_config(config: EtudeConfig, *, dtype: str = "float32") -> dict[str, Any]:
    """Return config.json of Qwen3ForCausalLM, readable by transformers 4 and 5."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta,  # where transformers 4 looks for it
        "rms_norm_eps": config.rms_norm_eps,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": config.num_layers,
        "use_cache": True,
        "bos_token_id": Tokenizer.bos_id,
        "eos_token_id": Tokenizer.eos_id,
        "pad_token_id": Tokenizer.pad_id,
        "dtype": dtype,
        "torch_dtype": dtype,  # the same for transformers 4
    }


def generation_config() -> dict[str, Any]:
    """Return generation_config.json: a text ends with `</s>`, an answer with `<|im_end|>`."""
    return {
        "bos_token_id": Tokenizer.bos_id,
        "eos_token_id": [Tokenizer.eos_id, Tokenizer.im_end_id],
        "pad_token_id": Tokenizer.pad_id,
    }


def _write_weights(checkpoint: Path, path: Path, dtype: str, merge: bool) -> Any:
    """Write the weights and return the loaded checkpoint; torch is only needed here."""
    import torch
    from safetensors.torch import save_file

    from etude_model.inference.load import load_checkpoint
    from etude_model.model.lora import base_state_dict

    loaded = load_checkpoint(checkpoint, merge=merge)
    weights = {
        name: weight.detach().to(getattr(torch, dtype)).contiguous()
        for name, weight in base_state_dict(loaded.model).items()
    }
    save_file(weights, path, metadata={"format": "pt"})  # transformers refuses it without
    return loaded
