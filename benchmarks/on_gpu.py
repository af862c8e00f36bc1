"""What a GPU gets out of the trainer: MFU by preset, MoE beside dense, nanoGPT beside ours.

    python benchmarks/on_gpu.py                              small, medium, small-moe; 4 minutes
    python benchmarks/on_gpu.py --nanogpt nanoGPT --seconds 300
    python benchmarks/on_gpu.py --presets nano nano-moe --device cpu --seconds 10 --rows 16

Each run is the trainer as users start it (`python -m etude_model.training`), on random tokens, for
a number of seconds, then stopped. Figures are medians of its steps after the first ten, which hold
the compilation. MFU counts 6 FLOP per active weight and token, the embedding looked up apart, plus
12 * layers * heads * head_dim * T for attention, over the data sheet's peak. `--nanogpt` names a
checkout of karpathy/nanoGPT: its model.py, compiled, with its own fused AdamW, trains as many
weights on the same rows. Needs torch, numpy, pyarrow, pydantic, safetensors and sentencepiece.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import runpy
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sentencepiece
import torch

from etude_model.config import EtudeConfig, PretrainConfig, preset
from etude_model.counts import count, peak_flops
from etude_model.device import autocast, pick_dtype
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from storage.formats.shards import write_shard

SPECIALS = ["<|im_start|>", "<|im_end|>", *(f"<|reserved_{number}|>" for number in range(10))]
TRAIN_ROWS = 4096
WARM_UP_STEPS = 10
BARS = {"small": 0.40, "medium": 0.45}
MOE_BAR = 0.75
EQUAL = 2e-2  # relative, of losses and gradient norms in bfloat16


def main() -> int:
    """Run all parts; return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=["small", "medium", "small-moe"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=75, help="for each run")
    parser.add_argument("--rows", type=int, default=128, help="sequences of a step")
    parser.add_argument("--nanogpt", type=Path, help="folder with nanoGPT's model.py")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=JSON", help="train settings")
    options = parser.parse_args()
    settings = {
        name: json.loads(value) for name, _, value in (one.partition("=") for one in options.set)
    }
    device = torch.device(options.device)
    answer: dict[str, Any] = {"device": name_of(device), "torch": torch.__version__, "runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(Path(folder))
        for name in options.presets:
            architecture = preset(name)
            shards = make_shards(Path(folder), tokenizer, architecture.context_length)
            run = train(Path(folder, name), name, shards, tokenizer, options, settings)
            answer["runs"][name] = run
            print(line(name, run), flush=True)
    for name in options.presets:
        dense = name.removesuffix("-moe")
        if name != dense and dense in answer["runs"]:
            rates = [answer["runs"][one]["tokens_per_second"] for one in (name, dense)]
            answer["moe_over_dense"] = round(rates[0] / rates[1], 3)
            print(f"{name} over {dense}: {answer['moe_over_dense']}, the bar is {MOE_BAR}")
    if device.type == "cuda":
        answer["compiled_minus_eager"] = compare_compiled(preset(options.presets[0]), device)
        print(f"compiled against eager, relative: {answer['compiled_minus_eager']}")
    if options.nanogpt:
        for name in [one for one in options.presets if not one.endswith("-moe")]:
            rows = answer["runs"][name]["micro_batch_size"]
            peer = train_nanogpt(options.nanogpt, preset(name), rows, options, device)
            answer["runs"][f"nanogpt {name}"] = peer
            print(line(f"nanogpt {name}", peer), flush=True)
    answer["passed"] = has_passed(answer)
    print(json.dumps(answer))
    return 0 if answer["passed"] else 1


def line(name: str, run: dict[str, Any]) -> str:
    """Return a run's row of the table."""
    mfu = "-" if run["mfu"] is None else f"{run['mfu']:.1%}"
    predicted = run.get("predicted_memory_bytes", 0) / 1e9
    return (
        f"{name:<18}{run['parameters'] / 1e6:>8.1f}M {run['tokens_per_second']:>11,.0f} tok/s"
        f"  MFU {mfu:>6}  {run['memory_bytes'] / 1e9:>6.1f} GB (predicted {predicted:.1f})"
        f"  {run['micro_batch_size']} rows at once, {run['steps']} steps"
    )


def has_passed(answer: dict[str, Any]) -> bool:
    """Say whether every bar that was measured holds."""
    runs = answer["runs"]
    mfu = all(
        runs[name]["mfu"] is None or runs[name]["mfu"] >= bar
        for name, bar in BARS.items()
        if name in runs
    )
    equal = all(value <= EQUAL for value in answer.get("compiled_minus_eager", {}).values())
    return mfu and equal and answer.get("moe_over_dense", 1.0) >= MOE_BAR


# The runs


def make_tokenizer(folder: Path) -> Tokenizer:
    """Train a small tokenizer on made-up words; ids of larger vocabularies are never used."""
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(2000)]
    lines = [" ".join(generator.choices(words, k=12)) for _ in range(4000)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=2048,
        model_type="bpe",
        byte_fallback=True,
        pad_id=3,
        control_symbols=SPECIALS,
        minloglevel=2,
    )
    return Tokenizer(folder / "tokenizer.model")


def make_shards(folder: Path, tokenizer: Tokenizer, context_length: int) -> Path:
    """Write rows of random tokens, each one document."""
    shards = folder / f"shards-{context_length}"
    if shards.exists():
        return shards
    generator = np.random.default_rng(0)
    for part, num_rows in (("train-00000", TRAIN_ROWS), ("validation-00000", 8)):
        shape = (num_rows, context_length)
        tokens = generator.integers(300, tokenizer.vocab_size, shape, dtype=np.uint16)
        segments = pa.array([[context_length]] * num_rows, type=pa.list_(pa.int32()))
        (shards / part).mkdir(parents=True)
        write_shard(
            shards / part / "tokens.parquet",
            {"tokens": tokens},
            pa.table({"language": ["en"] * num_rows, "segments": segments}),
            {
                "format": "lm",
                "context_length": context_length,
                "tokenizer": tokenizer.digest,
                "vocab_size": tokenizer.vocab_size,
                "pad_id": 3,
            },
        )
    return shards


def train(
    folder: Path,
    name: str,
    shards: Path,
    tokenizer: Tokenizer,
    options: argparse.Namespace,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Train a preset for some seconds of steps; return the medians of its events."""
    config = PretrainConfig.model_validate(
        {
            "preset": name,
            "num_steps": 1_000_000,
            "batch_size": options.rows,
            "device": options.device,
            "evaluate_every": 1_000_000,
            "evaluation_rows": 8,
            "checkpoint_every": 1_000_000,
        }
        | settings
    )
    run = {
        "stage": "pretrain",
        "model": preset(name).model_dump(mode="json"),
        "train": config.model_dump(mode="json"),
        "shards": [str(shards)],
        "tokenizer": str(tokenizer.path),
    }
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "run.json").write_text(json.dumps(run), encoding="utf-8")
    command = [sys.executable, "-m", "etude_model.training", str(folder)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        began = None
        while process.poll() is None:
            time.sleep(0.5)
            if began is None and len(events(folder, "step")) >= WARM_UP_STEPS:
                began = time.monotonic()
            if began is not None and time.monotonic() - began > options.seconds:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=120)
    steps = events(folder, "step")[WARM_UP_STEPS:]
    if not steps:
        raise SystemExit((folder / "log").read_text(encoding="utf-8")[-4000:])
    (start,) = events(folder, "start")
    middle = {key: statistics.median(one[key] for one in steps) for key in ("tokens_per_second",)}
    mfus = [one["mfu"] for one in steps if "mfu" in one]
    return middle | {
        "mfu": statistics.median(mfus) if mfus else None,
        "parameters": start["parameters"],
        "memory_bytes": max(one["memory_bytes"] for one in steps),
        "predicted_memory_bytes": start["predicted_memory_bytes"],
        "micro_batch_size": start["micro_batch_size"],
        "steps": len(steps),
    }


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the events of a kind that a run has written so far."""
    path = folder / "logs" / "events.jsonl"
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [one for one in map(json.loads, whole.splitlines()) if one["kind"] == kind]


def train_nanogpt(
    folder: Path, config: EtudeConfig, rows: int, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Train nanoGPT's model with as many weights on as many rows, for as many seconds."""
    module = runpy.run_path(str(folder / "model.py"), run_name="nanogpt")
    shape = nanogpt_shape(module, config)
    with redirect_stdout(sys.stderr):
        model = module["GPT"](shape).to(device)
        optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), device.type)
    compiled = torch.compile(model) if device.type == "cuda" else model
    dtype = pick_dtype("auto", device)
    torch.set_float32_matmul_precision("high")
    tokens = torch.randint(300, 2048, (rows, config.context_length + 1), device=device)
    num_micro = max(1, options.rows // rows)
    seconds: list[float] = []
    began = time.monotonic()
    while len(seconds) <= WARM_UP_STEPS or time.monotonic() - began < options.seconds:
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
    middle = statistics.median(seconds[WARM_UP_STEPS:])
    rate = num_micro * rows * config.context_length / middle
    num_parameters = sum(weight.numel() for weight in model.parameters())
    positions = config.context_length * shape.n_embd
    attention = 12 * shape.n_layer * shape.n_embd * config.context_length
    peak = peak_flops(name_of(device), dtype)
    flops = 6 * (num_parameters - positions) + attention
    on_gpu = device.type == "cuda"
    return {
        "tokens_per_second": rate,
        "mfu": rate * flops / peak if peak else None,
        "parameters": num_parameters,
        "memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0,
        "micro_batch_size": rows,
        "steps": len(seconds) - WARM_UP_STEPS,
    }


def nanogpt_shape(module: dict[str, Any], config: EtudeConfig) -> Any:
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


def compare_compiled(config: EtudeConfig, device: torch.device) -> dict[str, float]:
    """Return how much loss and gradient norm of one batch differ, compiled and not, relatively."""
    found = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        model = Etude(config).to(device)
        if is_compiled:
            for block in model.model.layers:
                block.compile()
        tokens = torch.randint(config.vocab_size, (4, config.context_length + 1), device=device)
        with autocast(device, pick_dtype("auto", device)):
            nats, number = model.loss(model(tokens[:, :-1]), tokens[:, 1:])
        (nats / number).backward()
        norm = torch.nn.utils.get_total_norm(
            [weight.grad for weight in model.parameters() if weight.grad is not None]
        )
        found.append(((nats / number).item(), norm.item()))
    names = ("loss", "gradient_norm")
    return {
        name: abs(compiled - eager) / abs(eager)
        for name, eager, compiled in zip(names, *found, strict=True)
    }


def name_of(device: torch.device) -> str:
    """Return the device's name, as data sheets are looked up by it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


if __name__ == "__main__":
    sys.exit(main())
