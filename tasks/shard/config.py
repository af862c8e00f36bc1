"""Knobs of the three stages passages / pairs / dialogues + tokenizer -> shards."""

from __future__ import annotations

from pydantic import Field

from storage.config import Config


class ShardConfig(Config):
    """The shape of the shards."""

    context_length: int = Field(512, ge=8)
    """Width of a row of text or dialogue, in tokens: what the model reads at once."""
    query_length: int = Field(64, ge=4)
    """Width of a query, in tokens; a longer one loses its end."""
    positive_length: int = Field(256, ge=4)
    """Width of a positive, in tokens; a longer one loses its end."""
    shard_rows: int = Field(8192, ge=1)
    """About how many rows a shard holds; a shard is what is built, checked and rebuilt at once."""
