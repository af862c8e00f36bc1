"""corpus -> passages: nothing lost, nothing torn, cut where a reader would pause."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.artifact import ArtifactRef
from storage.formats.table import read_rows
from storage.workspace import Workspace
from tasks.cut.config import CutConfig
from tasks.cut.passages import cut_page, is_grapheme_border
from tasks.cut.sentences import first_sentences, sentences
from tasks.cut.task import cut

MakeRef = Callable[..., ArtifactRef]
MakeRow = Callable[..., dict[str, Any]]

BITS = ["a", "Word ", "等", "。", "！”", ". ", ", ", "\n\n", "\n", " ", "$x + 1$", "```\ncode\n```"]
BITS += ["👩\u200d👩\u200d👧", "e\u0301", "🇩🇪", "👍🏽", "## H\n\n", "Dr. Who", "\t", "$"]
TEXTS = st.lists(st.sampled_from(BITS), max_size=120).map("".join)


def squeeze(text: str) -> str:
    """Return a text without any white space."""
    return "".join(text.split())


@settings(max_examples=400, deadline=None)
@given(text=TEXTS, max_chars=st.integers(30, 200), min_chars=st.integers(1, 15))
def test_passages_are_the_text(text: str, max_chars: int, min_chars: int) -> None:
    """Would catch text lost, doubled or reordered at a cut, and passages that are too long."""
    passages = [
        piece.text for piece in cut_page(text, [], max_chars=max_chars, min_chars=min_chars)
    ]
    position = 0
    for passage in passages:
        start = text.index(passage[0], position)
        assert not text[position:start].strip(), "only white space may be missing"
        assert text.startswith(passage, start)
        assert passage == passage.strip() and 0 < len(passage) <= max_chars
        position = start + len(passage)
    assert not text[position:].strip()


@settings(max_examples=400, deadline=None)
@given(text=TEXTS, max_chars=st.integers(30, 200))
def test_no_cut_tears_what_belongs_together(text: str, max_chars: int) -> None:
    """Would catch half a formula, half a code block, a family of emoji without its child."""
    joined, borders = "", []
    for piece in cut_page(text, [], max_chars=max_chars, min_chars=1):
        start = text.index(piece.text, len(joined))
        joined = text[: start + len(piece.text)]
        borders += [start, len(joined)]
    whole = [
        match.span()
        for match in re.finditer(r"```.*?```|\$\$.+?\$\$|\$[^$\n]+\$", text, re.DOTALL)
        if match.end() - match.start() <= max_chars
    ]
    for border in borders:
        assert not any(start < border < stop for start, stop in whole)
        assert is_grapheme_border(text, border) or text[border - 1].isspace()


@given(st.text(max_size=300), st.integers(2, 40))
@settings(max_examples=200, deadline=None)
def test_any_text_at_all(text: str, max_chars: int) -> None:
    """Would catch an endless loop or a lost letter on text nobody thought of."""
    passages = cut_page(text, [], max_chars=max_chars, min_chars=1)
    assert squeeze("".join(piece.text for piece in passages)) == squeeze(text)


def test_the_best_border_in_reach_is_taken() -> None:
    """Would catch a wrong order of section, paragraph, sentence, clause and word."""
    section = "## A\n\n" + "x" * 30
    text = f"Lead one. Lead two, and more.\n\n{section}\n\ny y y. z z z"
    starts = [(0, ""), (text.index("## A"), "A")]
    passages = cut_page(text, starts, max_chars=60, min_chars=5)
    assert [(piece.heading, piece.text[:6]) for piece in passages] == [
        ("", "Lead o"),
        ("A", "## A\n\n"),
    ]
    for unit, rest in (
        ("p p\n\n", "q"),
        ("Pq pq. ", "Q"),
        ("p p, ", "q"),
        ("pp ", "q"),
        ("p", "q"),
    ):
        long = unit * 40 + rest
        first = cut_page(long, [], max_chars=37, min_chars=2)[0].text
        assert first == (unit * (37 // len(unit))).rstrip(), unit
    zh = "他说：“好。”然后走了。" * 10
    assert {p.text[-1] for p in cut_page(zh, [], max_chars=25, min_chars=2)} <= {"”", "。"}


def test_a_heading_stays_with_its_text() -> None:
    """Would catch a passage that ends in a bare heading line."""
    text = "x " * 60 + "\n\n## History\n\n" + "y " * 60
    passages = cut_page(text, [(0, "")], max_chars=150, min_chars=5)
    assert not any(piece.text.endswith("## History") for piece in passages)


def test_no_crumbs_are_left() -> None:
    """Would catch a last passage of three letters."""
    for length in range(100, 320):
        pieces = cut_page("word " * (length // 5), [], max_chars=100, min_chars=40)
        assert min(len(piece.text) for piece in pieces) >= 39


def test_a_long_formula_is_cut_and_a_short_one_is_not() -> None:
    """Would catch an endless search where a formula is longer than a passage."""
    assert len(cut_page("$" + "x" * 500 + "$", [], max_chars=100, min_chars=10)) == 6
    text = "w " * 20 + "$" + "a b " * 20 + "$ " + "w " * 20
    assert any(
        "$" + "a b " * 20 + "$" in p.text for p in cut_page(text, [], max_chars=90, min_chars=45)
    )
    accents = "e" + "\u0301" * 50
    assert "".join(p.text for p in cut_page(accents, [], max_chars=20, min_chars=5)) == accents


def test_cutting_is_linear() -> None:
    """Would catch a rule that looks at the whole page for every passage."""
    generator = random.Random(0)
    text = "".join(generator.choice(BITS) for _ in range(200_000))
    passages = cut_page(text, [], max_chars=500, min_chars=50)
    assert squeeze("".join(piece.text for piece in passages)) == squeeze(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith came. He left!", ["Dr. Smith came.", "He left!"]),
        ("It cost 3.5 USD, i.e. little. Ok?", ["It cost 3.5 USD, i.e. little.", "Ok?"]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ("J. R. R. Tolkien wrote. e.g. this.", ["J. R. R. Tolkien wrote. e.g. this."]),
        ("In the U.S. Army of 1920. It grew.", ["In the U.S. Army of 1920.", "It grew."]),
        (
            "他说：“好。”我走了！真的？是的……好",
            ["他说：“好。”", "我走了！", "真的？", "是的……", "好"],
        ),
        ("iPhone 4。新的 iPhone。", ["iPhone 4。", "新的 iPhone。"]),
        ("Wait... what? Yes.", ["Wait... what?", "Yes."]),
        ("First line\nsecond line", ["First line", "second line"]),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    """Would catch an abbreviation that ends a sentence, a Chinese sentence that never does."""
    assert sentences(text) == expected


def test_first_sentences() -> None:
    """Would catch an answer that stops within a sentence although a whole one fits."""
    text = "One two. Three four. Five six."
    assert first_sentences(text, 100) == text
    assert first_sentences(text, 20) == "One two. Three four."
    assert first_sentences(text, 19) == "One two."
    assert first_sentences(text, 5) == "One t"
    assert first_sentences("甲乙。丙丁。", 4) == "甲乙。"


def test_the_stage(
    tmp_path: Path,
    make_artifact: MakeRef,
    make_corpus_row: MakeRow,
) -> None:
    """Would catch lost columns, a wrong order of passages, and an uncounted empty page."""
    long = (
        "\n\n".join(f"Sentence {number}. " * 3 for number in range(20))
        + "\n\n## End\n\n"
        + "last " * 38
    )
    rows = [
        make_corpus_row(1, long),
        make_corpus_row(2, " \n "),
        make_corpus_row(3, "短文。", wiki="zhwiki"),
    ]
    corpus = make_artifact("corpus", rows[:2], rows[2:])
    workspace = Workspace.scratch(tmp_path / "w")
    config = CutConfig(max_chars=200, min_chars=20)
    counts = cut.run(corpus=corpus, config=config, workspace=workspace)
    out = list(read_rows(sorted(workspace.path.rglob("passages.parquet"))))
    assert (counts.seen, counts.kept, dict(counts.dropped), counts.rows) == (
        3,
        2,
        {"empty": 1},
        len(out),
    )
    first = [row for row in out if row["page_id"] == 1]
    assert [row["index"] for row in first] == list(range(len(first))) and len(first) > 3
    assert squeeze("".join(row["text"] for row in first)) == squeeze(long)
    assert (first[0]["heading"], first[-1]["heading"]) == ("", "End")
    assert out[-1] | {"text": "短文。", "language": "zh", "split": "train"} == out[-1]


def test_config_limits() -> None:
    """Would catch limits that no cut can obey."""
    with pytest.raises(ValueError, match="max_chars=60 is less than twice min_chars=50"):
        CutConfig(max_chars=60)
