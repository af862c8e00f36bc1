"""Rendered wikitext -> titled sections of paragraphs and lists, and where each lies in the text.

    == History ==            ## History
    One line                 (blank line)
    and its next.            One line and its next.
    * a                      - a
    ** b                       - b

Single line breaks inside a paragraph mean nothing in wikitext; `<br>` (U+E002 here) does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tasks.clean.markup import BREAK, CLOSE, OPEN, TERM

_HEADING = re.compile(r"(={1,6})[ \t]*(.+?)[ \t]*\1[ \t]*")
_LIST = re.compile(rf"([*#:{TERM}]+)[ \t]*(.*)", re.DOTALL)
_RULE = re.compile(r"-{4,}")
_HATNOTE = re.compile(r":+[ \t]*''(?!').*''[ \t.]*")
_BLOCK = re.compile(f"{OPEN}\\d+{CLOSE}")
_TABLE_REST = re.compile(r"[ \t]*(?:\{\||\|\}|\|-|!{1,2} ).*")
_UNSPACED = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")


@dataclass(slots=True)
class Section:
    """A heading and the blocks below it, up to the next heading of any level."""

    level: int
    title: str
    blocks: list[str] = field(default_factory=list)


def split_sections(text: str, title: str, tidy: Callable[[str], str]) -> list[Section]:
    """Return the page's sections, the lead first (level 1, the page's title).

    `tidy` cleans the running text of one block.
    """
    sections = [Section(1, title)]
    block = _BlockBuilder(sections[0].blocks, tidy)
    for line in text.split("\n"):
        heading = _HEADING.fullmatch(line.strip())
        if heading:
            block.flush()
            name = " ".join(tidy(heading[2].replace(BREAK, " ")).split())
            sections.append(Section(max(2, len(heading[1])), name))
            block = _BlockBuilder(sections[-1].blocks, tidy)
        else:
            block.add(line, is_lead=len(sections) == 1)
    block.flush()
    return sections


def keep_sections(sections: list[Section], is_stopped: Callable[[str], bool]) -> list[Section]:
    """Return the sections without stopped ones, what is below those, and empty ones."""
    kept: list[Section] = []
    stopped_level = 0
    for section in sections:
        if stopped_level and section.level > stopped_level:
            continue
        stopped_level = 0
        if section.level > 1 and is_stopped(section.title):
            stopped_level = section.level
            continue
        kept.append(section)
    filled: list[Section] = []
    for section in reversed(kept):  # a heading stays if something stands below it
        has_child = bool(filled) and filled[-1].level > section.level
        if section.blocks or section.level == 1 or (has_child and section.title):
            filled.append(section)
    return filled[::-1]


def join_sections(sections: list[Section]) -> tuple[str, list[dict[str, object]]]:
    """Return the document's text and the sections' places in it, as character offsets.

    The sections cover the text without gaps; each begins with its own heading line.
    """
    text = ""
    places: list[dict[str, object]] = []
    for section in sections:
        if places:
            text += "\n\n"
            places[-1]["end"] = len(text)
        start = len(text)
        heading = f"{'#' * section.level} {section.title}" if section.title else ""
        text += "\n\n".join(one for one in (heading, *section.blocks) if one)
        place: dict[str, object] = {"level": section.level, "title": section.title}
        places.append(place | {"start": start, "end": len(text)})
    return text, places


class _BlockBuilder:
    """Gathers lines into paragraphs and lists."""

    def __init__(self, blocks: list[str], tidy: Callable[[str], str]) -> None:
        self.blocks = blocks
        self.tidy = tidy
        self.paragraph = ""
        self.items: list[str] = []
        self.numbers: list[int] = []  # counters of the open numbered levels

    def add(self, line: str, *, is_lead: bool) -> None:
        """Take the next line."""
        stripped = line.strip()
        if not stripped or _RULE.fullmatch(stripped):
            self.flush()
        elif is_lead and not self.blocks and _HATNOTE.fullmatch(stripped):
            return
        elif _BLOCK.fullmatch(stripped):
            self.flush()
            self.blocks.append(stripped)
        elif _TABLE_REST.fullmatch(line):
            return
        elif item := _LIST.fullmatch(line):
            self._add_item(item[1], item[2])
        else:
            if self.items:
                self.flush()
            glue = " "
            if _UNSPACED.match(self.paragraph[-1:]) and _UNSPACED.match(stripped):
                glue = ""
            self.paragraph += glue + stripped if self.paragraph else stripped

    def flush(self) -> None:
        """End the block that is open."""
        if self.paragraph:
            lines = [self.tidy(one) for one in self.paragraph.split(BREAK)]
            self._append("\n".join(one for one in lines if one))
            self.paragraph = ""
        if self.items:
            self._append("\n".join(self.items))
            self.items = []
        self.numbers = []

    def _append(self, block: str) -> None:
        if block:
            self.blocks.append(block)

    def _add_item(self, marks: str, content: str) -> None:
        if self.paragraph:
            self.flush()
        if marks[-1] == TERM:
            colon = "：" if _UNSPACED.search(content) else ": "
            content = re.sub(r"[ \t]+:[ \t]*|:[ \t]+", colon, content, count=1)
        content = self.tidy(content.replace(BREAK, " ")).strip()
        depth = len(marks)
        del self.numbers[depth:]
        if not content:
            return
        self.numbers += [0] * (depth - len(self.numbers))
        indent = "  " * (sum(mark in "*#" for mark in marks) - 1)
        if marks[-1] == "*":
            self.items.append(f"{indent}- {content}")
        elif marks[-1] == "#":
            self.numbers[-1] += 1
            self.items.append(f"{indent}{self.numbers[-1]}. {content}")
        else:
            is_inside = any(mark in "*#" for mark in marks)
            self.items.append(f"{indent}  {content}" if is_inside else content)
