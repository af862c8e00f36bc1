"""shards -> checkpoint: a model is trained, in one of four stages."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from etude_model.config import (
    LoraTrainConfig,
    PretrainConfig,
    SemanticConfig,
    SftConfig,
    TrainConfig,
)
from storage.artifact import ArtifactRef, Counts, sha256_file
from storage.files import read_json, write_json
from storage.workspace import Workspace
from tasks import tracking
from tasks.paths import resolve
from tasks.stage import stage
from tasks.train.child import follow
from tasks.train.events import Curves, watch

WEIGHTS = "model.safetensors"


def parent_identity(config: PretrainConfig) -> str:
    """Return the digest of the weights that pretraining goes on from; empty for fresh ones."""
    return sha256_file(resolve(config.parent) / WEIGHTS) if config.parent else ""


@stage("pretrain", version=4, kind="checkpoint", identity=parent_identity, tags=("gpu",))
def pretrain(
    shards: ArtifactRef, tokenizer: ArtifactRef, config: PretrainConfig, workspace: Workspace
) -> Counts:
    """Train a new model on text shards, or go on with the parent that the config names."""
    parent = resolve(config.parent) if config.parent else None
    return _train("pretrain", workspace, config, shards, tokenizer, parent)


@stage("semantic", version=4, kind="checkpoint", tags=("gpu",))
def semantic(
    parent: ArtifactRef,
    shards: ArtifactRef,
    pair_shards: ArtifactRef,
    tokenizer: ArtifactRef,
    config: SemanticConfig,
    workspace: Workspace,
) -> Counts:
    """Teach a checkpoint to embed texts while it goes on as a language model."""
    return _train("semantic", workspace, config, shards, tokenizer, parent.path, pair_shards)


@stage("sft", version=4, kind="checkpoint", tags=("gpu",))
def sft(
    parent: ArtifactRef,
    shards: ArtifactRef,
    tokenizer: ArtifactRef,
    config: SftConfig,
    workspace: Workspace,
) -> Counts:
    """Teach a checkpoint to answer, all weights trained."""
    return _train("sft", workspace, config, shards, tokenizer, parent.path)


@stage("lora", version=4, kind="checkpoint", tags=("gpu",))
def lora(
    parent: ArtifactRef,
    shards: ArtifactRef,
    tokenizer: ArtifactRef,
    config: LoraTrainConfig,
    workspace: Workspace,
) -> Counts:
    """Train low-rank adapters beside a frozen checkpoint."""
    return _train("lora", workspace, config, shards, tokenizer, parent.path)


def _train(
    name: str,
    workspace: Workspace,
    config: TrainConfig,
    shards: ArtifactRef,
    tokenizer: ArtifactRef,
    parent: Path | None = None,
    pair_shards: ArtifactRef | None = None,
) -> Counts:
    run = {
        "stage": name,
        "train": config.model_dump(mode="json"),
        "shards": [str(shards.path)],
        "pair_shards": [str(pair_shards.path)] if pair_shards else [],
        "parent": str(parent) if parent else None,
        "tokenizer": str(tokenizer.path),
        "parent_pid": os.getpid(),
    }
    write_json(workspace.logs / "run.json", run)
    curves = Curves(tracking.current())
    patience = 60 * config.heartbeat_minutes
    with closing(follow(workspace, patience_seconds=patience)) as events:
        for _ in watch(events, curves, workspace):
            pass
    curves.log_samples()
    curves.draw(workspace.logs, name)
    training = read_json(workspace.path / "training.json")
    metrics = {
        f"{when}/{metric}": value
        for when, values in training["evaluations"].items()
        for metric, value in values.items()
    }
    sequences = config.num_steps * config.batch_size
    metrics["tokens"] = training["tokens_seen"]
    return Counts(seen=sequences, kept=sequences, rows=config.num_steps, metrics=metrics)
