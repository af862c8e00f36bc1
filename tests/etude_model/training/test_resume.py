"""The signature test: killed at random steps and resumed = never interrupted, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from etude_model.training.__main__ import main
from etude_model.training.checkpoint import take_snapshot
from etude_model.training.events import EventLog, read_events
from etude_model.training.run import EVENTS_FILE, build_trainer, read_run
from etude_model.training.trainer import Trainer
from storage.artifact import sha256_file
from storage.errors import BadInput, Stopped

STAGES = ("pretrain", "semantic", "sft", "lora")


def train(run_dir: Path, kill_after: int | None = None, stop_after: int | None = None) -> Trainer:
    """Train in this process; kill it with SIGKILL, or ask it to stop, after so many steps."""
    made = 0
    trainer = build_trainer(read_run(run_dir), run_dir, stop=lambda: made == stop_after)
    log = EventLog(run_dir / EVENTS_FILE)
    for event in trainer.events():
        log.write(event)
        made += event["kind"] == "step"
        if made == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
    log.close()
    return trainer


def start_child(run_dir: Path, kill_after: int | None = None) -> multiprocessing.Process:
    """Begin to train in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["etude_model.training.run", "torch._dynamo"])
    child = context.Process(target=train, args=(run_dir, kill_after))
    child.start()
    return child


def train_in_child(run_dir: Path, kill_after: int | None = None) -> int | None:
    """Train in a process of its own and return its exit code; -9 is SIGKILL."""
    child = start_child(run_dir, kill_after)
    child.join(120)
    return child.exitcode


def events_of(run_dir: Path) -> list[dict]:
    """Return the events that a run has written."""
    return [event for _, event in read_events(run_dir / EVENTS_FILE)]


def results(run_dir: Path) -> dict[str, str]:
    """Return the digests of the finished checkpoint's files."""
    return {path.name: sha256_file(path) for path in sorted(run_dir.iterdir()) if path.is_file()}


def assert_same_state(one: Trainer, other: Trainer) -> None:
    """Assert weights, biases and moments that are equal to the bit."""
    first, second = (
        take_snapshot(trainer.model, trainer.optimizer, {}, trainer.world).tensors
        for trainer in (one, other)
    )
    for file, tensors in first.items():
        assert tensors and tensors.keys() == second[file].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, second[file][name]), name


@pytest.mark.parametrize(
    ("kind", "stage", "optimizer"),
    [
        *((kind, stage, "adamw") for kind in ("dense", "moe") for stage in STAGES),
        ("dense", "pretrain", "muon"),
    ],
)
def test_killed_three_times_equals_never(
    kind, stage, optimizer, write_run, write_moe_run, tmp_path
):
    """Catches whatever a resume forgets: moments, schedule, data position, dropout, evaluations.

    With experts also the balancing biases, which are no parameters.
    """
    write = write_run if kind == "dense" else write_moe_run
    straight = write(tmp_path / "straight", stage, optimizer=optimizer)
    never = train(straight)
    killed = write(tmp_path / "killed", stage, optimizer=optimizer)
    generator = random.Random(stage)
    for _ in range(3):  # of 12 steps; checkpoints are due at 3, 5 (the best), 6 and so on
        assert train_in_child(killed, kill_after=generator.randint(1, 4)) == -signal.SIGKILL
    thrice = train(killed)

    expected = results(straight)
    assert {"model.safetensors", "config.json", "tokenizer.model", "training.json"} <= set(expected)
    assert results(killed) == expected
    assert_same_state(never, thrice)
    name = "adapter.safetensors" if stage == "lora" else "model.safetensors"
    weights = load_file(straight / name)
    biases = [value for key, value in weights.items() if key.endswith("e_score_correction_bias")]
    assert len(biases) == (kind == "moe" and stage != "lora")
    assert all(bias.abs().max() > 0 for bias in biases)
    assert not (killed / "steps").exists()
    # All steps that any attempt made show the loss of the uninterrupted run.
    losses = {event["step"]: event["loss"] for event in events_of(straight) if "loss" in event}
    assert all(losses[e["step"]] == e["loss"] for e in events_of(killed) if "loss" in e)
    assert [event["kind"] for event in events_of(killed)].count("start") == 4


@pytest.mark.parametrize("stage", ("pretrain", "semantic"))
def test_killed_from_outside_at_any_moment_equals_never(stage, write_moe_run, tmp_path):
    """Catches what only a kill inside a step, a save or an evaluation leaves half done.

    The moments are another three each time the test runs: none of them may matter.
    """
    knobs = {"num_steps": 60, "optimizer": "muon", "checkpoint_every": 2}
    straight, killed = (
        write_moe_run(tmp_path / name, stage, **knobs) for name in ("straight", "killed")
    )
    began = time.monotonic()
    never = train(straight)
    seconds_of_a_step = (time.monotonic() - began) / 60
    for _ in range(3):
        made = [event["kind"] for event in events_of(killed)].count("step")
        child = start_child(killed)
        wait_for(killed, "step", made + random.randint(1, 10))
        time.sleep(random.uniform(0, 2 * seconds_of_a_step))
        child.kill()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
    thrice = train(killed)
    assert results(killed) == results(straight)
    assert_same_state(never, thrice)


@pytest.mark.parametrize(("kind", "stage"), [("dense", "pretrain"), ("moe", "semantic")])
def test_killed_in_bfloat16_with_two_threads_equals_never(
    kind, stage, write_run, write_moe_run, tmp_path
):
    """Catches sums whose order is left to chance once several threads share them."""
    write = write_run if kind == "dense" else write_moe_run
    knobs = {"threads": 2, "precision": "bfloat16", "num_steps": 6, "evaluation_rows": 2}
    straight = write(tmp_path / "straight", stage, **knobs)
    assert train_in_child(straight) == 0
    killed = write(tmp_path / "killed", stage, **knobs)
    assert train_in_child(killed, kill_after=5) == -signal.SIGKILL
    assert train_in_child(killed) == 0
    assert results(killed) == results(straight)


@pytest.mark.parametrize(
    ("stage", "knobs"),
    (("semantic", {}), ("lora", {}), ("pretrain", {"optimizer": "muon", "batch_size": 6})),
)
def test_checkpoint_of_a_resumed_run_is_the_same_bytes(stage, knobs, write_moe_run, tmp_path):
    """Catches moments that differ although the weights still agree, and biases not kept."""
    write = write_moe_run
    straight, resumed = (write(tmp_path / name, stage, **knobs) for name in ("straight", "resumed"))
    with pytest.raises(Stopped):
        train(straight, stop_after=8)
    for steps in (1, 4, 3):
        with pytest.raises(Stopped):
            train(resumed, stop_after=steps)
    folders = [folder / "steps" / "step_00000008" for folder in (straight, resumed)]
    assert results(folders[0]) == results(folders[1])


def test_lora_leaves_the_base_as_it_was(write_run, parent_checkpoint, tmp_path):
    """Catches adapters merged into, or trained together with, the base."""
    run_dir = write_run(tmp_path / "run", "lora", num_steps=3)
    train(run_dir)
    base, parent = run_dir / "model.safetensors", parent_checkpoint / "model.safetensors"
    assert sha256_file(base) == sha256_file(parent)
    adapter = load_file(run_dir / "adapter.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in adapter.items() if "lora_B" in name)
    assert json.loads((run_dir / "adapter.json").read_text())["rank"] == 2


@pytest.mark.parametrize("damage", ("cut", "gone"))
@pytest.mark.parametrize(
    "victim", ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
)
def test_torn_checkpoint_falls_back_to_the_one_before(victim, damage, write_run, tmp_path):
    """Catches trust in a file that a crash or a disk left short, or in a folder that lacks one."""
    straight = write_run(tmp_path / "straight", "sft")
    train(straight)
    torn = write_run(tmp_path / "torn", "sft")
    with pytest.raises(Stopped):
        train(torn, stop_after=7)
    steps = torn / "steps"
    found = sorted(path.name for path in steps.iterdir())
    assert found == ["step_00000005", "step_00000006", "step_00000007"]  # best, and the last two
    path = steps / "step_00000007" / victim
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        path.unlink()
    (steps / "step_00000009.tmp").mkdir()
    train(torn)
    starts = [event["step"] for event in events_of(torn) if event["kind"] == "start"]
    warnings = [event["message"] for event in events_of(torn) if event["kind"] == "warning"]
    assert starts == [0, 6]
    assert len(warnings) == 1 and victim in warnings[0]
    assert results(torn) == results(straight)


@pytest.mark.parametrize(
    ("kind", "stage"),
    [*(("dense", stage) for stage in STAGES), *(("moe", stage) for stage in STAGES)],
)
def test_other_micro_batch_size_goes_on_to_nearly_the_same(
    kind, stage, write_run, write_moe_run, tmp_path
):
    """Catches a batch order or a loss that depends on the micro-batch.

    Floating-point sums in another order are another sum: equal to 1e-6 here, not to the bit.
    """
    write = write_run if kind == "dense" else write_moe_run
    no_dropout = {"lora": {"rank": 2}} if stage == "lora" else {}
    name_of_weights = "adapter.safetensors" if stage == "lora" else "model.safetensors"
    folders = []
    for second in (8, 2):
        run_dir = write(tmp_path / str(second), stage, learning_rate=1e-3, **no_dropout)
        with pytest.raises(Stopped):
            train(run_dir, stop_after=5)
        path = run_dir / "logs" / "run.json"
        run = json.loads(path.read_text())
        run["train"]["micro_batch_size"] = second
        path.write_text(json.dumps(run))
        train(run_dir)
        folders.append(load_file(run_dir / name_of_weights))
    for name, tensor in folders[0].items():
        assert torch.allclose(tensor, folders[1][name], atol=1e-6, rtol=0), name


def test_stop_before_the_first_step(write_run, tmp_path):
    """Catches a checkpoint that needs moments, and a stop that waits for the first evaluation."""
    straight, stopped = (write_run(tmp_path / name, "sft") for name in ("straight", "stopped"))
    train(straight)
    with pytest.raises(Stopped):
        train(stopped, stop_after=0)
    assert [event["kind"] for event in events_of(stopped)] == ["start", "checkpoint", "stopped"]
    train(stopped)
    assert results(stopped) == results(straight)


def test_other_config_is_refused(write_run, tmp_path):
    """Catches half a run with one learning rate and half with another."""
    run_dir = write_run(tmp_path / "run", "sft")
    with pytest.raises(Stopped):
        train(run_dir, stop_after=2)
    path = run_dir / "logs" / "run.json"
    path.write_text(path.read_text().replace('"learning_rate": 0.01', '"learning_rate": 0.02'))
    with pytest.raises(BadInput, match="another config"):
        train(run_dir)


def test_finished_run_is_not_trained_again(write_run, tmp_path):
    """Catches a retry that overwrites a finished checkpoint."""
    run_dir = write_run(tmp_path / "run", "pretrain", num_steps=3)
    train(run_dir)
    expected = results(run_dir)
    train(run_dir)
    assert results(run_dir) == expected
    assert [event["kind"] for event in events_of(run_dir)].count("start") == 1


def command(run_dir: Path) -> list[str]:
    """Return the command line that trains a run."""
    return [sys.executable, "-m", "etude_model.training", str(run_dir)]


def wait_for(run_dir: Path, kind: str, number: int = 1) -> list[dict]:
    """Wait until a run has written so many events of a kind."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [event for event in events_of(run_dir) if event["kind"] == kind]
        if len(found) >= number:
            return found
        time.sleep(0.02)
    raise AssertionError(f"no {kind} event within a minute")


def test_sigterm_leaves_a_checkpoint_and_resumes(write_run, tmp_path):
    """Catches a stop that loses the step in hand, and wrong exit codes of the real command."""
    many = {"num_steps": 200, "checkpoint_every": 1000, "evaluate_every": 1000}
    straight = write_run(tmp_path / "straight", "pretrain", **many)
    train(straight)
    run_dir = write_run(tmp_path / "run", "pretrain", **many)
    child = subprocess.Popen(command(run_dir))
    wait_for(run_dir, "step", 5)
    child.send_signal(signal.SIGTERM)
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 75
    kinds = [event["kind"] for event in events_of(run_dir)]
    assert kinds[-2:] == ["checkpoint", "stopped"]
    stopped = events_of(run_dir)[-1]["step"]
    assert 5 <= stopped < 200
    train(run_dir)
    assert [e["step"] for e in events_of(run_dir) if e["kind"] == "start"] == [0, stopped]
    assert results(run_dir) == results(straight)


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_orphan_stops_with_a_checkpoint(write_run, tmp_path):
    """Catches training that goes on for nobody after its flow was killed."""
    run_dir = write_run(tmp_path / "run", "pretrain", num_steps=100_000, parent_pid=-1)
    code = (
        "import json, os, pathlib, subprocess, sys, time\n"
        f"path = pathlib.Path({str(run_dir / 'logs' / 'run.json')!r})\n"
        "run = json.loads(path.read_text()) | {'parent_pid': os.getpid()}\n"
        "path.write_text(json.dumps(run))\n"
        f"subprocess.Popen({command(run_dir)!r})\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    wait_for(run_dir, "step", 2)
    parent.kill()
    parent.wait()
    assert wait_for(run_dir, "stopped")


def test_bad_config_has_its_own_exit_code(tmp_path, monkeypatch, capsys):
    """Catches a retry loop over a config that can never work, and a traceback instead of a line."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "run.json").write_text('{"stage": "sft", "train": {"stpes": 3}}')
    monkeypatch.setattr("etude_model.training.__main__.StopRequest.listen", lambda self: None)
    assert main([str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "stpes" in said[0]
