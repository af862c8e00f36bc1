"""Knobs of the stage passages -> tokenizer."""

from __future__ import annotations

from pydantic import Field

from storage.config import Config


class TrainTokenizerConfig(Config):
    """The vocabulary and what it is learned from."""

    path: str | None = Field(None, json_schema_extra={"key": False})
    """A tokenizer.model, or the folder of a checkpoint, to take as it is instead of learning one;
    its contents enter the key."""

    vocab_size: int = Field(8192, ge=300, le=65_536)
    """Tokens: 8k suits up to 30M parameters, 16k up to 150M, 32k above; shards and models hold
    65,536 at most. How many the text can fill is known once it is read: more are refused then."""
    character_coverage: float = Field(0.9995, gt=0.9, le=1)
    """Share of all characters that get a piece of their own; the rest are spelled in bytes."""
    max_sample_bytes: int = Field(50_000_000, ge=1000)
    """Most text to learn from, in UTF-8 bytes; training takes about ten times that in memory."""
    language_alpha: float = Field(0.5, ge=0, le=1)
    """Languages share the sample by their sizes to this power: 1 as they are, 0 all alike."""
