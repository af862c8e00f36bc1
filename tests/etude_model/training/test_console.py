"""What a run says to whoever started it by hand."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from etude_model.training.console import Console

START = {"kind": "start", "step": 0, "num_steps": 9, "description": "1.3M parameters"}
START |= {"micro_batch_size": 4, "device": "cpu", "precision": "float32"}


def step(number: int) -> dict:
    """Return a step's event."""
    figures = {"loss": 2.5, "tokens_per_second": 12345.6, "eta_seconds": 90.0}
    return {"kind": "step", "step": number} | figures


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Return what decides how much is said."""
        return True


@pytest.mark.parametrize("stream", (io.StringIO(), Terminal()))
def test_a_terminal_hears_of_steps_and_a_file_does_not(stream):
    """Catches a log of a line per step, a silent terminal, and a last step that is passed over."""
    clock = iter((0.0, 1.0, 5.0, 6.0))
    console = Console(stream, clock=lambda: next(clock))
    metrics = {"bits_per_byte": 2.0, "recall@10/title-lead/en": 1.0}
    events = [START, *map(step, (1, 2, 3, 9)), {"kind": "warning", "message": "step 4 skipped"}]
    for event in [*events, {"kind": "evaluate", "step": 9, "metrics": metrics}]:
        console.tell(event)
    start, *steps, warning = [
        line for line in stream.getvalue().splitlines() if "bits_per_byte" not in line
    ]
    assert start == "1.3M parameters; 4 rows at once on cpu in float32"
    assert warning == "warning: step 4 skipped"
    assert [line.partition(" of ")[0] for line in steps] == (
        ["step 1", "step 3", "step 9"] if stream.isatty() else []
    )
    assert all("loss 2.5000, 12,346 tokens/s, 1.5 min left" in line for line in steps)
    assert ("step 9: bits_per_byte 2.0000\n" in stream.getvalue()) == stream.isatty()


def test_the_command_says_what_it_needs_before_it_trains(write_run, tmp_path):
    """Catches a run by hand that is silent about its parameters, its work and its memory."""
    run_dir = write_run(tmp_path / "run", "pretrain", num_steps=3)
    command = [sys.executable, "-m", "etude_model.training", str(run_dir)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    (line,) = said.stderr.splitlines()
    for words in ("parameters", "FLOP per token", "GB of memory", "8 rows at once on cpu"):
        assert words in line
    assert not said.stdout
