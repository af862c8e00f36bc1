"""a Hugging Face folder -> a checkpoint of ours, to train on from there.

Qwen3, Qwen3-MoE and Dots1 models come over with the same numbers, whoever made them; what we could
only compute otherwise is refused by name (export/architecture.py). Only JSON and safetensors are
read, so a stranger's folder runs none of its code.

    etude import ./Qwen3-0.6B-slim ./parent
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from etude_model.checkpoint_folder import MANIFEST, checked_files, read_json_object
from etude_model.export.architecture import MAX_VOCABULARY, read_model_config
from etude_model.export.folder import new_folder
from etude_model.export.vocabulary import adopt
from etude_model.export.weights import from_huggingface
from etude_model.inference.load import CONFIG, TOKENIZER, TRAINING, WEIGHTS, check_shapes
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from storage.artifact import sha256_file
from storage.errors import BadInput
from storage.files import write_json

STAGE = "import"
TOKENIZER_JSON = "tokenizer.json"
INDEX = "model.safetensors.index.json"


def import_huggingface(
    folder: Path,
    out: Path,
    *,
    texts: Iterable[str] = (),
    vocab_size: int = MAX_VOCABULARY,
    training: Mapping[str, Any] | None = None,
) -> Path:
    """Write the model in `folder` as a checkpoint folder `out`, in float32, and return it.

    A sentencepiece tokenizer.model must have our special tokens, as our exports have. A byte-level
    tokenizer.json as Qwen3's gets them, and is cut to `vocab_size` ids: those that `texts` use
    most, or the earliest. `training` is what training.json shall say of a model of ours that comes
    back; others get the stage "import".

    An architecture, weights or tokenizer that do not fit are BadInput, and so is an `out` that is
    not empty.
    """
    source = checked_files(folder, (CONFIG,))[CONFIG]
    values = read_json_object(source)
    with new_folder(out) as beside:
        vocabulary = None
        if (folder / TOKENIZER).is_file():
            _copy_tokenizer(folder, beside / TOKENIZER, values)
        else:
            path = checked_files(folder, (TOKENIZER_JSON,))[TOKENIZER_JSON]
            vocabulary = adopt(path, texts=texts, max_size=min(vocab_size, MAX_VOCABULARY))
            write_json(beside / TOKENIZER, vocabulary.tokenizer)
            values = values | {"vocab_size": len(vocabulary.old_ids)}
        config = read_model_config(values, source)
        weights = read_weights(folder)
        if vocabulary is not None:
            weights = vocabulary.take_rows(weights)
        weights, config = from_huggingface(weights, config)
        with torch.device("meta"):
            expected = Etude(config).state_dict()
        check_shapes(folder / WEIGHTS, expected, weights)
        plain = {name: weight.float().contiguous() for name, weight in weights.items()}
        save_file(plain, beside / WEIGHTS, metadata={"format": "pt"})
        write_json(beside / CONFIG, config.model_dump(mode="json"))
        write_json(beside / TRAINING, training or _training(source))
        names = (WEIGHTS, CONFIG, TOKENIZER, TRAINING)
        write_json(beside / MANIFEST, {name: sha256_file(beside / name) for name in names})
    return out


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a folder's safetensors: one file, or several with an index."""
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        names = [WEIGHTS]
    else:
        files = read_json_object(checked_files(folder, (INDEX,))[INDEX]).get("weight_map")
        if not isinstance(files, dict) or not files:
            raise BadInput(f"{folder / INDEX} names no files in weight_map; copy it again")
        names = sorted({str(name) for name in files.values()})
    weights: dict[str, Tensor] = {}
    for path in checked_files(folder, names).values():
        try:
            weights |= load_file(path)
        except SafetensorError as error:
            raise BadInput(f"{path} cannot be read ({error}); copy it again") from error
    return weights


def _copy_tokenizer(folder: Path, to: Path, config: Mapping[str, Any]) -> None:
    """Copy a sentencepiece model that has our special tokens and fits the embeddings."""
    tokenizer = Tokenizer(checked_files(folder, (TOKENIZER,))[TOKENIZER])
    ids, size = tokenizer.vocab_size, config.get("vocab_size", 0)
    if ids > size:
        raise BadInput(
            f"{tokenizer.path} has {ids} ids, {folder / CONFIG} vocab_size={size}; put the "
            "tokenizer there that the model was trained with"
        )
    shutil.copyfile(tokenizer.path, to)


def _training(source: Path) -> dict[str, Any]:
    """Return training.json: no step of ours, and what the model came from."""
    facts = {"config": read_json_object(source), "sha256": sha256_file(source)}
    return {"stage": STAGE, "steps": 0, "tokens_seen": 0, "source": facts}
