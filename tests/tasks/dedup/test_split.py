"""The split: both sides for each language, no cluster astride."""

from __future__ import annotations

import numpy as np

from tasks.dedup.split import BUCKETS, choose_validation, split_hash


def test_a_larger_share_only_adds() -> None:
    """Would catch a split in which another share moves pages both ways."""
    hashes = np.array([split_hash(f"enwiki:{number}", "") for number in range(3000)], np.uint64)
    everything = {"en": np.arange(3000)}
    small = choose_validation(hashes, everything, 0.02)
    large = choose_validation(hashes, everything, 0.05)
    assert 30 < small.sum() < 90 and (small <= large).all()
    assert (small == (hashes % BUCKETS < 200)).all()


def test_each_language_has_both_sides() -> None:
    """Would catch a language that has nothing to evaluate on, or nothing to learn from."""
    hashes = np.array([5 + BUCKETS, 7, 9, 9000, 9001], np.uint64)
    languages = {"de": np.array([0, 1, 2]), "zh": np.array([3, 4]), "fr": np.array([3])}
    assert choose_validation(hashes, languages, 0.01).tolist() == [True, True, False, True, False]
    assert choose_validation(hashes[:0], {}, 0.5).tolist() == []
