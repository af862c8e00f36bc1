"""events -> lines for whoever started a run by hand: what it will need, and how far it is.

A file gets what is said once, at the start, and the warnings; a terminal also a line for a step
now and then, and for each evaluation. logs/events.jsonl has everything either way.

Try: python -m etude_model.training RUN_DIR
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

SECONDS_BETWEEN_STEPS = 5.0


class Console:
    """Writes lines about a run's events to a stream, more of them if it is a terminal."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock, self.is_terminal = stream, clock, stream.isatty()
        self._num_steps = 0
        self._said_at = float("-inf")

    def tell(self, event: Mapping[str, Any]) -> None:
        """Write the line of an event, if it has one here."""
        kind = event["kind"]
        if kind == "start":
            self._num_steps = event["num_steps"]
            self._write(start_line(event))
        elif kind == "warning":
            self._write(f"warning: {event['message']}")
        elif kind == "step" and self.is_terminal and self._is_time(event):
            self._write(step_line(event, self._num_steps))
        elif kind == "evaluate" and self.is_terminal:
            self._write(f"step {event['step']}: {figures_line(event['metrics'])}")

    def _is_time(self, event: Mapping[str, Any]) -> bool:
        now = self.clock()
        is_time = now - self._said_at >= SECONDS_BETWEEN_STEPS or event["step"] == self._num_steps
        if is_time:
            self._said_at = now
        return is_time

    def _write(self, line: str) -> None:
        self.stream.write(line + "\n")
        self.stream.flush()


def start_line(event: Mapping[str, Any]) -> str:
    """Return what a run says before its first step: parameters, work, memory, where it runs."""
    at = f", going on from step {event['step']}" if event["step"] else ""
    return (
        f"{event['description']}; {event['micro_batch_size']} rows at once on "
        f"{event['device']} in {event['precision']}{at}"
    )


def step_line(event: Mapping[str, Any], num_steps: int) -> str:
    """Return how a step went, and how long the rest will take."""
    return (
        f"step {event['step']} of {num_steps}: loss {event['loss']:.4f}, "
        f"{event['tokens_per_second']:,.0f} tokens/s, {event['eta_seconds'] / 60:.1f} min left"
    )


def figures_line(metrics: Mapping[str, float | None]) -> str:
    """Return an evaluation's figures; those per source and language are for the curves."""
    return ", ".join(
        f"{name} {value:.4f}"
        for name, value in sorted(metrics.items())
        if value is not None and name.count("/") < 2
    )
