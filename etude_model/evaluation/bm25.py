"""query and positive texts -> ranks by shared words (BM25): what an embedding has to beat.

Okapi BM25 with the usual k1 = 1.2 and b = 0.75 (Robertson and Zaragoza 2009). Words are runs of
letters and digits in lower case; scripts without spaces give pairs of neighbouring characters,
the usual way to search Chinese without a dictionary.

Try: python -c "from etude_model.evaluation.bm25 import words; print(words('Old 長江大橋'))"
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

K1, B = 1.2, 0.75
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+")
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")


def words(text: str) -> list[str]:
    """Return what BM25 counts: words, and pairs of characters where words have no spaces."""
    found: list[str] = []
    for run in _WORD.findall(text.lower()):
        if len(run) > 1 and _IS_UNSPACED.match(run):
            found += [run[at : at + 2] for at in range(len(run) - 1)]
        else:
            found.append(run)
    return found


def bm25_scores(queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
    """Return the score of every document for every query, float32 [queries, documents]."""
    counts = [Counter(words(document)) for document in documents]
    lengths = np.array([sum(count.values()) for count in counts], dtype=np.float64)
    norms = K1 * (1 - B + B * lengths / max(1.0, lengths.mean()))
    postings: dict[str, tuple[list[int], list[int]]] = {}
    for number, count in enumerate(counts):
        for word, times in count.items():
            holders = postings.setdefault(word, ([], []))
            holders[0].append(number)
            holders[1].append(times)
    scores = np.zeros((len(queries), len(documents)), dtype=np.float32)
    for query, score in zip(queries, scores, strict=True):
        for word, times in Counter(words(query)).items():
            if word in postings:
                rows, frequencies = (np.array(numbers) for numbers in postings[word])
                rarity = np.log(1 + (len(documents) - len(rows) + 0.5) / (len(rows) + 0.5))
                score[rows] += times * rarity * frequencies * (K1 + 1) / (frequencies + norms[rows])
    return scores
