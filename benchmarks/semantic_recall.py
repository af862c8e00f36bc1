"""What the semantic stage teaches: recall@10 of held-out articles, before and after, per source.

    python benchmarks/semantic_recall.py DUMP
    python benchmarks/semantic_recall.py DUMP semantic.num_steps=2000 semantic.pair_batch_size=128

DUMP is a dump file, in the log the 12,346-page one made of enwik8. The whole way up to the semantic
stage runs with preset nano (settings may follow, as for `etude run`); a second call reuses what is
there. Two baselines see the same texts: the mean of the model's input embeddings, and BM25.

Prints a table and, as its last line, the same in JSON. The exit code is 1 unless recall@10 is twice
that of the parent, above the mean embeddings for every source, and bits per byte are at most 1%
worse than the parent's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from etude_model.training.events import read_events
from etude_model.training.run import EVENTS_FILE
from storage.store import Store

RECALL = "recall@10"
WORSE_TEXT = 1.01
RECIPE = {
    "dedup": {"validation_share": 0.1},
    "train_tokenizer": {"vocab_size": 4096},
    "shard": {"context_length": 256},
    "pretrain": {"preset": "nano", "num_steps": 490, "batch_size": 8, "learning_rate": 0.004,
                 "warmup_steps": 40, "decay_share": 0.4},
    "semantic": {"num_steps": 600, "batch_size": 16, "pair_batch_size": 64,
                 "evaluation_pairs": 700, "evaluate_every": 200},
    "sft": {}, "lora": {},
}  # fmt: skip


def main() -> int:
    """Train, print the table, and say whether the bars hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dump", type=Path)
    parser.add_argument("--wiki", default="enwiki")
    parser.add_argument("overrides", nargs="*", help="semantic.num_steps=2000 …")
    options = parser.parse_args()
    source = {"kind": "file", "wiki": options.wiki, "path": str(options.dump.resolve())}
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "semantic.yaml"
        recipe.write_text(yaml.safe_dump({"fetch": [source]} | RECIPE), encoding="utf-8")
        etude = [sys.executable, "-m", "flows.cli", "stage", "semantic"]
        command = [*etude, str(recipe), *options.overrides, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return done.returncode
    results = json.loads(done.stdout.splitlines()[-1])["stages"]
    (key,) = (one["key"] for one in results if one["stage"] == "semantic")
    events = read_events(Store().resolve(f"checkpoint:{key}").path / EVENTS_FILE)
    measured = [event["metrics"] for _, event in events if event["kind"] == "evaluate"]
    return report(measured[0], measured[-1])


def report(before: dict[str, float], after: dict[str, float]) -> int:
    """Print recall@10 of all pairs and of each source; return 0 if the bars hold."""
    names = [name for name in after if name == RECALL or name.startswith(f"{RECALL}/")]
    baselines = ("input_embeddings", "bm25")
    rows = {
        name: [before[name], after[name], *(after[f"{one}/{name}"] for one in baselines)]
        for name in names
    }
    text = after["bits_per_byte"] / before["bits_per_byte"]
    table = Table(title=f"recall@10; bits per byte {text:.3f} times the parent's")
    for head in ("pairs", "parent", "trained", "times", "mean embedding", "BM25"):
        table.add_column(head, justify="left" if head == "pairs" else "right")
    for name, (old, new, mean, bm25) in rows.items():
        shown = name.removeprefix(RECALL).strip("/") or "all"
        times = f"{new / old:.2f}" if old else "-"
        table.add_row(shown, f"{old:.3f}", f"{new:.3f}", times, f"{mean:.3f}", f"{bm25:.3f}")
    Console(highlight=False, width=100).print(table)
    holds = rows[RECALL][1] >= 2 * rows[RECALL][0] and text <= WORSE_TEXT
    holds &= all(new > mean for _, new, mean, _ in rows.values())
    print(json.dumps({"recall@10": rows, "bits_per_byte": text, "holds": holds}))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
