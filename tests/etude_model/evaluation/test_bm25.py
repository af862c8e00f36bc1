"""BM25 against the formula written out, and the words that it counts."""

import math
from collections import Counter

import pytest

from etude_model.evaluation.bm25 import bm25_scores, words

DOCUMENTS = ["the old bridge", "the new bridge is old and old", "长江大桥", ""]


def test_words_of_both_scripts():
    """Catches Chinese taken for one long word, and case that keeps words apart."""
    assert words("The OLD-bridge, 1815") == ["the", "old", "bridge", "1815"]
    assert words("长江大桥 in 中") == ["长江", "江大", "大桥", "in", "中"]
    assert words("Straße_北京") == ["straße", "北京"]
    assert words("…") == []


def test_equals_the_formula():
    """Catches a saturation or a length norm in the wrong place."""
    queries = ["old bridge", "old old", "大桥", "nothing"]
    counts = [Counter(words(document)) for document in DOCUMENTS]
    mean = sum(sum(count.values()) for count in counts) / 4
    for query, scores in zip(queries, bm25_scores(queries, DOCUMENTS), strict=True):
        for count, score in zip(counts, scores, strict=True):
            expected = 0.0
            for word in words(query):
                holders = sum(word in other for other in counts)
                rarity = math.log(1 + (4 - holders + 0.5) / (holders + 0.5))
                norm = 1.2 * (0.25 + 0.75 * sum(count.values()) / mean)
                expected += rarity * count[word] * 2.2 / (count[word] + norm)
            assert score == pytest.approx(expected, rel=1e-5)


def test_no_words_at_all():
    """Catches a division by a mean length of zero."""
    assert not bm25_scores(["a", ""], ["", "."]).any()
