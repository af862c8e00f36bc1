"""The benchmark for GPUs runs to its end on a CPU, so that no rented hour is lost to a typo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_measures_dense_and_sparse_training() -> None:
    """Catches a run that does not start, is not stopped, or yields no figure."""
    command = [sys.executable, "benchmarks/on_gpu.py", "--presets", "nano", "nano-moe"]
    command += ["--device", "cpu", "--seconds", "1", "--rows", "4"]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout, done.stderr[-3000:]
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(answer["runs"]) == {"nano", "nano-moe"} and answer["moe_over_dense"] > 0
    for run in answer["runs"].values():
        assert run["tokens_per_second"] > 0 and run["steps"] > 0 and run["mfu"] > 0
