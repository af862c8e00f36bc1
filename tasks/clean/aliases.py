"""Redirects of a whole dump -> the aliases of each part's pages, without holding them in memory.

    redirects.parquet of all parts      title, target: 11 million in the English Wikipedia
    aliases-00.parquet … -63.parquet    the same rows, by the part of pages their target lies in

A part then reads one small file. In memory are 12 bytes a page and one buffer a file. A redirect
to a redirect is followed once, as far as readers get.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.formats.schemas import REDIRECTS
from storage.formats.table import TableWriter

MAX_BUCKETS = 64
_BATCH_ROWS = 1 << 14
_Batch = tuple[list[str], list[str], np.ndarray]


def sort_aliases(parts: Sequence[Path], folder: Path, *, is_first_upper: bool = True) -> list[Path]:
    """Write each redirect of all parts into the file of its target's part; return the part's file.

    `is_first_upper` is the wiki's rule that `[[berlin]]` means `Berlin`.
    """
    number = min(MAX_BUCKETS, len(parts))
    bucket_of = [index * number // len(parts) for index in range(len(parts))]
    files = [folder / f"aliases-{bucket:02d}.parquet" for bucket in range(number)]
    hashes, buckets = _index(parts, bucket_of)
    with ExitStack() as stack:
        writers = [stack.enter_context(TableWriter(file, REDIRECTS)) for file in files]

        def write(titles: Iterable[str], targets: list[str], wanted: np.ndarray) -> np.ndarray:
            """Write the rows whose target is a page; return which are left."""
            places = np.minimum(np.searchsorted(hashes, wanted), max(len(hashes) - 1, 0))
            is_found = hashes[places] == wanted if len(hashes) else np.zeros(len(wanted), bool)
            rows = zip(titles, targets, places, is_found, strict=True)
            for title, target, place, found in rows:
                if found:
                    writers[buckets[place]].add({"title": title, "target": target})
            return np.flatnonzero(~is_found)

        lost = [np.zeros(0, np.int64)]
        for titles, targets, wanted in _redirects(parts, is_first_upper):
            lost.append(wanted[write(titles, targets, wanted)])
        between = _targets_of(np.unique(np.concatenate(lost)), parts, is_first_upper)
        for titles, targets, _ in _redirects(parts, is_first_upper) if between else ():
            pairs = [
                (title, between[target])
                for title, target in zip(titles, targets, strict=True)
                if target in between
            ]
            ends = [end for _, end in pairs]
            write((title for title, _ in pairs), ends, _hashes(ends))
    return [files[bucket] for bucket in bucket_of]


def read_aliases(file: Path, titles: pa.Array | pa.ChunkedArray) -> dict[str, list[str]]:
    """Return the redirects to each of the titles, sorted."""
    table = pq.read_table(file, filters=pc.field("target").isin(pc.unique(titles)))
    aliases: dict[str, set[str]] = {}
    for title, target in zip(*(column.to_pylist() for column in table.columns), strict=True):
        aliases.setdefault(target, set()).add(title)
    return {target: sorted(names - {target}) for target, names in aliases.items()}


def _index(parts: Sequence[Path], bucket_of: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted hashes of all titles and the bucket each lies in."""
    hashes, buckets = [np.zeros(0, np.int64)], [np.zeros(0, np.uint8)]
    for part, bucket in zip(parts, bucket_of, strict=True):
        for batch in pq.ParquetFile(part / "pages.parquet").iter_batches(
            _BATCH_ROWS, columns=["title"]
        ):
            hashes.append(_hashes(batch.column(0).to_pylist()))
            buckets.append(np.full(batch.num_rows, bucket, np.uint8))
    joined = np.concatenate(hashes)
    order = np.argsort(joined, kind="stable")
    return joined[order], np.concatenate(buckets)[order]


def _hashes(titles: list[str]) -> np.ndarray:
    """Return Python's own hashes: they hold within this process, which is all that is needed."""
    return np.fromiter(map(hash, titles), np.int64, len(titles))


def _redirects(parts: Sequence[Path], is_first_upper: bool) -> Iterator[_Batch]:
    """Yield batches of (title, normal target, hash of the target)."""
    for part in parts:
        path = part / "redirects.parquet"
        for batch in pq.ParquetFile(path).iter_batches(_BATCH_ROWS, columns=REDIRECTS.names):
            titles, raw = (column.to_pylist() for column in batch.columns)
            targets = [_normal(target or "", is_first_upper) for target in raw]
            yield titles, targets, _hashes(targets)


def _normal(target: str, is_first_upper: bool) -> str:
    """Return a redirect's target as the title of a page: no fragment, single spaces."""
    title = " ".join(target.partition("#")[0].replace("_", " ").split())
    return title[:1].upper() + title[1:] if is_first_upper else title


def _targets_of(wanted: np.ndarray, parts: Sequence[Path], is_first_upper: bool) -> dict[str, str]:
    """Return where the redirects lead whose titles have these hashes."""
    found: dict[str, str] = {}
    for titles, targets, _ in _redirects(parts, is_first_upper) if len(wanted) else ():
        for row in np.flatnonzero(np.isin(_hashes(titles), wanted)):
            found[titles[row]] = targets[row]
    return found
