"""checkpoint -> a folder that sentence-transformers loads, and gives the vectors that we give.

The weights are those of every other export. What makes them embed is written beside them: every
token sees the whole text (`is_causal: false`), a text stands between `<s>` and `</s>` as in our
own `embed`, and the mean over all of its tokens, scaled to length 1, is the vector. transformers 5
and vLLM honour is_causal; where it is ignored the vectors are others, so compare a few first.

    etude export CKPT OUT --format embeddings
    python -c "import sentence_transformers as s; print(s.SentenceTransformer('OUT').encode('x'))"
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from etude_model.config import EtudeConfig
from etude_model.export.architecture import model_config
from etude_model.export.folder import new_folder
from etude_model.export.huggingface import check_dtype, write_tokenizer, write_weights
from etude_model.export.tokenizer_json import tokenizer_json
from etude_model.tokenizer import EOS, Tokenizer
from storage.files import write_json

_MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))


def export_embeddings(checkpoint: Path, out: Path, *, dtype: str = "float32") -> Path:
    """Write the checkpoint, an adapter merged, as a sentence-transformers folder; return it.

    Best after the semantic stage. An unknown dtype, a folder that is no checkpoint and an `out`
    that is not empty are BadInput.
    """
    check_dtype(dtype)
    with new_folder(out) as folder:
        loaded = write_weights(checkpoint, folder / "model.safetensors", dtype)
        config, path = loaded.config, loaded.tokenizer.path
        write_json(folder / "config.json", model_config(config, dtype=dtype, is_causal=False))
        write_tokenizer(path, folder, _between_ends(tokenizer_json(path)), config.context_length)
        for name, values in _sentence_transformers_files(config).items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_json(folder / name, values)
        (folder / "2_Normalize").mkdir()
        (folder / "README.md").write_text(_CARD, encoding="utf-8")
    return out


def _between_ends(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Return tokenizer.json with `</s>` behind a text too, as `Tokenizer.encode_whole` has it."""
    template = tokenizer["post_processor"]
    end = {"SpecialToken": {"id": EOS, "type_id": 0}}
    ends = {EOS: {"id": EOS, "ids": [Tokenizer.eos_id], "tokens": [EOS]}}
    changed = {
        "single": [*template["single"], end],
        "pair": [*template["pair"], end],
        "special_tokens": template["special_tokens"] | ends,
    }
    return tokenizer | {"post_processor": template | changed}


def _sentence_transformers_files(config: EtudeConfig) -> dict[str, Any]:
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, (path, kind) in enumerate(_MODULES)
    ]
    return {
        "modules.json": modules,
        "sentence_bert_config.json": {
            "max_seq_length": config.context_length,
            "do_lower_case": False,
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "1_Pooling/config.json": {
            "word_embedding_dimension": config.hidden_size,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "include_prompt": True,
        },
    }


_CARD = """\
---
license: cc-by-sa-4.0
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [etude, wikipedia]
---
# Etude embeddings

A small model that turns Chinese and English texts into vectors; texts of like meaning point the
same way. Trained from a Wikipedia dump by Etude.

把中英文文本变成向量的小模型，意思相近的文本方向相近。由 Etude 从维基百科转储训练。

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this folder")
vectors = model.encode(["What is a river?", "河流是什么？"])
print(vectors[0] @ vectors[1])
```

`SentenceTransformer("this folder", truncate_dim=64)` keeps the first numbers only, which is an
embedding too if the semantic stage trained them so (its setting `matryoshka_dims`).
"""
