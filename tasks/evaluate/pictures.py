"""report.json -> pictures for MLflow: bits per byte, what changed, multiple choice.

Green is better and red is worse, whichever way a figure went.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from tasks.evaluate.measures import metric_names, verdict

COLOURS = {"better": "#2a9d57", "worse": "#c8402f", "": "#999999"}
TICKS = (-100, -10, 0, 10, 100)
Checkpoints = Sequence[Mapping[str, Any]]
Step = tuple[str, Mapping[str, float], Mapping[str, float]]
"""What a panel is called, the figures before and those after."""


def draw_all(folder: Path, checkpoints: Checkpoints) -> None:
    """Draw every picture that a report's checkpoints have figures for."""
    draw_bits_per_byte(folder / "bits_per_byte.png", checkpoints)
    steps = [
        (f"{before['name']} to {after['name']}", before["metrics"], after["metrics"])
        for before, after in pairwise(checkpoints)
    ]
    draw_changes(folder / "changes.png", steps)
    if any(one["multiple_choice"] for one in checkpoints):
        draw_multiple_choice(folder / "multiple_choice.png", checkpoints)


def draw_bits_per_byte(path: Path, checkpoints: Checkpoints) -> None:
    """Draw bits per byte as bars, a group per checkpoint, one bar per kind and language."""
    every = metric_names([one["metrics"] for one in checkpoints])
    series = [metric for metric in every if metric.split("/")[0].endswith("bits_per_byte")]
    with _figure(path, has_legend=bool(series)) as (axes,):
        width = 0.8 / max(1, len(series))
        for number, metric in enumerate(series):
            places = [index - 0.4 + (number + 0.5) * width for index in range(len(checkpoints))]
            values = [one["metrics"].get(metric, 0.0) for one in checkpoints]
            axes.bar(places, values, width, label=metric)
        axes.set(title="Held-out data, lower is better", ylabel="bits per byte")
        axes.set_xticks(range(len(checkpoints)), [one["name"] for one in checkpoints])
        axes.grid(axis="y", alpha=0.3)


def draw_changes(path: Path, steps: Sequence[Step]) -> None:
    """Draw by how much of itself each figure changed, a panel per step; nothing without steps."""
    if not steps:
        return
    metrics = metric_names([new for _, _, new in steps])
    with _figure(path, num_panels=len(steps), height=1.2 + 0.22 * len(metrics)) as panels:
        for axes, (title, old, new) in zip(panels, steps, strict=True):
            both = [
                (row, name) for row, name in enumerate(metrics) if name in new and old.get(name)
            ]
            shares = [100 * (new[name] - old[name]) / abs(old[name]) for _, name in both]
            colours = [COLOURS[verdict(name, new[name], old[name])] for _, name in both]
            axes.barh([row for row, _ in both], shares, color=colours)
            axes.set_xscale("symlog", linthresh=10)
            axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
            axes.set(xlabel="change in %", ylim=(len(metrics) - 0.5, -0.5))
            axes.set_title(title, fontsize="small")
            axes.axvline(0, color="black", linewidth=0.8)
            axes.grid(axis="x", alpha=0.3)
            axes.set_yticks(range(len(metrics)), [""] * len(metrics))
        panels[0].set_yticks(range(len(metrics)), metrics, fontsize="small")


def draw_multiple_choice(path: Path, checkpoints: Checkpoints) -> None:
    """Draw accuracies with their 95 % intervals, and chance as a line over each set."""
    asked = [one["multiple_choice"] for one in checkpoints]
    sets = sorted({name for sets in asked for name, found in sets.items() if "acc" in found})
    with _figure(path, has_legend=True) as (axes,):
        width = 0.8 / len(checkpoints)
        for number, one in enumerate(checkpoints):
            found = [
                (place, one["multiple_choice"].get(name, {})) for place, name in enumerate(sets)
            ]
            found = [(place, result) for place, result in found if "acc" in result]
            heights = [result["acc"] for _, result in found]
            low = [max(0.0, result["acc"] - result["acc_interval"][0]) for _, result in found]
            high = [max(0.0, result["acc_interval"][1] - result["acc"]) for _, result in found]
            places = [place - 0.4 + (number + 0.5) * width for place, _ in found]
            axes.bar(places, heights, width, yerr=[low, high], capsize=3, label=one["name"])
        for place, name in enumerate(sets):
            chance = next(one[name]["chance"] for one in asked if "chance" in one.get(name, {}))
            label = "chance" if place == 0 else None
            axes.hlines(chance, place - 0.45, place + 0.45, "black", "dashed", label=label)
        axes.set(title="Multiple choice, with 95 % intervals", ylabel="accuracy", ylim=(0, 1))
        axes.set_xticks(range(len(sets)), sets)
        axes.grid(axis="y", alpha=0.3)


@contextmanager
def _figure(
    path: Path, *, num_panels: int = 1, height: float = 4.0, has_legend: bool = False
) -> Iterator[list[Any]]:
    """Yield the panels of a figure that is saved when the block ends; no clock in its bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0 + 2.0 * num_panels, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield [figure.add_subplot(1, num_panels, place + 1) for place in range(num_panels)]
    if has_legend:
        figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
