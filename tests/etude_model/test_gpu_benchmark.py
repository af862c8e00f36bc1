"""The benchmark for GPUs runs to its end on a CPU, so that no rented hour is lost to a typo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "on_gpu.py"
# The interface of nanoGPT's model.py, and memory that ends where the width is preset nano's.
STAND_IN = """
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        if config.n_embd == 128:
            raise torch.OutOfMemoryError("no memory is left")
        self.table = nn.Embedding(config.vocab_size, config.n_embd)
        print("a line that is no JSON")

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas)

    def forward(self, tokens, targets):
        logits = self.table(tokens) @ self.table.weight.T
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""


def measure(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the benchmark as on a machine where Etude is not installed; return code and answer.

    Without site (-S) an editable installation is not found, so its dependencies have to be named.
    """
    done = subprocess.run(
        [sys.executable, "-S", str(SCRIPT), "--device", "cpu", "--out", "out.json", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.stdout, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert json.loads((folder / "out.json").read_text()) == answer
    return done.returncode, answer


@pytest.mark.slow
def test_it_measures_dense_and_sparse_training(tmp_path: Path) -> None:
    """Catches a run that does not start, is not stopped, yields no figure or is compared wrongly.

    Nothing is compiled here, so the first steps of the eager runs are the same to the bit.
    """
    arguments = ["--presets", "nano", "nano-moe", "--seconds", "1", "--rows", "4"]
    arguments += ["--set", '{"threads": 1}']  # two that wait for a busy core take minutes
    _, answer = measure(tmp_path, *arguments, "--only", "nano,nano-moe,eager")
    assert set(answer["runs"]) == {"nano", "nano-moe", "eager nano", "eager nano-moe"}
    for run in answer["runs"].values():
        assert "error" not in run and run["warnings"] == []
        assert run["tokens_per_second"] > 0 and run["steps"] > 0 and run["mfu"] > 0
        assert run["first"]["loss"][5] < run["first"]["loss"][0]
    assert answer["moe_over_dense"]["nano-moe"] > 0
    same = {"loss": 0.0, "gradient_norm": 0.0}
    assert answer["compiled_minus_eager"] == {"nano": same, "nano-moe": same}


def test_a_part_that_fails_leaves_the_others(tmp_path: Path) -> None:
    """Catches a failure that ends all or is forgotten, and a second call that drops the first's."""
    (tmp_path / "model.py").write_text(STAND_IN, encoding="utf-8")
    arguments = ["--presets", "nano", "micro", "--rows", "1", "--only", "nanogpt", "--nanogpt", "."]
    code, answer = measure(tmp_path, *arguments, "--nanogpt-seconds", "0.1")
    assert "no memory is left" in answer["runs"]["nanogpt nano"]["error"]
    assert answer["runs"]["nanogpt micro"]["parameters"] == 16384 * 256
    assert answer["runs"]["nanogpt micro"]["steps"] > 0
    assert code == 1 and answer["missed"] == ["nanogpt nano failed"]
    code, answer = measure(tmp_path, "--presets", "nano", "--only", "nano", "--minutes", "0")
    assert "no time left" in answer["runs"]["nano"]["error"]
    assert code == 1 and "nanogpt micro" in answer["runs"]
