"""How far a run has come: the numbers that a checkpoint holds beside its tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Figures = dict[str, float]


@dataclass(slots=True)
class Progress:
    """All that a step depends on, beside weights, moments and config."""

    micro_batch_size: int
    """Rows that a process computes at once."""
    step: int = 0
    """Steps made; skipped ones count."""
    num_tokens: int = 0
    """Tokens seen."""
    num_skipped: int = 0
    """Steps left out in a row, up to now."""
    num_skipped_in_all: int = 0
    """Steps left out since the start."""
    evaluations: dict[str, Figures] = field(default_factory=dict)
    """What was measured, by the number of the step as text."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, from which `Progress(**values)` makes the same again."""
        return asdict(self)

    def best(self, score: Callable[[Mapping[str, Figures], str], float | None]) -> int | None:
        """Return the evaluated step with the highest score, after step 0; of equals the first."""
        scores = {int(name): score(self.evaluations, name) for name in self.evaluations}
        known = {step: s for step, s in scores.items() if step and s is not None}
        finite = {step: s for step, s in known.items() if math.isfinite(s)}
        return max(finite, key=lambda step: (finite[step], -step), default=None)
