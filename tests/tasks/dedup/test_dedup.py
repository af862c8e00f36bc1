"""documents -> corpus: no copies, few stubs, clean pages, and a split that hardly moves."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.artifact import ArtifactRef, Counts
from storage.formats.schemas import CORPUS, DOCUMENTS
from storage.formats.table import read_rows, read_table
from storage.workspace import Workspace
from tasks.dedup.config import DedupConfig
from tasks.dedup.exact import content_hash
from tasks.dedup.split import split_hash
from tasks.dedup.task import dedup

MakeRef = Callable[..., ArtifactRef]
MakeRow = Callable[..., dict[str, Any]]


def run(folder: Path, documents: list[ArtifactRef], **config: Any) -> tuple[Counts, dict[str, Any]]:
    """Run the stage; return its ledger and the rows by wiki:page_id."""
    counts = dedup.run(
        documents=documents,
        config=DedupConfig(**({"workers": 1} | config)),
        workspace=Workspace.scratch(folder),
    )
    rows = read_rows(sorted(folder.rglob("corpus.parquet")))
    return counts, {f"{row['wiki']}:{row['page_id']}": row for row in rows}


def test_the_first_copy_stays_wherever_it_lies(
    tmp_path: Path, make_artifact: MakeRef, make_document: MakeRow
) -> None:
    """Would catch 'first' meaning file order: another order of wikis would give another corpus."""
    en = make_artifact(
        "documents",
        [make_document(9, "Same  text.\n\nTwice"), make_document(2, "alone")],
        [make_document(5, "same text. twice")],
    )
    de = make_artifact("documents", [make_document(7, "SAME TEXT. TWICE", wiki="dewiki")])
    counts, rows = run(tmp_path / "a", [en, de])
    assert set(rows) == {"dewiki:7", "enwiki:2"}
    assert (counts.seen, counts.kept, dict(counts.dropped)) == (4, 2, {"duplicate": 2})
    ledger = list(read_rows(sorted((tmp_path / "a").rglob("ledger.parquet"))))
    assert {(row["id"], row["reason"], row["detail"]) for row in ledger} == {
        ("enwiki:9", "duplicate", "dewiki:7"),
        ("enwiki:5", "duplicate", "dewiki:7"),
    }
    other, same = run(tmp_path / "b", [de, en])
    assert same == rows and other.dropped == counts.dropped


def test_two_dumps_of_a_wiki_give_the_newest_revision(
    tmp_path: Path, make_artifact: MakeRef, make_document: MakeRow
) -> None:
    """Would catch a page that is in the corpus twice, in an old and a new wording."""
    old = make_artifact("documents", [make_document(1, "old words", rev_id=10)])
    new = make_artifact("documents", [make_document(1, "new words", rev_id=11)])
    counts, rows = run(tmp_path / "a", [new, old])
    assert rows["enwiki:1"]["text"] == "new words"
    assert dict(counts.dropped) == {"older_revision": 1}


def test_every_column_survives(
    tmp_path: Path, make_artifact: MakeRef, make_document: MakeRow
) -> None:
    """Would catch columns lost or reordered on the way through polars and pyarrow."""
    before = make_document(3, "text", flags=["maintenance"], redirects=["Third"])
    _, rows = run(tmp_path / "a", [make_artifact("documents", [before])])
    after = rows["enwiki:3"]
    assert {name: after[name] for name in before} == before
    assert after["content_hash"] == content_hash("text") and after["cluster"] == "enwiki:3"
    assert read_table(sorted((tmp_path / "a").rglob("corpus.parquet"))).schema.equals(CORPUS)


def test_the_split_is_that_of_the_hash_and_outlives_edits(
    tmp_path: Path, make_artifact: MakeRef, make_document: MakeRow
) -> None:
    """Would catch a split that hashes the text or the position: pages would cross on a refresh."""
    pages = [make_document(number, f"text {number}") for number in range(2000)]
    edited = [make_document(number, f"edited {number}") for number in range(1999, 0, -2)]
    _, rows = run(tmp_path / "a", [make_artifact("documents", pages)], validation_share=0.1)
    _, again = run(tmp_path / "b", [make_artifact("documents", edited)], validation_share=0.1)
    assert {id: row["split"] for id, row in again.items()} == {
        id: rows[id]["split"] for id in again
    }
    for id, row in rows.items():
        assert (row["split"] == "validation") == (split_hash(id, "") % 10_000 < 1000)
    share = sum(row["split"] == "validation" for row in rows.values()) / len(rows)
    assert 0.07 < share < 0.13
    _, salted = run(
        tmp_path / "c", [make_artifact("documents", pages)], validation_share=0.1, salt="x"
    )
    assert any(salted[id]["split"] != rows[id]["split"] for id in rows)


def test_each_language_has_both_sides(
    tmp_path: Path, make_artifact: MakeRef, make_document: MakeRow
) -> None:
    """Would catch a demo whose few Chinese pages are all in train: nothing to evaluate on."""
    en = make_artifact("documents", [make_document(number, f"e{number}") for number in range(5)])
    zh = make_artifact(
        "documents", [make_document(number, f"z{number}", wiki="zhwiki") for number in (1, 2)]
    )
    de = make_artifact("documents", [make_document(1, "d", wiki="dewiki")])
    for share in (0.0001, 0.9999):
        _, rows = run(tmp_path / str(share), [en, zh, de], validation_share=share)
        table = pl.DataFrame(
            [{"language": row["language"], "split": row["split"]} for row in rows.values()]
        )
        sides = table.group_by("language").agg(pl.col("split").n_unique()).rows()
        assert dict(sides) == {"en": 2, "zh": 2, "de": 1}
    smallest = min(range(5), key=lambda number: split_hash(f"enwiki:{number}", "") % 10_000)
    _, rows = run(tmp_path / "again", [en], validation_share=0.0001)
    assert [id for id, row in rows.items() if row["split"] == "validation"] == [
        f"enwiki:{smallest}"
    ]


def test_a_lost_part_is_rebuilt_alone_and_equal(
    tmp_path: Path,
    make_artifact: MakeRef,
    make_document: MakeRow,
    file_bytes: Callable[[Path], Any],
) -> None:
    """Would catch parts that depend on one another or on the run they were made in."""
    en = make_artifact(
        "documents",
        [make_document(number, f"text {number % 7}") for number in range(10)],
        [make_document(number, f"text {number % 9}") for number in range(10, 30)],
    )
    run(tmp_path / "a", [en])
    first = file_bytes(tmp_path / "a")
    for file in (tmp_path / "a" / "part-00001").iterdir():
        file.unlink()
    (tmp_path / "a" / "part-00001").rmdir()
    run(tmp_path / "a", [en])
    assert file_bytes(tmp_path / "a") == first


def test_no_documents(tmp_path: Path, make_artifact: MakeRef) -> None:
    """Would catch a crash of polars on an empty wiki."""
    counts, rows = run(tmp_path / "a", [make_artifact("documents", [])])
    assert counts.seen == 0 and rows == {}


def test_config_limits() -> None:
    """Would catch a share that leaves nothing to train on."""
    with pytest.raises(ValueError):
        DedupConfig(validation_share=1.0)


WORDS = [f"word{chr(97 + number % 26)}{chr(97 + number // 26)}" for number in range(600)]


def prose(seed: int, num_words: int = 120) -> str:
    """A text of its own: small letters, no numbers, so no skeleton equals another."""
    generator = random.Random(seed)
    return " ".join(generator.choice(WORDS) for _ in range(num_words))


def ledger(folder: Path) -> dict[str, tuple[str, str]]:
    """Reason and detail of each dropped document, by id."""
    rows = read_rows(sorted(folder.rglob("ledger.parquet")))
    return {row["id"]: (row["reason"], row["detail"]) for row in rows}


def test_the_longest_of_near_duplicates_stays(
    tmp_path: Path, make_artifact: MakeRef, make_document: MakeRow
) -> None:
    """Would catch copies with a changed word that stay, in English and in Chinese, over wikis."""
    english, chinese = prose(1), "".join(map(chr, range(0x4E00, 0x4E00 + 400)))
    en = [
        make_document(9, english),
        make_document(5, english + " one sentence more"),
        make_document(7, prose(2)),
        make_document(8, english[: len(english) // 2]),
    ]
    zh = [
        make_document(3, chinese, wiki="zhwiki"),
        make_document(4, chinese[:200] + "，别的。" + chinese[200:], wiki="zhwiki"),
    ]
    documents = [make_artifact("documents", en), make_artifact("documents", zh)]
    counts, rows = run(tmp_path / "a", documents)
    assert set(rows) == {"enwiki:5", "enwiki:7", "enwiki:8", "zhwiki:4"}
    assert dict(counts.dropped) == {"near_duplicate": 2}
    assert ledger(tmp_path / "a") == {
        "enwiki:9": ("near_duplicate", "enwiki:5 0.975"),
        "zhwiki:3": ("near_duplicate", "zhwiki:4 0.975"),
    }
    assert rows["zhwiki:4"]["cluster"] == "zhwiki:3"
    counts, _ = run(tmp_path / "b", documents, min_jaccard=None)
    assert counts.kept == 6


def stub(number: int, language: str) -> tuple[str, str, list[str]]:
    """Title, text and links of one of many villages."""
    state, neighbour = f"State{number % 7}", f"Town{number * 31 % 97}"
    if language == "en":
        return (
            f"Village{number}",
            (
                f"Village{number} is a village in {state}, near {neighbour}. It has an area of "
                f"{number}.5 square kilometres, and {number * 13:,} people lived there in 2010."
            ),
            [],
        )
    names = [chr(0x5200 + number) + "家庄", chr(0x6200 + number % 7) + "州市"]
    return (
        names[0],
        (
            f"{names[0]}是{names[1]}的一个村，面积{number}平方千米，据统计，"
            f"2010年那里共有{number * 13}人居住。"
        ),
        names[1:],
    )


@pytest.mark.parametrize("language", ["en", "zh"])
def test_bot_stubs_are_capped(
    tmp_path: Path, make_artifact: MakeRef, make_document: MakeRow, language: str
) -> None:
    """Would catch six hundred villages from one table: no near-duplicates, yet one text."""
    wiki = f"{language}wiki"
    rows = []
    for number in range(1, 601):
        title, text, links = stub(number, language)
        rows.append(make_document(number, text, title=title, links=links, wiki=wiki))
    rows += [make_document(number, prose(number), wiki=wiki) for number in range(700, 720)]
    documents = [make_artifact("documents", rows[:400], rows[400:])]
    uncapped, _ = run(tmp_path / "a", documents, max_per_skeleton=None)
    assert uncapped.kept == 620
    counts, kept = run(tmp_path / "b", documents, max_per_skeleton=20)
    assert dict(counts.dropped) == {"bot_stub": 580}
    stubs = {id for id, row in kept.items() if row["page_id"] <= 600}
    assert {kept[id]["cluster"] for id in stubs} == {f"{wiki}:1"}
    assert len({kept[id]["split"] for id in stubs}) == 1
    reason, detail = ledger(tmp_path / "b").popitem()[1]
    assert reason == "bot_stub" and detail.split()[-1] in stubs and detail.startswith("one of 600 ")
    fewer = [make_artifact("documents", [row for row in rows if row["page_id"] % 10])]
    _, again = run(tmp_path / "c", fewer, max_per_skeleton=20)
    assert {id for id in stubs if kept[id]["page_id"] % 10} <= set(again)


def test_repeated_paragraphs_stay_on_the_oldest_page(
    tmp_path: Path, make_artifact: MakeRef, make_document: MakeRow
) -> None:
    """Would catch boilerplate that stays, a fact that is lost for good, and wrong sections."""
    note = "All figures on this page are those of the national institute of statistics."
    rows = [
        make_document(number, f"# P\n\n{prose(number)}\n\n## Notes\n\n{note}\n\n## Z\n\nend.")
        for number in range(2, 30)
    ]
    rows.append(make_document(30, f"{prose(30, 8)}\n\n{note}"))
    documents = [make_artifact("documents", rows[15:], rows[:15])]
    counts, kept = run(tmp_path / "a", documents)
    assert dict(counts.dropped) == {"repeated_paragraphs": 1}
    assert ledger(tmp_path / "a")["enwiki:30"] == ("repeated_paragraphs", "55 characters left")
    assert [id for id, row in kept.items() if note in row["text"]] == ["enwiki:2"]
    row = kept["enwiki:9"]
    assert row["text"] == f"# P\n\n{prose(9)}\n\n## Z\n\nend."
    assert row["num_chars"] == len(row["text"])
    assert row["content_hash"] == content_hash(row["text"])
    parts = [row["text"][one["start"] : one["end"]] for one in row["sections"]]
    assert parts == [f"# P\n\n{prose(9)}\n\n", "## Z\n\nend."]
    assert counts.metrics["shortened_documents"] == 27
    for off in ({"max_paragraph_documents": None}, {"max_paragraph_documents": 29}):
        counts, _ = run(tmp_path / str(off), documents, **off)
        assert counts.kept == 29 and counts.metrics["shortened_documents"] == 0


def test_what_is_hardly_text_goes(
    tmp_path: Path, make_artifact: MakeRef, make_document: MakeRow
) -> None:
    """Would catch a filter that takes ordinary Chinese, or one that takes nothing."""
    rows = [
        make_document(1, "1 2 3 4 5 6 7 8 9 / - / - / = some"),
        make_document(2, prose(2, 20), links=[f"Link {number}" for number in range(60)]),
        make_document(3, "数学是研究数量、结构的学科。", wiki="zhwiki", links=["数学", "学科"]),
    ]
    documents = [make_artifact("documents", rows)]
    _, kept = run(tmp_path / "a", documents)
    assert set(kept) == {"zhwiki:3"}
    reasons = ledger(tmp_path / "a")
    assert reasons["enwiki:1"] == ("few_letters", "alpha_ratio 0.21")
    assert reasons["enwiki:2"][0] == "mostly_links"
    _, kept = run(tmp_path / "b", documents, min_alpha_ratio=0, max_link_density=1e9)
    assert len(kept) == 3


def test_quality_columns_are_written(
    tmp_path: Path, make_artifact: MakeRef, make_document: MakeRow
) -> None:
    """Would catch columns in the wrong order, and signals of a text as it was before."""
    before = make_document(3, "one two 3\n- two", links=["A"], num_refs=2, flags=["maintenance"])
    _, rows = run(tmp_path / "a", [make_artifact("documents", [before])])
    row = rows["enwiki:3"]
    assert row["alpha_ratio"] == pytest.approx(9 / 11) and row["list_line_ratio"] == 0.5
    assert row["refs_per_kb"] == pytest.approx(2 / 15 * 1000)
    assert row["is_maintenance"] is True and row["is_featured"] is False


def test_documents_may_lack_the_newer_columns(tmp_path: Path, make_document: MakeRow) -> None:
    """Would catch a crash on a documents file made elsewhere."""
    table = pa.Table.from_pylist([make_document(1, prose(1))], DOCUMENTS).drop_columns("num_refs")
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "documents.parquet")
    _, rows = run(tmp_path / "out", [ArtifactRef("documents", "k", "d", tmp_path / "in")])
    assert rows["enwiki:1"]["refs_per_kb"] is None


def refreshed(pages: dict[int, str], seed: int) -> dict[int, str]:
    """The next dump: 1% deleted, 1% edited, 1% new, and a few new copies of old pages."""
    generator = random.Random(seed)
    after = dict(pages)
    old = sorted(pages)
    for number in generator.sample(old, len(old) // 100):
        del after[number]
    for number in generator.sample(sorted(after), len(old) // 100):
        after[number] += " with a sentence added to its end"
    for number in range(len(old) // 100):
        after[old[-1] + 1 + number] = prose(10_000 + seed * 1000 + number)
    for number, copied in enumerate(generator.sample(sorted(after), 5)):
        after[old[-1] + 1000 + number] = after[copied] + " and one more"
    return after


def test_a_refresh_moves_only_what_changed_clusters(
    tmp_path: Path, make_artifact: MakeRef, make_document: MakeRow
) -> None:
    """Would catch a cluster named by a page that newcomers displace, or by its text.

    Half is validation so that every other move shows. What three refreshes move are pages whose
    cluster's oldest page was deleted or edited.
    """
    pages = {number: prose(number) for number in range(1, 1001)}
    for number in range(1001, 1201):  # a hundred families of three
        pages[number] = pages[number % 100 + 1] + " " + prose(number, 12)
    sides: dict[str, str] = {}
    clusters: dict[str, str] = {}
    moved = 0
    for refresh in range(4):
        rows = [make_document(number, text) for number, text in pages.items()]
        _, kept = run(
            tmp_path / str(refresh), [make_artifact("documents", rows)], validation_share=0.5
        )
        both = set(kept) & set(sides)
        movers = {id for id in both if kept[id]["split"] != sides[id]}
        assert all(kept[id]["cluster"] != clusters[id] for id in movers)
        assert all(int(clusters[id].split(":")[1]) not in pages for id in movers)
        moved += len(movers)
        astride: dict[str, set[str]] = {}
        for row in kept.values():
            astride.setdefault(row["cluster"], set()).add(row["split"])
        assert all(len(two) == 1 for two in astride.values())
        sides = {id: row["split"] for id, row in kept.items()}
        clusters = {id: row["cluster"] for id, row in kept.items()}
        pages = refreshed(pages, refresh)
    assert moved <= 6


def test_equal_bytes_whatever_the_threads_and_workers(
    tmp_path: Path,
    make_artifact: MakeRef,
    make_document: MakeRow,
    file_bytes: Callable[[Path], Any],
) -> None:
    """Would catch an order that polars, rensa or the workers decide."""
    rows = [
        make_document(number, prose(number % 60) + " x" * (number % 3)) for number in range(300)
    ]
    ref = make_artifact("documents", rows[:150], rows[150:])
    run(tmp_path / "a", [ref], workers=2)
    script = """
import sys
from pathlib import Path
from storage.workspace import Workspace
from tasks.dedup.config import DedupConfig
from tasks.dedup.pipeline import build_corpus
documents, out = map(Path, sys.argv[1:])
paths = sorted(documents.rglob("documents.parquet"))
build_corpus(paths, DedupConfig(workers=1), Workspace.scratch(out))
assert "prefect" not in sys.modules
"""
    limits = {"POLARS_MAX_THREADS": "1", "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", script, str(ref.path), str(tmp_path / "b")]
    subprocess.run(command, check=True, env=os.environ | limits)
    assert file_bytes(tmp_path / "a") == file_bytes(tmp_path / "b")
    assert not list((tmp_path / "a").glob("*.tmp"))
