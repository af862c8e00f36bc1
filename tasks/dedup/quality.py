"""Signals of a page's quality, in the field's terms; nearly all are columns, not filters.

The usual filters (Gopher, C4, FineWeb) are made for web pages in English: they kill Chinese, which
has no stop words of English, and pages of lists. So a training run can choose by column, and only
what hardly is text at all goes here: next to no letters, or next to nothing but links.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tasks.dedup.ngrams import LAST_CODE, WORD, code_points, is_unspaced

UNIQUE_OF_WORDS = 1_000
_LIST_LINE = re.compile(r"[ ]*(?:- |\d+\. )")
_LETTER, _DIGIT, _SPACE, _OTHER = range(4)


@dataclass(frozen=True, slots=True)
class Quality:
    """The columns that a page gets."""

    alpha_ratio: float
    """Share of letters among the characters that are not space (Gopher)."""
    digit_ratio: float
    """Share of digits among the characters that are not space."""
    link_density: float
    """Links to other pages per 1,000 characters."""
    list_line_ratio: float
    """Share of list items among the lines (RedPajama's lines that start with a bullet)."""
    mean_line_length: float
    """Characters per line."""
    unique_word_ratio: float
    """Share of different words among the first 1,000; unspaced: of pairs of characters."""
    refs_per_kb: float | None
    """References per 1,000 characters; null where the documents do not count them."""
    is_maintenance: bool
    """Editors put a maintenance template on it (unreferenced, advert, point of view)."""
    is_featured: bool
    """Editors put it among the featured or good articles."""


def measure(
    text: str,
    *,
    language: str,
    num_links: int,
    num_refs: int | None = None,
    flags: Sequence[str] = (),
) -> Quality:
    """Return the signals of a page with this text."""
    counts = np.bincount(_classes()[code_points(text).clip(max=LAST_CODE)], minlength=4)
    num_visible = max(1, len(text) - int(counts[_SPACE]))
    thousands = max(1, len(text)) / 1000
    lines = [line for line in text.split("\n") if line.strip()]
    words = _first_words(text, language)
    return Quality(
        alpha_ratio=counts[_LETTER] / num_visible,
        digit_ratio=counts[_DIGIT] / num_visible,
        link_density=num_links / thousands,
        list_line_ratio=sum(map(bool, map(_LIST_LINE.match, lines))) / max(1, len(lines)),
        mean_line_length=sum(map(len, lines)) / max(1, len(lines)),
        unique_word_ratio=len(set(words)) / max(1, len(words)),
        refs_per_kb=None if num_refs is None else num_refs / thousands,
        is_maintenance="maintenance" in flags,
        is_featured="featured" in flags,
    )


def _first_words(text: str, language: str) -> Sequence[str]:
    """Return the first words of a text, or pairs of characters where words have no spaces."""
    if not is_unspaced(language):
        return WORD.findall(text[: 20 * UNIQUE_OF_WORDS].casefold())[:UNIQUE_OF_WORDS]
    signs = "".join(WORD.findall(text[: 4 * UNIQUE_OF_WORDS]))[: UNIQUE_OF_WORDS + 1]
    return [signs[at : at + 2] for at in range(len(signs) - 1)]


@cache
def _classes() -> NDArray[np.uint8]:
    """Return the class of every character, of those past the letters one for all."""

    def one(character: str) -> int:
        if character.isalpha():
            return _LETTER
        if character.isdecimal():
            return _DIGIT
        return _SPACE if character.isspace() else _OTHER

    return np.array([one(chr(code)) for code in range(LAST_CODE + 1)], np.uint8)
