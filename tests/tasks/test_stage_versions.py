"""No room changes in silence: what a stage computes is part of its key, by its version.

A store keeps what an older version of a room made, and a run takes it for its own as long as the
version is the same. So `stage_versions.txt` notes for every room the versions of its stages and a
digest of its code, without comments and docstrings. When the digest is another one:

1. Would the same inputs and config give other bytes? Then raise `version` in the room's task.py.
2. Note the state, and commit the table with the change (after a merge, too):

    ETUDE_WRITE_GOLDEN=1 python -m pytest tests/tasks/test_stage_versions.py

A digest that changed beside a version that did not is the promise that the bytes stay the same.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("stage_versions.txt")
BESIDE = {  # what computes a room's output and does not lie in its folder
    "train": ("etude_model/training", "etude_model/model", "etude_model/data"),
    "evaluate": ("etude_model/evaluation", "etude_model/inference"),
    "publish": ("etude_model/export",),
}
_STAGE = re.compile(r'^@stage\("([\w-]+)", version=(\d+)', re.MULTILINE)


def shape(node: object) -> str:
    """Return what a piece of a syntax tree means, the same in every Python; texts alone are not."""
    if isinstance(node, list):
        kept = [one for one in node if not _is_docstring(one)]
        return f"[{' '.join(map(shape, kept))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [shape(value) for _, value in ast.iter_fields(node) if value not in (None, [])]
    return f"({' '.join([type(node).__name__, *fields])})"


def _is_docstring(node: object) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def room_line(room: str) -> str:
    """Return a room's line of the table: its name, its stages' versions, the digest of its code."""
    folders = [REPOSITORY / place for place in (f"tasks/{room}", *BESIDE.get(room, ()))]
    digest = hashlib.sha256()
    versions = []
    for path in sorted(path for folder in folders for path in folder.rglob("*.*")):
        text = path.read_text(encoding="utf-8") if path.suffix in (".py", ".yaml") else ""
        if path.suffix == ".py":
            versions += [f"{name}={version}" for name, version in _STAGE.findall(text)]
            text = shape(ast.parse(_STAGE.sub(r'@stage("\1", version=0', text)).body)
        digest.update(text.encode())
    return f"{room}: {' '.join(versions)} {digest.hexdigest()[:12]}"


def rooms() -> list[str]:
    """Return the names of the rooms that have a stage."""
    return sorted(path.parent.name for path in REPOSITORY.glob("tasks/*/task.py"))


@pytest.fixture(scope="module")
def noted() -> list[str]:
    """Return the lines of the table; where it is wished, write them first."""
    if os.environ.get("ETUDE_WRITE_GOLDEN"):
        TABLE.write_text("".join(f"{room_line(room)}\n" for room in rooms()), encoding="utf-8")
    return TABLE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("room", rooms())
def test_a_changed_room_has_a_new_version_or_a_note(room: str, noted: list[str]) -> None:
    """Catches an old store's artifact taken for one that the new code would have made."""
    places = " or ".join((f"tasks/{room}", *BESIDE.get(room, ())))
    assert room_line(room) in noted, (
        f"{places} is not as noted. If the same inputs and config would give other bytes now, raise"
        f" `version` in tasks/{room}/task.py. Then, or if they would not, run `ETUDE_WRITE_GOLDEN=1"
        " python -m pytest tests/tasks/test_stage_versions.py` and commit stage_versions.txt"
    )


def test_only_what_runs_counts() -> None:
    """Catches a table that has to be written anew for a comment, or not for a number."""

    def of(text: str) -> str:
        return shape(ast.parse(text).body)

    code = 'def f(x: int = 3) -> str:\n    return f"{x!r:>4} a"\n'
    told = f'"""Module."""\n{code}'.replace(":\n", ':  # why\n    """Do it."""\n')
    assert of(told) == of(code)
    assert len({of(code), of(code.replace("3", "4")), of(code.replace(">4", ">5"))}) == 3
