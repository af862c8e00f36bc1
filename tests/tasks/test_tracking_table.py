"""Generated samples in MLflow: the table that its page shows, read back by MLflow itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks import tracking
from tasks.train.events import Curves


def test_the_samples_of_a_training_are_a_table_that_mlflow_reads(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a table that MLflow's page would not find, with columns mixed up or rows doubled."""
    sample = {"prompt": "水是", "text": "液体\n。", "language": "zh"}
    events = [
        {"kind": "sample", "step": step, "samples": [sample, sample | {"prompt": f"at {step}"}]}
        for step in (40, 8, 8)  # a resumed training writes those of step 8 again
    ]
    with tracking.stage_run("sft", "", "0123", {}, {}) as run:
        curves = Curves(run)
        for event in events:
            curves.take(event)
        curves.log_samples()
        curves.log_samples()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.uri())
    table = MlflowClient().load_table(tracking.experiment_id(), "samples.json", [run.run_id])
    rows = table.sort_values(["step", "prompt"]).to_dict("records")
    assert [(row["step"], row["prompt"]) for row in rows] == [
        (8, "at 8"),
        (8, "水是"),
        (40, "at 40"),
        (40, "水是"),
    ]
    assert {row["text"] for row in rows} == {"液体\n。"}


def test_a_table_with_a_hole_is_refused(home: Path) -> None:
    """Catches rows that would move up beside another row's columns."""
    with tracking.stage_run("sft", "", "0123", {}, {}) as run, pytest.raises(ValueError):
        run.log_table("samples.json", {"prompt": ["a", "b"], "text": ["c"]})
