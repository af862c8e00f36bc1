"""What a run tells of itself: its plan, its speed, its memory, its experts, its trace."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from etude_model.counts import count
from etude_model.training import meter as meter_module
from etude_model.training.meter import Meter, expert_load
from etude_model.training.plan import Plan, measured_flops
from etude_model.training.run import build_trainer, read_run
from etude_model.training.trainer import Trainer

PLAN = Plan(
    description="",
    parameters=10,
    trainable_parameters=10,
    flops_per_token=50.0,
    peak_flops=1e4,
    predicted_memory_bytes=1,
    learning_rate=1.0,
    num_rows=1,
    micro_batch_size=1,
    num_replicas=1,
)


def trainer_of(run_dir: Path) -> Trainer:
    """Return the trainer of a run directory."""
    return build_trainer(read_run(run_dir), run_dir)


def test_figures_of_a_step(monkeypatch):
    """Catches a rate, a share of the peak or a time left that is off by a factor."""
    clock = iter((1002.0, 1010.0))  # two steps of 2 s, with 6 s of evaluation between them
    monkeypatch.setattr(meter_module.time, "perf_counter", lambda: next(clock))
    meter = Meter(PLAN, 12, torch.device("cpu"))
    first, second = meter.figures(3, 100, 2.0), meter.figures(4, 100, 2.0)
    assert first["tokens_per_second"] == 50 and first["mfu"] == 50 * 50 / 1e4
    assert first["eta_seconds"] == 9 * 2.0
    assert second["eta_seconds"] == 8 * (10.0 / 2)  # evaluations count: they come again
    assert 50e6 < first["memory_bytes"] < 50e9


def test_expert_load():
    """Catches a balance that looks good on the mean over layers where one expert has starved."""
    even = expert_load(torch.tensor([[5, 5, 5, 5], [2, 2, 2, 2]]))
    assert even == pytest.approx({"expert_entropy": 1.0, "expert_max_share": 0.25})
    uneven = expert_load(torch.tensor([[5, 5, 5, 5], [20, 0, 0, 0]]))
    assert uneven == pytest.approx({"expert_entropy": 0.5, "expert_max_share": 1.0})
    assert expert_load(torch.zeros(1, 4))["expert_entropy"] == 0  # a step without a token


def test_the_start_and_the_steps_tell_all(write_moe_run, tmp_path):
    """Catches figures that MLflow and the logs show, and that go missing."""
    run_dir = write_moe_run(tmp_path / "run", "pretrain", num_steps=3)
    trainer = trainer_of(run_dir)
    start, *events = trainer.events()
    counts = count(trainer.model.config)
    assert start["parameters"] == start["trainable_parameters"] == counts.total_parameters
    assert start["flops_per_token"] == counts.flops_per_token
    assert start["peak_flops"] == measured_flops(torch.float32, 1) > 1e8
    assert 1e5 < start["predicted_memory_bytes"] < 1e9
    assert "active" in start["description"] and "memory" in start["description"]
    step = next(event for event in events if event["kind"] == "step")
    assert 0 < step["mfu"] < 1
    assert 0.25 <= step["expert_max_share"] <= 1 and 0 < step["expert_entropy"] <= 1
    assert step["mfu"] == pytest.approx(
        step["tokens_per_second"] * start["flops_per_token"] / start["peak_flops"]
    )


def test_a_dense_model_has_no_expert_load(write_run, tmp_path):
    """Catches zeros that look like a starved expert."""
    events = trainer_of(write_run(tmp_path / "run", "sft", num_steps=3)).events()
    assert not any("expert_entropy" in event for event in events)


def test_adapters_leave_the_routers_alone(write_moe_run, tmp_path):
    """Catches balancing that moves the frozen base below its adapter."""
    run_dir = write_moe_run(tmp_path / "run", "lora", num_steps=4)
    parent = Path(json.loads((run_dir / "logs" / "run.json").read_text())["parent"])
    list(trainer_of(run_dir).events())
    trained = load_file(run_dir / "model.safetensors")
    before = load_file(parent / "model.safetensors")
    assert all(torch.equal(trained[name], before[name]) for name in before)
    trainer = trainer_of(write_moe_run(tmp_path / "sft", "sft", num_steps=5))
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    list(trainer.events())
    assert not torch.equal(trainer.model.state_dict()[name], before[name])


def test_trace_of_some_steps(write_run, tmp_path):
    """Catches a trace that is empty, endless, blind for replicas, or changes what is learned."""
    plain, traced = (
        write_run(tmp_path / name, "sft", num_steps=6, profile_steps=steps, threads=2)
        for name, steps in (("plain", 0), ("traced", 2))
    )
    for run_dir in (plain, traced):
        list(trainer_of(run_dir).events())
    with gzip.open(traced / "logs" / "trace.json.gz", "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert sum(name.startswith("ProfilerStep#") for name in names) >= 2
    assert len({event["tid"] for event in events if event.get("name") == "aten::mm"}) >= 2
    assert not (plain / "logs" / "trace.json.gz").exists()
    name = "model.safetensors"
    assert (plain / name).read_bytes() == (traced / name).read_bytes()


@pytest.mark.parametrize("knob", ("activation_checkpointing", "deterministic"))
def test_knobs_that_change_no_result(knob, write_moe_run, tmp_path):
    """Catches recomputed layers that draw other dropout or count tokens twice."""
    stage = "lora" if knob == "activation_checkpointing" else "pretrain"
    plain = write_moe_run(tmp_path / "plain", stage, num_steps=4)
    other = write_moe_run(tmp_path / "other", stage, num_steps=4, **{knob: True})
    losses = []
    for run_dir in (plain, other):
        trainer = trainer_of(run_dir)
        losses.append([event["loss"] for event in trainer.events() if event["kind"] == "step"])
        assert torch.are_deterministic_algorithms_enabled() == (
            knob == "deterministic" and run_dir == other
        )
    torch.use_deterministic_algorithms(False)
    assert losses[0] == losses[1]
    name = "adapter.safetensors" if stage == "lora" else "model.safetensors"
    assert (plain / name).read_bytes() == (other / name).read_bytes()
