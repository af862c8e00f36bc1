"""A stop in the middle of a word to MLflow: the word is said to its end."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tasks import tracking
from tasks.tracking import Point


@pytest.fixture
def stops_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt every batch of points before it is written, as Ctrl-C does."""
    log_batch = MlflowClient.log_batch

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.2)  # an exception that comes up here would end the call
        return log_batch(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", interrupted)


def test_a_stop_breaks_no_word_off(home: Path, stops_in_the_middle: None) -> None:
    """Catches a transaction left open in the main thread: the database would be locked."""
    points = [Point("loss", 2.5, 7, 0)]
    with pytest.raises(KeyboardInterrupt), tracking.stage_run("sft", "", "0123", {}, {}) as run:
        run.log_points(points)
    found = tracking.client().get_run(run.run_id)
    assert found.info.status == "KILLED"
    assert found.data.metrics == {"loss": 2.5}
