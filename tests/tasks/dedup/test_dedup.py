"""documents -> corpus: one copy of each text, a split that never moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from storage.artifact import ArtifactRef, Counts
from storage.formats.schemas import CORPUS
from storage.formats.table import read_rows, read_table
from storage.workspace import Workspace
from tasks.dedup.config import DedupConfig
from tasks.dedup.corpus import content_hash, split_hash
from tasks.dedup.task import dedup

MakeRef = Callable[..., ArtifactRef]
MakeRow = Callable[..., dict[str, Any]]


def run(folder: Path, documents: list[ArtifactRef], **config: Any) -> tuple[Counts, dict[str, Any]]:
    """Run the stage; return its ledger and the rows by wiki:page_id."""
    counts = dedup.run(
        documents=documents, config=DedupConfig(**config), workspace=Workspace.scratch(folder)
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
