"""What a run tells the world: one JSON object a line in logs/events.jsonl.

A line is written with one call and flushed. A process that is killed leaves at most half a line
at the end; the next writer cuts it off, and readers leave it alone until it is whole.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


class EventLog:
    """Appends events to a file, each with the time it was written."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_half_line(path)
        self._file = path.open("ab")
        self._clock = clock

    def write(self, event: Mapping[str, Any]) -> None:
        """Append one event; NaN becomes null, for JSON has none."""
        timed = {"kind": event["kind"], "time": self._clock()} | dict(event)
        self._file.write(_line(timed))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_events(path: Path, *, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (offset after the line, event) for each whole line from byte `offset` on.

    Keep the last offset and pass it to the next call to follow a file that still grows.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield offset, json.loads(line)


def _line(event: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(event, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_without_nan(event), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    is_number = not isinstance(value, float) or abs(value) < float("inf")
    return value if is_number else None


def _cut_half_line(path: Path) -> None:
    if path.exists() and not (whole := path.read_bytes()).endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(whole.rfind(b"\n") + 1)
