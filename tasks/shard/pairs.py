"""Pairs -> pair rows: `<s>` query `</s>` and `<s>` positive `</s>`, padded, ends cut to fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from etude_model.tokenizer import Tokenizer
from storage.artifact import Counts
from storage.formats.shards import write_shard
from tasks.shard.rows import shard_metadata, token_dtype
from tasks.shard.windows import Window

FILE_NAME = "pairs.parquet"


def write_pair_shard(
    window: Window,
    directory: Path,
    tokenizer: Tokenizer,
    *,
    query_length: int,
    positive_length: int,
) -> Counts:
    """Encode a window's pairs and write them as one shard."""
    rows = list(window.rows())
    queries = [tokenizer.encode_whole(row["query"]) for row in rows]
    positives = [tokenizer.encode_whole(row["positive"]) for row in rows]
    columns = {
        "query": _padded(queries, query_length, tokenizer),
        "positive": _padded(positives, positive_length, tokenizer),
    }
    # The page whose text answers, and the one whose text asks: no fair negatives of each other.
    articles = {
        name: [f"{row['wiki']}:{row[of]}" for row in rows]
        for name, of in (("article", "page_id"), ("query_article", "query_page_id"))
    }
    extra = {name: [row[name] for row in rows] for name in ("source", "language")}
    write_shard(
        directory / FILE_NAME,
        columns,
        pa.table(articles | extra),
        shard_metadata(tokenizer, "pairs")
        | {"query_length": query_length, "positive_length": positive_length},
    )
    metrics = {
        "tokens": sum(int((column != tokenizer.pad_id).sum()) for column in columns.values()),
        "shortened_queries": sum(len(ids) > query_length for ids in queries),
        "shortened_positives": sum(len(ids) > positive_length for ids in positives),
    }
    return Counts(len(rows), len(rows), metrics=metrics)


def _padded(texts: Sequence[Sequence[int]], width: int, tokenizer: Tokenizer) -> np.ndarray:
    """Return the ids as an array [rows, width]; a text that is cut still ends in `</s>`."""
    array = np.full((len(texts), width), tokenizer.pad_id, token_dtype(tokenizer.vocab_size))
    for row, ids in enumerate(texts):
        cut = ids if len(ids) <= width else [*ids[: width - 1], tokenizer.eos_id]
        array[row, : len(cut)] = cut
    return array
