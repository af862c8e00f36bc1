"""Training events -> curves in MLflow, progress for people, and the figures of the manifest.

Points wait until the checkpoint they belong to is durable, then go out in one batch. What an
attempt measured after its last checkpoint is measured again by the next one, so it is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude_model.training.console import figures_line, start_line
from storage.workspace import Workspace
from tasks.tracking import Point, StageRun

NO_CURVES = {"kind", "step", "time", "tokens", "eta_seconds"}  # of a step: the rest are figures
PICTURES = {
    "curves": ("bits per byte", ("train/bits_per_byte", "evaluate/bits_per_byte")),
    "throughput": ("tokens per second", ("train/tokens_per_second",)),
    "experts": ("share", ("train/expert_entropy", "train/expert_max_share")),
}


@dataclass(slots=True)
class Curves:
    """Collects the points of a run; `pending` are those no checkpoint covers yet."""

    run: StageRun | None
    pending: list[Point] = field(default_factory=list)
    points: dict[str, dict[int, float]] = field(default_factory=dict)
    samples: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    num_steps: int = 0
    _sent_samples: int = 0

    def take(self, event: dict[str, Any]) -> None:
        """Take one event of the child's."""
        kind, step = event["kind"], int(event.get("step", 0))
        if kind == "start":
            self.num_steps = int(event["num_steps"])
            self._flush(up_to=step)  # durable, but nobody lived to send it
            self.pending.clear()
        elif kind == "step":
            names = event.keys() - NO_CURVES
            self._add(event, {f"train/{name}": event[name] for name in sorted(names)}, step)
        elif kind == "evaluate":
            figures = event["metrics"].items()
            self._add(event, {f"evaluate/{name}": value for name, value in figures}, step)
        elif kind == "sample":
            for index, sample in enumerate(event["samples"]):
                self.samples[step, index] = {"step": step, **_sample(sample)}
        elif kind in ("checkpoint", "end"):
            self._flush(up_to=step)

    def _add(self, event: dict[str, Any], values: dict[str, Any], step: int) -> None:
        for name, value in values.items():
            if value is not None:
                self.pending.append(Point(name, float(value), step, int(event["time"] * 1000)))
                self.points.setdefault(name, {})[step] = float(value)

    def _flush(self, up_to: int) -> None:
        ready = [point for point in self.pending if point.step <= up_to]
        self.pending = [point for point in self.pending if point.step > up_to]
        if self.run and ready:
            self.run.log_points(ready)

    def log_samples(self) -> None:
        """Send the generated samples as one table."""
        rows = [self.samples[where] for where in sorted(self.samples)]
        if self.run and rows:
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            self.run.log_table("samples.json", columns)

    def draw(self, folder: Path, title: str) -> None:
        """Draw what was learned, how fast, and how the experts were used, over the steps."""
        from tasks.figures import curves

        for picture, (label, names) in PICTURES.items():
            series = {name: _xy(self.points[name]) for name in names if name in self.points}
            if series:
                curves(folder / f"{picture}.png", series, f"{title}: {label}", "step", label)


def watch(events: Iterable[dict[str, Any]], curves: Curves, workspace: Workspace) -> Iterator[None]:
    """Feed the events to the curves and to whoever watches the stage."""
    for event in events:
        curves.take(event)
        if event["kind"] == "start":
            workspace.log(start_line(event))
        elif event["kind"] == "step":
            workspace.progress(event["step"], curves.num_steps, "steps")
        elif event["kind"] == "evaluate":
            workspace.log(f"step {event['step']}: {figures_line(event['metrics'])}")
        elif event["kind"] == "warning":
            workspace.log(f"warning: {event['message']}")
        yield


def _xy(points: dict[int, float]) -> tuple[list[float], list[float]]:
    steps = sorted(points)
    return [float(step) for step in steps], [points[step] for step in steps]


def _sample(sample: Any) -> dict[str, Any]:
    return dict(sample) if isinstance(sample, dict) else {"text": str(sample)}
