"""How many rows a process computes at once: picked before the first step, halved when memory ends.

A step's gradient is the sum over its micro-batches, so their size decides memory and speed, and
the result only as far as the order of additions goes (about 1e-6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from etude_model.counts import HEADROOM
from etude_model.training.objectives import Part
from etude_model.training.replicas import Replicas

# What ran fastest on a CPU, where a batch at once leaves the caches; preset nano, 32 x 256 tokens,
# one core with AVX512_BF16: whole batch 1.48 s (float32) and 1.12 s (bfloat16) a step, 4096 tokens
# at once 1.39 s and 0.98 s, 2048 tokens 1.33 s and 1.05 s.
CPU_TOKENS = 4096


class OutOfMemory(RuntimeError):
    """Not even one row fits the device's memory (exit code 71)."""


def pick_micro_batch(
    num_rows: int,
    context_length: int,
    device: torch.device,
    predict: Callable[[int], int],
    available: int | None,
) -> int:
    """Return a divisor of a process's `num_rows`: the largest that fits, on a CPU its caches too.

    `predict` tells the bytes that training needs with so many rows at once; it may be wrong, so a
    step that runs out of memory halves what is picked here.
    """
    sizes = [size for size in range(num_rows, 0, -1) if num_rows % size == 0]
    if device.type == "cpu":
        sizes = [size for size in sizes if size * context_length <= CPU_TOKENS] or [1]
    if available is None:
        return sizes[0]
    room = HEADROOM * available
    return next((size for size in sizes if predict(size) <= room), 1)


def smaller_micro_batch(size: int, num_rows: int) -> int | None:
    """Return the largest divisor of `num_rows` that is at most half of `size`, if there is one."""
    return next((n for n in range(size // 2, 0, -1) if num_rows % n == 0), None)


def accumulate(parts: Iterable[Part], replicas: Replicas) -> dict[str, Any] | None:
    """Leave the gradients of a step in the model, return its figures; None when memory ran out.

    The figures are "loss", "nats", "bytes", "tokens" and the losses' own. Tensors among them are
    not read here, so that a GPU never waits.
    """
    sums: dict[str, Any] = {"loss": 0.0, "nats": 0.0, "bytes": 0, "tokens": 0}
    try:
        for part in parts:
            for loss in replicas.backward(part):
                nats = 0 if loss.nats is None else loss.nats
                figures = {"loss": loss.value.detach(), "nats": nats, "bytes": loss.num_bytes}
                figures |= {"tokens": loss.num_tokens, **loss.figures}
                for name, value in figures.items():
                    sums[name] = sums.get(name, 0) + value
    except RuntimeError as error:
        replicas.forget()
        if not is_out_of_memory(error):
            raise
        return None  # and with this frame goes what the traceback holds
    replicas.collect()
    return sums


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell an allocation that failed from every other RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    words = ("DefaultCPUAllocator", "ALLOC_FAILED", "CUDA error: out of memory")
    wrapped = "CUDA out of memory"  # in an error of torch.compile's own
    return any(word in str(error) for word in (*words, wrapped))
