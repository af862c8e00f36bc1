"""Near-duplicates: what goes is like a page that stays, counted exactly."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from tasks.dedup.clusters import Clusters
from tasks.dedup.near import (
    NUM_BANDS,
    WINDOW,
    NearDuplicate,
    NgramFile,
    band_hashes,
    choose,
    propose_pairs,
)
from tasks.dedup.ngrams import Hashes, jaccard


def sets(*ranges: range) -> list[Hashes]:
    """Sets of n-grams: two ranges overlap as much as their sets do."""
    generator = np.random.default_rng(0)
    values = np.unique(generator.integers(0, 2**63, 5000, dtype=np.uint64))
    return [np.sort(values[list(one)]) for one in ranges]


def proposed(pages: list[Hashes], min_jaccard: float = 0.72) -> set[tuple[int, int]]:
    """The pairs that any band proposes."""
    bands, sizes = band_hashes(pages), np.array([len(one) for one in pages])
    pairs = [propose_pairs(bands[:, band], sizes, min_jaccard) for band in range(NUM_BANDS)]
    return {(int(i), int(j)) for i, j in np.concatenate(pairs)}


def decide(
    folder: Path, pages: list[Hashes], pairs: list[tuple[int, int]], lengths: list[int]
) -> tuple[list[tuple[int, int]], list[NearDuplicate]]:
    """Choose among pages whose n-grams are given."""
    with NgramFile(folder / "ngrams.bin") as ngrams:
        for row, one in enumerate(pages):
            ngrams.write(row, one)
        return choose(pairs, lengths, ngrams, 0.72)


def test_bands_find_what_is_alike() -> None:
    """Would catch bands of the wrong shape or hashes that ignore a part of the sketch.

    A pair is met with 1 - (1 - j^8)^14: 65 of 100 at 0.72, all at 0.9, 2 at 0.45.
    """
    random_state = random.Random(1)
    for similarity, least, most in ((0.9, 97, 100), (0.72, 48, 82), (0.45, 0, 10)):
        found = 0
        for _ in range(100):
            start = random_state.randrange(3000)
            # sets of equal size s sharing c: j = c / (2s - c)
            size, common = 400, round(2 * 400 * similarity / (1 + similarity))
            first, second = sets(
                range(start, start + size), range(start + size - common, start + 2 * size - common)
            )
            assert jaccard(first, second) == pytest.approx(similarity, abs=0.01)
            found += bool(proposed([first, second], 0.4))
        assert least <= found <= most


def test_pages_without_ngrams_are_like_nothing() -> None:
    """Would catch that all empty sketches are equal: every page of one line would be proposed."""
    assert proposed(sets(range(0), range(0), range(5), range(5))) == {(2, 3)}
    assert band_hashes([]).shape == (0, NUM_BANDS)


def test_a_family_of_any_size_is_linear() -> None:
    """Would catch all pairs of a bucket: of 20,000 equal pages that is two hundred million."""
    band, sizes = np.ones(20_000, np.uint64), np.arange(20_000) + 100_000
    pairs = propose_pairs(band, sizes, 0.72)
    assert len(pairs) == WINDOW * 20_000 - WINDOW * (WINDOW + 1) // 2
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len(propose_pairs(np.ones(2, np.uint64), np.array([71, 100]), 0.72)) == 0
    assert len(propose_pairs(np.zeros(9, np.uint64), np.full(9, 5), 0.72)) == 0


def test_candidates_are_counted_exactly(tmp_path: Path) -> None:
    """Would catch pages dropped because a sketch said so: LSH alone takes 3 in 100 at 0.45."""
    pages = sets(range(100), range(20, 120), range(5, 105))
    alike, gone = decide(tmp_path, pages, [(0, 1), (0, 2), (1, 2)], [9, 9, 8])
    assert alike == [(0, 2), (1, 2)]  # 0.90, 0.74; but 0 and 1 have 0.67
    assert gone == [NearDuplicate(2, 0, pytest.approx(95 / 105))]


def test_a_chain_does_not_eat_its_end(tmp_path: Path) -> None:
    """Would catch one page kept of a chain whose ends have nothing in common."""
    pages = sets(*(range(start, start + 100) for start in range(0, 200, 10)))
    lengths = list(range(200, 180, -1))
    pairs = [(at, at + 1) for at in range(19)]
    alike, gone = decide(tmp_path, pages, pairs, lengths)
    assert alike == pairs
    assert [one.row for one in gone] == [one for one in range(20) if one % 2]
    for one in gone:
        assert one.jaccard == jaccard(pages[one.row], pages[one.kept]) >= 0.72


def test_the_longest_stays_whatever_the_order(tmp_path: Path) -> None:
    """Would catch a choice by the order of pairs, which is that of the bands."""
    pages = sets(*(range(start, 100 + start) for start in range(8)))
    pairs = [(i, j) for i in range(8) for j in range(i + 1, 8)]
    lengths = [5, 5, 9, 5, 9, 5, 5, 5]
    for number in range(3):
        random.Random(number).shuffle(pairs)
        _, gone = decide(tmp_path, pages, pairs, lengths)
        assert {one.kept for one in gone} == {2} and len(gone) == 7


def test_a_large_family_leaves_one(tmp_path: Path) -> None:
    """Would catch a window that keeps a page per window: neighbours ask for whom they went."""
    pages = sets(*(range(number % 7, 300 + number % 7) for number in range(100)))
    lengths = list(range(100))
    pairs = sorted(proposed(pages))
    alike, gone = decide(tmp_path, pages, pairs, lengths)
    assert len(gone) == 99
    clusters = Clusters(100)
    clusters.join(alike)
    assert set(clusters.names().tolist()) == {0}


def test_clusters_are_named_by_their_smallest_row() -> None:
    """Would catch a name that depends on the order in which pairs come."""
    pairs = [(9, 8), (3, 7), (8, 7), (1, 2), (5, 5)]
    for number in range(5):
        random.Random(number).shuffle(pairs)
        clusters = Clusters(10)
        clusters.join(pairs)
        assert clusters.names().tolist() == [0, 1, 1, 3, 4, 5, 6, 3, 3, 3]
        assert clusters.find(9) == 3
