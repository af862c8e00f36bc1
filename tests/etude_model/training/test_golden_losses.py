"""Sixty losses of preset nano per stage, against those committed in golden/.

They catch a change of results that no other test would call wrong: another initialisation, order
of the data, schedule, mask, weighting. Where the change is meant, write the files anew and commit
them with it:

    ETUDE_WRITE_GOLDEN=1 python -m pytest tests/etude_model/training/test_golden_losses.py

The corpus is made of token ids by a rule, so that no tokenizer's training is part of the result.
Another torch or another kind of processor rounds differently; their curves must agree to 2e-3. Two
processors with the same instructions were 6e-6 apart, and 6e-5 in the semantic stage, whose cosines
are divided by a temperature of 0.05.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from etude_model.config import preset
from etude_model.tokenizer import Tokenizer
from etude_model.training.run import build_trainer, read_run
from storage.formats.shards import write_shard

GOLDEN = Path(__file__).parent / "golden"
WIDTH = 32
FIRST, LAST = 20, 319  # ids of plain tokens in the tests' vocabulary of 330
KNOBS: dict[str, Any] = {
    "num_steps": 60,
    "batch_size": 4,
    "warmup_steps": 6,
    "learning_rate": 1e-3,
    "optimizer": "adamw",  # Muon multiplies in bfloat16 where the processor can
    "evaluate_every": 30,
    "evaluation_rows": 4,
    "checkpoint_every": 1000,
    "threads": 1,
    "device": "cpu",
    "precision": "float32",
}
OWN: dict[str, dict[str, Any]] = {
    "semantic": {"pair_batch_size": 8, "matryoshka_dims": [32], "evaluation_pairs": 8},
    "lora": {"lora": {"rank": 4, "dropout": 0.1}, "learning_rate": 5e-3},
}
CURVES = ("pretrain", "pretrain-moe", "semantic", "sft", "lora")


def walk(generator: random.Random, length: int) -> list[int]:
    """Return ids each of which follows from the one before, but for one in eight."""
    token, ids = generator.randint(FIRST, LAST), []
    for _ in range(length):
        ids.append(token)
        jumps = generator.random() < 0.125
        token = generator.randint(FIRST, LAST) if jumps else FIRST + (7 * token + 3) % 300
    return ids


def write_rows(folder: Path, tokenizer: Tokenizer, format: str) -> None:
    """Write token rows of two documents each; of SFT rows the second half of each is trained."""
    for part, seed in (("train-0", 1), ("validation-0", 2)):
        generator = random.Random(seed)
        rows = [walk(generator, 12) + walk(generator, WIDTH - 12) for _ in range(40)]
        columns = {"tokens": np.array(rows, dtype=np.uint16)}
        if format == "sft":
            mask = [0] * 6 + [1] * 6 + [0] * 10 + [1] * 10
            columns["mask"] = np.array([mask] * len(rows), dtype=np.uint8)
        segments = pa.array([[12, WIDTH - 12]] * len(rows), type=pa.list_(pa.int32()))
        (folder / part).mkdir(parents=True)
        write_shard(
            folder / part / "tokens.parquet",
            columns,
            pa.table({"language": ["en", "zh"] * (len(rows) // 2), "segments": segments}),
            {"format": format, "context_length": WIDTH, "tokenizer": tokenizer.digest},
        )


def write_pairs(folder: Path, tokenizer: Tokenizer) -> None:
    """Write pairs whose positive goes on where the query ends."""
    for part, seed in (("train-0", 3), ("validation-0", 4)):
        generator = random.Random(seed)
        walks = [walk(generator, 24) for _ in range(40)]
        columns = {
            "query": np.array([ids[:8] for ids in walks], dtype=np.uint16),
            "positive": np.array([ids[8:] for ids in walks], dtype=np.uint16),
        }
        extra = {"article": [f"a:{number // 2}" for number in range(40)]}
        extra |= {"source": ["title-lead"] * 40, "language": ["en"] * 40}
        (folder / part).mkdir(parents=True)
        metadata = {"format": "pairs", "tokenizer": tokenizer.digest, "pad_id": 3}
        write_shard(folder / part / "pairs.parquet", columns, pa.table(extra), metadata)


@pytest.fixture(scope="module")
def losses_of(
    tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[float]]:
    """A function that trains a stage, after pretraining where it needs a parent."""
    home = tmp_path_factory.mktemp("golden")
    write_rows(home / "text", tiny_tokenizer, "lm")
    write_rows(home / "dialogues", tiny_tokenizer, "sft")
    write_pairs(home / "pairs", tiny_tokenizer)
    made: dict[str, list[float]] = {}

    def train(curve: str) -> list[float]:
        if curve in made:
            return made[curve]
        stage, _, kind = curve.partition("-")
        if stage != "pretrain":
            train("pretrain")
        shape = preset("nano-moe" if kind else "nano", vocab_size=tiny_tokenizer.vocab_size)
        is_text = stage in ("pretrain", "semantic")
        run = {
            "stage": stage,
            "model": shape.model_dump(mode="json") if stage == "pretrain" else None,
            "train": KNOBS | OWN.get(stage, {}),
            "shards": [str(home / ("text" if is_text else "dialogues"))],
            "pair_shards": [str(home / "pairs")] if stage == "semantic" else [],
            "parent": None if stage == "pretrain" else str(home / "pretrain"),
            "tokenizer": str(tiny_tokenizer.path),
        }
        (home / curve / "logs").mkdir(parents=True)
        (home / curve / "logs" / "run.json").write_text(json.dumps(run))
        trainer = build_trainer(read_run(home / curve), home / curve)
        made[curve] = [event["loss"] for event in trainer.events() if event["kind"] == "step"]
        return made[curve]

    return train


def machine() -> str:
    """Return what the last bits depend on."""
    version = torch.__version__.partition("+")[0]
    return f"# torch {version}, {torch.backends.cpu.get_cpu_capability()}"


@pytest.mark.parametrize("curve", CURVES)
def test_losses_are_the_committed_ones(curve, losses_of):
    """Catches what changes a training without breaking it."""
    losses = losses_of(curve)
    assert len(losses) == KNOBS["num_steps"]
    path = GOLDEN / f"{curve}.txt"
    if os.environ.get("ETUDE_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([machine(), *(f"{loss:.7f}" for loss in losses)]) + "\n")
    made_on, *lines = path.read_text().splitlines()
    on_same = 2e-4 if curve == "semantic" else 1e-5
    tolerance = on_same if made_on == machine() else 2e-3
    assert losses == pytest.approx([float(line) for line in lines], abs=tolerance)
    assert losses[-1] < losses[0]
