"""Why is my article missing: every page of a dump has an answer; so has one that it lacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.ledger import explain, summary
from storage.artifact import ArtifactRef, Counts
from storage.formats.schemas import CORPUS, DOCUMENTS, LEDGER, PAGES
from storage.formats.table import write_table
from storage.store import Store

REPOSITORY = Path(__file__).resolve().parents[2]
Dropped = tuple[str, str, str, str | None]


def add(
    store: Store,
    kind: str,
    kept: dict[int, str],
    dropped: list[Dropped],
    inputs: dict[str, ArtifactRef] | None = None,
    *,
    wiki: str = "enwiki",
) -> ArtifactRef:
    """Commit an artifact as its room would, in two parts."""
    schema = {"pages": PAGES, "documents": DOCUMENTS, "corpus": CORPUS}[kind]
    stage = {"pages": "extract", "documents": "clean", "corpus": "dedup"}[kind]
    with store.building(kind, f"{kind}{wiki}") as workspace:
        parts = []
        for number in range(2):
            rows = [
                {"wiki": wiki, "page_id": page_id, "title": title}
                for page_id, title in list(kept.items())[number::2]
            ]
            lines = [dict(zip(LEDGER.names, one, strict=True)) for one in dropped[number::2]]

            def fill(folder: Path, rows: list[Any] = rows, lines: list[Any] = lines) -> Counts:
                write_table(folder / f"{kind}.parquet", rows, schema)
                write_table(folder / "ledger.parquet", lines, LEDGER)
                reasons = [one["reason"] for one in lines]
                by_reason = {reason: reasons.count(reason) for reason in reasons}
                return Counts(len(rows) + len(lines), len(rows), by_reason)

            parts.append(workspace.part(f"part-{number:05d}", fill))
        return store.commit(
            workspace, stage=stage, version=1, config={}, inputs=inputs or {},
            counts=Counts.total(parts), seconds=1,
        )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A wiki of seven pages, of which two reach the corpus."""
    store = Store(tmp_path / "home")
    pages = add(
        store,
        "pages",
        {1: "Moon", 2: "Mercury", 3: "Stub", 7: "1984", 308: "Ada Lovelace", 12: "Luna copy"},
        [
            ("4", "Luna", "redirect", "Moon#Name"),
            ("5", "Template:Moon", "namespace", "10"),
            ("6", "Lua", "redirect", "Luna"),
        ],
    )
    documents = add(
        store,
        "documents",
        {1: "Moon", 7: "1984", 308: "Ada Lovelace", 12: "Luna copy"},
        [("2", "Mercury", "disambiguation", None), ("3", "Stub", "too_short", "12 characters")],
        {"pages": pages},
    )
    add(
        store,
        "corpus",
        {1: "Moon", 7: "1984", 308: "Ada Lovelace"},
        [("enwiki:12", "Luna copy", "duplicate", "enwiki:1")],
        {"documents.0": documents},
    )
    return store


@pytest.mark.parametrize(
    ("ref", "query", "words"),
    [
        ("documents", "Moon", ["'Moon' (page 1) is in documents:", "part-00000"]),
        ("documents", "3", ["'Stub' (page 3) was dropped", "too short (12 characters)"]),
        ("documents", "Mercury", ["only lists what a word may mean", "keep_disambiguation"]),
        ("documents", "Luna", ["redirect to Moon", "'Moon' (page 1) is in documents"]),
        ("documents", "Lua", ["redirect to Luna", "redirect to Moon", "'Moon' (page 1) is in"]),
        ("documents", "Template:Moon", ["namespace 10"]),
        ("documents", "ada_Lovelace", ["'Ada Lovelace' (page 308) is in"]),
        ("documents", "ADA LOVELACE", ["but for its capitals", "(page 308) is in"]),
        ("documents", "1984", ["'1984' (page 7) is in"]),
        ("documents", "7", ["'1984' (page 7) is in"]),
        ("corpus", "Luna copy", ["dropped on the way to corpus:", "its text is that of enwiki:1"]),
        ("corpus", "12", ["'Luna copy' (page 12) was dropped on the way to corpus:"]),
        ("corpus", "enwiki:12", ["'Luna copy'", "dropped on the way to corpus:"]),
        ("corpus", "Stub", ["dropped on the way to documents:", "too short"]),
        ("corpus", "Moon", ["'Moon' (page 1) is in corpus:"]),
        ("pages", "Stub", ["'Stub' (page 3) is in pages:"]),
    ],
)
def test_every_page_has_an_answer(store: Store, ref: str, query: str, words: list[str]) -> None:
    """Catches a room whose ledger is not asked, a spelling not tried, a redirect not followed."""
    answer = explain(store, store.resolve(f"{ref}:latest"), query).answer
    for word in words:
        assert word in answer


def test_what_is_nowhere_is_said_to_be(store: Store) -> None:
    """Catches silence, or a guess, about a page that the dump does not have."""
    ref = store.resolve("corpus:latest")
    found = explain(store, ref, "moo")
    assert "nowhere in corpus:" in found.answer and found.findings == []
    assert found.near == ["Moon", "Template:Moon"]
    assert explain(store, ref, "Quux").near == []
    assert explain(store, ref, "").near == []
    assert "nowhere" in explain(store, ref, "999").answer
    assert "nowhere" in explain(store, ref, "[(*").answer


def test_a_page_of_the_same_id_in_another_wiki_is_told_apart(store: Store) -> None:
    """Catches two wikis' pages of one number taken for one page."""
    pages = add(store, "pages", {1: "月球"}, [], wiki="zhwiki")
    documents = add(
        store, "documents", {}, [("1", "月球", "too_short", None)], {"pages": pages}, wiki="zhwiki"
    )
    both = [store.resolve("documentsenwiki"), documents]
    with store.building("corpus", "both") as workspace:
        inputs = {f"documents.{number}": ref for number, ref in enumerate(both)}
        corpus = store.commit(
            workspace, stage="dedup", version=1, config={}, inputs=inputs, counts=Counts(0, 0),
            seconds=0,
        )  # fmt: skip
    answer = explain(store, corpus, "1").answer
    assert "'月球' (page 1) was dropped" in answer
    assert "'Moon' (page 1)" in answer


def test_a_lost_ancestor_is_no_dead_end(store: Store) -> None:
    """Catches a question that fails because the pages were deleted to save space."""
    import shutil

    shutil.rmtree(store.resolve("pages:latest").path)
    ref = store.resolve("documents:latest")
    assert "too short" in explain(store, ref, "Stub").answer
    assert "nowhere" in explain(store, ref, "Luna").answer


def test_the_summary_counts_the_whole_way(store: Store) -> None:
    """Catches a summary of one room only, or without an example to look up."""
    rows = summary(store, store.resolve("corpus:latest"))
    assert [row["stage"] for row in rows] == ["extract", "clean", "dedup"]
    assert rows[0]["dropped"] == [
        {"reason": "redirect", "pages": 2, "example": "Luna"},
        {"reason": "namespace", "pages": 1, "example": "Template:Moon"},
    ]
    assert rows[2] == {
        "artifact": "corpus:corpusenwi", "stage": "dedup", "seen": 4, "kept": 3,
        "dropped": [{"reason": "duplicate", "pages": 1, "example": "Luna copy"}],
    }  # fmt: skip


@pytest.fixture
def etude(store: Store) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command as a user would."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=os.environ | {"ETUDE_HOME": str(store.home)},
            timeout=60,
        )

    return run


def test_the_command_answers(
    store: Store, etude: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Catches an option that does not reach the ledger, and JSON that is not the last line."""
    done = etude("show", "documents:latest", "--ledger", "Luna", "--json")
    answer = json.loads(done.stdout.splitlines()[-1])
    assert "redirect to Moon" in answer["answer"]
    assert answer["findings"][0] == {
        "artifact": "pages:pagesenwik", "part": "part-00000", "page_id": "4", "title": "Luna",
        "reason": "redirect", "detail": "Moon#Name",
    }  # fmt: skip
    lines = etude("show", "documents:latest", "--ledger").stdout.splitlines()
    assert lines[0] == "pages:pagesenwik: 9 seen, 6 kept"
    assert "redirect" in lines[1] and lines[1].endswith("2  such as Luna")
    refused = etude("show", "documents:latest", "Moon")
    assert refused.returncode == 2 and "add --ledger" in refused.stderr


def test_a_hostile_title_does_not_steer_the_terminal(tmp_path: Path) -> None:
    """Catches control characters of a title or a detail that reach the terminal."""
    from flows.ledger import answer_page, answer_summary

    store = Store(tmp_path)
    bad = "A\x9b31m\u202e{0}{reason}"
    ref = add(store, "pages", {}, [("1", bad, "redirect", "\x9bB\n{detail}")])
    for lines in (answer_page(store, ref, "1")[1], answer_summary(store, ref)[1]):
        assert all(line.isprintable() for line in lines)
        assert any("{0}{reason}" in line for line in lines)
