"""A tiny tokenizer, checkpoints and held-out shards: what the stage evaluate reads."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from etude_model.config import EtudeConfig, LoraConfig
from etude_model.model.lora import add_lora, base_state_dict, save_lora
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from storage.artifact import ArtifactRef, Counts
from storage.files import write_json
from storage.formats.shards import write_shard
from storage.workspace import Workspace
from tasks.evaluate.config import EvaluateConfig
from tasks.evaluate.task import evaluate
from tasks.shard.rows import Piece, write_rows
from tasks.train_tokenizer.train import train_model

CONTEXT = 128
WORDS = {
    "en": ["river", "mountain", "city", "old", "bridge", "north", "people", "water"],
    "zh": list("河山城市北方人民历史水石大桥古老建立"),
}
DIALOGUES = {
    "en": [("old bridge", "north river"), ("city", "water people")],
    "zh": [("古城", "北方"), ("大桥", "石山河水")],
}


def sentence(draw: random.Random, language: str) -> str:
    """Return a made-up sentence of six words."""
    glue, stop = (" ", ".") if language == "en" else ("", "。")
    return glue.join(draw.choice(WORDS[language]) for _ in range(6)) + stop


def write_tokenizer(folder: Path) -> Tokenizer:
    """Train a tokenizer of 330 ids as the room does."""
    draw = random.Random(0)
    texts = [sentence(draw, language) for language in WORDS for _ in range(300)]
    model = train_model(texts, vocab_size=360, character_coverage=1.0, field="vocab_size")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    return Tokenizer(folder)


def dialogue(question: str, answer: str) -> list[dict[str, str]]:
    """Return one turn of each side."""
    turns = (("user", question), ("assistant", answer))
    return [{"role": role, "content": content} for role, content in turns]


def taught_model(tokenizer: Tokenizer, *, seed: int, steps: int) -> Etude:
    """Return a tiny model that has seen DIALOGUES `steps` times; 40 times is by heart."""
    torch.manual_seed(seed)
    model = Etude(
        EtudeConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            head_dim=16,
            intermediate_size=48,
            context_length=CONTEXT,
            initializer_range=0.05,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = [
        tokenizer.encode_dialogue(dialogue(*turns))
        for language in DIALOGUES.values()
        for turns in language
    ]
    width = max(len(ids) for ids, _ in rows)
    tokens_BT = torch.tensor([ids + [3] * (width - len(ids)) for ids, _ in rows])
    learned_BT = torch.tensor([mask + [0] * (width - len(mask)) for _, mask in rows])
    targets_BT = torch.where(learned_BT == 1, tokens_BT, -100)[:, 1:]
    for _ in range(steps):
        nats, count = model.loss(model(tokens_BT[:, :-1]), targets_BT)
        optimizer.zero_grad()
        (nats / count).backward()
        optimizer.step()
    return model


def write_checkpoint(
    folder: Path, model: Etude, tokenizer: Tokenizer, stage: str, *, adapter_scale: float = 0.0
) -> Path:
    """Write a checkpoint folder; with an `adapter_scale` it has a LoRA adapter of that size."""
    folder.mkdir(parents=True)
    lora = LoraConfig(rank=2, targets=("q_proj", "down_proj"))
    if adapter_scale:
        add_lora(model, lora)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0, adapter_scale)
        save_lora(model, folder, lora)
    save_file(base_state_dict(model), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", model.config.model_dump(mode="json"))
    shutil.copyfile(tokenizer.path, folder / "tokenizer.model")
    training: dict[str, Any] = {"stage": stage, "steps": 5, "tokens_seen": 100}
    figures = {"before": {"bits_per_byte": 3.5}, "after": {"bits_per_byte": 2.5}}
    write_json(folder / "training.json", training | {"evaluations": figures})
    return folder


def pack(rows: Sequence[Sequence[int]], fill: int, width: int) -> list[list[int]]:
    """Return the rows filled up to one width."""
    return [[*row, *[fill] * (width - len(row))] for row in rows]


def write_tokens(folder: Path, tokenizer: Tokenizer, format: str, pieces: list[Piece]) -> None:
    """Write a shard as the room does."""
    folder.mkdir(parents=True)
    write_rows(folder, pieces, tokenizer, width=CONTEXT, format=format)


@dataclass(frozen=True)
class House:
    """What the stage reads, and what it was made of."""

    tokenizer: Tokenizer
    checkpoints: list[ArtifactRef]
    lm: ArtifactRef
    sft: ArtifactRef
    pairs: ArtifactRef
    tokenizer_ref: ArtifactRef
    texts: dict[str, list[str]]
    answers: dict[str, str]

    def run(self, folder: Path, config: EvaluateConfig) -> tuple[Counts, Path]:
        """Run the stage and return its ledger and its folder."""
        workspace = Workspace.scratch(folder)
        counts = evaluate.run(
            checkpoints=self.checkpoints,
            lm_shards=self.lm,
            sft_shards=self.sft,
            pair_shards=self.pairs,
            tokenizer=self.tokenizer_ref,
            config=config,
            workspace=workspace,
        )
        return counts, workspace.path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Four checkpoints, shards of three kinds with a validation part each."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("evaluate")
    tokenizer = write_tokenizer(root / "tokenizer")
    draw = random.Random(1)
    texts = {language: [sentence(draw, language) for _ in range(9)] for language in WORDS}
    for number in range(8):  # parts of a row a language; the first row holds two texts
        pieces = [
            Piece(language, np.array(tokenizer.encode_whole(text), np.uint16))
            for language, some in texts.items()
            for text in (some[:2] if number == 0 else some[number + 1 : number + 2])
        ]
        write_tokens(root / "lm" / f"validation-0000{number}", tokenizer, "lm", pieces)
    never_read = [Piece("de", np.array(tokenizer.encode_whole("city"), np.uint16))]
    write_tokens(root / "lm" / "train-00000", tokenizer, "lm", never_read)
    spoken = [
        (language, *tokenizer.encode_dialogue(dialogue(*turns)))
        for language, some in DIALOGUES.items()
        for turns in some
    ]
    pieces = [
        Piece(language, np.array(ids, np.uint16), np.array(mask, np.uint8))
        for language, ids, mask in spoken
    ]
    write_tokens(root / "sft" / "validation-00000", tokenizer, "sft", pieces)
    columns: dict[str, list[list[int]]] = {"query": [], "positive": []}
    for _ in range(30):
        text = sentence(draw, "en")
        columns["query"].append(tokenizer.encode(text[:12])[:12])
        columns["positive"].append(tokenizer.encode(text)[:24])
    (root / "pairs" / "validation-00000").mkdir(parents=True)
    write_shard(
        root / "pairs" / "validation-00000" / "pairs.parquet",
        {
            name: np.array(pack(ids, 3, width), dtype=np.uint16)
            for (name, ids), width in zip(columns.items(), (12, 24), strict=True)
        },
        pa.table(
            {
                "article": [f"tinywiki:{number}" for number in range(30)],
                "source": ["title-lead"] * 30,
                "language": ["en"] * 30,
            }
        ),
        {"format": "pairs", "tokenizer": tokenizer.digest, "pad_id": 3},
    )
    checkpoints = []
    for number, (stage, steps, adapter) in enumerate(
        [("pretrain", 0, 0.0), ("semantic", 5, 0.0), ("sft", 60, 0.0), ("lora", 60, 0.5)]
    ):
        model = taught_model(tokenizer, seed=7, steps=steps)
        path = write_checkpoint(
            root / "checkpoints" / stage, model, tokenizer, stage, adapter_scale=adapter
        )
        checkpoints.append(ArtifactRef("checkpoint", f"key{number}", f"digest{number}", path))
    refs = [
        ArtifactRef(kind, name, f"digest-{name}", root / name)
        for kind, name in (("shards", "lm"), ("shards", "sft"), ("shards", "pairs"))
    ]
    tokenizer_ref = ArtifactRef("tokenizer", "t", "digest-t", root / "tokenizer")
    answers = {question: answer for some in DIALOGUES.values() for question, answer in some}
    return House(tokenizer, checkpoints, *refs, tokenizer_ref, texts, answers)
