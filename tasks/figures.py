"""Pictures of a stage's numbers, for its report: a histogram and a set of curves.

matplotlib is imported when the first picture is drawn (it takes half a second), and drawn without
pyplot: no window system, no state between pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (7.0, 4.0)
BINS = 60


def histogram(path: Path, values: Sequence[float], title: str, xlabel: str) -> None:
    """Draw how often each size occurs; sizes above zero that span decades get a log axis."""
    import numpy as np

    figure, axes = _page(title, xlabel, "number")
    data = np.asarray(values, dtype=float)
    if data.size:
        low, high = data.min(), data.max()
        if low > 0 and high / low > 100:
            axes.set_xscale("log")
            axes.hist(data, bins=np.geomspace(low, high, BINS).tolist())
        else:
            axes.hist(data, bins=BINS)
    _save(figure, path)


def curves(
    path: Path,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    xlabel: str,
    ylabel: str,
) -> None:
    """Draw named curves, each given as (x values, y values)."""
    figure, axes = _page(title, xlabel, ylabel)
    for name, (xs, ys) in series.items():
        axes.plot(xs, ys, label=name, marker="o" if len(xs) < 20 else None, markersize=3)
    if len(series) > 1:
        axes.legend()
    _save(figure, path)


def _page(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
