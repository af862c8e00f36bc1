"""Paragraphs that stand everywhere go, and what is left keeps its sections."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.dedup.paragraphs import (
    blocks,
    body_chars,
    frequent,
    paragraph_hashes,
    remove_paragraphs,
)

NOTE = "The population figures on this page are those of the national institute of statistics."
OWN = "A sentence that stands on this page alone, as far as anybody knows, and is long enough."


def page(*sections: tuple[int, str, list[str]]) -> tuple[str, list[dict[str, Any]]]:
    """A document's text and sections, as cleaning makes them."""
    pieces, places, start = [], [], 0
    for level, title, body in sections:
        heading = [f"{'#' * level} {title}"] if title else []
        pieces.append("\n\n".join([*heading, *body]))
        end = start + len(pieces[-1]) + 2
        places.append({"level": level, "title": title, "start": start, "end": end})
        start = end
    places[-1]["end"] -= 2
    return "\n\n".join(pieces), places


def test_what_counts_as_a_paragraph() -> None:
    """Would catch lists, tables, code, formulas and connecting words taken for boilerplate."""
    rest = [
        "## A heading that is longer than forty characters, which some are",
        "- an item of a list that is longer than forty characters\n- and another",
        "12. an item of a numbered list, longer than forty characters",
        "| a | table | of | more | than | forty | characters | is | none |",
        "$$ a formula of its own that is longer than forty characters $$",
        "```\ncode that says the same on many a page\n\nand has empty lines\n```",
        "where",
        "Geographic coordinates:",
    ]
    text = "\n\n".join([*rest, NOTE, "人口数字来自国家统计局的年度报告，不另注明。", NOTE.upper()])
    assert sorted(paragraph_hashes(text).values()) == [22, 2 * len(NOTE)]
    assert blocks(text)[: len(rest)] == rest
    assert body_chars("# T\n\nab\n\n## U\n\n- c") == 5


def test_sections_move_with_the_text() -> None:
    """Would catch offsets into the old text, and headings left with nothing below them."""
    text, sections = page(
        (1, "Town", [NOTE, OWN]),
        (2, "Emptied", [NOTE]),
        (2, "Kept for its child", [NOTE]),
        (3, "Child", [OWN, NOTE]),
        (2, "Empty before", []),
        (2, "End", ["- item", NOTE]),
    )
    after, places = remove_paragraphs(text, sections, paragraph_hashes(NOTE))
    expected, where = page(
        (1, "Town", [OWN]),
        (2, "Kept for its child", []),
        (3, "Child", [OWN]),
        (2, "Empty before", []),
        (2, "End", ["- item"]),
    )
    assert (after, places) == (expected, where)


BODIES = st.lists(st.sampled_from([NOTE, OWN, "- item", "```\na\n\nb\n```", "short"]), max_size=4)
SECTIONS = st.lists(st.tuples(st.integers(2, 4), st.sampled_from("ABC"), BODIES), max_size=6)


@given(BODIES, SECTIONS)
def test_sections_cover_the_text(lead: list[str], others: list[tuple[int, str, list[str]]]) -> None:
    """Would catch a gap, an overlap, a lost block, a section that begins before its heading."""
    text, sections = page((1, "Title", lead), *others)
    after, places = remove_paragraphs(text, sections, paragraph_hashes(NOTE))
    assert "".join(after[one["start"] : one["end"]] for one in places) == after
    assert [place["start"] for place in places[1:]] == [place["end"] for place in places[:-1]]
    for place in places:
        heading = "#" * place["level"] + " " + place["title"]
        assert blocks(after[place["start"] : place["end"]])[0] == heading
    old = [one for one in blocks(text) if not one.startswith("#") and one != NOTE]
    assert [one for one in blocks(after) if not one.startswith("#")] == old
    untouched, same = remove_paragraphs(text, sections, ())
    assert (untouched, same) == (text, sections)


def test_a_document_without_sections() -> None:
    """Would catch a crash on rows of one's own, which may have none."""
    assert remove_paragraphs(f"{NOTE}\n\n{OWN}", [], paragraph_hashes(NOTE))[0] == OWN


@given(st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=6), st.integers(1, 5))
def test_frequent_is_a_count(batches: list[list[int]], limit: int) -> None:
    """Would catch different paragraphs counted as one where they share a counter."""
    spread = [[value % 5 + (value << 24) for value in batch] for batch in batches]  # 5 counters
    counts = Counter(value for batch in spread for value in batch)
    expected = sorted(value for value, number in counts.items() if number > limit)
    arrays = [np.array(batch, np.uint64) for batch in spread]
    assert frequent(lambda: arrays, limit).tolist() == expected
