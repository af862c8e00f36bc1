"""Packing: every piece once, no row too full, few rows, always the same."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.shard.packing import fill_gaps, pack, split_long

LENGTHS = st.integers(2, 64).flatmap(
    lambda width: st.tuples(st.lists(st.integers(1, width), max_size=80), st.just(width))
)


@settings(max_examples=300, deadline=None)
@given(LENGTHS)
def test_every_piece_is_in_one_row(case: tuple[list[int], int]) -> None:
    """Would catch a piece lost or doubled, a row too full, and rows that could be one."""
    lengths, width = case
    rows = pack(lengths, width)
    assert sorted(piece for row in rows for piece in row) == list(range(len(lengths)))
    used = [sum(lengths[piece] for piece in row) for row in rows]
    assert all(0 < one <= width for one in used)
    assert len(rows) < 2 or sum(sorted(used)[:2]) > width


def slow_best_fit(lengths: list[int], width: int) -> list[list[int]]:
    """Pack the obvious way: look at every row for the tightest fit."""
    rows: list[list[int]] = []
    used: list[int] = []
    for piece in sorted(range(len(lengths)), key=lambda piece: (-lengths[piece], piece)):
        fitting = [row for row in range(len(rows)) if used[row] + lengths[piece] <= width]
        if fitting:
            best = max(fitting, key=lambda row: used[row])
        else:
            best = len(rows)
            rows.append([])
            used.append(0)
        rows[best].append(piece)
        used[best] += lengths[piece]
    return rows


@settings(max_examples=300, deadline=None)
@given(LENGTHS)
def test_it_is_best_fit(case: tuple[list[int], int]) -> None:
    """Would catch a wrong bit: any room instead of the tightest one (rows of equal fill aside)."""
    lengths, width = case
    fills = [
        sorted(sum(lengths[piece] for piece in row) for row in rows)
        for rows in (pack(lengths, width), slow_best_fit(lengths, width))
    ]
    assert fills[0] == fills[1]


@settings(max_examples=300, deadline=None)
@given(LENGTHS)
def test_filling_gaps_keeps_every_token(case: tuple[list[int], int]) -> None:
    """Would catch tokens lost or doubled by a cut, a row too full, a lone last token."""
    lengths, width = case
    rows = pack(lengths, width)
    filled = fill_gaps(lengths, rows, width)
    slices = sorted(part for row in filled for part in row)
    tokens = [(piece, token) for piece, start, stop in slices for token in range(start, stop)]
    assert tokens == [(piece, token) for piece, size in enumerate(lengths) for token in range(size)]
    assert all(0 < sum(stop - start for _, start, stop in row) <= width for row in filled)
    assert len(filled) <= len(rows)
    assert all(stop - start > 1 or lengths[piece] == 1 for piece, start, stop in slices)


def test_awkward_lengths_still_fill_the_rows() -> None:
    """Would catch padding of 30%: the cost of whole pieces two thirds of a row long."""
    generator = random.Random(0)
    lengths = [generator.randint(1300, 1500) for _ in range(500)]
    rows = pack(lengths, 2048)
    assert sum(lengths) / (len(rows) * 2048) < 0.75
    filled = fill_gaps(lengths, rows, 2048)
    assert sum(lengths) / (len(filled) * 2048) > 0.96


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, [1]), (8, [8]), (9, [7, 2]), (16, [8, 8]), (17, [8, 7, 2]), (20, [8, 8, 4])],
)
def test_long_texts_are_split(length: int, expected: list[int]) -> None:
    """Would catch tokens lost at a border, and a last piece with nothing to learn."""
    assert split_long(length, 8) == expected


def test_packing_a_million_tokens_is_quick() -> None:
    """Would catch a search through all rows for every piece (minutes instead of a second)."""
    generator = random.Random(1)
    lengths = [generator.randint(1, 512) for _ in range(60_000)]
    rows = pack(lengths, 512)
    assert sum(lengths) / (len(rows) * 512) > 0.995
