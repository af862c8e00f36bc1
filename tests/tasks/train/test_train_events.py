"""The training room: what a child says becomes curves, errors and exit codes become errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from storage.errors import BadInput
from storage.workspace import Workspace
from tasks.tracking import Point
from tasks.train.child import follow
from tasks.train.events import Curves, watch


class Recorder:
    """Stands where the MLflow run is, and keeps the points."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def log_points(self, points: Any) -> None:
        """Keep them."""
        self.points += list(points)


def step(number: int, loss: float) -> dict[str, Any]:
    """Return a step event."""
    return {"kind": "step", "step": number, "time": float(number), "loss": loss}


def start(number: int) -> dict[str, Any]:
    """Return a start event."""
    about = {"parameters": 1, "device": "cpu", "precision": "float32", "num_steps": 6}
    return {"kind": "start", "step": number, "time": 0.0, **about}


def sent(events: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """Return the (step, loss) points that reach the tracker."""
    recorder = Recorder()
    curves = Curves(recorder)  # type: ignore[arg-type]
    for event in events:
        curves.take(event)
    return [(point.step, point.value) for point in recorder.points]


def test_points_wait_for_their_checkpoint() -> None:
    """Catches points of steps that a kill would make happen twice."""
    events = [start(0), step(1, 9.0), step(2, 8.0), step(3, 7.0)]
    assert sent(events) == []
    assert sent([*events, {"kind": "checkpoint", "step": 2}]) == [(1, 9.0), (2, 8.0)]


def test_a_killed_attempts_tail_is_dropped_and_its_durable_part_kept() -> None:
    """Catches the values of steps that were taken back, and a gap before the resumed step.

    The checkpoint of step 2 was durable but its event was never written: the resume tells.
    """
    events = [start(0), step(1, 9.0), step(2, 8.0), step(3, 7.7), start(2), step(3, 7.0)]
    events.append({"kind": "end", "step": 3})
    assert sent(events) == [(1, 9.0), (2, 8.0), (3, 7.0)]


def test_an_evaluation_without_a_number_stops_nothing(tmp_path: Path) -> None:
    """Catches a NaN (null in JSON) that would end the stage, now and at every restart."""
    evaluate = {"kind": "evaluate", "step": 1, "time": 1.0, "metrics": {"bits_per_byte": None}}
    events = [start(0), evaluate, {"kind": "end", "step": 1}]
    curves = Curves(None)
    assert len(list(watch(events, curves, Workspace.scratch(tmp_path)))) == 3


def test_a_childs_bad_config_is_bad_input(tmp_path: Path) -> None:
    """Catches a child's refusal that would reach the user as a traceback."""
    workspace = Workspace.scratch(tmp_path)
    run = {
        "stage": "sft",
        "train": {},
        "shards": [str(tmp_path / "none")],
        "parent": str(tmp_path / "nothing"),
        "tokenizer": str(tmp_path / "nothing"),
    }
    (workspace.logs / "run.json").write_text(json.dumps(run))
    with pytest.raises(BadInput, match="nothing"):
        list(follow(workspace))
