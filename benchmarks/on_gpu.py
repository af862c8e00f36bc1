"""What a GPU gets out of the trainer: MFU by preset, MoE beside dense, compiled beside eager.

    python benchmarks/on_gpu.py --out gpu.json                         5 to 8 minutes on an H100
    python benchmarks/on_gpu.py --out gpu.json --only small,small-moe  a part, added to gpu.json
    python benchmarks/on_gpu.py --out gpu.json --only nanogpt --nanogpt nanoGPT
    python benchmarks/on_gpu.py --presets small --only small --seconds 300      five minutes of it
    python benchmarks/on_gpu.py --presets nano nano-moe --device cpu --seconds 10 --rows 16

The parts, each in a process of its own, one after the other, `--seconds` each after its start:

    small …    a preset: the trainer as users start it (`python -m etude_model.training`)
    eager      the first dense and the first MoE preset once more, uncompiled: the first steps'
               losses and gradient norms must be the same, and the peak of memory is the one that
               the prediction is about (a compiled run keeps less)
    nanogpt    nanoGPT's model.py, compiled, with its own fused AdamW, for each dense preset: as
               many weights, as many rows in a step, `--nanogpt-rows` of them at once

Tokens are made up; half of them follow from the one before, so that there is something to learn.
Figures are medians of the steps after the first five, which hold the compilation. MFU is tokens per
second x FLOP per token / the data sheet's peak in bfloat16 (H100: 989e12), over whole steps, the
optimiser included. FLOP per token are 6 per active weight, where a table that is only looked up
does not count and a tied one counts once, as the output matrix, and 12 * layers * heads * head_dim
* T for attention, the upper triangle included. nanoGPT is counted the same way.

A part that fails has an "error" and the others go on; after `--minutes` no part is begun, and the
one at work is stopped. Each part's figures are printed as a line of JSON as soon as they are known,
and written to `--out`, to which later calls on the same device add. The last line is all of them.
Exit code 1: a part failed or a bar was missed, see "missed".

`--nanogpt` names a checkout of karpathy/nanoGPT, or a folder with a model.py of the interface that
benchmarks/nanogpt_on_gpu.py writes down.

Needs torch, numpy, pyarrow, safetensors, sentencepiece and pydantic. A GPU machine's image often
has all but pydantic. Where it has no package index either, bring pydantic and its own needs
(pydantic_core, annotated_types, typing_inspection, typing_extensions) along, for its Python:

    pip download --only-binary=:all: --python-version 3.12 --platform manylinux2014_x86_64 \\
        --dest .wheels pydantic                                     at home; git ignores .wheels
    pip install --no-index --find-links .wheels --target .wheels/site pydantic        over there
    PYTHONPATH=.wheels/site python benchmarks/on_gpu.py --out gpu.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sentencepiece
import torch

# A bare GPU machine has not installed the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from etude_model.config import PretrainConfig, preset
from etude_model.tokenizer import Tokenizer
from etude_model.training.events import read_events
from etude_model.training.run import EVENTS_FILE, RUN_FILE
from storage.errors import EXIT_STOPPED
from storage.files import write_json
from storage.formats.shards import write_shard

Run = dict[str, Any]

REPOSITORY = Path(__file__).resolve().parents[1]
SPECIALS = ["<|im_start|>", "<|im_end|>", *(f"<|reserved_{number}|>" for number in range(10))]
FIRST_WORD = 300  # the ids below are special ones and bytes
TRAIN_ROWS = 4096
WARM_UP_STEPS = 5
COMPARED_STEPS = 10
STOP_SECONDS = 60  # for a checkpoint of weights and moments
BARS = {"small": 0.40, "medium": 0.45}
MOE_BAR = 0.75
# The largest relative difference of compiled and eager steps in bfloat16. Seen on a CPU with nano:
# 0.00002 and 0.002; two models that do differ, nano and nano-moe: 0.004 and 0.25.
TOLERANCES = {"loss": 0.001, "gradient_norm": 0.02}


def main() -> int:
    """Run the parts; return 1 if one failed or a bar is missed."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the child ends as well
    ends = time.monotonic() + 60 * options.minutes
    answer = begin(options)
    with tempfile.TemporaryDirectory() as folder:
        for part, name in parts(options):
            key = name if part == name else f"{part} {name}"
            work = nanogpt if part == "nanogpt" else etude
            try:
                run = work(Path(folder, key), part, name, options, ends)
            except Exception as error:  # whatever it is, the other parts go on
                run = {"error": f"{type(error).__name__}: {error}"[-4000:]}
            shutil.rmtree(Path(folder, key), ignore_errors=True)  # a checkpoint takes gigabytes
            answer["runs"][key] = run
            answer |= compare(answer["runs"])
            answer["missed"] = missed(answer)
            print(f"{line(key, run)}\n{json.dumps({key: run})}", flush=True)
            if options.out:
                write_json(options.out, answer)
    print(json.dumps(answer))
    return 1 if answer["missed"] else 0


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=["small", "small-moe", "medium"])
    parser.add_argument("--only", type=lambda text: text.split(","), help="parts, by commas")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON; what it has is kept")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8, help="for all parts together")
    parser.add_argument("--seconds", type=float, default=25, help="for each run of ours")
    parser.add_argument("--rows", type=int, default=128, help="sequences of a step")
    parser.add_argument("--set", type=json.loads, default={}, help="train settings, a JSON object")
    parser.add_argument("--nanogpt", type=Path, help="folder with nanoGPT's model.py")
    parser.add_argument("--nanogpt-seconds", type=float, default=25)
    parser.add_argument("--nanogpt-rows", type=int, default=16, help="sequences at once")
    return parser.parse_args()


def parts(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Return the parts that are asked for and the preset of each."""
    dense = [name for name in options.presets if not name.endswith("-moe")]
    sparse = [name for name in options.presets if name.endswith("-moe")]
    known = [(name, name) for name in options.presets]
    known += [("eager", name) for name in dense[:1] + sparse[:1]]
    known += [("nanogpt", name) for name in dense if options.nanogpt]
    wanted = options.only or [part for part, _ in known]
    unknown = set(wanted) - {part for part, _ in known}
    if unknown:
        raise SystemExit(f"--only {','.join(unknown)}: give the preset in --presets, or --nanogpt")
    return [(part, name) for part, name in known if part in wanted]


def begin(options: argparse.Namespace) -> dict[str, Any]:
    """Return the answer to add to: that of `--out` where it is of this device and torch."""
    device = {"device": name_of(torch.device(options.device)), "torch": torch.__version__}
    if options.out and options.out.exists():
        former: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8"))
        if former.items() >= device.items():
            return former
    return device | {"runs": {}}


def line(key: str, run: Run) -> str:
    """Return a run's row of the table."""
    if "error" in run and "steps" not in run:
        return f"{key:<18} failed: {run['error'][-200:]}"
    mfu = "-" if run["mfu"] is None else f"{run['mfu']:.1%}"
    predicted = run.get("predicted_memory_bytes")
    beside = f" ({predicted / 1e9:.1f} predicted for eager)" if predicted else ""
    return (
        f"{key:<18}{run['parameters'] / 1e6:>8.1f}M {run['tokens_per_second']:>11,.0f} tok/s"
        f"  MFU {mfu:>6}  {run['memory_bytes'] / 1e9:>6.1f} GB{beside}"
        f"  {run['micro_batch_size']} rows at once, {run['steps']} steps"
    )


def compare(runs: dict[str, Run]) -> dict[str, Any]:
    """Return MoE's share of the dense speed, and how far compiled steps are from eager ones."""
    found: dict[str, Any] = {"moe_over_dense": {}, "compiled_minus_eager": {}}
    done = {key: run for key, run in runs.items() if "steps" in run}
    for key, run in done.items():
        dense = done.get(key.removesuffix("-moe"), run)
        if dense is not run:
            found["moe_over_dense"][key] = run["tokens_per_second"] / dense["tokens_per_second"]
        eager = done.get(f"eager {key}")
        if eager is not None:
            found["compiled_minus_eager"][key] = {
                name: max(
                    abs(one - other) / abs(other)
                    for one, other in zip(run["first"][name], eager["first"][name], strict=False)
                )
                for name in TOLERANCES
            }
    return found


def missed(answer: dict[str, Any]) -> list[str]:
    """Return what failed and which bars were measured and missed."""
    runs: dict[str, Run] = answer["runs"]
    found = [f"{key} failed" for key, run in runs.items() if "error" in run]
    for key, bar in BARS.items():
        mfu = runs.get(key, {}).get("mfu")
        if mfu is not None and mfu < bar:
            found.append(f"{key}: MFU {mfu:.3f} is below {bar}")
    for key, share in answer["moe_over_dense"].items():
        if share < MOE_BAR:
            found.append(f"{key}: {share:.3f} of the dense speed is below {MOE_BAR}")
    for key, differences in answer["compiled_minus_eager"].items():
        for name, difference in differences.items():
            if not difference <= TOLERANCES[name]:
                found.append(f"{key}: compiled and eager {name} differ by {difference:.4f}")
    return found


# Processes


@contextmanager
def child(command: list[str], folder: Path, ends: float) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process group of its own, which is killed at the end of the block."""
    if time.monotonic() > ends:
        raise TimeoutError("no time left; run this part by itself (--only), or give --minutes")
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    with (folder / "out").open("wb") as out, (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=log,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            process_group=0,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ending(folder: Path, code: int) -> str:
    """Return how a child ended, in its own last words."""
    log = (folder / "log").read_text(encoding="utf-8", errors="replace")
    return f"exit code {code}: {log[-3000:]}"


# Etude


def etude(folder: Path, part: str, name: str, options: argparse.Namespace, ends: float) -> Run:
    """Train a preset for some seconds of steps; return the medians of its events."""
    write_run(folder, part, name, options)
    command = [sys.executable, "-m", "etude_model.training", str(folder)]
    with child(command, folder, ends) as process:
        began = None
        while process.poll() is None and time.monotonic() < ends:
            time.sleep(0.2)
            if began is None and len(events(folder, "step")) >= WARM_UP_STEPS:
                began = time.monotonic()
            if began is not None and time.monotonic() - began > options.seconds:
                break
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_SECONDS)
        code = process.poll()
    failure = {}
    if code != EXIT_STOPPED:
        failure["error"] = "it did not stop" if code is None else ending(folder, code)
    steps = events(folder, "step")
    measured = steps[WARM_UP_STEPS:]
    if not measured:
        return failure or {"error": f"{len(steps)} steps in the time that was left"}
    (start,) = events(folder, "start")
    mfus = [one["mfu"] for one in measured if "mfu" in one]
    return failure | {
        "tokens_per_second": statistics.median(one["tokens_per_second"] for one in measured),
        "mfu": statistics.median(mfus) if mfus else None,
        "parameters": start["parameters"],
        "memory_bytes": max(one["memory_bytes"] for one in measured),
        "predicted_memory_bytes": start["predicted_memory_bytes"],
        "micro_batch_size": start["micro_batch_size"],
        "warnings": [one["message"] for one in events(folder, "warning")],
        "steps": len(measured),
        "first": {key: [one[key] for one in steps[:COMPARED_STEPS]] for key in TOLERANCES},
    }


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the events of a kind that a run has written so far."""
    return [one for _, one in read_events(folder / EVENTS_FILE) if one["kind"] == kind]


def write_run(folder: Path, part: str, name: str, options: argparse.Namespace) -> None:
    """Write the run of a preset, and the tokenizer and rows that it shares with others."""
    tokenizer = make_tokenizer(folder.parent)
    shards = make_shards(folder.parent, tokenizer, preset(name).context_length)
    rare = 1_000_000
    train = {
        "preset": name,
        "num_steps": rare,
        "batch_size": options.rows,
        "device": options.device,
        "evaluate_every": rare,
        "evaluation_rows": 8,
        "checkpoint_every": rare,
        **options.set,
        **({"compile": "off"} if part == "eager" else {}),
    }
    run = {
        "stage": "pretrain",
        "model": preset(name).model_dump(mode="json"),
        "train": PretrainConfig.model_validate(train).model_dump(mode="json"),
        "shards": [str(shards)],
        "tokenizer": str(tokenizer.path),
        "parent_pid": os.getpid(),
    }
    (folder / RUN_FILE).parent.mkdir(parents=True)
    write_json(folder / RUN_FILE, run)


def make_tokenizer(folder: Path) -> Tokenizer:
    """Train a small tokenizer on made-up words, once; larger vocabularies have unused ids."""
    path = folder / "tokenizer.model"
    if path.exists():
        return Tokenizer(path)
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(2000)]
    lines = [" ".join(generator.choices(words, k=12)) for _ in range(4000)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(path.with_suffix("")),
        vocab_size=2048,
        model_type="bpe",
        byte_fallback=True,
        pad_id=3,
        control_symbols=SPECIALS,
        minloglevel=2,
    )
    return Tokenizer(path)


def make_shards(folder: Path, tokenizer: Tokenizer, context_length: int) -> Path:
    """Write rows of made-up tokens, each one document, once for each length."""
    shards = folder / f"shards-{context_length}"
    if shards.exists():
        return shards
    generator = np.random.default_rng(0)
    follower = generator.permutation(np.arange(FIRST_WORD, tokenizer.vocab_size))
    for part, num_rows in (("train-00000", TRAIN_ROWS), ("validation-00000", 8)):
        shape = (num_rows, context_length)
        tokens = generator.integers(FIRST_WORD, tokenizer.vocab_size, shape, dtype=np.uint16)
        is_following = generator.random(shape) < 0.5
        for place in range(1, context_length):
            known = follower[tokens[:, place - 1] - FIRST_WORD]
            tokens[:, place] = np.where(is_following[:, place], known, tokens[:, place])
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


# nanoGPT


def nanogpt(folder: Path, part: str, name: str, options: argparse.Namespace, ends: float) -> Run:
    """Train nanoGPT beside a preset in a child, whose memory is its own and gone at its end."""
    folder.mkdir()
    command = [sys.executable, str(Path(__file__).with_name("nanogpt_on_gpu.py"))]
    command += [str(options.nanogpt), name, "--device", options.device]
    command += ["--rows", str(options.rows), "--rows-at-once", str(options.nanogpt_rows)]
    command += ["--seconds", str(options.nanogpt_seconds)]
    with child(command, folder, ends) as process:
        code = process.wait(timeout=max(0.0, ends - time.monotonic()))
    if code:
        raise RuntimeError(ending(folder, code))
    run: Run = json.loads((folder / "out").read_text(encoding="utf-8").splitlines()[-1])
    return run


def name_of(device: torch.device) -> str:
    """Return the device's name, as data sheets are looked up by it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


if __name__ == "__main__":
    sys.exit(main())
