"""Several processes train what one trains: weights, moments, figures, stops; two gloo ranks."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from etude_model.model.transformer import Etude
from etude_model.training.distributed import World, join, leave
from etude_model.training.events import EventLog, read_events
from etude_model.training.objectives import Loss, Part
from etude_model.training.run import EVENTS_FILE, build_trainer, read_run
from storage.errors import BadInput, Stopped

# A small rate, for AdamW makes a step of its length out of a gradient that is rounding alone.
SHORT = {"num_steps": 4, "evaluate_every": 100, "evaluation_rows": 2, "learning_rate": 1e-4}
SPEED = {"time", "tokens_per_second", "mfu", "memory_bytes", "eta_seconds"}
SPARSE = {
    "num_experts": 5,
    "num_experts_per_token": 2,
    "num_shared_experts": 1,
    "moe_intermediate_size": 16,
    "router_score": "sigmoid",
    "num_dense_layers": 1,
}


@pytest.mark.parametrize("size", (1, 2, 3, 4))
@pytest.mark.parametrize("num_rows", (4, 7, 12, 33))
@pytest.mark.parametrize("at_once", (1, 2, 5, 64, None))
def test_ranks_share_out_every_row_once(num_rows, size, at_once):
    """Catches rows read twice or never, and ranks that wait for a micro-batch nobody else has."""
    worlds = [World(rank, size) for rank in range(size)]
    parts = [world.micro_batches(num_rows, at_once) for world in worlds]
    rows = [list(range(num_rows))[part] for own in parts for part in own]
    assert [row for part in rows for row in part] == list(range(num_rows))
    assert len({len(own) for own in parts}) == 1
    assert all(rows)
    assert max(map(len, rows)) <= (at_once or num_rows) + (num_rows % size > 0)
    if at_once and num_rows % (size * at_once) == 0:
        assert {len(part) for part in rows} == {at_once}


def test_batch_too_small_for_the_ranks_is_refused():
    """Catches a rank that stands by while the others wait for it."""
    with pytest.raises(BadInput, match="at least 4"):
        World(0, 4).micro_batches(3, None)


def run_rank(function, rank: int, size: int, port: int, arguments: tuple) -> None:
    """Call `function` as one of `size` ranks that torchrun would have started."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ |= {name: str(number) for name, number in names.items()}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(1)
    function(*arguments)
    leave()


def in_ranks(size: int, function, *arguments) -> None:
    """Call `function` in `size` processes at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["etude_model.training.run", "torch._dynamo", "torch.distributed.fsdp"]
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [
        context.Process(target=run_rank, args=(function, rank, size, port, arguments))
        for rank in range(size)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * size


def train(run_dir: Path, stop_after: int | None = None, stopping_rank: int = 0) -> None:
    """Train a run, as one of several ranks or alone; only `stopping_rank` is told to stop."""
    made = 0

    def stop() -> bool:
        return made == stop_after and trainer.world.rank == stopping_rank

    trainer = build_trainer(read_run(run_dir), run_dir, stop=stop)
    log = EventLog(run_dir / EVENTS_FILE) if trainer.world.is_main else None
    stopped = False
    try:
        for event in trainer.events():
            made += event["kind"] == "step"
            if log:
                log.write(event)
    except Stopped:
        stopped = True
    assert stopped == (stop_after is not None)


def events_of(run_dir: Path, kind: str) -> list[dict]:
    """Return the events of one kind."""
    return [event for _, event in read_events(run_dir / EVENTS_FILE) if event["kind"] == kind]


def set_knobs(run_dir: Path, **knobs: object) -> None:
    """Change the training config of a run."""
    path = run_dir / "logs" / "run.json"
    run = json.loads(path.read_text())
    run["train"] |= knobs
    path.write_text(json.dumps(run))


def assert_close(one: Path, other: Path) -> None:
    """Assert that two safetensors files hold the same names, and the same values to 1e-6."""
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], atol=1e-6, rtol=0), name


def assert_same_steps(one: Path, other: Path) -> None:
    """Assert equal figures of all steps: loss, gradient norm, tokens, expert load."""
    for first, second in zip(events_of(one, "step"), events_of(other, "step"), strict=True):
        for name in set(first) - SPEED:
            assert first[name] == pytest.approx(second[name], abs=1e-5), name


@pytest.mark.parametrize(
    "stage, parallel",
    [
        *(("pretrain", "replicate"), ("pretrain", "shard")),
        *(("semantic", "replicate"), ("semantic", "shard"), ("lora", "shard")),
    ],
)
def test_two_ranks_train_what_one_trains(stage, parallel, write_run, tmp_path):
    """Catches gradients averaged instead of summed, rows seen twice, negatives of one rank only.

    Seven rows are shared out unevenly, and one rank has four micro-batches where one process has
    one. Stopped at the end, so that the moments can be compared too: AdamW's steps look the same
    for gradients that are all twice as long.
    """
    own = {"semantic": {"pair_batch_size": 7}, "lora": {"lora": {"rank": 2}}}  # no dropout
    knobs = SHORT | {"batch_size": 7} | own.get(stage, {})
    alone, both = (write_run(tmp_path / name, stage, **knobs) for name in ("1", "2"))
    set_knobs(both, micro_batch_size=1, parallel=parallel)
    train(alone, stop_after=4)
    in_ranks(2, train, both, 4, 1)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert_close(*(run_dir / "steps" / "step_00000004" / name for run_dir in (alone, both)))
    assert_same_steps(alone, both)
    assert len(events_of(both, "stopped")) == 1


@pytest.mark.parametrize("parallel", ("replicate", "shard"))
def test_two_ranks_route_as_one_does(parallel, write_run, tmp_path):
    """Catches balancing biases moved by one rank's counts, and Muon on a shard of a matrix."""
    knobs = SHORT | {"optimizer": "muon", "finished_weights": "best", "evaluate_every": 2}
    knobs["learning_rate"] = 3e-5  # Muon turns in bfloat16, so steps agree to a hundredth only
    knobs |= {"sample_every": 4, "sample_prompts": ["river"]}
    runs = [write_run(tmp_path / name, "pretrain", **knobs) for name in ("1", "2")]
    for run_dir in runs:
        path = run_dir / "logs" / "run.json"
        run = json.loads(path.read_text())
        run["model"] |= SPARSE
        path.write_text(json.dumps(run))
    set_knobs(runs[1], parallel=parallel, activation_checkpointing=True)
    train(runs[0])
    in_ranks(2, train, runs[1])
    assert_close(*(run_dir / "model.safetensors" for run_dir in runs))
    assert_same_steps(*runs)
    biases = [w for n, w in load_file(runs[1] / "model.safetensors").items() if "bias" in n]
    assert biases and all(bias.abs().max() > 0 for bias in biases)
    assert events_of(runs[1], "sample") and events_of(runs[1], "start")[0]["processes"] == 2


@pytest.mark.parametrize(
    "kind, stage, ranks",
    [
        *(("dense", "pretrain", ranks) for ranks in ((2, 1), (1, 2))),
        *(("dense", "semantic", (1, 2)), ("dense", "sft", (2, 1)), ("dense", "lora", (1, 2))),
        ("moe", "pretrain", (2, 1)),
    ],
)
def test_run_goes_on_with_another_number_of_ranks(
    kind, stage, ranks, write_run, write_moe_run, tmp_path
):
    """Catches a checkpoint that only as many ranks can read, and batches dealt out anew."""
    write = write_run if kind == "dense" else write_moe_run
    knobs = SHORT | ({"lora": {"rank": 2}} if stage == "lora" else {})  # no dropout
    straight, changed = (write(tmp_path / name, stage, **knobs) for name in ("1", "2"))
    train(straight)
    set_knobs(changed, parallel="shard")
    for size, stop_after in zip(ranks, (2, None), strict=True):
        if size == 1:
            train(changed, stop_after)
        else:
            in_ranks(size, train, changed, stop_after)
    weights = "adapter.safetensors" if stage == "lora" else "model.safetensors"
    assert_close(*(run_dir / weights for run_dir in (straight, changed)))
    assert_same_steps(straight, changed)
    assert [event["step"] for event in events_of(changed, "start")] == [0, 2]


def train_with_nan(run_dir: Path, poisoned_rank: int) -> None:
    """Train a run in which one rank's share of the second step's loss is NaN."""
    trainer = build_trainer(read_run(run_dir), run_dir)
    clean = trainer.stage.losses

    def poisoned(part: Part, model: Etude, rows: slice) -> Loss:
        loss = part.loss(model, rows)
        return replace(loss, value=loss.value * math.nan)

    def losses(step: int, rows: int) -> Iterator[Part]:
        is_poisoned = step == 1 and trainer.world.rank == poisoned_rank
        for part in clean(step, rows):
            yield replace(part, loss=partial(poisoned, part)) if is_poisoned else part

    trainer.stage = replace(trainer.stage, losses=losses)
    warnings = [event for event in trainer.events() if event["kind"] == "warning"]
    assert len(warnings) == 1 and "step 2 skipped" in warnings[0]["message"]


def test_all_ranks_skip_the_step_that_one_cannot_make(write_run, tmp_path):
    """Catches a rank that steps while another skips: from then on they train two models."""
    alone, both = (write_run(tmp_path / name, "sft", **SHORT) for name in ("1", "2"))
    train_with_nan(alone, 0)
    in_ranks(2, train_with_nan, both, 1)
    assert_close(*(run_dir / "model.safetensors" for run_dir in (alone, both)))


def gather_and_compare(folder: Path) -> None:
    """Compare a loss over gathered rows, and its gradient, with the loss over all rows."""
    world = join("cpu")
    everything = torch.arange(15.0).reshape(5, 3).sin().requires_grad_()
    whole = everything.logsumexp(dim=0).prod()
    (expected,) = torch.autograd.grad(whole, everything)
    own = everything.detach()[world.share(5)].requires_grad_()
    loss = world.gather(own, 5).logsumexp(dim=0).prod() / world.size
    (found,) = torch.autograd.grad(loss, own)
    assert torch.allclose(found, expected[world.share(5)], atol=1e-6)
    assert world.total(loss.item()) == pytest.approx(whole.item())
    assert world.any(world.rank == 1) and not world.any(False)
    assert world.from_main(world.rank) == 0
    (folder / str(world.rank)).touch()


def test_gathered_rows_carry_exact_gradients(tmp_path):
    """Catches an all-gather that lets no gradient pass, or passes it once per rank."""
    in_ranks(3, gather_and_compare, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees fewer than two GPUs")
@pytest.mark.parametrize("parallel", ("replicate", "shard"))
def test_two_gpus_train_what_one_trains(parallel, write_run, tmp_path):
    """Catches what gloo forgives and NCCL does not: tensors on another device, an operation."""
    knobs = SHORT | {"batch_size": 7, "pair_batch_size": 7, "device": "cuda"}
    alone, both = (write_run(tmp_path / name, "semantic", **knobs) for name in ("1", "2"))
    set_knobs(both, micro_batch_size=2, parallel=parallel)
    train(alone)
    in_ranks(2, train, both)
    assert_close(*(run_dir / "model.safetensors" for run_dir in (alone, both)))
    assert_same_steps(alone, both)


def start(run_dir: Path) -> subprocess.Popen[bytes]:
    """Start the real command with its output in a file."""
    with (run_dir / "train.log").open("ab") as output:
        command = [sys.executable, "-m", "etude_model.training", str(run_dir)]
        return subprocess.Popen(command, stdout=output, stderr=output)


def wait_for(run_dir: Path, kind: str, count: int) -> None:
    """Wait until a run has written so many events of a kind."""
    deadline = time.monotonic() + 180
    while len(events_of(run_dir, kind)) < count:
        assert time.monotonic() < deadline, (run_dir / "train.log").read_text()
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_command_starts_two_ranks_and_ends_as_they_end(write_run, tmp_path):
    """Catches torchrun's 1 for every ending, and ranks that train on when nobody waits for them."""
    knobs = {"num_steps": 200_000, "num_processes": 2, "evaluate_every": 10**6}
    run_dir = write_run(tmp_path / "run", "pretrain", **knobs)
    command = start(run_dir)
    wait_for(run_dir, "step", 3)
    command.send_signal(signal.SIGTERM)
    assert command.wait(120) == 75, (run_dir / "train.log").read_text()
    stopped = events_of(run_dir, "stopped")[-1]["step"]
    assert (run_dir / "steps" / f"step_{stopped:08d}").exists()
    assert (run_dir / "train.log").read_text().strip().endswith("run it again to go on")

    command = start(run_dir)
    wait_for(run_dir, "start", 2)
    command.kill()
    command.wait()
    wait_for(run_dir, "stopped", 2)
    assert events_of(run_dir, "start")[-1]["step"] == stopped

    set_knobs(run_dir, seed=1)
    assert start(run_dir).wait(120) == 2
    assert "another config" in (run_dir / "train.log").read_text().splitlines()[-1]
