"""A text -> the hashes of its 5-grams: of words, or of characters where words have no spaces.

What near-duplicates are measured in. Case, punctuation and white space do not count. All steps
are array operations: a million characters take about 30 ms.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
NGRAM = 5
UNSPACED = frozenset(
    ("bo", "cdo", "dz", "gan", "ja", "km", "lo", "lzh", "my", "shn", "th", "wuu", "yue", "zh")
)
WORD = re.compile(r"\w+")
LAST_CODE = 0x3FFFF  # letters end with the third plane of ideographs


def is_unspaced(language: str) -> bool:
    """Tell whether a language is written without spaces between words."""
    return language.lower().split("-")[0] in UNSPACED


def ngram_hashes(text: str, language: str, n: int = NGRAM) -> Hashes:
    """Return the distinct n-grams of a text as sorted 64-bit hashes, the same on every machine."""
    units = _letters(text) if is_unspaced(language) else _word_hashes(text)
    if len(units) < n:
        return np.empty(0, np.uint64)
    hashes = np.zeros(len(units) - n + 1, np.uint64)
    for offset in range(n):
        hashes = mix(hashes ^ units[offset : offset + len(hashes)])
    return np.unique(hashes)


def jaccard(first: Hashes, second: Hashes) -> float:
    """Return the share of the two sets' n-grams that both have."""
    common = np.intersect1d(first, second, assume_unique=True).size
    return common / max(1, first.size + second.size - common)


def mix(values: Hashes) -> Hashes:
    """Scramble 64-bit numbers so that every bit depends on every other (the end of splitmix64)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the code points of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _letters(text: str) -> Hashes:
    """Return the code points of a text's letters and digits, whatever their case."""
    codes = code_points(text.casefold())
    return codes[_is_word()[codes.clip(max=LAST_CODE)]].astype(np.uint64)


def _word_hashes(text: str) -> Hashes:
    """Return a hash per word: the sum over its characters, each mixed with its place in it."""
    codes = code_points(text.casefold())
    is_word = _is_word()[codes.clip(max=LAST_CODE)]
    places = np.flatnonzero(is_word)
    starts = np.flatnonzero(np.diff(places, prepend=-2) > 1)  # a word begins after a gap
    lengths = np.diff(starts, append=len(places))
    within = np.arange(len(places)) - np.repeat(starts, lengths)
    letters = mix(codes[places] | (within.astype(np.uint64) << np.uint64(32)))
    return np.add.reduceat(letters, starts) if len(starts) else letters


@cache
def _is_word() -> NDArray[np.bool_]:
    """Tell of every character whether it belongs to a word, as `\\w` does."""
    return np.array([bool(WORD.match(chr(code))) for code in range(LAST_CODE + 1)])
