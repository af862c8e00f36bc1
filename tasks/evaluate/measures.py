"""The measures of a report: what they mean, which way is better, how a change is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

MEANINGS = {
    "bits_per_byte": "bits per byte of held-out text, lower is better",
    "bits_per_character": "the same per character, which zh is read by; lower is better",
    "sft_bits_per_byte": "bits per byte of held-out answers, lower is better",
    "sft_bits_per_character": "the same per character, lower is better",
    "recall@1": "the right passage is ranked first",
    "recall@5": "the right passage is among the first five",
    "recall@10": "the right passage is among the first ten",
    "mrr@10": "mean of 1 / rank, ranks beyond ten count 0",
    "acc": "share of questions whose right choice is the likeliest",
    "acc_norm": "share of questions whose right choice is the likeliest per character",
    "answers_ended": "share of answers (likeliest token, chat's penalty) that end by themselves",
    "texts_ended": "share of continued texts that end by themselves",
    "repetition": "share of repeated 4-grams in what was written, lower is better",
    "distinct_2": "share of different pairs of tokens in what was written",
    "longest_loop": "tokens in a row that only repeat the block before them, lower is better",
}
LOWER_IS_BETTER = {
    *("bits_per_byte", "bits_per_character", "sft_bits_per_byte", "sft_bits_per_character"),
    *("repetition", "longest_loop"),
}
UNDIRECTED = {"texts_ended"}  # a beginning may well deserve more tokens than it gets
DIGITS = 4  # what lies below differs between processors and batch sizes
NOTHING = 0.5 * 10**-DIGITS


def rounded(value: Any) -> Any:
    """Return JSON values with every float rounded."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return round(value, DIGITS) if isinstance(value, float) else value


def metric_names(all_metrics: Sequence[Mapping[str, float]]) -> list[str]:
    """Return every metric that occurs, in the order of MEANINGS, a language after the whole."""
    order = list(MEANINGS)
    found = {name for metrics in all_metrics for name in metrics}

    def place(name: str) -> tuple[int, str]:
        stem = name.split("/")[0]
        return (order.index(stem) if stem in order else len(order), name)

    return sorted(found, key=place)


def verdict(metric: str, value: float, before: float) -> Literal["better", "worse", ""]:
    """Return whether a figure is better than the one before; "" where they do not differ."""
    stem, change = metric.split("/")[0], value - before
    if abs(change) < NOTHING or stem in UNDIRECTED:
        return ""
    return "better" if (change < 0) == (stem in LOWER_IS_BETTER) else "worse"


def with_change(metric: str, value: float | None, before: float | None) -> str:
    """Return a figure as a cell: with what it changed by, and an arrow up for better."""
    if value is None:
        return ""
    if before is None:
        return f"{value:.4f}"
    arrow = {"better": " ▲", "worse": " ▼", "": ""}[verdict(metric, value, before)]
    return f"{value:.4f} ({value - before:+.4f}{arrow})"


def table_head(names: Sequence[str]) -> list[str]:
    """Return the first two lines of a Markdown table."""
    return [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
