"""evaluations -> report.json, report.md, samples.json.

The same evaluations give the same bytes: no time, no path, keys in a fixed order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from tasks.evaluate.evaluate import Evaluation, Sample
from tasks.evaluate.measures import MEANINGS, metric_names, table_head, with_change

FORMAT = 2
BASELINES = ("bm25", "input_embeddings")


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
                "multiple_choice": one.multiple_choice,
            }
            for one, digest in zip(evaluations, digests, strict=True)
        ],
    }


def report_markdown(report: Mapping[str, Any], samples: Sequence[Sample]) -> str:
    """Return report.md: figures side by side, what training changed, samples."""
    checkpoints, chance = report["checkpoints"], report["chance"]
    names = [one["name"] for one in checkpoints]
    metrics = metric_names([one["metrics"] for one in checkpoints])
    lines = ["# Evaluation", "", *table_head(["measure", *names, "chance"])]
    for metric in metrics:
        values = [one["metrics"].get(metric) for one in checkpoints]
        cells = [with_change(metric, value, None) for value in values[:1]]
        cells += [with_change(metric, value, before) for before, value in pairwise(values)]
        lines.append(f"| {metric} | {' | '.join(cells)} | {_number(chance.get(metric))} |")
    if len(checkpoints) > 1:
        lines += ["", "In brackets: the change from the checkpoint before, ▲ better, ▼ worse."]
    stems = {metric.split("/")[0] for metric in metrics}
    lines += [""] + [f"- {name}: {meaning}" for name, meaning in MEANINGS.items() if name in stems]
    if report["num_pairs"]:
        lines.append(f"- retrieval ranks {report['num_pairs']:,} passages for each query")
    lines += _choice_lines(checkpoints)
    lines += ["", "## What each training changed", ""]
    lines += table_head(["checkpoint", "steps", "tokens", "measure", "before", "after"])
    for one in checkpoints:
        training = one["training"]
        before, after = (training.get("evaluations", {}).get(k, {}) for k in ("before", "after"))
        for metric in metric_names([before, after]):
            if _is_of_a_source(metric):
                continue
            cells = [one["name"], f"{training['steps']:,}", f"{training['tokens_seen']:,}", metric]
            cells += [_number(before.get(metric)), _number(after.get(metric))]
            lines.append(f"| {' | '.join(cells)} |")
    lines += _source_lines(checkpoints)
    if samples:
        lines += ["", "## Samples", ""]
    for sample in samples:
        end = "" if sample.finish_reason == "stop" else " …"
        lines += [f"**{sample.checkpoint}, {sample.language}**", ""]
        lines += [*_quote(sample.prompt), ">", *_quote(f"→ {sample.text}{end}"), ""]
    return "\n".join(lines).rstrip() + "\n"


def samples_json(samples: Sequence[Sample]) -> list[dict[str, str]]:
    """Return samples.json."""
    return [asdict(sample) for sample in samples]


def _choice_lines(checkpoints: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the section on multiple choice: accuracies, what they are worth, what was left out."""
    asked = [
        (name, one["name"], result)
        for one in checkpoints
        for name, result in one["multiple_choice"].items()
    ]
    if not asked:
        return []
    lines = ["", "## Multiple choice", ""]
    head = [
        "set",
        "checkpoint",
        "questions",
        "acc",
        "95 %",
        "acc_norm",
        "95 %",
        "chance",
        "verdict",
    ]
    lines += table_head(head)
    set_aside: dict[str, None] = {}  # a set without duplicates that keeps its order
    for name, checkpoint, result in sorted(asked, key=lambda one: one[0]):
        cells = [name, checkpoint, f"{result['num_questions']:,}"]
        if "acc" in result:
            for key in ("acc", "acc_norm"):
                low, high = result[f"{key}_interval"]
                cells += [_number(result[key]), f"{low:.3f} to {high:.3f}"]
            cells += [_number(result["chance"]), _above_chance(result)]
        lines.append(f"| {' | '.join(cells + [''] * (len(head) - len(cells)))} |")
        for reason, number in result["set_aside"].items():
            set_aside[f"- {name}: {number:,} rows set aside, {reason}"] = None
    return [*lines, *([""] if set_aside else []), *set_aside]


def _is_of_a_source(metric: str) -> bool:
    stem, _, rest = metric.partition("/")
    return stem in BASELINES or (bool(rest) and stem.startswith(("recall@", "mrr@")))


def _source_lines(checkpoints: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return recall@10 by source of the pairs, as training measured it, beside the baselines."""
    lines = []
    for one in checkpoints:
        evaluations = one["training"].get("evaluations", {})
        before, after = (evaluations.get(when, {}) for when in ("before", "after"))
        for metric in metric_names([after]) if f"{BASELINES[0]}/recall@10" in after else []:
            if metric.split("/")[0] != "recall@10":
                continue
            source = metric.partition("/")[2] or "all"
            cells = [one["name"], source, _number(before.get(metric))]
            cells.append(with_change(metric, after[metric], before.get(metric)))
            cells += [_number(after.get(f"{baseline}/{metric}")) for baseline in BASELINES]
            lines.append(f"| {' | '.join(cells)} |")
    if not lines:
        return []
    names = ["checkpoint", "source", "before", "after", "BM25", "mean input embedding"]
    return ["", "## Retrieval by source, recall@10", "", *table_head(names), *lines]


def _above_chance(result: Mapping[str, Any]) -> str:
    low, high = result["acc_interval"]
    if low > result["chance"]:
        return "above chance"
    return "below chance" if high < result["chance"] else "no different from chance"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _quote(text: str) -> list[str]:
    return [f"> {line}".rstrip() for line in text.split("\n")]
