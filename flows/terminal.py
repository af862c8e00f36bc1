"""What a person sees of a run: a live line per stage, then a summary of what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from storage.files import read_json
from tasks.stage import StageResult


class _Note(ProgressColumn):
    """The last thing a stage said: how many of what, or what became of it."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("note", ""), overflow="ellipsis", no_wrap=True)


class LiveStages:
    """A listener that draws one line per stage: bar, time, ETA, and what the stage says.

    On something that is not a terminal (a pipe, CI) it prints one line when a stage ends.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.results: list[StageResult] = []
        self._lines: dict[tuple[str, str], TaskID] = {}
        self._bars = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            _Note(),
            console=console,
            disable=not console.is_terminal,
            refresh_per_second=4,
        )

    def __enter__(self) -> LiveStages:
        """Start drawing."""
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop drawing; the lines stay on the screen."""
        self._bars.stop()

    def started(self, stage: str, label: str) -> None:
        """Open the stage's line."""
        if (stage, label) not in self._lines:
            description = f"{stage:<16}{label:<8}"
            self._lines[stage, label] = self._bars.add_task(description, total=None)

    def progress(self, stage: str, label: str, done: float, total: float | None, unit: str) -> None:
        """Move the stage's bar."""
        of = f" of {total:,.0f}" if total else ""
        note = f"{done:,.0f}{of} {unit}"
        self._bars.update(self._lines[stage, label], completed=done, total=total, note=note)

    def log(self, stage: str, label: str, message: str) -> None:
        """Show what the stage says at the end of its line."""
        self._bars.update(self._lines[stage, label], note=message)

    def finished(self, result: StageResult) -> None:
        """Fill the bar and say what came out."""
        self.results.append(result)
        counts = result.manifest.counts
        word = "reused" if result.reused else "done"
        note = f"{word}: {counts.seen:,} -> {counts.rows_out:,} rows, {result.ref}"
        line = self._lines[result.stage, result.label]
        self._bars.update(line, completed=1, total=1, note=note)
        self._bars.stop_task(line)
        if not self.console.is_terminal:
            self.console.print(f"{result.stage} {result.label} {note} ({result.seconds:.1f} s)")

    def failed(self, stage: str, label: str, error: BaseException) -> None:
        """Say that the stage stopped; the error itself is told once, at the end."""
        line = self._lines[stage, label]
        self._bars.update(line, note=f"stopped: {type(error).__name__}")
        self._bars.stop_task(line)


def print_summary(console: Console, results: Iterable[StageResult]) -> None:
    """Print the table of stages, the figures before and after each training, and the samples."""
    rows = list(results)
    console.print(stage_table(rows))
    figures = figures_table(rows)
    if figures.row_count:
        console.print(figures)
    for result in rows:
        if result.ref.kind == "report":
            print_samples(console, read_json(result.ref.path / "samples.json"))


def stage_table(results: Iterable[StageResult]) -> Table:
    """Return one line per stage: reused or run, rows in and out, seconds, artifact."""
    table = Table(title="Stages", title_justify="left", header_style="bold")
    for name, side in (
        ("stage", "left"),
        ("", "left"),
        ("rows in", "right"),
        ("out", "right"),
        ("s", "right"),
        ("artifact", "left"),
    ):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for result in results:
        counts = result.manifest.counts
        table.add_row(
            f"{result.stage} {result.label}",
            "reused" if result.reused else "run",
            f"{counts.seen:,}",
            f"{counts.rows_out:,}",
            f"{result.seconds:.1f}",
            str(result.ref),
        )
    return table


SHOWN = ("bits_per_byte", "recall@10", "mrr@10")


def figures_table(results: Iterable[StageResult]) -> Table:
    """Return what each training did to its own validation data, before and after."""
    table = Table(title="Validation, before -> after", title_justify="left", header_style="bold")
    for name in ("stage", "measure", "before", "after"):
        table.add_column(name, justify="left" if name in ("stage", "measure") else "right")
    for result in results:
        if result.ref.kind != "checkpoint":
            continue
        evaluations = read_json(result.ref.path / "training.json")["evaluations"]
        for metric in sorted(evaluations["after"]):
            if metric.split("/")[0] in SHOWN:
                before, after = evaluations["before"].get(metric), evaluations["after"][metric]
                shown = "" if before is None else f"{before:.4f}"
                table.add_row(result.stage, metric, shown, f"{after:.4f}")
    return table


def print_samples(console: Console, samples: list[dict[str, Any]]) -> None:
    """Print what the model says, one sample per stage and language."""
    console.print(Text("What the checkpoints write", style="bold italic"))
    shown = set()
    for sample in samples:
        place = (sample["checkpoint"], sample["language"])
        if place in shown or place[0] == "semantic":
            continue
        shown.add(place)
        head = Text(f"{place[0]} {place[1]}: ", style="cyan")
        prompt = Text(" ".join(sample["prompt"].split()), style="dim")
        console.print(head + prompt + Text(f" {' '.join(sample['text'].split())}"))


def artifact_table(rows: Iterable[tuple[Any, Any]]) -> Table:
    """Return the table of `etude ls` for (ref, manifest) pairs."""
    table = Table(header_style="bold")
    for name in ("kind", "key", "stage", "when", "rows", "MB", "parents"):
        table.add_column(name, justify="right" if name in ("rows", "MB") else "left")
    for ref, manifest in rows:
        parents = ", ".join(f"{p['kind']}:{p['key'][:10]}" for p in manifest.inputs.values())
        table.add_row(
            ref.kind,
            ref.key[:10],
            manifest.stage,
            manifest.created.replace("+00:00", "Z"),
            f"{manifest.counts.rows_out:,}",
            f"{manifest.num_bytes / 1e6:,.2f}",
            parents,
        )
    return table
