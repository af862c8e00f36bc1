"""Learning step for step: Etude's default recipe beside nanoGPT's model and optimiser settings.

    etude stage shard RECIPE                      once: a dump becomes rows of tokens
    git clone https://github.com/karpathy/nanoGPT
    python benchmarks/learning_curve.py SHARDS TOKENIZER --nanogpt nanoGPT --out curves \\
        --steps 1500 --run etude --run etude,num_steps=0.6 --run nanogpt --run nanogpt,rate=0.004

SHARDS and TOKENIZER are folders of the store (`etude ls shards`). Every run reads the same rows in
the same order, `--rows` a step, and is measured on the same held-out rows in bits per byte. Sizes
are equal: preset nano has 1,312,128 weights, nanoGPT with 4 layers of width 128 has 1,344,640.

A run is a name and what it changes. `etude` is PretrainConfig's defaults, trained by the real
trainer; any field may follow. `nanogpt` is its model.py and its train.py: AdamW without fusing,
betas 0.9 and 0.99, decay 0.1 on all matrices, 100 steps of warm-up, a cosine to a tenth, dropout 0,
and the rate 0.001 of its smallest config (config/train_shakespeare_char.py); `rate`, `betas` and
`num_steps` may follow. A `num_steps` below 1 is a share of `--steps`: such a run has the whole
schedule in fewer steps, and the shortest Etude run that ends below nanoGPT's last figure is the
answer. Forward passes run in the trainer's own precision on both sides.

Runs go on where they were ended: start the command again. Writes OUT/<run>/curve.json, a picture
OUT/curves.png and OUT/result.json, which is also the last line printed.
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from etude_model.config import PretrainConfig
from etude_model.data.lm import IGNORED, TokenRows, validation_batches
from etude_model.data.order import RowOrder
from etude_model.data.rows import find_shards
from etude_model.device import autocast, pick_device, pick_dtype
from etude_model.evaluation.bits_per_byte import bits_per_byte
from etude_model.tokenizer import Tokenizer
from etude_model.training.events import EventLog, read_events
from etude_model.training.run import EVENTS_FILE, RUN_FILE, TrainRun, build_trainer, read_run
from storage.files import write_json
from tasks.figures import curves

NANOGPT_SHAPE = {"n_layer": 4, "n_head": 4, "n_embd": 128, "dropout": 0.0, "bias": False}
NANOGPT_WARMUP, NANOGPT_DECAY, NANOGPT_CLIP = 100, 0.1, 1.0


def main() -> int:
    """Finish every run, compare them, and draw their curves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--nanogpt", type=Path, help="folder with nanoGPT's model.py")
    parser.add_argument("--out", type=Path, default=Path("curves"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rows", type=int, default=32, help="rows of tokens in a step")
    parser.add_argument("--every", type=int, default=100, help="steps between two evaluations")
    parser.add_argument("--evaluation-rows", type=int, default=512)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--run", action="append", dest="runs", help="NAME[,field=value…]")
    options = parser.parse_args()
    runs = options.runs or ["etude", "etude,num_steps=0.6", "nanogpt"]
    found = {}
    for text in runs:
        train = train_nanogpt if text.split(",")[0] == "nanogpt" else train_etude
        found[text] = train(options.out / text, changes_of(text, options.steps), options)
        print(f"{text}: {found[text]['bits_per_byte'][-1]:.4f} bits per byte", flush=True)
    result = compare(found)
    series = {name: (one["step"], one["bits_per_byte"]) for name, one in found.items()}
    series = {name: (xs[1:], ys[1:]) for name, (xs, ys) in series.items()}  # step 0 is noise
    title = f"{options.rows} rows a step"
    curves(options.out / "curves.png", series, title, "step", "held-out bits per byte")
    write_json(options.out / "result.json", result)
    print(json.dumps(result))
    return 0


def changes_of(text: str, num_steps: int) -> dict[str, Any]:
    """Return the fields that a run's name changes; `num_steps` is always among them."""
    pairs = (part.partition("=") for part in text.split(",")[1:])
    changes = {name: yaml.safe_load(value) for name, _, value in pairs}
    steps = changes.get("num_steps", 1.0)
    return changes | {"num_steps": round(steps * num_steps) if steps <= 1 else steps}


def compare(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return each run's end, and for each nanoGPT run the shortest Etude run that beats it."""
    ends = {name: one["bits_per_byte"][-1] for name, one in found.items()}
    steps = {name: one["step"][-1] for name, one in found.items()}
    result: dict[str, Any] = {"bits_per_byte": ends, "steps": steps, "share_of_steps": {}}
    for name, end in ends.items():
        if name.startswith("nanogpt"):
            ours = [other for other in ends if other.startswith("etude") and ends[other] <= end]
            shares = {other: steps[other] / steps[name] for other in ours}
            best = min(shares, key=lambda other: shares[other], default=None)
            result["share_of_steps"][name] = shares[best] if best else None
            # Within one run the rate is still high, so its curve crosses later than it could.
            for other in ours:
                one = found[other]
                crossed = (s for s, b in zip(one["step"], one["bits_per_byte"]) if b <= end)  # noqa: B905
                result.setdefault("crossed_at", {})[f"{other} below {name}"] = next(crossed)
    return result


# Etude


def train_etude(folder: Path, changes: dict[str, Any], options: argparse.Namespace) -> dict:
    """Train preset nano as the trainer does it, and return its curve."""
    train = {
        "batch_size": options.rows,
        "evaluate_every": options.every,
        "checkpoint_every": options.every,
        "evaluation_rows": options.evaluation_rows,
        "threads": options.threads,
        "device": "cpu",
    }
    run = TrainRun(
        stage="pretrain",
        train=PretrainConfig(**{**train, **changes}),
        shards=(str(options.shards),),
        tokenizer=str(options.tokenizer),
    )
    if not (folder / RUN_FILE).exists():
        (folder / RUN_FILE).parent.mkdir(parents=True, exist_ok=True)
        write_json(folder / RUN_FILE, run.model_dump(mode="json"))
    log = EventLog(folder / EVENTS_FILE)
    for event in build_trainer(read_run(folder), folder).events():
        log.write(event)
        if event["kind"] == "evaluate":
            print(f"{folder.name} {event['step']} {event['metrics']['bits_per_byte']:.4f}")
            sys.stdout.flush()
    log.close()
    events = [event for _, event in read_events(folder / EVENTS_FILE)]
    points = {e["step"]: e["metrics"]["bits_per_byte"] for e in events if e["kind"] == "evaluate"}
    seconds = {
        e["step"]: e["tokens"] and options.rows * 256 / e["tokens_per_second"]
        for e in events
        if e["kind"] == "step" and "tokens_per_second" in e
    }
    return finish(folder, points, sum(seconds.values()))


# nanoGPT


class NanoGPT(nn.Module):
    """nanoGPT's GPT behind the two calls that our evaluation makes of a model."""

    def __init__(self, model_file: Path, vocab_size: int, context_length: int) -> None:
        """Build its model from its own file."""
        super().__init__()
        module = runpy.run_path(str(model_file), run_name="nanogpt")
        shape = module["GPTConfig"](
            vocab_size=vocab_size, block_size=context_length, **NANOGPT_SHAPE
        )
        self.gpt = module["GPT"](shape)

    def forward(self, tokens_BT: Tensor, segments_BT: Tensor | None = None) -> Tensor:
        """Return the tokens: logits and loss come from one call, in `loss`."""
        return tokens_BT

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return summed nats and the number of targets."""
        is_target = targets_BT != IGNORED
        _, mean = self.gpt(tokens_BT, targets_BT.where(is_target, -1))
        return mean * is_target.sum(), is_target.sum()


def train_nanogpt(folder: Path, changes: dict[str, Any], options: argparse.Namespace) -> dict:
    """Train nanoGPT's model as its train.py does it, on our rows, and return its curve."""
    torch.set_num_threads(options.threads or torch.get_num_threads())
    num_steps = changes["num_steps"]
    rate, betas = changes.get("rate", 1e-3), tuple(changes.get("betas", (0.9, 0.99)))
    rows, held_out = (
        TokenRows(find_shards([options.shards], "tokens.parquet", split=split), format="lm")
        for split in ("train", "validation")
    )
    tokenizer = Tokenizer(options.tokenizer)
    device = pick_device("cpu")
    dtype = pick_dtype("auto", device)
    torch.manual_seed(1337)
    model = NanoGPT(options.nanogpt / "model.py", tokenizer.vocab_size, rows.context_length)
    optimizer = model.gpt.configure_optimizers(NANOGPT_DECAY, rate, betas, "cpu")
    order = RowOrder(rows.num_rows, seed=0)
    saved = folder / "state.pt"
    folder.mkdir(parents=True, exist_ok=True)
    step, points, seconds = 0, {}, 0.0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, points, seconds = state["step"], state["points"], state["seconds"]
    while True:
        if step not in points and (step % options.every == 0 or step == num_steps):
            batches = validation_batches(
                held_out, num_rows=options.evaluation_rows, batch_size=options.rows
            )
            figures = bits_per_byte(model, batches, tokenizer.token_bytes, dtype=dtype)  # type: ignore[arg-type]
            points[step] = figures["bits_per_byte"]
            print(f"{folder.name} {step} {points[step]:.4f}", flush=True)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            beside = saved.with_suffix(".tmp")
            torch.save(state | {"step": step, "points": points, "seconds": seconds}, beside)
            beside.rename(saved)
        if step == num_steps:
            return finish(folder, points, seconds)
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = nanogpt_rate(step, num_steps, rate)
        batch = rows.batch(order.take(step * options.rows, options.rows))
        with autocast(device, dtype):
            nats, count = model.loss(batch.tokens_BT, batch.targets_BT)
        (nats / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), NANOGPT_CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds += time.perf_counter() - began
        step += 1


def nanogpt_rate(step: int, num_steps: int, peak: float) -> float:
    """Return the rate of its train.py: warm-up, then a cosine to a tenth."""
    if step < NANOGPT_WARMUP:
        return peak * (step + 1) / (NANOGPT_WARMUP + 1)
    share = (step - NANOGPT_WARMUP) / (num_steps - NANOGPT_WARMUP)
    return peak / 10 + (peak - peak / 10) * (1 + math.cos(math.pi * share)) / 2


def finish(folder: Path, points: dict[int, float], seconds: float) -> dict[str, Any]:
    """Write and return a run's curve."""
    curve = {
        "step": list(points),
        "bits_per_byte": list(points.values()),
        "training_seconds": round(seconds, 1),
    }
    write_json(folder / "curve.json", curve)
    return curve


if __name__ == "__main__":
    sys.exit(main())
