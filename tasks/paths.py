"""Paths that a config may name: of this machine, or `recipe:` for a file shipped with a recipe."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from storage.errors import BadInput

RECIPE = "recipe:"


def resolve(path: str | Path) -> Path:
    """Return the file or folder a config names; refuse one that is not there.

    `recipe:demo/x.jsonl` lies in `flows/recipes/demo/`, wherever the package is installed. The
    package is found without being imported: tasks do not import flows.
    """
    text = str(path)
    found = Path(text).expanduser()
    if text.startswith(RECIPE):
        spec = find_spec("flows")
        if spec is None or not spec.submodule_search_locations:
            raise BadInput(f"{text}: the package `flows` is not installed; give a path instead")
        found = Path(spec.submodule_search_locations[0]) / "recipes" / text.removeprefix(RECIPE)
    if not found.exists():
        raise BadInput(f"{text} is not there ({found.absolute()}); correct the path")
    return found
