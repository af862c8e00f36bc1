"""corpus -> pairs: titles and headings ask, the right text answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.artifact import ArtifactRef
from storage.formats.table import read_rows
from storage.workspace import Workspace
from tasks.pair.config import SOURCES, PairConfig, SourceConfig
from tasks.pair.leads import Leads
from tasks.pair.pairs import Candidate, page_pairs, sentence_with
from tasks.pair.task import LEADS, pair
from tasks.pair.texts import bare_title, blank_title, heading_paths, lead_text, section_spans

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
    sources = ("title-lead", "heading-section")
    config = PairConfig(
        sources=sources, mask_title_share=0, max_positive_chars=60, min_positive_chars=20
    )
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
    config = PairConfig(sources=("title-lead", "heading-section"))
    counts = pair.run(corpus=corpus, config=config, workspace=workspace)
    out = list(read_rows(sorted(workspace.path.rglob("pairs.parquet"))))
    assert [(row["page_id"], row["source"], row["split"]) for row in out] == [
        (1, "title-lead", "validation"),
        (1, "heading-section", "validation"),
    ]
    assert (counts.seen, counts.kept, counts.rows) == (3, 1, 2)
    assert dict(counts.dropped) == {"positive_too_short": 1, "query_too_long": 1}
    assert dict(counts.metrics) == {
        "pairs/title-lead": 1,
        "pairs/heading-section": 1,
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


BABBAGE = (
    "# Charles Babbage\n\nCharles Babbage built engines. He met ada lovelace at a party in 1833."
    "\n\n"
    "He died in London, and his brain is on display there to this day.\n\n"
    "## Work\n\nThe engine was never finished. It had many wheels. They were made of brass. "
    "Money ran out soon. The state paid no more. A son built a part of it much later."
)
ADA = {"title": "Ada Lovelace", "redirects": ["Countess of Lovelace", "ada-lovelace"]}
CHARLES = {
    "title": "Charles Babbage",
    "links": ["Countess of Lovelace", "Nobody", "Charles Babbage"],
    "facts": [("name", "Charles Babbage"), ("field", "mathematics"), ("born", "1791")],
}


def offered(page: dict[str, Any], source: str, **knobs: Any) -> list[Candidate]:
    """Return what a page offers of one source."""
    return list(page_pairs(page, PairConfig(sources=(source,), **knobs)))


def test_aliases_ask_for_the_lead(make_corpus_row: MakeRow) -> None:
    """Would catch a redirect that only differs by a hyphen, and an alias left in a blanked lead."""
    text = TEXT.replace("and writer", "and writer, the Countess of Lovelace")
    page = make_corpus_row(1, text, **ADA)
    (one,) = offered(page, "alias-lead", mask_title_share=1)
    assert one.query == "Countess of Lovelace"
    assert one.positive.startswith("___ was an English mathematician and writer, the ___.")
    (plain,) = offered(page, "alias-lead", mask_title_share=0)
    assert plain.positive == lead_text(text, page["sections"])


def test_headings_are_named_with_those_around_them() -> None:
    """Would catch "History" asked without whose, and a path that climbs out of its section."""
    levels = [(1, "T"), (2, "A"), (3, "B"), (4, "C"), (3, "D"), (2, "E")]
    sections = [
        {"level": level, "title": title, "start": place, "end": 9}
        for place, (level, title) in enumerate(levels)
    ]
    paths = {start: "/".join(path) for start, path in heading_paths(sections).items()}
    assert paths == {1: "A", 2: "A/B", 3: "A/B/C", 4: "A/D", 5: "E"}


def test_links_ask_for_the_page_they_name(
    tmp_path: Path, make_artifact: MakeRef, make_corpus_row: MakeRow
) -> None:
    """Would catch a redirect not followed, a name not blanked, a lead of the other side shown."""
    pages = [
        make_corpus_row(1, TEXT, **ADA),
        make_corpus_row(2, BABBAGE, **CHARLES | {"links": ["Ada Lovelace", "Charles Babbage"]}),
        make_corpus_row(3, BABBAGE, title="Other", links=["Ada Lovelace"], split="validation"),
    ]
    corpus = make_artifact("corpus", pages[:2], pages[2:])
    leads = Leads(corpus.files("corpus.parquet"), tmp_path / "leads", max_chars=60)
    found = leads.find("enwiki", "Countess of Lovelace")
    assert found is not None and (found.page_id, found.split) == (1, "train")
    assert found.text == "Ada Lovelace was an English mathematician and writer."
    assert leads.find("enwiki", "Nobody") is None and leads.find("zhwiki", "Ada Lovelace") is None

    config = PairConfig(sources=("link-lead",), mask_title_share=1)
    (one,) = page_pairs(pages[1], config, leads)
    assert (one.query, one.page_id) == ("He met ___ at a party in 1833.", 1)
    assert one.positive == found.text
    (other,) = page_pairs(pages[2], config, leads)
    assert other.reason == "sides_differ"
    sentence = sentence_with(BABBAGE, "Ada Lovelace", 200)
    assert sentence == "He met ada lovelace at a party in 1833."
    assert sentence_with("竹很高。竹是大熊猫的食物。它吃。", "大熊猫", 99) == "竹是大熊猫的食物。"
    assert sentence_with("## Ada Lovelace\n\n- Ada Lovelace", "Ada Lovelace", 200) is None


def test_crops_are_two_texts_of_one_section(make_corpus_row: MakeRow) -> None:
    """Would catch crops across a heading, torn sentences, one crop inside the other."""
    page = make_corpus_row(2, BABBAGE, **CHARLES)
    body = BABBAGE.split("## Work\n\n")[1]
    seen = set()
    for number in range(60):
        for one in offered(page | {"page_id": number}, "section-crops", max_query_chars=60):
            assert one.query in body and one.positive in body
            assert one.query.endswith(".") and one.positive.endswith(".")
            assert one.query not in one.positive and one.positive not in one.query
            seen.add(one.query)
    assert len(seen) > 5


def test_paragraphs_and_facts(make_corpus_row: MakeRow) -> None:
    """Would catch pairs across sections, lists as prose, and facts that tell the title."""
    page = make_corpus_row(2, BABBAGE, **CHARLES)
    (one,) = offered(page, "adjacent-paragraphs", max_query_chars=40)
    assert one.query == "Charles Babbage built engines."
    assert one.positive.startswith("He died in London")
    (facts,) = offered(page, "facts-lead", mask_title_share=0)
    assert facts.query == "field: mathematics; born: 1791"
    assert facts.positive.startswith("Charles Babbage built engines.")


def test_limits_of_a_source(make_corpus_row: MakeRow) -> None:
    """Would catch a limit that counts pairs not taken, and a share that takes all or none."""
    headings = "".join(
        f"\n\n## Part {n}\n\nThis is what part {n} says at some length." for n in range(60)
    )
    page = make_corpus_row(1, f"# T\n\nThe lead is here.{headings}", title="T")
    limits = {"heading-section": SourceConfig(max_per_page=5, share=0.5)}
    found = offered(page, "heading-section", limits=limits)
    assert sum(one.reason is None for one in found) == 5
    assert {one.reason for one in found} == {None, "left_out"}
    none = {"heading-section": SourceConfig(share=0)}
    assert {one.reason for one in offered(page, "heading-section", limits=none)} == {"left_out"}


def test_every_source_by_default(
    tmp_path: Path, make_artifact: MakeRef, make_corpus_row: MakeRow
) -> None:
    """Would catch a source that the stage forgets, and train and validation sharing an article."""
    rows = []
    for number in range(0, 40, 2):
        split = "validation" if number % 8 == 0 else "train"
        ada, charles = f"Ada Lovelace {number}", f"Charles Babbage {number}"
        rows.append(
            make_corpus_row(number, TEXT.replace("Ada Lovelace", ada), title=ada, split=split)
        )
        rows[-1]["redirects"] = [f"Countess {number}"]
        text = BABBAGE.replace("ada lovelace", ada)
        rows.append(make_corpus_row(number + 1, text, title=charles, split="train"))
        rows[-1] |= {"links": [f"Countess {number}", ada], "facts": CHARLES["facts"]}
    workspace = Workspace.scratch(tmp_path / "w")
    corpus = make_artifact("corpus", rows)
    counts = pair.run(corpus=corpus, config=PairConfig(), workspace=workspace)
    out = list(read_rows(sorted(workspace.path.rglob("pairs.parquet"))))
    assert {row["source"] for row in out} == set(SOURCES)
    assert counts.metrics["not_taken/sides_differ"] > 0
    assert sum(counts.metrics[f"pairs/{source}"] for source in SOURCES) == len(out)
    sides = {
        side: {
            row[of] for row in out if row["split"] == side for of in ("page_id", "query_page_id")
        }
        for side in ("train", "validation")
    }
    assert not sides["train"] & sides["validation"]
    elsewhere = {row["source"] for row in out if row["page_id"] != row["query_page_id"]}
    assert elsewhere == {"link-lead"}
    assert not (workspace.path / LEADS).exists()
