"""All pages -> their leads, found by title: what a link points to, without holding it in memory.

The leads lie in one file that is mapped; memory holds 16 bytes per title or redirect (a hash and a
row), sorted, which is 300 MB for the whole English Wikipedia.

Two titles of one hash would be taken for each other: for 20 million of them the odds are one in
a hundred thousand.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.formats.table import read_rows
from storage.hashing import stable_hash
from tasks.cut.sentences import first_sentences
from tasks.pair.texts import lead_text

_SCHEMA = pa.schema([("page_id", pa.int64()), ("split", pa.string()), ("lead", pa.large_string())])
_COLUMNS = ("wiki", "page_id", "split", "title", "redirects", "text", "sections")
_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Lead:
    """What a link points to."""

    page_id: int
    split: str
    text: str


class Leads:
    """The leads of a corpus by wiki and title; a redirect's title finds its target's lead."""

    def __init__(self, corpus: Iterable[Path], file: Path, *, max_chars: int) -> None:
        """Read a corpus and write its leads to `file`, which the caller deletes afterwards."""
        hashes, rows = array("Q"), array("q")
        batch: list[dict[str, object]] = []
        number = 0
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            for page in read_rows(corpus, _COLUMNS):
                lead = first_sentences(lead_text(page["text"], page["sections"] or []), max_chars)
                batch.append({"page_id": page["page_id"], "split": page["split"], "lead": lead})
                for title in (page["title"], *(page["redirects"] or ())):
                    hashes.append(_hash(page["wiki"], title))
                    rows.append(number)
                number += 1
                if len(batch) == _BATCH:
                    writer.write_batch(pa.RecordBatch.from_pylist(batch, _SCHEMA))
                    batch.clear()
            writer.write_batch(pa.RecordBatch.from_pylist(batch, _SCHEMA))
        unsorted = np.frombuffer(hashes, dtype=np.uint64)
        order = np.argsort(unsorted, kind="stable")  # a page's own title comes before redirects
        self._hashes, self._rows = unsorted[order], np.frombuffer(rows, dtype=np.int64)[order]
        self._file = pa.ipc.open_file(pa.memory_map(str(file)))

    def find(self, wiki: str, title: str) -> Lead | None:
        """Return the lead of the page with that title, None where the corpus has none."""
        wanted = np.uint64(_hash(wiki, title))
        place = int(np.searchsorted(self._hashes, wanted))
        if place == len(self._hashes) or self._hashes[place] != wanted:
            return None
        batch, row = divmod(int(self._rows[place]), _BATCH)
        values = self._file.get_batch(batch).slice(row, 1).to_pylist()[0]
        return Lead(values["page_id"], values["split"], values["lead"])


def _hash(wiki: str, title: str) -> int:
    return stable_hash(f"{wiki}:{title}")
