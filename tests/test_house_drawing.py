"""The drawing in docs/house.md is the import graph; no arrow of it leads up, none in a circle.

When an import or a library is new, draw anew and look at what changed:

    ETUDE_WRITE_GOLDEN=1 python -m pytest tests/test_house_drawing.py
"""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "house.md"
BLOCK = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)
FLOORS = ("flows", "tasks", "etude_model", "storage")


@cache
def graph() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return for every place what it imports of ours, and which libraries.

    A place is a package below a floor (`tasks.clean`), or the floor's own modules (`tasks`).
    """
    modules = grimp.build_graph(*FLOORS, include_external_packages=True, cache_dir=None)
    packages = {floor: modules.find_children(floor) for floor in FLOORS}

    def place(module: str) -> str:
        floor, *rest = module.split(".")
        package = f"{floor}.{rest[0]}" if rest else floor
        is_package = package in packages[floor] and modules.find_children(package)
        return package if is_package else floor

    ours: dict[str, set[str]] = defaultdict(set)
    libraries: dict[str, set[str]] = defaultdict(set)
    for module in modules.modules:
        if module.split(".")[0] not in FLOORS:
            continue
        for imported in modules.find_modules_directly_imported_by(module):
            root = imported.split(".")[0]
            if root in FLOORS:
                ours[place(module)].add(place(imported))
            elif root not in sys.stdlib_module_names:
                libraries[place(module)].add(root)
        ours[place(module)].discard(place(module))
    return ours, libraries


def drawing() -> str:
    """Return the drawing: floors, rooms with their libraries, and who imports whom."""
    ours, libraries = graph()
    lines = ["flowchart TD"]
    for floor in FLOORS:
        lines.append(f"  subgraph {floor}")
        for place in sorted(place for place in ours if place.split(".")[0] == floor):
            label = f"{place.replace('.', '/')}<br>{', '.join(sorted(libraries[place]))}"
            lines.append(f'    {_node(place)}["{label}"]')
        for room, others in _rooms_only(ours, floor).items():
            lines += [f"    {_node(room)} --> {_node(other)}" for other in others]
        lines.append("  end")
    floors = {(place.split(".")[0], other.split(".")[0]) for place in ours for other in ours[place]}
    lines += [f"  {one} --> {other}" for one, other in sorted(floors) if one != other]
    return "\n".join(lines) + "\n"


def _node(place: str) -> str:
    """Return a place's name in the drawing; a floor's own modules are another than the floor."""
    return place.replace(".", "_") if "." in place else f"{place}_modules"


def _rooms_only(ours: dict[str, set[str]], floor: str) -> dict[str, list[str]]:
    """Return the arrows between the packages of one floor."""
    inside = f"{floor}."
    return {
        place: sorted(other for other in ours[place] if other.startswith(inside))
        for place in sorted(ours)
        if place.startswith(inside)
    }


def test_the_drawing_is_the_import_graph() -> None:
    """Catches an arrow or a library that the page does not show, or shows and nobody imports."""
    text, ours = PAGE.read_text(encoding="utf-8"), drawing()
    if os.environ.get("ETUDE_WRITE_GOLDEN"):
        text = BLOCK.sub(lambda _: ours, text)
        PAGE.write_text(text, encoding="utf-8")
    (drawn,) = BLOCK.findall(text)
    assert drawn == ours, (
        f"docs/house.md differs in {sorted(set(drawn.splitlines()) ^ set(ours.splitlines()))}; "
        "if they are meant, run `ETUDE_WRITE_GOLDEN=1 python -m pytest tests/test_house_drawing.py`"
    )


def test_no_arrow_leads_up_or_in_a_circle() -> None:
    """Catches a house that falls, seen without import-linter's own rules."""
    ours, _ = graph()
    for place, others in ours.items():
        for other in others:
            assert FLOORS.index(place.split(".")[0]) <= FLOORS.index(other.split(".")[0]), (
                f"{place} imports {other}, a floor above it"
            )
    for floor in FLOORS:
        TopologicalSorter(_rooms_only(ours, floor)).prepare()  # raises where there is a circle
