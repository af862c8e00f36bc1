"""passages / pairs / dialogues + tokenizer -> shards: packed tokens, ready to be mapped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from etude_model.tokenizer import Tokenizer
from storage.artifact import ArtifactRef, Counts
from storage.workspace import Workspace
from tasks.shard.config import ShardConfig
from tasks.shard.lm import write_lm_shard
from tasks.shard.pairs import write_pair_shard
from tasks.shard.sft import refuse_if_nothing_fits, write_sft_shard
from tasks.shard.windows import Window, build_shards, plan_windows
from tasks.stage import stage

BYTES_PER_TOKEN = 3.5  # a guess that only sets about how many rows a shard has
_TEXT_BYTES = pl.col("text").str.len_bytes()
_DIALOGUE_BYTES = (
    pl.col("messages").list.eval(pl.element().struct.field("content").str.len_bytes()).list.sum()
)


@stage("shard-lm", version=1, kind="shards")
def shard_lm(
    passages: ArtifactRef, tokenizer: ArtifactRef, config: ShardConfig, workspace: Workspace
) -> Counts:
    """Pack every passage into rows of `context_length` tokens."""
    model = Tokenizer(tokenizer.path)
    windows = plan_windows(passages.files("passages.parquet"), _TEXT_BYTES, _window_bytes(config))

    def build(window: Window, directory: Path) -> Counts:
        return write_lm_shard(window, directory, model, context_length=config.context_length)

    return _with_fill_share(build_shards(windows, workspace, build), config)


@stage("shard-sft", version=2, kind="shards")
def shard_sft(
    dialogues: ArtifactRef, tokenizer: ArtifactRef, config: ShardConfig, workspace: Workspace
) -> Counts:
    """Pack every dialogue that fits, with a mask of the answers."""
    model = Tokenizer(tokenizer.path)
    windows = plan_windows(
        dialogues.files("dialogues.parquet"), _DIALOGUE_BYTES, _window_bytes(config)
    )

    def build(window: Window, directory: Path) -> Counts:
        return write_sft_shard(window, directory, model, context_length=config.context_length)

    counts = build_shards(windows, workspace, build)
    refuse_if_nothing_fits(counts, config.context_length)
    return _with_fill_share(counts, config)


@stage("shard-pairs", version=2, kind="shards")
def shard_pairs(
    pairs: ArtifactRef, tokenizer: ArtifactRef, config: ShardConfig, workspace: Workspace
) -> Counts:
    """Write every pair as a row of two padded texts."""
    model = Tokenizer(tokenizer.path)
    windows = plan_windows(pairs.files("pairs.parquet"), pl.lit(1.0), config.shard_rows)

    def build(window: Window, directory: Path) -> Counts:
        return write_pair_shard(
            window,
            directory,
            model,
            query_length=config.query_length,
            positive_length=config.positive_length,
        )

    return build_shards(windows, workspace, build)


def _window_bytes(config: ShardConfig) -> float:
    return config.shard_rows * config.context_length * BYTES_PER_TOKEN


def _with_fill_share(counts: Counts, config: ShardConfig) -> Counts:
    """Add the share of the rows that is not padding."""
    room = counts.rows_out * config.context_length
    fill = counts.metrics.get("tokens", 0) / room if room else 0.0
    return replace(counts, metrics=dict(counts.metrics) | {"fill_share": fill})
