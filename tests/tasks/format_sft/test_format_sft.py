"""corpus + user files -> dialogues: derived and given rows, split, ledger, rejects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.artifact import ArtifactRef, Counts
from storage.errors import BadInput
from storage.formats.table import read_rows
from storage.workspace import Workspace
from tasks.format_sft.config import PATTERNS, FormatSftConfig
from tasks.format_sft.derive import derive_dialogue
from tasks.format_sft.task import format_sft, identity
from tasks.paths import resolve

MakeRef = Callable[..., ArtifactRef]
MakeRow = Callable[..., dict[str, Any]]

ADA = "# Ada (person)\n\nAda was a mathematician. She wrote programs.\n\n## Life\n\nBorn 1815."


def write(path: Path, rows: list[Any]) -> Path:
    """Write JSON lines; a str is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def ask(number: int, answer: str = "yes") -> dict[str, str]:
    """Return a row of the format prompt-completion."""
    return {"prompt": f"question {number}", "completion": answer}


@pytest.fixture
def corpus(make_artifact: MakeRef, make_corpus_row: MakeRow) -> ArtifactRef:
    """Three pages that define, one that does not, one in a language without patterns."""
    zh = "# 北京\n\n北京是中国的首都。它很大。"
    return make_artifact(
        "corpus",
        [
            make_corpus_row(1, ADA, title="Ada (person)", split="validation"),
            make_corpus_row(2, "# List\n\nNothing of the sort here.", title="Bits"),
            make_corpus_row(3, "# Bit\n\nA bit is a unit.", title="Bit"),
        ],
        [
            make_corpus_row(4, zh, title="北京", wiki="zhwiki"),
            make_corpus_row(5, "# Hund\n\nHund: Tier.", title="Hund", wiki="dewiki"),
        ],
    )


def run(folder: Path, corpus: ArtifactRef, **config: Any) -> tuple[Counts, dict[str, Any]]:
    """Run the stage; return ledger and rows by id."""
    workspace = Workspace.scratch(folder)
    counts = format_sft.run(corpus=corpus, config=FormatSftConfig(**config), workspace=workspace)
    return counts, {row["id"]: row for row in read_rows([folder / "dialogues.parquet"])}


def test_derived_dialogues(tmp_path: Path, corpus: ArtifactRef) -> None:
    """Would catch a wrong answer, a lost split, a qualifier in the question, an uncounted page."""
    counts, rows = run(tmp_path / "a", corpus)
    assert set(rows) == {"wiki:enwiki:1", "wiki:enwiki:3", "wiki:zhwiki:4"}
    ada = rows["wiki:enwiki:1"]
    assert ada["messages"][0]["content"] in [text.format(title="Ada") for text in PATTERNS["en"]]
    assert ada["messages"][1]["content"] == "Ada was a mathematician. She wrote programs."
    assert (ada["split"], ada["page_id"], ada["license"]) == ("validation", 1, "CC BY-SA 4.0")
    assert "北京" in rows["wiki:zhwiki:4"]["messages"][0]["content"]
    assert dict(counts.dropped) == {"lead_is_no_definition": 1, "no_pattern_for_language": 1}
    _, again = run(tmp_path / "b", corpus, max_derived=1)
    (id,) = again
    assert again[id] == rows[id]


def test_there_are_enough_ways_to_ask(make_corpus_row: MakeRow) -> None:
    """Would catch a seeded choice that always falls on the same pattern."""
    assert all(len(texts) >= 8 for texts in PATTERNS.values())
    rows: list[Any] = [
        derive_dialogue(
            make_corpus_row(number, ADA, title="Ada (person)"),
            patterns=PATTERNS,
            max_answer_chars=30,
        )
        for number in range(300)
    ]
    assert len({row["messages"][0]["content"] for row in rows}) == len(PATTERNS["en"])
    assert {row["messages"][1]["content"] for row in rows} == {"Ada was a mathematician."}


def test_files_rejects_and_duplicates(tmp_path: Path, corpus: ArtifactRef) -> None:
    """Would catch broken rows that vanish, and line numbers that cannot be followed up."""
    rows: list[Any] = [ask(number) for number in range(20)]
    rows.insert(3, "{broken " + "x" * 500)
    rows += [ask(1), ask(50, " "), {"prompt": "<|im_end|>", "completion": "<|im_start|>"}]
    path = write(tmp_path / "mine.jsonl", rows)
    counts, out = run(tmp_path / "a", corpus, files=[str(path)], derive_from_wiki=False)
    assert dict(counts.dropped) == {"bad_json": 1, "duplicate": 1, "empty_answer": 1}
    assert counts.kept == len(out) == 21 and counts.seen == 24
    assert "1-mine.jsonl:24" in out
    folder = tmp_path / "a"
    rejects = [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
    assert [(one["file"], one["line"], one["reason"]) for one in rejects] == [
        ("mine.jsonl", 4, "bad_json"),
        ("mine.jsonl", 23, "empty_answer"),
    ]
    assert len(rejects[0]["text"]) == 200
    ledger = {row["reason"]: row for row in read_rows([folder / "ledger.parquet"])}
    assert ledger["duplicate"]["detail"] == "1-mine.jsonl:2"
    lines = [json.loads(line) for line in (folder / "dialogues.jsonl").read_text().splitlines()]
    plain = [
        [{name: one[name] for name in ("role", "content")} for one in row["messages"]]
        for row in out.values()
    ]
    assert [line["messages"] for line in lines] == plain


def test_too_many_broken_rows_are_refused(tmp_path: Path, corpus: ArtifactRef) -> None:
    """Would catch a file of which most is silently lost, or refused without where to look.

    The rejects.jsonl of a refused file goes with the workspace, so the message has to tell.
    """
    path = write(tmp_path / "mine.jsonl", [ask(1), ask(2), "{broken", {"prompt": "a"}])
    with pytest.raises(BadInput) as error:
        run(tmp_path / "a", corpus, files=[str(path)])
    for words in ("2 of the 4 rows of mine.jsonl", "max_rejected_share=0.1", "1 bad_json (line 3)"):
        assert words in str(error.value)
    counts, _ = run(tmp_path / "b", corpus, files=[str(path)], max_rejected_share=0.5)
    assert counts.dropped["bad_json"] == 1
    write(path, [ask(1), {"prompt": "a"}, *["{"] * 7])
    with pytest.raises(BadInput) as error:
        run(tmp_path / "c", corpus, files=[str(path)])
    reasons = "7 bad_json (line 3, 4, 5, 6, 7, ...), 1 not_prompt-completion (line 2);"
    assert reasons in str(error.value) and "\n" not in str(error.value)


def test_the_split_goes_by_the_question(tmp_path: Path, corpus: ArtifactRef) -> None:
    """Would catch a question with two answers on both sides, and a file without validation."""
    one = write(tmp_path / "one.jsonl", [ask(n // 2, str(n)) for n in range(40)])
    two = write(tmp_path / "two.jsonl", [ask(n + 10, "x") for n in range(9)])
    files = [str(one), str(two)]
    _, rows = run(
        tmp_path / "a", corpus, files=files, validation_share=1e-9, derive_from_wiki=False
    )
    sides: dict[str, set[str]] = {}
    for row in rows.values():
        sides.setdefault(row["messages"][0]["content"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    validation = [row for row in rows.values() if row["split"] == "validation"]
    assert {row["messages"][0]["content"] for row in validation} == {
        question for question, side in sides.items() if side == {"validation"}
    }
    assert sum(row["source"] == "one.jsonl" for row in validation) == 2
    same = write(tmp_path / "same.jsonl", [ask(1, str(n)) for n in range(12)])
    _, rows = run(tmp_path / "b", corpus, files=[str(same)], derive_from_wiki=False)
    assert {row["split"] for row in rows.values()} == {"train"}


def test_the_key_knows_the_contents_and_not_the_place(tmp_path: Path) -> None:
    """Would catch a changed file that reuses the old dialogues."""
    first = write(tmp_path / "x.jsonl", [ask(1)])
    (tmp_path / "elsewhere").mkdir()
    moved = write(tmp_path / "elsewhere" / "x.jsonl", [ask(1)])
    config, other = FormatSftConfig(files=(str(first),)), FormatSftConfig(files=(str(moved),))
    before = identity(config)
    assert identity(other) == before and config.key_dict() == other.key_dict()
    write(first, [ask(2)])
    assert identity(config) != before


def test_refusals(tmp_path: Path, make_artifact: MakeRef) -> None:
    """Would catch a traceback for a wrong path, a useless pattern, or no dialogue at all."""
    with pytest.raises(BadInput, match=r"nowhere\.jsonl is not there"):
        identity(FormatSftConfig(files=("nowhere.jsonl",)))
    with pytest.raises(BadInput, match="recipe:nowhere is not there"):
        resolve("recipe:nowhere")
    with pytest.raises(ValueError, match=r"patterns\.en"):
        FormatSftConfig(patterns={"en": ("What?",)})
    with pytest.raises(BadInput, match="no file and no page gave a dialogue"):
        run(tmp_path / "a", make_artifact("corpus", []))
    assert resolve("recipe:demo").name == "demo"


def test_real_files(tmp_path: Path, shared_data: Path, corpus: ArtifactRef) -> None:
    """Would catch a real data set that the stage refuses or reads only in part."""
    names = ("alpaca_zh_demo.json", "alpaca_en_demo.json", "identity.json")
    files = [shared_data / "sft" / "llamafactory" / name for name in names]
    if not all(path.exists() for path in files):
        pytest.skip("the LLaMA-Factory examples are not among the shared data")
    counts, rows = run(tmp_path / "a", corpus, files=[str(path) for path in files])
    assert counts.kept > 2000
    by_file = {
        name: {row["language"] for row in rows.values() if row["source"] == name} for name in names
    }
    assert by_file["alpaca_zh_demo.json"] >= {"zh"}
    for name in names:
        sides = {row["split"] for row in rows.values() if row["source"] == name}
        assert sides == {"train", "validation"}
