"""Settings as people type them: `a.b=c` -> nested mappings; errors in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml
from pydantic import ValidationError

from storage.errors import BadInput


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above` laid over it, mapping by mapping.

    A mapping whose `kind` changes drops its old siblings: they belong to another variant. Into a
    list, `{"0": value}` replaces one entry.
    """
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        if isinstance(value, Mapping) and isinstance(old, list):
            entries = {str(index): entry for index, entry in enumerate(old)}
            merged[name] = list(merge(entries, value).values())
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            changed = "kind" in value and value["kind"] != old.get("kind")
            merged[name] = dict(value) if changed else merge(old, value)
        else:
            merged[name] = value
    return merged


def nested(override: str) -> dict[str, Any]:
    """Return `a.b=c` as nested mappings; the value is YAML."""
    path, equals, text = override.partition("=")
    if not equals or not path.strip("."):
        raise BadInput(f"{override!r} is not an override; write section.field=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"{override!r}: the value is not YAML ({one_line(error)})") from error
    for step in reversed(path.split(".")):
        value = {step: value}
    return dict(value)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn pydantic's report into BadInput: one line, each error with its field's path."""
    try:
        yield
    except ValidationError as error:
        lines = []
        for one in error.errors(include_url=False):
            path = ".".join(str(step) for step in one["loc"])
            message = one["msg"].removeprefix("Value error, ")
            given = "" if one["type"] == "value_error" else f" (given: {one['input']!r})"
            lines.append(f"{path}: {message}{given[:120]}" if path else message)
        raise BadInput("; ".join(lines)) from None


def one_line(error: Exception) -> str:
    """Return an error's message without its line breaks."""
    return " ".join(str(error).split())
