"""what a model wrote -> how much it says again.

Small models go round in circles: the same phrase, the same sentence, one word to the end. Three
figures tell it, all of token ids, so models with one tokenizer compare:

    distinct_share    different n-grams among all (distinct-n, Li et al. 2016, arXiv 1510.03055)
    repeated_share    n-grams that stood before (seq-rep-n, Welleck et al. 2020, arXiv 1908.04319)
    longest_loop      tokens in one stretch that only repeat the block right before them

    a b c a b c a b   longest_loop 5: after the first "a b c" nothing is new

Try: python -c "from etude_model.evaluation.repetition import *; print(longest_loop([7, 8, 7, 8]))"
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

NGRAM = 4


def writing_figures(texts: Sequence[Sequence[int]], ended: Sequence[bool]) -> dict[str, float]:
    """Return means over written texts: repetition, distinct_2, longest_loop, ended.

    Empty texts repeat nothing and are no variety either: they count for `ended` only.
    """
    figures = {"ended": fmean(ended)} if ended else {}
    texts = [text for text in texts if len(text)]
    if texts:
        figures["repetition"] = fmean(repeated_share(text, NGRAM) for text in texts)
        figures["distinct_2"] = fmean(distinct_share(text, 2) for text in texts)
        figures["longest_loop"] = fmean(longest_loop(text) for text in texts)
    return figures


def repeated_share(ids: Sequence[int], n: int) -> float:
    """Return the share of n-grams that stood before; 0 for a text of fewer than n tokens."""
    return 1 - distinct_share(ids, n)


def distinct_share(ids: Sequence[int], n: int) -> float:
    """Return how many of the n-grams are different ones; 1 for a text of fewer than n tokens."""
    grams = [tuple(ids[at : at + n]) for at in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def longest_loop(ids: Sequence[int]) -> int:
    """Return the length of the longest stretch that repeats the block before it, once or oftener.

    Half a repetition is none: "a b c a b" has no loop, "a b c a b c" one of 3.
    """
    array, longest = np.asarray(ids), 0
    for period in range(1, len(array) // 2 + 1):
        is_same = array[period:] == array[:-period]
        ends = np.flatnonzero(np.diff(np.concatenate([[0], is_same.astype(np.int8), [0]])))
        runs = ends[1::2] - ends[::2]
        whole = runs[runs >= period]
        longest = max(longest, int(whole.max(initial=0)))
    return longest
