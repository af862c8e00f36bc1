"""Ask the newest release of a store whether it is what the README says of it: better than chance.

    make demo && python benchmarks/demo_claims.py             (ETUDE_HOME says where the store is)

Prints a table of claims and, as its last line, the same in JSON; the exit code is 1 if one fails:

- bits per byte fell in every training stage, on the stage's own validation data;
- recall@10 rose in the semantic stage, and is above that of a blind guess;
- answers after SFT end with the end token (LoRA's share is shown beside it);
- `transformers` gives the logits that our model gives: the pretrained model, exported here, and the
  released one with its adapter merged; and merged is the same as adapter and base side by side;
- text written with a cache is the text written without.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from etude_model.export.huggingface import export_huggingface
from etude_model.inference.generate import SamplingConfig, generate
from etude_model.inference.load import load_checkpoint
from etude_model.model.transformer import Etude
from storage.artifact import ArtifactRef
from storage.files import read_json
from storage.store import Store

ENDED = 0.9  # of the answers; the demo's all do
TOLERANCE = 1e-4  # of a logit, in standard deviations of all logits: float32 in another order
NUM_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing a release claims, and whether it is so."""

    claim: str
    found: str
    holds: bool


def main() -> int:
    """Print every claim of the newest release; return 1 if one does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--home", type=Path, help="the store's home, if not ETUDE_HOME")
    store = Store(parser.parse_args().home)
    release = store.resolve("release:latest")
    checkpoints = {
        store.manifest(ref).stage: ref
        for _, ref, _ in store.lineage(release)
        if ref and ref.kind == "checkpoint"
    }
    torch.set_grad_enabled(False)
    report = read_json(release.path / "report.json")
    claims = [*learned(report), *same_model(release, checkpoints)]
    table = Table(title=f"Claims of {release}", title_justify="left")
    for name in ("claim", "found", "holds"):
        table.add_column(name)
    for one in claims:
        table.add_row(one.claim, one.found, "yes" if one.holds else "NO")
    Console(highlight=False, width=120).print(table)
    print(json.dumps({"release": release.key, "claims": [asdict(one) for one in claims]}))
    return 0 if all(one.holds for one in claims) else 1


def learned(report: dict[str, Any]) -> Iterator[Claim]:
    """Yield what the evaluations measured."""
    entries = {entry["name"]: entry for entry in report["checkpoints"]}
    for name, entry in entries.items():
        evaluations = entry["training"]["evaluations"]
        before, after = (evaluations[when]["bits_per_byte"] for when in ("before", "after"))
        found = f"{before:.4f} -> {after:.4f}"
        yield Claim(f"{name}: bits per byte falls", found, after < before)
    before, after = (entries[name]["metrics"]["recall@10"] for name in ("pretrain", "semantic"))
    chance = report["chance"]["recall@10"]
    found = f"{before:.4f} -> {after:.4f}, chance {chance:.4f}"
    yield Claim("semantic: recall@10 rises above chance", found, after > max(before, chance))
    sft, lora = (entries[name]["metrics"]["answers_ended"] for name in ("sft", "lora"))
    yield Claim(
        f"sft: at least {ENDED:.0%} of answers end", f"{sft:.0%}, LoRA {lora:.0%}", sft >= ENDED
    )


def same_model(release: ArtifactRef, checkpoints: dict[str, ArtifactRef]) -> Iterator[Claim]:
    """Yield how far apart the forms of one model are."""
    base = load_checkpoint(checkpoints["pretrain"].path).model
    with tempfile.TemporaryDirectory() as folder:
        export_huggingface(checkpoints["pretrain"].path, Path(folder) / "base")
        yield _equal(
            "pretrain: transformers gives our logits", base, _theirs(Path(folder) / "base")
        )
    merged = load_checkpoint(checkpoints["lora"].path).model
    beside = load_checkpoint(checkpoints["lora"].path, merge=False).model
    theirs = _theirs(release.path / "huggingface")
    yield _equal("lora: transformers gives our logits", merged, theirs)
    yield _equal("lora: merged and unmerged give the same", merged, beside)
    yield _same_text(merged)


def _theirs(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder)
    return model


def _equal(claim: str, first: Etude, second: torch.nn.Module) -> Claim:
    """Compare the logits of two models on random tokens that fill the context."""
    ids = _random_ids(first, first.config.context_length)
    logits = [_logits(model, ids) for model in (first, second)]
    difference = float((logits[0] - logits[1]).abs().max())
    spread = float(logits[0].std())
    found = f"max difference {difference:.1e}, spread {spread:.2f}"
    return Claim(claim, found, difference < TOLERANCE * spread)


def _same_text(model: Etude) -> Claim:
    """Compare greedy text with the cache and by a full forward pass for every token."""
    prompts = [_random_ids(model, length)[0].tolist() for length in (1, 7, 20)]
    sampling = SamplingConfig(max_new_tokens=NUM_TOKENS, temperature=0)
    cached = [one.token_ids for one in generate(model, prompts, sampling, stop_ids=())]
    plain = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(NUM_TOKENS):
            ids.append(int(_logits(model, torch.tensor([ids]))[0, -1].argmax()))
        plain.append(ids[len(prompt) :])
    equal = sum(
        a == b
        for one, two in zip(cached, plain, strict=True)
        for a, b in zip(one, two, strict=True)
    )
    total = NUM_TOKENS * len(prompts)
    return Claim(
        "lora: with a cache as without", f"{equal} of {total} tokens equal", equal == total
    )


def _random_ids(model: Etude, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, model.config.vocab_size, (1, length), generator=generator)


def _logits(model: torch.nn.Module, ids: Tensor) -> Tensor:
    out = model(ids)
    logits: Tensor = model.logits(out) if isinstance(model, Etude) else out.logits
    return logits


if __name__ == "__main__":
    sys.exit(main())
