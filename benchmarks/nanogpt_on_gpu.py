"""nanoGPT's model.py, a preset -> the speed of training as many weights, for on_gpu.py.

    python benchmarks/nanogpt_on_gpu.py nanoGPT small

FOLDER/model.py must have nanoGPT's interface: `GPTConfig(block_size, vocab_size, n_layer, n_head,
n_embd, dropout, bias)`, `GPT(config)`, whose call with (tokens, targets) gives (logits, loss), and
its `configure_optimizers(weight_decay, learning_rate, betas, device_type)`; clone karpathy/nanoGPT
for it. The model is compiled on a GPU and has the preset's width, vocabulary and context, and the
layers that bring it nearest to the preset's number of weights. A step is a training step of its
train.py: autocast, micro-batches, clipping to 1, fused AdamW.

MFU counts as on_gpu.py does: 6 FLOP per weight and token, its tied table once and its positions,
which are only looked up, not at all, and 12 * layers * width * T for attention.
"""

from __future__ import annotations

import argparse
import json
import runpy
import statistics
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

# A bare GPU machine has not installed the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from etude_model.config import EtudeConfig, preset
from etude_model.counts import count, peak_flops
from etude_model.device import autocast, pick_dtype
from etude_model.training.meter import peak_memory

WARM_UP_STEPS = 5


def main() -> int:
    """Train for some seconds; print the figures as a line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("preset")
    parser.add_argument("--device", type=torch.device, default="cuda")
    parser.add_argument("--seconds", type=float, default=25)
    parser.add_argument("--rows", type=int, default=128, help="sequences of a step")
    parser.add_argument("--rows-at-once", type=int, default=16)
    options = parser.parse_args()
    config, device = preset(options.preset), options.device
    module = runpy.run_path(str(options.folder / "model.py"), run_name="nanogpt")
    shape = shape_like(module, config)
    with redirect_stdout(sys.stderr):
        model = module["GPT"](shape).to(device)
        optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), device.type)
    rows = min(options.rows_at_once, options.rows)
    num_micro = options.rows // rows
    tokens = torch.randint(config.vocab_size, (rows, config.context_length + 1), device=device)
    seconds = train(model, optimizer, tokens, num_micro, options.seconds)
    rate = num_micro * rows * config.context_length / statistics.median(seconds)
    num_parameters = sum(weight.numel() for weight in model.parameters())
    positions = config.context_length * shape.n_embd
    attention = 12 * shape.n_layer * shape.n_embd * config.context_length
    flops = 6 * (num_parameters - positions) + attention
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    peak = peak_flops(name, pick_dtype("auto", device))
    figures = {
        "tokens_per_second": rate,
        "mfu": rate * flops / peak if peak else None,
        "parameters": num_parameters,
        "memory_bytes": peak_memory(device),
        "micro_batch_size": rows,
        "steps": len(seconds),
    }
    print(json.dumps(figures))
    return 0


def train(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    tokens: torch.Tensor,
    num_micro: int,
    for_seconds: float,
) -> list[float]:
    """Return the seconds of each step after the first ones, which hold the compilation."""
    device = tokens.device
    compiled = torch.compile(model) if device.type == "cuda" else model
    dtype = pick_dtype("auto", device)
    torch.set_float32_matmul_precision("high")
    seconds: list[float] = []
    began = time.monotonic()
    while len(seconds) <= WARM_UP_STEPS or time.monotonic() - began < for_seconds:
        if len(seconds) == WARM_UP_STEPS:
            began = time.monotonic()
        start = time.perf_counter()
        for _ in range(num_micro):
            with autocast(device, dtype):
                _, loss = compiled(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
            (loss / num_micro).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP_STEPS:]


def shape_like(module: dict[str, Any], config: EtudeConfig) -> Any:
    """Return nanoGPT's config of our width, with the layers that come nearest in weights."""
    width = config.hidden_size
    tables = (config.vocab_size + config.context_length) * width
    layers = max(1, round((count(config).total_parameters - tables) / (12 * width * width)))
    return module["GPTConfig"](
        vocab_size=config.vocab_size,
        block_size=config.context_length,
        n_layer=layers,
        n_head=max(1, width // 64),
        n_embd=width,
        dropout=0.0,
        bias=False,
    )


if __name__ == "__main__":
    sys.exit(main())
