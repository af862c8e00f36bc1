"""The training room: what a child says becomes curves, errors and exit codes become errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from storage.errors import BadInput, ChildFailed
from storage.workspace import Workspace
from tasks.tracking import Point
from tasks.train import child
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
    about = {"description": "1 parameter", "device": "cpu", "precision": "float32", "num_steps": 6}
    about["micro_batch_size"] = 4
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


CHILD = """
import json, os, pathlib, sys, time
from etude_model.training.signals import StopRequest

stop = StopRequest()
stop.listen()
events = pathlib.Path(sys.argv[2], "logs", "events.jsonl")

def hang():
    while not stop():
        time.sleep(0.02)

with events.open("a") as file:
    print(json.dumps({"kind": "step", "pid": os.getpid()}), file=file, flush=True)
    hang()
sys.exit(75)
"""


def test_a_silent_child_is_stopped_and_says_where_it_hung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a stage that waits for ever for a training that hangs, and a stop without a trace."""
    workspace = Workspace.scratch(tmp_path)
    words = [sys.executable, "-c", CHILD, "etude_model.training", str(workspace.path)]
    monkeypatch.setattr(child, "command", lambda run_dir: words)
    monkeypatch.setattr(child, "SLOWER", 0)  # the import took its time
    events = []
    with pytest.raises(ChildFailed, match="heartbeat_minutes"):
        for event in follow(workspace, patience_seconds=5.0):
            events.append(event)
    assert [event["kind"] for event in events] == ["step"]
    assert not psutil.pid_exists(events[0]["pid"])
    assert "in hang" in (workspace.logs / "train.log").read_text()


def test_a_slow_child_is_not_a_silent_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an alarm at each step of a model whose steps take longer than anyone thought."""
    workspace = Workspace.scratch(tmp_path)
    code = (
        "import json, pathlib, sys, time\n"
        "file = pathlib.Path(sys.argv[2], 'logs', 'events.jsonl').open('a')\n"
        "for step in range(3):\n"
        "    time.sleep(0.6)\n"
        "    print(json.dumps({'kind': 'step', 'step': step}), file=file, flush=True)\n"
    )
    words = [sys.executable, "-c", code, "etude_model.training", str(workspace.path)]
    monkeypatch.setattr(child, "command", lambda run_dir: words)
    with pytest.raises(ChildFailed):
        list(follow(workspace, patience_seconds=0.0))  # not even the first silence is allowed
    (workspace.logs / "events.jsonl").write_text("")
    monkeypatch.setattr(child, "SLOWER", 1000)
    events = follow(workspace, patience_seconds=30.0)
    assert next(events)["step"] == 0
    assert [event["step"] for event in events] == [1, 2]


@pytest.mark.parametrize(
    ("code", "words"), ((70, "training diverged"), (71, "too little memory"), (9, "exit code 9"))
)
def test_a_childs_end_is_put_in_words(
    code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a number where the user needs to know what happened, and the child's last line."""
    script = f"import sys; print('so it was'); sys.exit({code})"
    monkeypatch.setattr(child, "command", lambda run_dir: [sys.executable, "-c", script])
    with pytest.raises(ChildFailed, match=f"{words}.*so it was"):
        list(follow(Workspace.scratch(tmp_path)))


def test_all_figures_of_a_step_become_curves(tmp_path: Path) -> None:
    """Catches a new figure of the trainer's that never reaches MLflow, and pictures left out."""
    recorder = Recorder()
    curves = Curves(recorder)  # type: ignore[arg-type]
    figures = {"bits_per_byte": 2.0, "mfu": 0.4, "expert_entropy": 0.9, "tokens_per_second": 5.0}
    count = {"tokens": 9, "eta_seconds": 3.0, "contrastive_loss": None}
    for number in (1, 2):
        curves.take(step(number, 9.0) | figures | count)
    curves.take({"kind": "end", "step": 2})
    names = {point.name for point in recorder.points}
    assert names == {f"train/{name}" for name in (*figures, "loss")}
    curves.draw(tmp_path, "sft")
    pictures = sorted(path.name for path in tmp_path.iterdir())
    assert pictures == ["curves.png", "experts.png", "throughput.png"]
