"""shards -> checkpoint: a model is trained, in one of four stages."""

from __future__ import annotations

import os
from contextlib import closing

from etude_model.config import (
    LoraTrainConfig,
    PretrainConfig,
    SemanticConfig,
    SftConfig,
    TrainConfig,
)
from storage.artifact import ArtifactRef, Counts
from storage.files import read_json, write_json
from storage.workspace import Workspace
from tasks import tracking
from tasks.stage import stage
from tasks.train.child import follow
from tasks.train.events import Curves, watch


@stage("pretrain", version=1, kind="checkpoint", tags=("gpu",))
def pretrain(
    shards: ArtifactRef, tokenizer: ArtifactRef, config: PretrainConfig, workspace: Workspace
) -> Counts:
    """Train a new model on text shards."""
    return _train("pretrain", workspace, config, shards, tokenizer)


@stage("semantic", version=1, kind="checkpoint", tags=("gpu",))
def semantic(
    parent: ArtifactRef,
    shards: ArtifactRef,
    pair_shards: ArtifactRef,
    tokenizer: ArtifactRef,
    config: SemanticConfig,
    workspace: Workspace,
) -> Counts:
    """Teach a checkpoint to embed texts while it goes on as a language model."""
    return _train("semantic", workspace, config, shards, tokenizer, parent, pair_shards)


@stage("sft", version=1, kind="checkpoint", tags=("gpu",))
def sft(
    parent: ArtifactRef,
    shards: ArtifactRef,
    tokenizer: ArtifactRef,
    config: SftConfig,
    workspace: Workspace,
) -> Counts:
    """Teach a checkpoint to answer, all weights trained."""
    return _train("sft", workspace, config, shards, tokenizer, parent)


@stage("lora", version=1, kind="checkpoint", tags=("gpu",))
def lora(
    parent: ArtifactRef,
    shards: ArtifactRef,
    tokenizer: ArtifactRef,
    config: LoraTrainConfig,
    workspace: Workspace,
) -> Counts:
    """Train low-rank adapters beside a frozen checkpoint."""
    return _train("lora", workspace, config, shards, tokenizer, parent)


def _train(
    name: str,
    workspace: Workspace,
    config: TrainConfig,
    shards: ArtifactRef,
    tokenizer: ArtifactRef,
    parent: ArtifactRef | None = None,
    pair_shards: ArtifactRef | None = None,
) -> Counts:
    run = {
        "stage": name,
        "train": config.model_dump(mode="json"),
        "shards": [str(shards.path)],
        "pair_shards": [str(pair_shards.path)] if pair_shards else [],
        "parent": str(parent.path) if parent else None,
        "tokenizer": str(tokenizer.path),
        "parent_pid": os.getpid(),
    }
    write_json(workspace.logs / "run.json", run)
    curves = Curves(tracking.current())
    with closing(follow(workspace)) as events:
        for _ in watch(events, curves, workspace):
            pass
    curves.log_samples()
    curves.draw(workspace.logs / "curves.png", f"{name}: bits per byte")
    training = read_json(workspace.path / "training.json")
    metrics = {
        f"{when}/{metric}": value
        for when, values in training["evaluations"].items()
        for metric, value in values.items()
    }
    sequences = config.num_steps * config.batch_size
    metrics["tokens"] = training["tokens_seen"]
    return Counts(seen=sequences, kept=sequences, rows=config.num_steps, metrics=metrics)
