"""The index: any page in linear time, files of any number of pages."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from storage.formats.schemas import DOCUMENTS
from storage.formats.table import write_table
from tasks.dedup.index import BANDS, BATCH_ROWS, index_documents, write_ngrams
from tasks.dedup.near import NgramFile
from tasks.dedup.ngrams import ngram_hashes

MakeRow = Callable[..., dict[str, Any]]


def index(folder: Path, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Path]:
    """The index's rows, and the documents' path."""
    path = folder / "documents.parquet"
    write_table(path, rows, DOCUMENTS)
    shares: list[float] = []
    counts = index_documents(path, folder, shares.append)
    assert counts.seen == len(rows) and shares[-1:] == [1.0] * bool(rows)
    return pq.read_table(folder / "index.parquet").to_pylist(), path


@pytest.mark.parametrize(
    "piece",
    ["\n\n", "```\n\n", "## a\n\n", "- a\n", "0 ", "一", "a", "A ", "\n\n$$ ", "|", "é\u0301", " "],
)
def test_a_page_of_one_thing_is_linear(tmp_path: Path, make_document: MakeRow, piece: str) -> None:
    """Would catch a step that is quadratic in blocks, fences, words or letters."""
    text = piece * (1_000_000 // len(piece))
    links = ["a", "A b", piece, text[:4_000]] * 500
    rows = [
        make_document(1, "short"),
        make_document(2, "", wiki="zhwiki") | {"text": text},
        make_document(3, "", links=links) | {"text": text[:8_000]},
    ]
    start = time.process_time()
    index(tmp_path, rows)
    assert time.process_time() - start < 3


def test_positions_go_on_over_batches(tmp_path: Path, make_document: MakeRow) -> None:
    """Would catch positions within a batch taken for positions in the file."""
    words = [f"w{number} " for number in range(50)]
    rows = [
        make_document(number, "".join(words[number % 40 :]) + f"n{number} " * 2 + "x y z " * 9)
        for number in range(2 * BATCH_ROWS + 3)
    ]
    entries, path = index(tmp_path, rows)
    assert [entry["page_id"] for entry in entries] == list(range(len(rows)))
    positions = pq.read_table(tmp_path / "paragraphs.parquet")["position"].to_pylist()
    assert positions == list(range(len(rows)))
    assert all(len({entry[name] for entry in entries}) > 1 for name in BANDS)
    last = len(rows) - 1
    with NgramFile(tmp_path / "ngrams.bin") as ngrams:
        write_ngrams(path, {0: 7, last: 9}, ngrams)
        assert ngrams.read(9).tolist() == ngram_hashes(rows[last]["text"], "en").tolist()
        assert entries[last]["num_ngrams"] == len(ngrams.read(9))
        assert ngrams.jaccard(7, 7) == 1.0


def test_no_documents(tmp_path: Path) -> None:
    """Would catch a file without rows that has no index."""
    assert index(tmp_path, [])[0] == []
