"""A corpus of a few hundred made-up sentences in two languages, and all that is built from it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece
import torch

from etude_model.config import EtudeConfig
from etude_model.tokenizer import Tokenizer
from storage.formats.shards import write_shard

CONTEXT = 32
SPECIALS = ["<|im_start|>", "<|im_end|>", *(f"<|reserved_{number}|>" for number in range(10))]
WORDS = {
    "en": ["river", "mountain", "city", "old", "bridge", "north", "people", "history", "water"],
    "zh": list("河山城市北方人民历史水石大桥古老建立"),
}


def sentence(generator: random.Random, language: str) -> str:
    """Return a made-up sentence of six words."""
    glue, stop = (" ", ".") if language == "en" else ("", "。")
    return glue.join(generator.choice(WORDS[language]) for _ in range(6)) + stop


@pytest.fixture
def keep_threads() -> Iterator[None]:
    """Give the other tests the threads that they had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece model of 320 ids with the house's special tokens."""
    folder = tmp_path_factory.mktemp("tokenizer")
    generator = random.Random(0)
    lines = [sentence(generator, language) for language in ("en", "zh") for _ in range(300)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        character_coverage=0.99,
        pad_id=3,
        control_symbols=SPECIALS,
        num_threads=1,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_tokenizer_path: Path) -> Tokenizer:
    """The same, opened."""
    return Tokenizer(tiny_tokenizer_path)


@pytest.fixture(scope="session")
def tiny_model_config(tiny_tokenizer: Tokenizer) -> EtudeConfig:
    """Two layers of width 32."""
    return EtudeConfig(
        vocab_size=tiny_tokenizer.vocab_size,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        intermediate_size=48,
        context_length=CONTEXT,
    )


def pack(pieces: list[list[int]], masks: list[list[int]] | None = None) -> dict[str, list]:
    """Pack pieces into rows of CONTEXT ids, one after the other, cut at the row's end."""
    rows: list[list[int]] = [[]]
    row_masks: list[list[int]] = [[]]
    segments: list[list[int]] = [[]]
    for number, piece in enumerate(pieces):
        piece = piece[:CONTEXT]
        if len(rows[-1]) + len(piece) > CONTEXT:
            rows.append([])
            row_masks.append([])
            segments.append([])
        rows[-1] += piece
        row_masks[-1] += (masks[number] if masks else [1] * len(piece))[:CONTEXT]
        segments[-1].append(len(piece))
    rows = [row + [3] * (CONTEXT - len(row)) for row in rows]
    row_masks = [row + [0] * (CONTEXT - len(row)) for row in row_masks]
    return {"tokens": rows, "mask": row_masks, "segments": segments}


def write_tokens(
    folder: Path, packed: dict[str, dict[str, list]], tokenizer: Tokenizer, *, format: str
) -> None:
    """Write packed rows, by language, as one shard."""
    folder.mkdir(parents=True)
    merged: dict[str, list] = {"tokens": [], "mask": [], "segments": [], "language": []}
    for language, rows in packed.items():
        for name, values in rows.items():
            merged[name] += values
        merged["language"] += [language] * len(rows["tokens"])
    columns = {"tokens": np.array(merged["tokens"], dtype=np.uint16)}
    if format == "sft":
        columns["mask"] = np.array(merged["mask"], dtype=np.uint8)
    segments = pa.array(merged["segments"], type=pa.list_(pa.int32()))
    write_shard(
        folder / "tokens.parquet",
        columns,
        pa.table({"language": merged["language"], "segments": segments}),
        {
            "format": format,
            "context_length": CONTEXT,
            "tokenizer": tokenizer.digest,
            "vocab_size": tokenizer.vocab_size,
            "pad_id": 3,
        },
    )


@pytest.fixture(scope="session")
def text_shards(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LM shards: two training parts, one validation part, two languages."""
    folder = tmp_path_factory.mktemp("text")
    for seed, part in enumerate(("train-00000", "train-00001", "validation-00000")):
        generator = random.Random(seed)
        packed = {}
        for language in WORDS:
            texts = [tiny_tokenizer.encode(sentence(generator, language)) for _ in range(24)]
            ends = tiny_tokenizer.bos_id, tiny_tokenizer.eos_id
            packed[language] = pack([[ends[0], *ids, ends[1]] for ids in texts])
        write_tokens(folder / part, packed, tiny_tokenizer, format="lm")
    return folder


@pytest.fixture(scope="session")
def dialogue_shards(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SFT shards of short questions whose answer repeats a word."""
    folder = tmp_path_factory.mktemp("dialogues")
    for seed, part in enumerate(("train-00000", "validation-00000")):
        generator = random.Random(seed)
        packed = {}
        for language, words in WORDS.items():
            ids, masks = [], []
            for _ in range(20):
                word = generator.choice(words)
                turns = [
                    {"role": "user", "content": word},
                    {"role": "assistant", "content": word},
                ]
                one, mask = tiny_tokenizer.encode_dialogue(turns)
                ids.append(list(one))
                masks.append(list(mask))
            packed[language] = pack(ids, masks)
        write_tokens(folder / part, packed, tiny_tokenizer, format="sft")
    return folder


@pytest.fixture(scope="session")
def pair_shards(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pair shards: two words of an article ask for a sentence of it."""
    folder = tmp_path_factory.mktemp("pairs")
    for seed, part in enumerate(("train-00000", "validation-00000")):
        generator = random.Random(100 + seed)
        columns: dict[str, list] = {"query": [], "positive": []}
        extra: dict[str, list] = {"article": [], "source": [], "language": []}
        for number in range(48):
            language = ("en", "zh")[number % 2]
            words = generator.sample(WORDS[language], 3)
            glue = " " if language == "en" else ""
            for name, text, width in (
                ("query", glue.join(words[:2]), 12),
                ("positive", glue.join(words[:2] + words), 24),
            ):
                ids = tiny_tokenizer.encode(text)[:width]
                columns[name].append(ids + [3] * (width - len(ids)))
            extra["article"].append(f"tinywiki:{number // 3}")
            extra["source"].append("title-lead")
            extra["language"].append(language)
        (folder / part).mkdir()
        arrays = {name: np.array(rows, dtype=np.uint16) for name, rows in columns.items()}
        metadata = {"format": "pairs", "tokenizer": tiny_tokenizer.digest, "pad_id": 3}
        write_shard(folder / part / "pairs.parquet", arrays, pa.table(extra), metadata)
    return folder


SMALL = {
    "num_steps": 12,
    "batch_size": 8,
    "warmup_steps": 3,
    "learning_rate": 1e-2,
    "checkpoint_every": 3,
    "evaluate_every": 5,
    "evaluation_rows": 8,
    "threads": 1,
    "device": "cpu",
    "precision": "float32",
}
OWN: dict[str, dict[str, Any]] = {
    "pretrain": {"document_mask": True, "optimizer": "adamw"},
    "semantic": {"pair_batch_size": 8, "matryoshka_dims": [8], "evaluation_pairs": 16},
    "sft": {},
    "lora": {"lora": {"rank": 2, "dropout": 0.1}},
}


@pytest.fixture(scope="session")
def write_run(
    tiny_model_config: EtudeConfig,
    tiny_tokenizer_path: Path,
    text_shards: Path,
    request: pytest.FixtureRequest,
) -> Callable[..., Path]:
    """A function that fills a run directory: write_run(folder, "sft", num_steps=4)."""

    def write(folder: Path, stage: str, *, parent_pid: int | None = None, **train: Any) -> Path:
        shards = text_shards
        if stage in ("sft", "lora"):
            shards = request.getfixturevalue("dialogue_shards")
        pairs = [str(request.getfixturevalue("pair_shards"))] if stage == "semantic" else []
        parent = None if stage == "pretrain" else str(request.getfixturevalue("parent_checkpoint"))
        run = {
            "stage": stage,
            "model": tiny_model_config.model_dump(mode="json") if stage == "pretrain" else None,
            "train": {**SMALL, **OWN[stage], **train},
            "shards": [str(shards)],
            "pair_shards": pairs,
            "parent": parent,
            "tokenizer": str(tiny_tokenizer_path),
            "parent_pid": parent_pid,
        }
        (folder / "logs").mkdir(parents=True)
        (folder / "logs" / "run.json").write_text(json.dumps(run))
        return folder

    return write


@pytest.fixture(scope="session")
def parent_checkpoint(
    write_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A pretrained tiny model, for the stages that start from one."""
    from etude_model.training.run import build_trainer, read_run

    folder = write_run(tmp_path_factory.mktemp("parent") / "run", "pretrain", num_steps=30)
    for _ in build_trainer(read_run(folder), folder).events():
        pass
    return folder
