"""evaluations -> report.json, report.md, samples.json and pictures.

The same evaluations give the same bytes: no time, no path, keys in a fixed order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.evaluate.evaluate import Evaluation, Sample

FORMAT = 1
MEANINGS = {
    "bits_per_byte": "bits per byte of held-out text, lower is better",
    "sft_bits_per_byte": "bits per byte of held-out answers, lower is better",
    "recall@1": "the right passage is ranked first",
    "recall@10": "the right passage is among the first ten",
    "mrr@10": "mean of 1 / rank, ranks beyond ten count 0",
    "answers_ended": "share of answers (likeliest token, chat's penalty) that end by themselves",
    "repetition": "share of repeated 4-grams in what was written",
}


def report_values(
    evaluations: Sequence[Evaluation],
    digests: Sequence[str],
    *,
    num_pairs: int,
    chance: Mapping[str, float],
    evaluated_on: str,
) -> dict[str, Any]:
    """Return report.json.

    `digests` are those of the checkpoint artifacts, by which `publish` finds its figures.
    `evaluated_on` names the held-out data and how much of it was read: figures of two reports
    compare if it is equal.
    """
    return {
        "format": FORMAT,
        "evaluated_on": evaluated_on,
        "num_pairs": num_pairs,
        "chance": dict(chance),
        "checkpoints": [
            {
                "name": one.name,
                "stage": one.stage,
                "digest": digest,
                "num_parameters": one.num_parameters,
                "training": one.training,
                "metrics": one.metrics,
            }
            for one, digest in zip(evaluations, digests, strict=True)
        ],
    }


def report_markdown(report: Mapping[str, Any], samples: Sequence[Sample]) -> str:
    """Return report.md: figures side by side, what training changed, samples."""
    checkpoints, chance = report["checkpoints"], report["chance"]
    names = [one["name"] for one in checkpoints]
    metrics = metric_names([one["metrics"] for one in checkpoints])
    lines = ["# Evaluation", "", *_table_head(["measure", *names, "chance"])]
    for metric in metrics:
        cells = [_number(one["metrics"].get(metric)) for one in checkpoints]
        lines.append(f"| {metric} | {' | '.join(cells)} | {_number(chance.get(metric))} |")
    lines += [""] + [
        f"- {name}: {meaning}" for name, meaning in MEANINGS.items() if name in metrics
    ]
    if report["num_pairs"]:
        lines.append(f"- retrieval ranks {report['num_pairs']:,} passages for each query")
    lines += ["", "## What each training changed", ""]
    lines += _table_head(["checkpoint", "steps", "tokens", "measure", "before", "after"])
    for one in checkpoints:
        training = one["training"]
        before, after = (training.get("evaluations", {}).get(k, {}) for k in ("before", "after"))
        for metric in metric_names([before, after]):
            cells = [one["name"], f"{training['steps']:,}", f"{training['tokens_seen']:,}", metric]
            cells += [_number(before.get(metric)), _number(after.get(metric))]
            lines.append(f"| {' | '.join(cells)} |")
    if samples:
        lines += ["", "## Samples", ""]
    for sample in samples:
        end = "" if sample.finish_reason == "stop" else " …"
        lines += [f"**{sample.checkpoint}, {sample.language}**", ""]
        lines += [*_quote(sample.prompt), ">", *_quote(f"→ {sample.text}{end}"), ""]
    return "\n".join(lines).rstrip() + "\n"


def metric_names(all_metrics: Sequence[Mapping[str, float]]) -> list[str]:
    """Return every metric that occurs, in the order of MEANINGS, a language after the whole."""
    order = list(MEANINGS)
    found = {name for metrics in all_metrics for name in metrics}

    def place(name: str) -> tuple[int, str]:
        stem = name.split("/")[0]
        return (order.index(stem) if stem in order else len(order), name)

    return sorted(found, key=place)


def samples_json(samples: Sequence[Sample]) -> list[dict[str, str]]:
    """Return samples.json."""
    return [asdict(sample) for sample in samples]


def draw_bits_per_byte(path: Path, report: Mapping[str, Any]) -> None:
    """Draw bits per byte as bars, a group per checkpoint, one bar per kind and language."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    checkpoints = report["checkpoints"]
    every = metric_names([one["metrics"] for one in checkpoints])
    series = [metric for metric in every if metric.split("/")[0].endswith("bits_per_byte")]
    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / max(1, len(series))
    for number, metric in enumerate(series):
        places = [index - 0.4 + (number + 0.5) * width for index in range(len(checkpoints))]
        values = [one["metrics"].get(metric, 0.0) for one in checkpoints]
        axes.bar(places, values, width, label=metric)
    axes.set(title="Held-out data, lower is better", ylabel="bits per byte")
    axes.set_xticks(range(len(checkpoints)), [one["name"] for one in checkpoints])
    axes.grid(axis="y", alpha=0.3)
    if series:
        figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def _table_head(names: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _quote(text: str) -> list[str]:
    return [f"> {line}".rstrip() for line in text.split("\n")]
