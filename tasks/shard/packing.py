"""Pieces of tokens -> rows of one width: best fit, longest piece first, nothing dropped.

Each piece goes into the fullest row that still has room for it. The rows are found by their room
left: `rows_with[room]` lists them, and bit `room` of an integer says whether there is one, so that
the best fit is the lowest set bit at or above the piece's length.

Best-fit packing keeps texts whole where cutting a stream into blocks tears them apart: Ding et
al., "Fewer Truncations Improve Language Modeling", arXiv 2404.10830. Where pieces are about as
long as rows, though, whole pieces leave up to half of each row empty; `fill_gaps` then cuts the
pieces of the emptiest rows into the gaps of the others. Chinese passages of 1,400 tokens in rows
of 2,048: 70% full before, 97% after.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Slice = tuple[int, int, int]
"""A part of a piece: its number, and where the part starts and stops, in tokens."""


def pack(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Return rows as lists of piece numbers; the lengths of a row's pieces sum to at most `width`.

    The same lengths give the same rows. Every piece is in exactly one row.
    """
    assert all(0 < length <= width for length in lengths), "a piece must fit into a row"
    rows: list[list[int]] = []
    rows_with: list[list[int]] = [[] for _ in range(width + 1)]
    rooms = 0
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    for piece in order.tolist():
        length = lengths[piece]
        above = rooms >> length
        if above:
            room = length + (above & -above).bit_length() - 1
            row = rows_with[room].pop()
            if not rows_with[room]:
                rooms &= ~(1 << room)
        else:
            room, row = width, len(rows)
            rows.append([])
        rows[row].append(piece)
        left = room - length
        if left:
            rows_with[left].append(row)
            rooms |= 1 << left
    return rows


def split_long(length: int, width: int) -> list[int]:
    """Return the lengths of the pieces a text of `length` tokens is cut into, each <= width.

    A last piece of one token would have nothing to predict it from, so it takes one from its
    neighbour.
    """
    pieces = [width] * (length // width)
    if rest := length % width:
        pieces.append(rest)
    if len(pieces) > 1 and pieces[-1] == 1:
        pieces[-2:] = [width - 1, 2]
    return pieces


def fill_gaps(
    lengths: Sequence[int], rows: Sequence[Sequence[int]], width: int
) -> list[list[Slice]]:
    """Return fewer rows of slices: the emptiest rows are given up, their pieces fill gaps.

    Gaps under a thirty-second of a row are left: a cut costs its context, padding only its place.
    """
    least = max(2, width // 32)
    filled = [[(piece, 0, lengths[piece]) for piece in row] for row in rows]
    gaps = [width - sum(lengths[piece] for piece in row) for row in rows]
    order = sorted(range(len(rows)), key=lambda row: (-gaps[row], row))
    room = sum(max(0, gap - least) for gap in gaps)  # a filled gap may be left with `least - 1`
    tokens = num_given_up = 0
    for row in order:
        room -= max(0, gaps[row] - least)
        tokens += width - gaps[row]
        if tokens > room:
            break
        num_given_up += 1
    takers = iter(order[num_given_up:])
    taker = next(takers, 0)
    for piece, start, stop in (part for row in order[:num_given_up] for part in filled[row]):
        while start < stop:
            while gaps[taker] < least:
                taker = next(takers)
            end = min(stop, start + gaps[taker])
            if stop - end == 1:  # a last token alone would have nothing to predict it from
                end -= 1
            filled[taker].append((piece, start, end))
            gaps[taker] -= end - start
            start = end
    return [filled[row] for row in sorted(order[num_given_up:])]
