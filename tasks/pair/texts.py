"""The pieces of a page that pairs are made of: lead, sections, titles and their blanks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

BLANK = "___"
_HEADING = re.compile(r"#{1,6} ")
_QUALIFIER = re.compile(r"\s*[(（][^()（）]*[)）]\s*$")


def section_spans(text: str, sections: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, int]]:
    """Return (title, start, stop) of each section's own text, that of subsections left out.

    The lead (level 1, under the page's title) is none of them.
    """
    ordered = sorted(sections, key=lambda section: section["start"])
    starts = [section["start"] for section in ordered] + [len(text)]
    return [
        (section["title"], section["start"], min(section["end"], following))
        for section, following in zip(ordered, starts[1:], strict=True)
        if section["title"] and section["level"] > 1
    ]


def heading_paths(sections: Sequence[Mapping[str, Any]]) -> dict[int, list[str]]:
    """Return by each section's start the titles from the outermost section down to its own."""
    paths: dict[int, list[str]] = {}
    around: list[Mapping[str, Any]] = []
    for section in sorted(sections, key=lambda section: section["start"]):
        if section["level"] > 1:
            around = [outer for outer in around if outer["level"] < section["level"]] + [section]
            paths[section["start"]] = [one["title"] for one in around]
    return paths


def lead_text(text: str, sections: Sequence[Mapping[str, Any]]) -> str:
    """Return what stands before the first heading below the page's title."""
    starts = [section["start"] for section in sections if section["level"] > 1]
    return without_heading(text[: min(starts, default=len(text))])


def bare_title(title: str) -> str:
    """Return a title without the qualifier in brackets that tells it from its namesakes."""
    return _QUALIFIER.sub("", title) or title


def blank_title(lead: str, title: str) -> str:
    """Return the lead with the title blanked wherever it stands, whatever its case."""
    return title_pattern(title).sub(BLANK, lead)


def title_pattern(title: str) -> re.Pattern[str]:
    """Return what finds the bare title as whole words, whatever its case."""
    word = re.escape(bare_title(title))
    if title.isascii():
        word = rf"(?<!\w){word}(?!\w)"
    return re.compile(word, re.IGNORECASE)


def without_heading(body: str) -> str:
    """Return a section's text without its own heading line (`## History`)."""
    first, _, rest = body.strip().partition("\n")
    return rest.strip() if _HEADING.match(first) else body.strip()
