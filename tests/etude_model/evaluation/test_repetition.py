"""Repetition figures on texts that can be counted by hand, and loops against plain search."""

from __future__ import annotations

import random

import pytest

from etude_model.evaluation.repetition import (
    distinct_share,
    longest_loop,
    repeated_share,
    writing_figures,
)


def slow_longest_loop(ids: list[int]) -> int:
    """Try every block at every place and count on while it repeats."""
    best = 0
    for start in range(len(ids)):
        for period in range(1, (len(ids) - start) // 2 + 1):
            end = start + period
            while end < len(ids) and ids[end] == ids[end - period]:
                end += 1
            length = end - start - period
            best = max(best, length if length >= period else 0)
    return best


def test_shares_by_hand() -> None:
    """Catches a loop that counts as variety, or a short text that counts as a loop."""
    assert repeated_share([1, 2, 3], 4) == repeated_share([1, 2, 3, 4, 5], 4) == 0
    assert repeated_share([7] * 13, 4) == pytest.approx(0.9)
    assert distinct_share([1, 2, 1, 2, 1], 2) == pytest.approx(2 / 4)
    assert distinct_share([1], 2) == 1


@pytest.mark.parametrize(
    ("ids", "expected"),
    [([], 0), ([1], 0), ([1, 2, 3, 1, 2], 0), ([1, 2, 3, 1, 2, 3], 3), ([5, 1, 1, 1, 6], 2)],
)
def test_loops_by_hand(ids: list[int], expected: int) -> None:
    """Catches half a repetition taken for a loop, and a loop that must reach the end."""
    assert longest_loop(ids) == expected


def test_loops_equal_a_slow_search() -> None:
    """Catches a run that is cut at its neighbour, over texts of few and of many different ids."""
    draw = random.Random(0)
    for _ in range(200):
        ids = draw.choices(range(draw.choice([2, 3, 9])), k=draw.randrange(25))
        assert longest_loop(ids) == slow_longest_loop(ids), ids


def test_figures_are_means_of_what_was_written() -> None:
    """Catches an answer without a word that counts as free of repetition."""
    figures = writing_figures([[7] * 13, [1, 2, 3, 4], []], [False, True, True])
    assert figures["ended"] == pytest.approx(2 / 3)
    assert figures["repetition"] == pytest.approx(0.45)
    assert figures["longest_loop"] == 6
    assert writing_figures([], []) == {}
