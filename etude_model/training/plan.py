"""What a run will need, known before its first step: work, memory, rows at once.

A GPU's peak is its data sheet's; a CPU's is measured once with a square product, which trains
nothing, touches no generator and decides nothing.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from etude_model.config import EtudeConfig, TrainConfig, rule_learning_rate
from etude_model.counts import (
    Memory,
    available_memory,
    check_memory,
    count,
    describe,
    num_replicas,
    peak_flops,
    predict_memory,
)
from etude_model.training.checkpoint import trainable
from etude_model.training.micro_batch import pick_micro_batch
from etude_model.training.objectives import Materials
from etude_model.training.stages import Stage
from storage.artifact import canonical_json

SIDE = 512  # of the product that measures a CPU, doubled until it takes long enough to measure
LONG_ENOUGH_SECONDS = 0.002
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """The figures of the start event."""

    description: str
    """Parameters, work, memory and learning rate in words."""
    parameters: int
    trainable_parameters: int
    flops_per_token: float
    """Of a training step of all weights; adapters beside frozen weights need a third less."""
    peak_flops: float | None
    """FLOP/s of all devices together; None for a GPU that counts.py does not know."""
    predicted_memory_bytes: int
    """Most that one process should need."""
    learning_rate: float
    """The highest of the run: the config's, or the rule's for this model and batch."""
    num_rows: int
    """A process's share of a batch."""
    micro_batch_size: int
    """Rows that a process computes at once, at first."""
    num_replicas: int
    """Replicas of the model among which a CPU shares those out."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


def make_plan(stage: Stage) -> Plan:
    """Return what a stage will need; BadInput where its device cannot hold it."""
    materials, model = stage.materials, stage.model
    is_sharded = any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
    size, memory = fit(model.config, materials, held=_held(stage), is_sharded=is_sharded)
    counts, device, world = count(model.config), materials.device, materials.world
    train = materials.config.model_copy(update={"micro_batch_size": size})
    if device.type == "cuda":
        peak = peak_flops(torch.cuda.get_device_name(device), materials.dtype)
    else:
        peak = measured_flops(materials.dtype, torch.get_num_threads())
    needs = describe(
        model.config, train, device=device, dtype=materials.dtype, world_size=world.size
    )
    rate, why = _learning_rate(train, model.config)
    return Plan(
        description=f"{needs}; learning rate {rate:.3g} {why}",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable_parameters=sum(parameter.numel() for parameter in trainable(model).values()),
        flops_per_token=counts.flops_per_token,
        peak_flops=None if peak is None else peak * world.size,
        predicted_memory_bytes=memory.total,
        learning_rate=rate,
        num_rows=-(-train.batch_size // world.size),
        micro_batch_size=size,
        num_replicas=num_replicas(model.config, train, device),
    )


def _learning_rate(train: TrainConfig, model: EtudeConfig) -> tuple[float, str]:
    """Return the peak learning rate of a run, and where it is from."""
    if train.learning_rate is not None:
        return train.learning_rate, "as configured"
    num_tokens = train.batch_size * model.context_length
    rate = rule_learning_rate(model, num_tokens)
    return rate, f"by the rule for this model and {num_tokens:,} tokens a step"


def identity(stage: Stage) -> str:
    """Return a digest of what must be the same for a checkpoint to be gone on with."""
    parts = {
        "stage": stage.name,
        "model": stage.model.config.model_dump(mode="json"),
        "train": stage.materials.config.key_dict(),
        "rows": stage.rows,
        "tokenizer": stage.materials.tokenizer.digest,
    }
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def fit(
    architecture: EtudeConfig, materials: Materials, *, held: int = 0, is_sharded: bool = False
) -> tuple[int, Memory]:
    """Return the rows that a process should compute at once, and the memory this should take.

    BadInput where not even one row would fit, or not as many as the config asks for. `held` are
    bytes of the run that the device holds already.
    """
    device, size = materials.device, materials.world.size
    config = materials.config
    if is_sharded:
        config = config.model_copy(update={"parallel": "shard"})
    free = available_memory(device)
    available = None if free is None else free + held

    def with_rows(num_rows: int) -> Any:
        return config.model_copy(update={"micro_batch_size": num_rows})

    def predict(num_rows: int) -> int:
        return predict_memory(
            architecture, with_rows(num_rows), device=device, dtype=materials.dtype, world_size=size
        ).total

    rows = config.micro_batch_size or materials.world.from_main(
        pick_micro_batch(
            -(-config.batch_size // size), architecture.context_length, device, predict, available
        )
    )
    memory = check_memory(
        architecture,
        with_rows(rows),
        device=device,
        dtype=materials.dtype,
        world_size=size,
        available=available,
    )
    return rows, memory


def _held(stage: Stage) -> int:
    """Return the bytes that the built model takes of its device."""
    if stage.materials.device.type == "cuda":
        return torch.cuda.memory_reserved(stage.materials.device)
    return sum(weight.numel() * weight.element_size() for weight in stage.model.parameters())


@cache
def measured_flops(dtype: torch.dtype, threads: int) -> float:
    """Return the FLOP/s of a square product on this CPU with `threads` threads."""
    side, seconds = SIDE, 0.0
    while seconds < LONG_ENOUGH_SECONDS:
        seconds = _seconds_of_product(torch.ones(side, side, dtype=dtype))
        side *= 2
    return 2 * (side // 2) ** 3 / seconds


def _seconds_of_product(matrix: Tensor) -> float:
    torch.mm(matrix, matrix)
    best = math.inf
    for _ in range(REPEATS):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        best = min(best, time.perf_counter() - started)
    return best
