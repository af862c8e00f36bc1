"""Pieces of tokens -> packed rows in a shard; the part that text and dialogues share.

A row holds pieces of one language only, so that an evaluation can be told by language.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from etude_model.tokenizer import Tokenizer
from storage.formats.shards import write_shard
from tasks.shard.packing import fill_gaps, pack

FILE_NAME = "tokens.parquet"


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens that belong together, and for dialogues a mask of those to be learned.

    `weights` says how much each answer counts, in the order of the mask's runs.
    """

    language: str
    tokens: np.ndarray
    mask: np.ndarray | None = None
    weights: tuple[float, ...] = ()

    def part(self, start: int, stop: int) -> Piece:
        """Return a part of a piece of text (one without a mask)."""
        return Piece(self.language, self.tokens[start:stop])


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest type of the shards that holds every id."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def write_rows(
    directory: Path, pieces: Sequence[Piece], tokenizer: Tokenizer, *, width: int, format: str
) -> tuple[int, dict[str, float]]:
    """Pack pieces and write them as a shard; return the number of rows and tokens by language."""
    rows: list[tuple[str, list[Piece]]] = []
    for language in sorted({piece.language for piece in pieces}):
        own = [piece for piece in pieces if piece.language == language]
        lengths = [len(piece.tokens) for piece in own]
        packed = pack(lengths, width)
        if format == "lm":
            cut = fill_gaps(lengths, packed, width)
            rows += [(language, [own[n].part(a, b) for n, a, b in slices]) for slices in cut]
        else:
            rows += [(language, [own[number] for number in numbers]) for numbers in packed]
    tokens = np.full((len(rows), width), tokenizer.pad_id, dtype=token_dtype(tokenizer.vocab_size))
    mask = np.zeros((len(rows), width), dtype=np.uint8)
    metrics: dict[str, float] = {"tokens": 0, "targets": 0}
    for number, (language, row) in enumerate(rows):
        used = sum(len(piece.tokens) for piece in row)
        tokens[number, :used] = np.concatenate([piece.tokens for piece in row])
        if format == "sft":
            mask[number, :used] = np.concatenate([piece.mask for piece in row])
        metrics["tokens"] += used
        metrics[f"tokens/{language}"] = metrics.get(f"tokens/{language}", 0) + used
        metrics["targets"] += mask[number].sum() if format == "sft" else used - len(row)
    extra = pa.table(
        {
            "language": pa.array([language for language, _ in rows], pa.string()),
            "segments": pa.array(
                [[len(piece.tokens) for piece in row] for _, row in rows], pa.list_(pa.int32())
            ),
        }
    )
    if any(weight != 1 for piece in pieces for weight in piece.weights):
        weights = [[weight for piece in row for weight in piece.weights] for _, row in rows]
        extra = extra.append_column("weights", pa.array(weights, pa.list_(pa.float32())))
    columns = {"tokens": tokens, "mask": mask} if format == "sft" else {"tokens": tokens}
    metadata = shard_metadata(tokenizer, format) | {"context_length": width}
    write_shard(directory / FILE_NAME, columns, extra, metadata)
    return len(rows), {name: int(value) for name, value in metrics.items()}


def shard_metadata(tokenizer: Tokenizer, format: str) -> dict[str, str | int]:
    """Return what a shard says of itself: training refuses it with another tokenizer."""
    return {
        "format": format,
        "tokenizer": tokenizer.digest,
        "vocab_size": tokenizer.vocab_size,
        "pad_id": tokenizer.pad_id,
    }
