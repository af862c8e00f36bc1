"""What a person reads of a run: the line of a stage, the tables after it, the samples."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from flows.terminal import LiveStages, artifact_table, print_summary
from storage.artifact import ArtifactRef, Counts, Manifest
from storage.files import write_json
from tasks.stage import StageResult


@pytest.fixture
def console() -> Console:
    """A wide page that remembers what was written on it."""
    return Console(record=True, width=160, file=io.StringIO())


def result(
    folder: Path, stage: str, kind: str, counts: Counts, *, label: str = "", reused: bool = False
) -> StageResult:
    """Return what a stage would tell of an artifact in `folder`."""
    key = f"{stage}0123456789abcdef"
    manifest = Manifest(
        kind, key, "d", stage, 1, {}, {"pages": {"kind": "pages", "key": "fedcba987654321"}}, (),
        counts, "2026-01-02T03:04:05+00:00", 1.0,
    )  # fmt: skip
    return StageResult(stage, label, reused, ArtifactRef(kind, key, "d", folder), manifest, 12.34)


def cells(text: str) -> list[list[str]]:
    """Return the cells of every table row of a page."""
    rows = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]


def test_the_summary_says_what_ran_and_what_it_did(tmp_path: Path, console: Console) -> None:
    """Catches columns that changed places, a reused stage shown as run, a figure lost.

    The training measured two things before and one only after; the samples hold a second one of
    the same stage and language, and one of the semantic stage: neither is shown.
    """
    clean = result(tmp_path, "clean", "documents", Counts(1206, 1100, {"empty": 106}), label="zh")
    evaluations = {
        "before": {"bits_per_byte": 4.1054, "recall@10": 0.25, "loss": 9.0},
        "after": {"bits_per_byte": 2.2558, "recall@10": 0.5818, "mrr@10/zh": 0.3, "loss": 1.0},
    }
    (tmp_path / "trained").mkdir()
    write_json(tmp_path / "trained" / "training.json", {"evaluations": evaluations})
    counts = Counts(5760, 5760, rows=720)
    trained = result(tmp_path / "trained", "pretrain", "checkpoint", counts, reused=True)
    samples = [
        {"checkpoint": "sft", "language": "en", "prompt": "What is\nX?", "text": "X is [a]\n y."},
        {"checkpoint": "sft", "language": "en", "prompt": "second", "text": "hidden"},
        {"checkpoint": "semantic", "language": "en", "prompt": "third", "text": "hidden"},
        {"checkpoint": "sft", "language": "zh", "prompt": "水是", "text": "液体"},
    ]
    write_json(tmp_path / "samples.json", samples)
    report = result(tmp_path, "evaluate", "report", Counts(4, 4))
    print_summary(console, [clean, trained, report])
    text = console.export_text()
    assert cells(text) == [
        ["clean zh", "run", "1,206", "1,100", "12.3", "documents:clean01234"],
        ["pretrain", "reused", "5,760", "720", "12.3", "checkpoint:pretrain01"],
        ["evaluate", "run", "4", "4", "12.3", "report:evaluate01"],
        ["pretrain", "bits_per_byte", "4.1054", "2.2558"],
        ["pretrain", "mrr@10/zh", "", "0.3000"],
        ["pretrain", "recall@10", "0.2500", "0.5818"],
    ]
    lines = [line.strip() for line in text.splitlines()]
    assert lines[-3:] == [
        "What the checkpoints write",
        "sft en: What is X? X is [a] y.",
        "sft zh: 水是 液体",
    ]


def test_without_trainings_there_is_no_table_of_figures(tmp_path: Path, console: Console) -> None:
    """Catches an empty table after a run of the text rooms alone."""
    print_summary(console, [result(tmp_path, "clean", "documents", Counts(2, 2))])
    assert "before" not in console.export_text()


def test_the_list_of_artifacts(tmp_path: Path, console: Console) -> None:
    """Catches a parent, a size or a time that `etude ls` would show wrongly."""
    made = result(tmp_path, "clean", "documents", Counts(1206, 1100, {"empty": 106}))
    console.print(artifact_table([(made.ref, made.manifest)]))
    when = "2026-01-02T03:04:05Z"
    parent = "pages:fedcba9876"
    expected = ["documents", "clean01234", "clean", when, "1,100", "0.00", parent]
    assert cells(console.export_text()) == [expected]


def test_what_is_no_terminal_gets_one_line_a_stage(tmp_path: Path, console: Console) -> None:
    """Catches a log of CI that is empty, or full of bars."""
    made = result(tmp_path, "clean", "documents", Counts(3, 2, {"empty": 1}), label="zh")
    with LiveStages(console) as live:
        live.started("clean", "zh")
        live.progress("clean", "zh", 1, 3, "pages")
        live.log("clean", "zh", "half-way")
        live.finished(made)
    assert console.export_text() == "clean zh done: 3 -> 2 rows, documents:clean01234 (12.3 s)\n"
