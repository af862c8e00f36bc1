"""Where a dump can be cut: file -> byte ranges that different processes read.

A range of plain XML may begin anywhere, and one of multistream bz2 where a stream begins; a page
belongs to the range that its first byte is in (`xml_reader.own_pages`), so streams need not hold
whole pages (those of pbzip2 do not). Streams are found by their first ten bytes, read beside each
border only: a megabyte a range, where the index of a large wiki is 250 MB of bz2 that say the same
thing. What has no such places (gz, xz, zstd, 7z, bz2 in one stream, UTF-16) is one range if it is
small, and is unpacked to plain XML first if it is not.

The ranges depend on the file and the setting alone: not on workers, not on the machine.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from tasks.extract.dump import DumpFile, packing_of

MAX_SPLITS = 400
XML_FACTOR = 4  # bz2 makes about a quarter of it
_STREAM = re.compile(rb"BZh[1-9]1AY&SY")
_STREAM_BYTES = 10
_WINDOW = 1 << 20


def plan_splits(path: Path, split_bytes: int) -> list[tuple[int, int]] | None:
    """Return the ranges of a dump file, in order; None where it must be unpacked first."""
    kind = packing_of(path)
    size = path.stat().st_size
    limit = split_bytes * (XML_FACTOR if kind == "xml" else 1)
    number = min(-(-size // limit), MAX_SPLITS)
    if number == 1:
        return [(0, size)]
    if kind not in ("xml", "bz2") or _is_utf16(path):
        return None
    borders = [size * index // number for index in range(1, number)]
    if kind == "bz2":
        found = [next_stream(path, border, size // number) for border in borders]
        if None in found or set(found) == {size}:
            return None
        borders = [border for border in found if border is not None]
    return list(pairwise(sorted({0, size, *borders})))


def next_stream(path: Path, start: int, within: int) -> int | None:
    """Return where the first bz2 stream at or after `start` begins, or the end of the file.

    None says that none begins within so many bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        for position in range(start, min(start + max(within, _WINDOW), size), _WINDOW):
            file.seek(position)
            found = _STREAM.search(file.read(_WINDOW + _STREAM_BYTES - 1))
            if found:
                return position + found.start()
    return size if start + max(within, _WINDOW) >= size else None


def _is_utf16(path: Path) -> bool:
    with DumpFile(path) as dump:
        dump.read(1 << 12)
        return dump.is_utf16
