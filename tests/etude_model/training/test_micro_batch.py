"""Rows at once: picked before a run, halved when memory ends, never changing what is learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from etude_model.config import PretrainConfig, preset
from etude_model.training import objectives, plan
from etude_model.training.__main__ import main
from etude_model.training.distributed import World
from etude_model.training.events import read_events
from etude_model.training.micro_batch import (
    OutOfMemory,
    is_out_of_memory,
    pick_micro_batch,
    smaller_micro_batch,
)
from etude_model.training.run import EVENTS_FILE, build_trainer, read_run
from etude_model.training.trainer import Trainer
from storage.errors import BadInput

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def trainer_of(run_dir: Path) -> Trainer:
    """Return the trainer of a run directory."""
    return build_trainer(read_run(run_dir), run_dir)


def short_of_memory(trainer: Trainer, most_rows: int, from_step: int = 0) -> Trainer:
    """Let a trainer's device hold `most_rows` rows; it fails after a backward pass or two."""
    clean = trainer.stage.losses

    def losses(step: int, size: int):
        for number, loss in enumerate(clean(step, size)):
            if size > most_rows and step >= from_step and (number or size == 8):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
            yield loss

    trainer.stage = replace(trainer.stage, losses=losses)
    return trainer


@pytest.mark.parametrize("kind", ("dense", "moe"))
def test_out_of_memory_halves_and_the_run_is_the_same(kind, write_run, write_moe_run, tmp_path):
    """Catches gradients, expert counts or dropout of the failed try that stay in the step.

    A run that falls from 8 to 4 to 2 rows is, to the bit, the one that computed 2 from the start.
    """
    write = write_run if kind == "dense" else write_moe_run
    stage = "lora" if kind == "dense" else "pretrain"
    asked = write(tmp_path / "asked", stage, micro_batch_size=2)
    list(trainer_of(asked).events())
    run_dir = write(tmp_path / "found", stage)
    trainer = short_of_memory(trainer_of(run_dir), most_rows=2)
    events = list(trainer.events())
    warnings = [event["message"] for event in events if event["kind"] == "warning"]
    assert len(warnings) == 2 and "step 1 " in warnings[0] and "with 2" in warnings[1]
    assert trainer.now.micro_batch_size == 2
    name = "adapter.safetensors" if stage == "lora" else "model.safetensors"
    assert (run_dir / name).read_bytes() == (asked / name).read_bytes()


def test_out_of_memory_later_keeps_the_losses(write_run, tmp_path):
    """Catches a global batch that shrinks with the micro-batch: losses agree to 1e-6."""
    whole, halved = (write_run(tmp_path / name, "sft") for name in ("whole", "halved"))
    kept = [event for event in trainer_of(whole).events() if event["kind"] == "step"]
    found = list(short_of_memory(trainer_of(halved), most_rows=4, from_step=6).events())
    steps = [event for event in found if event["kind"] == "step"]
    assert [one["loss"] for one in steps] == pytest.approx([one["loss"] for one in kept], abs=1e-6)
    assert [one["tokens"] for one in steps] == [one["tokens"] for one in kept]
    one, other = (load_file(run_dir / "model.safetensors") for run_dir in (whole, halved))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_what_was_found_stays_after_a_resume(write_run, tmp_path):
    """Catches a resume that goes back to the size that did not fit, and to another sum order."""
    run_dir = write_run(tmp_path / "run", "sft")
    for event in short_of_memory(trainer_of(run_dir), most_rows=4).events():
        if event["kind"] == "checkpoint":
            break
    resumed = trainer_of(run_dir)
    start = next(iter(resumed.events()))
    assert (start["micro_batch_size"], start["step"] > 0) == (4, True)


def test_no_room_for_one_row_ends_the_run(write_run, tmp_path):
    """Catches a loop that halves 1 for ever."""
    trainer = short_of_memory(trainer_of(write_run(tmp_path / "run", "sft")), most_rows=0)
    with pytest.raises(OutOfMemory, match="activation_checkpointing"):
        list(trainer.events())
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_out_of_memory_has_its_own_exit_code(write_run, tmp_path, monkeypatch, capsys):
    """Catches a traceback, or a code that means something else, from the command."""
    run_dir = write_run(tmp_path / "run", "sft", num_steps=3)

    def losses(self, step: int, size: int):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: ...")
        yield

    monkeypatch.setattr(objectives.Text, "losses", losses)
    monkeypatch.setattr("etude_model.training.__main__.StopRequest.listen", lambda self: None)
    assert main([str(run_dir)]) == 71
    assert "too little memory for one sequence" in capsys.readouterr().err.splitlines()[-1]
    events = [event for _, event in read_events(run_dir / EVENTS_FILE)]
    assert [event["kind"] for event in events].count("warning") == 3  # 8, 4, 2


def test_other_errors_are_no_lack_of_memory():
    """Catches a bug that is tried again with fewer rows, and a lack that ends the run.

    torch.compile wraps what its code or its tuning meets in an error of its own.
    """
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    compiler = "InductorError: OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB."
    assert is_out_of_memory(RuntimeError(compiler))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_smaller_is_a_divisor():
    """Catches parts of different sizes, each of which would be compiled anew."""
    sizes, size = [], 12
    while (smaller := smaller_micro_batch(size, 12)) is not None:
        sizes.append(size := smaller)
    assert sizes == [6, 3, 1]
    assert smaller_micro_batch(9, 9) == 3


def test_picked_by_prediction_and_caches():
    """Catches a size that does not fit, one smaller than need be, and a GPU kept at CPU sizes."""
    predict = lambda rows: 1000 + 100 * rows  # noqa: E731
    assert pick_micro_batch(64, 2048, GPU, predict, None) == 64
    assert pick_micro_batch(64, 2048, GPU, predict, 5000) == 32  # 4,200 of 4,500
    assert pick_micro_batch(64, 2048, GPU, predict, 100) == 1
    assert pick_micro_batch(64, 256, CPU, predict, 10**9) == 16  # 4,096 tokens
    assert pick_micro_batch(8, 32, CPU, predict, 10**9) == 8
    assert pick_micro_batch(4, 8192, CPU, predict, None) == 1


def test_what_cannot_fit_is_refused_before_its_weights_are_made(write_run, tmp_path, monkeypatch):
    """Catches a preset that fills the memory first and fails then."""
    run_dir = write_run(tmp_path / "run", "pretrain")
    monkeypatch.setattr(plan, "available_memory", lambda device: 10**5)
    monkeypatch.setattr("etude_model.training.run.build_stage", None)
    with pytest.raises(BadInput, match=r"0\.00 GB free"):
        trainer_of(run_dir)


def test_a_large_model_names_what_would_fit(monkeypatch):
    """Catches a refusal without the predicted figure or the way out."""
    monkeypatch.setattr(plan, "available_memory", lambda device: 8 * 10**9)
    config = PretrainConfig(preset="large", batch_size=512)
    materials = SimpleNamespace(device=CPU, config=config, dtype=torch.bfloat16, world=World())
    with pytest.raises(BadInput, match=r"needs about 2\d\.\d\d GB.*take the preset small"):
        plan.fit(preset("large"), materials)  # type: ignore[arg-type]
