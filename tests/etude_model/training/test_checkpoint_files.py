"""Checkpoints on the disk: written while training goes on, kept as asked, the best found again."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from etude_model.config import SftConfig
from etude_model.training import checkpoint
from etude_model.training.progress import Progress
from etude_model.training.run import build_trainer, read_run
from etude_model.training.stages import less_bits
from etude_model.training.trainer import Trainer
from storage.artifact import sha256_file
from storage.errors import Stopped


def trainer_of(run_dir: Path, **options) -> Trainer:
    """Return the trainer of a run directory."""
    return build_trainer(read_run(run_dir), run_dir, **options)


def digests(folder: Path) -> dict[str, str]:
    """Return the digests of a folder's files."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()}


def test_written_beside_training_equals_written_on_the_spot(write_moe_run, tmp_path, monkeypatch):
    """Catches a snapshot that shares memory with the weights, moments or evaluations.

    The writer of one run sleeps until training has made five more steps; the other run stops at
    the checkpoint's step, where nothing can change below it.
    """
    knobs = {"checkpoint_every": 4, "evaluate_every": 3, "keep_checkpoints": 9, "num_steps": 9}
    plain, write = write_moe_run(tmp_path / "plain", "pretrain", **knobs), checkpoint.write_tensors
    made = 0
    trainer = trainer_of(plain, stop=lambda: made == 4)
    with pytest.raises(Stopped):
        for event in trainer.events():
            made += event["kind"] == "step"

    late = write_moe_run(tmp_path / "late", "pretrain", **knobs)
    trainer = trainer_of(late)
    trainer.stage = replace(trainer.stage, score=lambda evaluations, step: None)  # no other saves

    def wait_and_write(path: Path, tensors: dict) -> None:
        deadline = time.monotonic() + 60
        while "step_00000004" in str(path) and trainer.now.step < 7:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        write(path, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", wait_and_write)
    for event in trainer.events():
        if event["kind"] == "checkpoint" and event["step"] == 4:
            assert trainer.now.step >= 7  # training did not wait
            found = digests(late / event["path"])
            assert found == digests(plain / "steps" / "step_00000004")
            break
    else:
        raise AssertionError("no checkpoint was told of")


def die_while_writing(run_dir: Path, victim: str) -> None:
    """Train, and be killed when the second checkpoint has its file `victim` half written."""
    write, begun = checkpoint.write_tensors, []

    def write_half(path: Path, tensors: dict) -> None:
        begun.append(path.name)
        if begun.count(victim) < 2 or path.name != victim:
            return write(path, tensors)
        write(path, tensors)
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.write_tensors = write_half
    list(trainer_of(run_dir).events())


@pytest.mark.parametrize("victim", ("model.safetensors", "optimizer.safetensors"))
def test_killed_while_writing_loses_nothing(victim, write_run, tmp_path):
    """Catches a half-written checkpoint that counts, or that stands in the way of the next."""
    straight, killed = (write_run(tmp_path / name, "sft") for name in ("straight", "killed"))
    list(trainer_of(straight).events())
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["etude_model.training.run", "torch._dynamo"])
    child = context.Process(target=die_while_writing, args=(killed, victim))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    names = sorted(path.name for path in (killed / "steps").iterdir())
    assert names == ["step_00000003", "step_00000005.tmp"]
    events = list(trainer_of(killed).events())
    assert [event["step"] for event in events if event["kind"] == "start"] == [3]
    assert not [event for event in events if event["kind"] == "warning"]
    assert digests(killed) == digests(straight)


def test_a_full_disk_ends_the_run_and_names_the_file(write_run, tmp_path, monkeypatch):
    """Catches an error in the writing thread that nobody hears of."""

    def fail(path: Path, tensors: dict) -> None:
        raise OSError(f"{path.name}: no space left")

    monkeypatch.setattr(checkpoint, "write_tensors", fail)
    run_dir = write_run(tmp_path / "run", "sft", num_steps=5)
    with pytest.raises(OSError, match="no space left"):
        list(trainer_of(run_dir).events())
    assert not (run_dir / "training.json").exists()


def scored(trainer: Trainer, scores: dict[str, float]) -> Trainer:
    """Let a trainer's stage like the steps as told."""
    score = lambda evaluations, step: scores.get(step)  # noqa: E731
    trainer.stage = replace(trainer.stage, score=score)
    return trainer


def test_the_best_is_kept_and_can_be_the_result(write_run, tmp_path):
    """Catches a best checkpoint that is cleared away, or whose weights are not the result's."""
    knobs = {"evaluate_every": 2, "checkpoint_every": 5, "keep_checkpoints": 1, "num_steps": 9}
    run_dir = write_run(tmp_path / "best", "sft", finished_weights="best", **knobs)
    scores = {"0": 9.0, "2": 1.0, "4": 3.0, "6": 2.0, "8": 3.0, "9": 0.0}
    weights, kept = {}, []
    trainer = scored(trainer_of(run_dir), scores)
    for event in trainer.events():
        if event["kind"] == "step":
            weights[event["step"]] = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        if event["kind"] == "checkpoint":
            kept.append((event["step"], sorted(f.name[-1] for f in (run_dir / "steps").iterdir())))
    assert kept == [(2, ["2"]), (4, ["4"]), (5, ["4", "5"])]
    result = load_file(run_dir / "model.safetensors")
    assert all(torch.equal(tensor, weights[4][name]) for name, tensor in result.items())
    summary = json.loads((run_dir / "training.json").read_text())
    assert summary["weights_of_step"] == 4 and summary["steps"] == 9
    assert summary["evaluations"]["after"] == trainer.now.evaluations["4"]


def test_weights_that_a_stage_refuses_are_not_the_result(write_run, tmp_path):
    """Catches a stage whose last weights broke its guard, and that hands them out all the same."""
    run_dir = write_run(tmp_path / "run", "sft", evaluate_every=2, num_steps=4)
    list(scored(trainer_of(run_dir), {"2": 1.0}).events())
    assert json.loads((run_dir / "training.json").read_text())["weights_of_step"] == 2


def test_best_step():
    """Catches a best that is NaN, that is the start, or that moves when an equal one comes."""
    bits = {"0": 1.0, "10": 3.0, "20": 2.0, "30": math.nan, "40": 2.0}
    now = Progress(1, evaluations={step: {"bits_per_byte": value} for step, value in bits.items()})
    now.evaluations["50"] = {}
    assert now.best(less_bits) == 20
    assert Progress(1, evaluations={"0": {"bits_per_byte": 1.0}}).best(less_bits) is None


def test_minutes_make_checkpoints_due_too(write_run, tmp_path):
    """Catches hours between two checkpoints of slow steps."""
    knobs = {"checkpoint_every": 1000, "evaluate_every": 1000, "num_steps": 4}
    run_dir = write_run(tmp_path / "run", "sft", checkpoint_minutes=1e-9, **knobs)
    events = list(trainer_of(run_dir).events())
    assert [event["step"] for event in events if event["kind"] == "checkpoint"] == [1, 2, 3]


def test_where_the_best_is_looked_for_decides_the_result():
    """Catches two runs with other candidates for the best that share a key, and old keys lost."""
    plain, best = SftConfig(), SftConfig(finished_weights="best")
    assert "finished_weights" not in plain.key_dict()
    assert plain.key_dict() == SftConfig(evaluate_every=7).key_dict()
    assert best.key_dict() != plain.key_dict()
    assert best.key_dict() != SftConfig(finished_weights="best", evaluate_every=7).key_dict()
