"""What all commands say alike: one JSON object as their last line, where it is asked for."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


def answer(values: dict[str, Any], as_json: bool) -> None:
    """Print what a program that called the command wants to know."""
    if as_json:
        print(json.dumps(values, ensure_ascii=False))
