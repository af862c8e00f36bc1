"""Passages -> LM rows: `<s>` passage `</s>`, long ones over several pieces, none dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from etude_model.tokenizer import Tokenizer
from storage.artifact import Counts
from tasks.shard.packing import split_long
from tasks.shard.rows import Piece, token_dtype, write_rows
from tasks.shard.windows import Window


def write_lm_shard(
    window: Window, directory: Path, tokenizer: Tokenizer, *, context_length: int
) -> Counts:
    """Encode a window's passages and write them as one shard."""
    dtype = token_dtype(tokenizer.vocab_size)
    pieces = []
    seen = num_bytes = 0
    for row in window.rows():
        seen += 1
        num_bytes += len(row["text"].encode())
        ids = np.array(tokenizer.encode_whole(row["text"]), dtype=dtype)
        borders = np.cumsum(split_long(len(ids), context_length))[:-1]
        pieces += [Piece(row["language"], piece) for piece in np.split(ids, borders)]
    num_rows, metrics = write_rows(directory, pieces, tokenizer, width=context_length, format="lm")
    return Counts(seen, seen, rows=num_rows, metrics=metrics | {"bytes": num_bytes})
