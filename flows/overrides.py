"""Settings as people type them: `a.b=c` -> nested mappings; errors in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from storage.errors import BadInput


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above` laid over it, mapping by mapping.

    A mapping whose `kind` changes drops its old siblings: they belong to another variant. Into a
    list, `{"0": value}` replaces one entry, which has to be there.
    """
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        if isinstance(value, Mapping) and isinstance(old, list):
            entries = {str(index): entry for index, entry in enumerate(old)}
            for index in value.keys() - entries.keys():
                raise BadInput(
                    f"{name}.{index} is not there: {name} has {len(old)} entries, counted from 0"
                )
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
def one_line_errors(model: type[BaseModel], section: str = "") -> Iterator[None]:
    """Turn pydantic's report on a `model` into BadInput: one line, each field with its path."""
    try:
        yield
    except ValidationError as error:
        lines = []
        for one in error.errors(include_url=False):
            path = ".".join(str(step) for step in (*filter(None, [section]), *one["loc"]))
            message = one["msg"].removeprefix("Value error, ")
            given = "" if one["type"] == "value_error" else f" (given: {one['input']!r})"
            near = _near(model, one["loc"]) if one["type"] == "extra_forbidden" else []
            hint = f"; did you mean {near[0]}?" if near else ""
            # A check of several fields names the first as `field=value`: its path goes on there.
            joint = "." if re.match(r"[\w.]+=", message) else ": "
            lines.append((path and path + joint) + message + given[:120] + hint)
        raise BadInput("; ".join(lines)) from None


def _near(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Return the field most like the last step of a path that leads nowhere, or nothing."""
    models = [model]
    for step in map(str, path[:-1]):  # an index or the kind of a variant is no field: stay there
        fields = [one.model_fields[step] for one in models if step in one.model_fields]
        models = [found for one in fields for found in _models_in(one.annotation)] or models
    known = [name for one in models for name in one.model_fields]
    return get_close_matches(str(path[-1]), known, 1)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the config sections that a field may hold, of any kind and within lists too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def one_line(error: Exception) -> str:
    """Return an error's message without its line breaks."""
    return " ".join(str(error).split())
