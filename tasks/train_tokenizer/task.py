"""passages -> tokenizer: sentencepiece BPE with byte fallback, learned from the train split."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etude_model.tokenizer import FILE_NAME, Tokenizer
from storage.artifact import ArtifactRef, Counts
from storage.errors import BadInput
from storage.files import replacing
from storage.formats.table import num_rows, read_rows
from storage.workspace import Workspace
from tasks.paths import resolve
from tasks.stage import stage
from tasks.train_tokenizer.config import TrainTokenizerConfig
from tasks.train_tokenizer.train import (
    check_round_trip,
    is_sampled,
    language_budgets,
    train_model,
)

COLUMNS = ("wiki", "language", "page_id", "split", "index", "text")


def identity(config: TrainTokenizerConfig) -> str:
    """Return the digest of the tokenizer that is taken as it is; empty where one is learned."""
    return Tokenizer(resolve(config.path)).digest if config.path else ""


@stage("train_tokenizer", version=1, kind="tokenizer", identity=identity)
def train_tokenizer(
    passages: ArtifactRef, config: TrainTokenizerConfig, workspace: Workspace
) -> Counts:
    """Sample the training text, learn the pieces, and prove that text comes back exactly."""
    paths = passages.files("passages.parquet")
    total = num_rows(paths)
    if config.path:
        given = Tokenizer(resolve(config.path))
        with replacing(workspace.path / FILE_NAME) as temporary:
            shutil.copyfile(given.path, temporary)
        metrics = check_round_trip(given, read_rows(paths, COLUMNS))
        return Counts(total, total, metrics=metrics | {"vocab_size": given.vocab_size})
    sizes: Counter[str] = Counter()
    for row in _train_rows(paths):
        sizes[row["language"]] += len(row["text"].encode())
    if not sizes:
        raise BadInput("train_tokenizer: there are no passages to learn from; add text")
    shares = language_budgets(
        sizes, max_sample_bytes=config.max_sample_bytes, alpha=config.language_alpha
    )
    seen: Counter[str] = Counter()

    def sample() -> Iterator[str]:
        for row in _train_rows(paths):
            seen["train"] += 1
            workspace.progress(seen["train"], total, "passages")
            if is_sampled(row, shares):
                seen["kept"] += 1
                yield row["text"]

    model = train_model(
        sample(),
        vocab_size=config.vocab_size,
        character_coverage=config.character_coverage,
        field="train_tokenizer.vocab_size",
    )
    path = workspace.path / FILE_NAME
    with replacing(path) as temporary:
        temporary.write_bytes(model)
    tokenizer = Tokenizer(path)
    metrics = check_round_trip(tokenizer, read_rows(paths, COLUMNS))
    dropped = {"validation": total - seen["train"], "not_sampled": seen["train"] - seen["kept"]}
    return Counts(
        total,
        seen["kept"],
        {reason: number for reason, number in dropped.items() if number},
        metrics=metrics | {"vocab_size": tokenizer.vocab_size},
    )


def _train_rows(paths: list[Path]) -> Iterator[dict[str, Any]]:
    return (row for row in read_rows(paths, COLUMNS) if row["split"] == "train")
