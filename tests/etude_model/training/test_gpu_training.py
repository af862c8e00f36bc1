"""What only a GPU can show of the trainer:  python -m pytest -m gpu tests/etude_model/training"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from etude_model.config import preset
from etude_model.training.run import build_trainer, read_run
from etude_model.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]


@pytest.fixture
def gpu_run(write_run, tiny_tokenizer, tmp_path):
    """A function that writes a run of preset micro on the GPU."""

    def write(name: str, **train) -> Path:
        knobs = {"device": "cuda", "precision": "bfloat16", "num_steps": 6, "batch_size": 16}
        run_dir = write_run(tmp_path / name, "pretrain", **{**knobs, **train})
        path = run_dir / "logs" / "run.json"
        shape = preset("micro", vocab_size=tiny_tokenizer.vocab_size, context_length=32)
        run = json.loads(path.read_text()) | {"model": shape.model_dump(mode="json")}
        path.write_text(json.dumps(run))
        return run_dir

    return write


def trainer_of(run_dir: Path) -> Trainer:
    """Return the trainer of a run directory."""
    return build_trainer(read_run(run_dir), run_dir)


def test_deterministic_runs_are_equal_bit_for_bit(gpu_run):
    """Catches a kernel that adds in another order, and one that has no fixed order at all."""
    results = []
    for name in ("one", "other"):
        run_dir = gpu_run(name, deterministic=True)
        list(trainer_of(run_dir).events())
        results.append((run_dir / "model.safetensors").read_bytes())
    torch.use_deterministic_algorithms(False)
    assert results[0] == results[1]


def test_peak_memory_is_about_what_was_predicted(gpu_run):
    """Catches a prediction that refuses what fits, or lets through what does not."""
    torch.cuda.reset_peak_memory_stats()
    start, *events = trainer_of(gpu_run("run")).events()
    used = next(event["memory_bytes"] for event in events if event["kind"] == "step")
    assert 0.7 < used / start["predicted_memory_bytes"] < 1.4
    assert start["peak_flops"] is None or start["peak_flops"] > 1e13


def test_memory_that_really_ends_halves_the_micro_batch(gpu_run):
    """Catches an exception that is not recognised, and memory that the failed try still holds."""
    run_dir = gpu_run("run", batch_size=4096)
    trainer = trainer_of(run_dir)
    assert trainer.now.micro_batch_size == 4096  # it all fits, says the prediction
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(2 * 10**9 / total)
    try:
        events = list(trainer.events())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("out of memory" in event.get("message", "") for event in events)
    assert trainer.now.micro_batch_size < 4096
    assert events[-1]["kind"] == "end"


def test_muon_waits_for_no_step_number_after_a_resume(gpu_run):
    """Catches counters on the GPU: reading one for each matrix stops the whole queue each time."""
    run_dir = gpu_run("run", optimizer="muon", checkpoint_every=3)
    for event in trainer_of(run_dir).events():
        if event["kind"] == "checkpoint":
            break
    resumed = trainer_of(run_dir)
    kinds = [event["kind"] for event in resumed.events()]
    assert kinds[0] == "start" and resumed.now.step == 6
    states = [state for state in resumed.optimizer.state.values() if "momentum" in state]
    assert states and all(state["step"].device.type == "cpu" for state in states)
