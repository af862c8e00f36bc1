"""corpus -> pairs: titles and headings ask, the right text answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.artifact import ArtifactRef
from storage.formats.table import read_rows
from storage.workspace import Workspace
from tasks.pair.config import PairConfig
from tasks.pair.pairs import bare_title, blank_title, lead_text, page_pairs, section_spans
from tasks.pair.task import pair

MakeRef = Callable[..., ArtifactRef]
MakeRow = Callable[..., dict[str, Any]]

TEXT = (
    "# Ada Lovelace\n\nAda Lovelace was an English mathematician and writer. So ada lovelace wrote."
    "\n\n## Childhood\n\nShe was born in London in 1815, far away from her father."
    "\n\n## C#\n\nshort"
)


def test_lead_and_sections(make_corpus_row: MakeRow) -> None:
    """Would catch heading lines in the positives and a lead that is empty or the whole page."""
    page = make_corpus_row(1, TEXT, title="Ada Lovelace")
    lead = lead_text(TEXT, page["sections"])
    assert lead == "Ada Lovelace was an English mathematician and writer. So ada lovelace wrote."
    assert [heading for heading, _, _ in section_spans(TEXT, page["sections"])] == [
        "Childhood",
        "C#",
    ]
    config = PairConfig(mask_title_share=0, max_positive_chars=60, min_positive_chars=20)
    found = {(one.query, one.positive): one.reason for one in page_pairs(page, config)}
    assert found == {
        ("Ada Lovelace", "Ada Lovelace was an English mathematician and writer."): None,
        (
            "Ada Lovelace: Childhood",
            "She was born in London in 1815, far away from her father.",
        ): None,
        ("Ada Lovelace: C#", "short"): "positive_too_short",
    }


def test_an_outer_section_does_not_repeat_its_inner_ones() -> None:
    """Would catch positives that hold each other: negatives in the batch would be positives."""
    text = "lead\n\n## A\n\nown\n\n### B\n\ninner"
    outer = {"level": 2, "title": "A", "start": text.index("## A"), "end": len(text)}
    inner = {"level": 3, "title": "B", "start": text.index("### B"), "end": len(text)}
    spans = section_spans(text, [outer, inner])
    assert [text[start:stop].strip() for _, start, stop in spans] == [
        "## A\n\nown",
        "### B\n\ninner",
    ]


def test_titles_are_blanked() -> None:
    """Would catch a title left in another case, a word torn by it, a qualifier that hides it."""
    assert bare_title("Mercury (planet)") == "Mercury"
    assert bare_title("水星（行星）") == "水星"
    assert bare_title("(I Can't Get No)") == "(I Can't Get No)"
    assert blank_title("MERCURY is near. Mercury's", "Mercury (planet)") == "___ is near. ___'s"
    assert blank_title("Arthur likes art.", "Art") == "Arthur likes ___."
    assert blank_title("水星是行星", "水星") == "___是行星"
    assert blank_title("A+ is good", "A+") == "___ is good"


def test_half_of_the_leads_are_blanked_and_always_the_same(
    make_corpus_row: MakeRow,
) -> None:
    """Would catch a coin thrown anew on every run, or one that shows only one side."""
    pages = [make_corpus_row(number, TEXT, title="Ada Lovelace") for number in range(400)]
    config = PairConfig(sources=("title-lead",))
    leads = [next(page_pairs(page, config)).positive for page in pages]
    assert leads == [next(page_pairs(page, config)).positive for page in pages]
    blanked = sum(lead.startswith("___ was") for lead in leads)
    assert 150 < blanked < 250
    assert all("ovelace" not in lead for lead in leads if "___" in lead)


def test_the_stage(
    tmp_path: Path,
    make_artifact: MakeRef,
    make_corpus_row: MakeRow,
) -> None:
    """Would catch pairs that change sides, pages that vanish uncounted, wrong sources."""
    rows = [
        make_corpus_row(1, TEXT, title="Ada Lovelace", split="validation"),
        make_corpus_row(2, "tiny", title="Tiny"),
        make_corpus_row(3, TEXT, title="x" * 300),
    ]
    corpus = make_artifact("corpus", rows[:1], rows[1:])
    workspace = Workspace.scratch(tmp_path / "w")
    counts = pair.run(corpus=corpus, config=PairConfig(), workspace=workspace)
    out = list(read_rows(sorted(workspace.path.rglob("pairs.parquet"))))
    assert [(row["page_id"], row["source"], row["split"]) for row in out] == [
        (1, "title-lead", "validation"),
        (1, "heading-section", "validation"),
    ]
    assert (counts.seen, counts.kept, counts.rows) == (3, 1, 2)
    assert dict(counts.dropped) == {"positive_too_short": 1, "query_too_long": 1}
    assert dict(counts.metrics) == {
        "not_taken/positive_too_short": 2,
        "not_taken/query_too_long": 3,
    }
    ledger = list(read_rows(sorted(workspace.path.rglob("ledger.parquet"))))
    assert [row["id"] for row in ledger] == ["enwiki:2", "enwiki:3"]
    only = Workspace.scratch(tmp_path / "only")
    config = PairConfig(sources=("heading-section",))
    pair.run(corpus=corpus, config=config, workspace=only)
    out = list(read_rows(sorted(only.path.rglob("pairs.parquet"))))
    assert {row["source"] for row in out} == {"heading-section"}
    ledger = list(read_rows(sorted(only.path.rglob("ledger.parquet"))))
    assert [row["reason"] for row in ledger] == ["no_section", "query_too_long"]
