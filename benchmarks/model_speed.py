"""Training speed, side by side: Etude, nanoGPT's model.py, and transformers' Qwen3, on one CPU.

    git clone https://github.com/karpathy/nanoGPT
    python benchmarks/model_speed.py nanoGPT                     all sizes, both number formats
    python benchmarks/model_speed.py nanoGPT --sizes 1.3M --rounds 5 --clock cpu --threads 1

A step is what training does: forward, loss over all tokens, backward, gradients clipped to 1, the
optimiser, gradients dropped. Each side brings its own: nanoGPT its `configure_optimizers` (AdamW
in a loop, for it fuses on GPUs only), transformers its loss from `labels` with fused AdamW, Etude
the trainer's calls, with fused AdamW and, as `muon`, with what pretraining takes by default. Sizes
are equal in weights and tokens; Qwen3 has Etude's very configuration.

The contestants take turns, a few steps each, round after round, so that what the machine does
beside hits all alike; a figure is the median of the rounds. Each is a process of its own: what
Etude's trainer asks of the memory allocator, the others do not get. `--clock cpu` counts processor
time of one thread and can be trusted on a busy machine. The last table shows how much of the
processor's rate in plain matrix products a step reaches, counted as 6 FLOP per weight and token,
the embedding looked up apart, plus attention. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude_model.config import EtudeConfig, PretrainConfig, TrainConfig, preset
from etude_model.counts import num_replicas
from etude_model.device import autocast, keep_freed_memory, pick_dtype
from etude_model.model.transformer import Etude
from etude_model.training.micro_batch import accumulate
from etude_model.training.objectives import Loss, Part
from etude_model.training.optimizer import build_optimizer
from etude_model.training.replicas import Replicas

Step = Callable[[], None]
Contestant = Callable[[], Step]
CPU = torch.device("cpu")
CLIP = 1.0


@dataclass(frozen=True, slots=True)
class Size:
    """A model's shape, the rows of a step, and nanoGPT's shape of as many weights."""

    config: EtudeConfig
    rows: int
    nanogpt: dict[str, int]


def _size(num_layers: int) -> Size:
    config = EtudeConfig(
        vocab_size=8192,
        hidden_size=384,
        num_layers=num_layers,
        num_heads=6,
        num_kv_heads=3,
        head_dim=64,
        intermediate_size=1152,
        context_length=256,
    )
    return Size(config, 8, {"n_layer": num_layers, "n_head": 6, "n_embd": 384})


SIZES = {
    "1.3M": Size(preset("nano"), 16, {"n_layer": 4, "n_head": 4, "n_embd": 128}),
    "13.8M": _size(6),
    "15.5M": _size(7),
}


def main() -> int:
    """Measure, print the tables and the JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nanogpt", type=Path, help="folder with nanoGPT's model.py")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--sides", nargs="+", default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2, help="steps of one turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    options = parser.parse_args()
    results = []
    for name in options.sizes:
        size = SIZES[name]
        turns: dict[str, Contestant] = {}
        for dtype in (getattr(torch, name) for name in options.dtypes):
            turns[f"matmul {dtype}"] = partial(matmul, dtype)
            for side in options.sides:
                turns[f"{side} {dtype}"] = partial(SIDES[side], size, dtype, options.nanogpt)
        turns = {name.replace("torch.", ""): contestant for name, contestant in turns.items()}
        seconds = race(
            turns,
            rounds=options.rounds,
            steps=options.steps,
            threads=options.threads,
            clock=options.clock,
        )
        results.append(report(name, size, seconds))
    print(json.dumps({"threads": options.threads, "clock": options.clock, "sizes": results}))
    return 0


def race(
    turns: dict[str, Contestant], *, rounds: int, steps: int, threads: int, clock: str
) -> dict[str, float]:
    """Return each contestant's median seconds of a step; the first, uncounted round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    context = get_context("spawn")
    with ExitStack() as stack:
        pipes = {}
        for name, contestant in turns.items():
            pipes[name], theirs = context.Pipe()
            process = context.Process(
                target=compete, args=(contestant, steps, threads, clock, theirs), daemon=True
            )
            process.start()
            theirs.close()  # so that a contestant's death is an end of file here
            stack.callback(process.kill)
        for round_number in range(rounds + 1):
            for name, pipe in pipes.items():
                pipe.send("go")
                took = pipe.recv()
                if round_number:
                    seconds[name].append(took)
    return {name: statistics.median(times) for name, times in seconds.items()}


def compete(
    contestant: Contestant, steps: int, threads: int, clock: str, turns: Connection
) -> None:
    """Take steps whenever it is our turn; say how many seconds one took."""
    torch.set_num_threads(threads)
    read = time.process_time if clock == "cpu" else time.perf_counter
    step = contestant()
    while True:
        turns.recv()
        began = read()
        for _ in range(steps):
            step()
        turns.send((read() - began) / steps)


def report(name: str, size: Size, seconds: dict[str, float]) -> dict[str, Any]:
    """Print a size's table; return its figures."""
    tokens = size.rows * size.config.context_length
    default = pick_dtype("auto", CPU)
    auto = f"muon {str(default).removeprefix('torch.')}"
    speeds = {side: tokens / took for side, took in seconds.items() if "matmul" not in side}
    figures: dict[str, Any] = {"size": name, "rows": size.rows, "tokens_per_second": {}}
    print(f"\n{name} weights, {size.rows} x {size.config.context_length} tokens a step")
    print(
        f"  {'':<18} {'tokens/s':>9} {'ms':>8} {'of matmul':>9} {'of nanogpt':>10} {'of qwen3':>8}"
    )
    for side, speed in speeds.items():
        dtype = side.split()[1]
        peak = MATMUL_FLOP / seconds[f"matmul {dtype}"]
        share = flop_per_token(size.config) * speed / peak
        others = [speed / speeds.get(f"{other} {dtype}", float("nan")) for other in OTHERS]
        figures["tokens_per_second"][side] = round(speed, 1)
        print(
            f"  {side:<18} {speed:>9,.0f} {1000 * tokens / speed:>8.1f} {share:>9.0%} "
            f"{others[0]:>10.2f} {others[1]:>8.2f}"
        )
        if side.startswith("etude"):
            figures[f"share_of_matmul {dtype}"] = round(share, 3)
            for other, ratio in zip(OTHERS, others, strict=True):
                figures[f"over {other} {dtype}"] = round(ratio, 3)
    for dtype in sorted({side.split()[1] for side in seconds}):
        rate = MATMUL_FLOP / seconds[f"matmul {dtype}"] / 1e9
        figures[f"matmul_gflop_per_second {dtype}"] = round(rate, 1)
        print(f"  matrix products in {dtype}: {rate:,.0f} GFLOP/s")
    if auto in speeds and "nanogpt float32" in speeds:
        ratio = speeds[auto] / speeds["nanogpt float32"]
        figures["default_over_nanogpt_default"] = round(ratio, 3)
        print(f"  by default ({auto} over nanogpt float32): {ratio:.2f}")
    sys.stdout.flush()
    return figures


OTHERS = ("nanogpt", "qwen3")
MATMUL_SIZE = 1024
MATMUL_FLOP = 2 * MATMUL_SIZE**3 * 8


def matmul(dtype: torch.dtype) -> Step:
    """Return eight products of large squares, into memory that is there: the processor's best."""
    left, right, out = (torch.randn(3, MATMUL_SIZE, MATMUL_SIZE).to(dtype)).unbind()

    def step() -> None:
        for _ in range(8):
            torch.mm(left, right, out=out)

    return step


def flop_per_token(config: EtudeConfig) -> float:
    """Return 6 per weight that is multiplied, plus attention's scores and sums."""
    tables = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    attention = 12 * config.num_layers * config.num_heads * config.head_dim * config.context_length
    return 6 * (config.num_parameters - tables) + attention


# The contestants


def rows_of(size: Size) -> tuple[Tensor, Tensor]:
    """Return the tokens of a step and what follows each of them."""
    torch.manual_seed(0)
    shape = (size.rows, size.config.context_length + 1)
    tokens = torch.randint(size.config.vocab_size, shape)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def finish(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Clip, step, and drop the gradients."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def etude(size: Size, dtype: torch.dtype, nanogpt: Path, config: TrainConfig | None = None) -> Step:
    """Return our step, made of the trainer's calls."""
    keep_freed_memory()
    model, train = Etude(size.config), config or TrainConfig()
    optimizer = build_optimizer(model, train)
    replicas = Replicas(model, num_replicas(size.config, train, CPU))
    tokens_BT, targets_BT = rows_of(size)

    def loss(model: Etude, rows: slice) -> Loss:
        with autocast(CPU, dtype):
            nats, count = model.loss(model(tokens_BT[rows]), targets_BT[rows])
        return Loss(nats / targets_BT.numel(), int(count))

    def step() -> None:
        accumulate([Part(size.rows, loss)], replicas)
        finish(model, optimizer)

    return step


def muon(size: Size, dtype: torch.dtype, nanogpt: Path) -> Step:
    """Return our step of pretraining with its defaults."""
    return etude(size, dtype, nanogpt, PretrainConfig())


def nanogpt(size: Size, dtype: torch.dtype, folder: Path) -> Step:
    """Return the step of nanoGPT's train.py."""
    module = runpy.run_path(str(folder / "model.py"), run_name="nanogpt")
    with redirect_stdout(sys.stderr):
        shape = module["GPTConfig"](
            vocab_size=size.config.vocab_size,
            block_size=size.config.context_length,
            dropout=0.0,
            bias=False,
            **size.nanogpt,
        )
        model = module["GPT"](shape)
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    tokens_BT, targets_BT = rows_of(size)

    def step() -> None:
        with autocast(CPU, dtype):
            _, loss = model(tokens_BT, targets_BT)
        loss.backward()
        finish(model, optimizer)

    return step


def qwen3(size: Size, dtype: torch.dtype, nanogpt: Path) -> Step:
    """Return the step of transformers' Qwen3 with our configuration."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = size.config
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.context_length,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tie_embeddings,
            use_cache=False,
        )
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens_BT, _ = rows_of(size)

    def step() -> None:
        with autocast(CPU, dtype):
            loss = model(input_ids=tokens_BT, labels=tokens_BT).loss
        loss.backward()
        finish(model, optimizer)

    return step


SIDES = {"etude": etude, "muon": muon, "nanogpt": nanogpt, "qwen3": qwen3}

if __name__ == "__main__":
    sys.exit(main())
