"""5-grams: the same pages share them whatever the case, the script or the machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dedup.ngrams import WORD, is_unspaced, jaccard, ngram_hashes


def real_ngrams(text: str, language: str) -> set[str]:
    """The plain way: sets of tuples, no hashes."""
    words = WORD.findall(text.casefold())
    units = list("".join(words)) if is_unspaced(language) else words
    return {"\0".join(units[at : at + 5]) for at in range(len(units) - 4)}


TEXTS = st.text(alphabet="ab ,.\n_1ÄßİǅÄß字文é\u0301٣𠀀\U000e0001", max_size=60)


@given(TEXTS, TEXTS, st.sampled_from(["en", "zh", "ja", "zh-yue", "de"]))
def test_the_hashes_have_the_jaccard_of_the_ngrams(first: str, second: str, language: str) -> None:
    """Would catch words run together, places forgotten in a word's hash, a window too short."""
    one, two = real_ngrams(first, language), real_ngrams(second, language)
    hashes = ngram_hashes(first, language), ngram_hashes(second, language)
    assert [len(one), len(two)] == [len(some) for some in hashes]
    assert jaccard(*hashes) == pytest.approx(len(one & two) / max(1, len(one | two)))


def test_words_are_not_their_letters() -> None:
    """Would catch a sum that forgets the order: every anagram would be a near-duplicate."""
    first, second = "on tap rats are dog", "no pat star era god"
    assert jaccard(ngram_hashes(first, "en"), ngram_hashes(second, "en")) == 0.0
    assert jaccard(ngram_hashes(first.upper(), "en"), ngram_hashes(first + "!", "en")) == 1.0


def test_unspaced_languages_are_taken_by_characters() -> None:
    """Would catch Chinese taken by words: a paragraph is one word, and nothing is alike."""
    first, second = (
        "数学是研究数量、结构以及空间等概念的学科",
        "数学是研究数量，结构以及空间等概念的学科。",
    )
    assert jaccard(ngram_hashes(first, "zh"), ngram_hashes(second, "zh")) == 1.0
    assert ngram_hashes(first, "en").size == 0


def test_the_hashes_never_change() -> None:
    """Would catch a hash that differs by process, byte order or release of a library."""
    assert ngram_hashes("one two three four five", "en").tolist() == [PINNED]
    assert ngram_hashes("", "en").dtype == np.uint64


PINNED = 14786434910598717636
