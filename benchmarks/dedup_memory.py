"""CPU time and peak memory of documents -> corpus, for n and for 4n documents.

    python -m benchmarks.dedup_memory [NUM_DOCUMENTS]

The documents are made up: 3 kB of paragraphs each, one of ten a near-copy of the one before, one of
ten a bot stub. Each size runs in a process of its own, with one worker. What grows with n is the
plan, a few hundred bytes a document; texts, sketches, n-grams and paragraphs lie on disk. The last
line is JSON.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from storage.formats.schemas import DOCUMENTS
from storage.formats.table import write_table
from storage.workspace import Workspace
from tasks.dedup.config import DedupConfig
from tasks.dedup.pipeline import build_corpus

DOCUMENTS_PER_FILE = 20_000
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def documents(num_documents: int) -> Iterator[dict[str, Any]]:
    """Yield that many rows of documents."""
    generator = random.Random(0)
    words = ["".join(generator.choices(LETTERS, k=generator.randint(2, 9))) for _ in range(20_000)]
    text = ""
    for number in range(num_documents):
        if number % 10 == 0:
            text = (
                f"Place{number} is a village in Land{number % 9}. It had {number} people in 1999 "
            )
            text += (
                f"and lies {number % 97} km from the town of Town{number % 31}, which is larger."
            )
        elif number % 10 == 2:
            text += " and a few words more"
        else:
            text = "\n\n".join(" ".join(generator.choices(words, k=80)) for _ in range(6))
        ids = {"wiki": "enwiki", "language": "en", "page_id": number, "rev_id": number}
        yield ids | {"title": f"Page {number}", "text": text, "links": [], "flags": []}


def measure(num_documents: int) -> dict[str, float]:
    """Run the stage's core once; return CPU seconds, peak memory and what stayed."""
    with tempfile.TemporaryDirectory() as name:
        folder, rows, paths = Path(name), documents(num_documents), []
        while len(paths) * DOCUMENTS_PER_FILE < num_documents:
            paths.append(folder / f"documents-{len(paths)}.parquet")
            write_table(paths[-1], islice(rows, DOCUMENTS_PER_FILE), DOCUMENTS, 1_000)
        before = _peak_bytes()
        start = time.process_time()
        config = DedupConfig(workers=1)
        counts = build_corpus(paths, config, Workspace.scratch(folder / "corpus"))
        seconds = time.process_time() - start
    return {
        "documents": num_documents,
        "kept": counts.kept,
        "cpu_seconds": round(seconds, 1),
        "megabytes_before": round(before / 1e6),
        "megabytes_peak": round(_peak_bytes() / 1e6),
    }


def main() -> None:
    """Measure both sizes and print what a document costs."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2]))))
        return
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    runs = []
    for num_documents in (size, 4 * size):
        command = [sys.executable, "-m", "benchmarks.dedup_memory", "--one", str(num_documents)]
        runs.append(json.loads(subprocess.check_output(command).splitlines()[-1]))
        print(" · ".join(f"{name} {value:,}" for name, value in runs[-1].items()), flush=True)
    grown = (runs[1]["megabytes_peak"] - runs[0]["megabytes_peak"]) * 1e6 / (3 * size)
    print(f"{grown:.0f} bytes of memory for each further document")
    print(json.dumps({"runs": runs, "bytes_per_document": round(grown)}))


def _peak_bytes() -> int:
    """Return the peak resident memory so far (Linux counts it in kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
