"""Paragraphs that stand on many pages stay on the oldest of them, and go from all others.

So what they say is not lost: on 48 pages of years of ukwiki stands who was king then. Equal means
equal after case folding and collapsing of white space. Headings, list items, tables, formulas and
code are no paragraphs here, nor are short ones, which join what is around them ("where", "and"
between formulas, "Geographic coordinates:"). A section left with nothing but its heading goes too.

Counting needs fixed memory however large the corpus: a first reading adds up hashes in a table of
16 million counters, where different paragraphs may share one; a second counts exactly those whose
counter exceeds the limit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tasks.dedup.exact import normal_hash
from tasks.dedup.ngrams import Hashes

NUM_COUNTERS = 1 << 24
MIN_BYTES = 40
_NO_PARAGRAPH = re.compile(r"#{1,6} |[ ]*(?:- |\d+\. )|\||\$\$|```")


def paragraph_hashes(text: str) -> dict[int, int]:
    """Return the hashes of a page's paragraphs, each with the characters it has on the page."""
    hashes: Counter[int] = Counter()
    for block in blocks(text):
        if _is_paragraph(block):
            hashes[_hash(block)] += len(block)
    return hashes


def body_chars(text: str) -> int:
    """Return the number of characters of a page's blocks, headings aside."""
    return sum(len(block) for block in blocks(text) if not _is_heading(block))


def frequent(batches: Callable[[], Iterable[Hashes]], limit: int) -> Hashes:
    """Return, sorted, the hashes that come more than `limit` times; `batches` is read twice."""
    counters = np.zeros(NUM_COUNTERS, np.uint32)
    for hashes in batches():
        np.add.at(counters, hashes % NUM_COUNTERS, 1)
    exact: Counter[int] = Counter()
    for hashes in batches():
        exact.update(hashes[counters[hashes % NUM_COUNTERS] > limit].tolist())
    return np.array(sorted(one for one, number in exact.items() if number > limit), np.uint64)


def remove_paragraphs(
    text: str, sections: Sequence[Mapping[str, Any]], hashes: Container[int]
) -> tuple[str, list[dict[str, Any]]]:
    """Return the text without the paragraphs of these hashes, and its sections' new places."""
    sections = sections or [{"level": 1, "title": "", "start": 0, "end": len(text)}]
    kept: list[tuple[Mapping[str, Any], list[str]]] = []
    for section in reversed(sections):
        old = blocks(text[section["start"] : section["end"]])
        new = [one for one in old if not (_is_paragraph(one) and _hash(one) in hashes)]
        has_child = bool(kept) and kept[-1][0]["level"] > section["level"]
        is_emptied = len(new) < len(old) and all(map(_is_heading, new))
        if not is_emptied or has_child or section["level"] == 1:
            kept.append((section, new))
    places: list[dict[str, Any]] = []
    pieces: list[str] = []
    start = 0
    for section, new in reversed(kept):
        pieces.append("\n\n".join(new))
        end = start + len(pieces[-1]) + 2
        places.append(dict(section) | {"start": start, "end": end})
        start = end
    places[-1]["end"] -= 2
    return "\n\n".join(pieces), places


def blocks(text: str) -> list[str]:
    """Return what stands between empty lines; a code fence with empty lines is one block."""
    return list(_joined_fences(text.strip("\n").split("\n\n")))


def _joined_fences(parts: Iterable[str]) -> Iterator[str]:
    fence: list[str] = []
    for part in parts:
        is_fence = (part.startswith("```") + part.count("\n```")) % 2 == 1
        if fence:
            fence.append(part)
            if is_fence:
                yield "\n\n".join(fence)
                fence = []
        elif is_fence:
            fence = [part]
        elif part:
            yield part
    yield from fence  # one that is never closed hides nothing


def _is_heading(block: str) -> bool:
    return "\n" not in block and bool(re.match("#{1,6} ", block))


def _is_paragraph(block: str) -> bool:
    return len(block.encode()) >= MIN_BYTES and not _NO_PARAGRAPH.match(block)


def _hash(block: str) -> int:
    return int.from_bytes(normal_hash(block, 8), "big")
