"""Replicas: the same step by several threads, and to the bit the same however they are timed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from etude_model.config import LoraTrainConfig, PretrainConfig, preset
from etude_model.counts import num_replicas, predict_memory
from etude_model.lora_config import LoraConfig
from etude_model.model.transformer import Etude
from etude_model.training.micro_batch import accumulate
from etude_model.training.objectives import Loss, Part
from etude_model.training.run import build_trainer, read_run
from etude_model.training.trainer import Trainer

Write = Callable[..., Path]
Figures = dict[str, float]


pytestmark = pytest.mark.usefixtures("keep_threads")


def trainer_of(run_dir: Path) -> Trainer:
    """Return the trainer of a run directory."""
    return build_trainer(read_run(run_dir), run_dir)


def one_step(trainer: Trainer) -> tuple[Figures, dict[str, Tensor]]:
    """Return the figures of the first step, its gradients, and what the experts counted."""
    trainer.model.train()
    figures = accumulate(trainer.stage.losses(0, trainer.now.micro_batch_size), trainer.replicas)
    assert figures is not None
    found = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    counts = trainer.model.take_expert_counts()
    trainer.model.zero_grad(set_to_none=True)
    return (
        {name: float(value) for name, value in figures.items()},
        found | ({} if counts is None else {"expert_counts": counts}),
    )


@pytest.mark.parametrize("num_threads", (2, 3))
@pytest.mark.parametrize("kind", ("dense", "moe"))
@pytest.mark.parametrize("stage", ("pretrain", "semantic", "sft", "lora"))
def test_a_step_is_that_of_the_model_alone(
    stage: str, kind: str, num_threads: int, write_run: Write, write_moe_run: Write, tmp_path: Path
) -> None:
    """Catches rows left out or seen twice, and gradients or counts lost on the way home."""
    write = write_run if kind == "dense" else write_moe_run
    knobs = {"lora": {"rank": 2}} if stage == "lora" else {}
    results = []
    for threads in (1, num_threads):
        run_dir = write(tmp_path / str(threads), stage, threads=threads, **knobs)
        trainer = trainer_of(run_dir)
        assert len(trainer.replicas.models) == threads
        for model in trainer.replicas.models:
            for layer in model.sparse_layers():  # their losses are means over what is seen at once
                layer.aux_weight = layer.z_weight = 0.0
        if stage == "lora":  # B starts at 0, and then A has no gradient
            for name, parameter in trainer.model.named_parameters():
                if "lora_B" in name:
                    torch.manual_seed(0)
                    parameter.data.normal_(0, 0.1)
        results.append(one_step(trainer))
    (expected, gradients), (figures, found) = results
    assert figures == pytest.approx(expected, rel=1e-5)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(found[name].double(), gradient.double(), atol=2e-6, rtol=1e-4), name
    if kind == "moe":
        assert gradients["expert_counts"].sum() > 0


def slowly(part: Part, model: Etude, rows: slice) -> Loss:
    """Compute a share after a moment that is another one each time."""
    time.sleep(random.uniform(0, 0.02))
    return part.loss(model, rows)


def test_no_timing_shows_in_the_bits(write_run: Write, tmp_path: Path) -> None:
    """Catches gradients that are added up as they come, or into one tensor by two threads."""
    trainer = trainer_of(write_run(tmp_path / "run", "pretrain", threads=4, micro_batch_size=4))
    assert len(trainer.replicas.models) == 4
    expected = one_step(trainer)
    clean = trainer.stage.losses

    def losses(step: int, size: int) -> Iterator[Part]:
        for part in clean(step, size):
            yield replace(part, loss=partial(slowly, part))

    trainer.stage = replace(trainer.stage, losses=losses)
    for _ in range(10):
        figures, gradients = one_step(trainer)
        assert figures == expected[0]
        assert all(torch.equal(gradients[name], one) for name, one in expected[1].items())


def test_weights_are_one_and_gradients_several(write_moe_run: Write, tmp_path: Path) -> None:
    """Catches a copy that goes on with old weights or old balancing biases."""
    trainer = trainer_of(write_moe_run(tmp_path / "run", "pretrain", threads=2))
    model, replica = trainer.replicas.models
    states = zip(model.state_dict().values(), replica.state_dict().values(), strict=True)
    assert all(one.data_ptr() == other.data_ptr() for one, other in states)
    for own, its in zip(model.parameters(), replica.parameters(), strict=True):
        assert own is not its
    list(trainer.events())
    states = zip(model.state_dict().values(), replica.state_dict().values(), strict=True)
    assert all(one.data_ptr() == other.data_ptr() for one, other in states)
    assert all(parameter.grad is None for parameter in replica.parameters())


def full(part: Part, failed: list[int], model: Etude, rows: slice) -> Loss:
    """Run out of memory in the second share of a whole batch, after its backward pass."""
    loss = part.loss(model, rows)
    if rows.start == 4:
        failed.append(rows.start)
        loss.value.backward()
        raise torch.OutOfMemoryError("DefaultCPUAllocator: can't allocate memory")
    return loss


@pytest.mark.parametrize("kind", ("dense", "moe"))
def test_out_of_memory_in_a_replica(
    kind: str, write_run: Write, write_moe_run: Write, tmp_path: Path
) -> None:
    """Catches what a failed try leaves in a replica: the run equals one with half the rows."""
    write = write_run if kind == "dense" else write_moe_run
    asked = write(tmp_path / "asked", "pretrain", threads=2, micro_batch_size=4)
    list(trainer_of(asked).events())
    trainer = trainer_of(write(tmp_path / "found", "pretrain", threads=2))
    clean, failed = trainer.stage.losses, []

    def losses(step: int, size: int) -> Iterator[Part]:
        for part in clean(step, size):
            yield replace(part, loss=partial(full, part, failed)) if size == 8 else part

    trainer.stage = replace(trainer.stage, losses=losses)
    list(trainer.events())
    assert failed == [4]
    names = ("asked", "found")
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in names)
    assert one == other


def test_where_there_is_one_replica_only() -> None:
    """Catches dropout drawn by two threads at once, and gradients that fill the memory."""
    torch.set_num_threads(8)
    nano, large = preset("nano"), preset("large")
    assert num_replicas(nano, PretrainConfig(), "cpu") == 4
    assert num_replicas(nano, PretrainConfig(), "cuda") == 1
    assert num_replicas(nano, PretrainConfig(compile="on"), "cpu") == 1
    assert num_replicas(nano, PretrainConfig(parallel="shard"), "cpu") == 1
    assert num_replicas(large, PretrainConfig(), "cpu") == 1
    assert num_replicas(large, LoraTrainConfig(), "cpu") == 4
    dropping = LoraTrainConfig(lora=LoraConfig(dropout=0.1))
    assert num_replicas(nano, dropping, "cpu") == 1
    torch.set_num_threads(2)
    assert num_replicas(nano, PretrainConfig(), "cpu") == 2
    several = predict_memory(nano, PretrainConfig()).gradients
    torch.set_num_threads(1)
    assert several == 2 * predict_memory(nano, PretrainConfig()).gradients
