"""Tidied lines -> titled sections of paragraphs and lists, and where each lies in the text.

    == History ==            ## History
    One line                 (blank line)
    and its next.            One line and its next.
    * a                      - a
    ** b                       - b

Single line breaks inside a paragraph mean nothing in wikitext; `<br>` (U+E002 here) does. Lines
that begin with a space are shown as they are: a fenced block.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from tasks.clean.markup import BREAK, CELL, INDENT, OPEN, ROW, SECTION_END, Shelf
from tasks.clean.tidy import close_gaps

_HEADING = re.compile(r"\n(=[^\n]*=)[ \t]*+(?=\n)")
_LIST = re.compile(r"[*#:;]+")
_SPECIAL = frozenset(f"*#:;-{OPEN}{ROW}|!{{")
_BLANK_LINES = re.compile(r"\n[ \t]*+\n\s*+")
_SPECIAL_LINE = re.compile(rf"\n[*#:;{OPEN}{ROW}|!{{\-]")
_HATNOTE_LINES = r"(?:\s*+:+[ \t]*+''(?!')(?:[^\n']|'(?!'))*+''[ \t.]*+(?=\n(?!:)|\Z))+"
_FIRST_HATNOTE = re.compile(rf"\A{_HATNOTE_LINES}")
_HATNOTE = re.compile(rf"=[ \t]*+\n{_HATNOTE_LINES}")
_INDENTED = re.compile(
    rf"\n{INDENT}[^\S\n]*+[^\s{BREAK}{OPEN}{ROW}][^\n]*+(?:\n{INDENT}[^\S\n]*+\S[^\n]*+)*+"
)
_ATTRIBUTE = re.compile(  # of a cell; other words before a bar are words
    "(?:align|bgcolor|colspan|height|nowrap|rowspan|scope|style|valign|width) *="
)
_TABLE_REST = re.compile(rf"\{{\||\|\}}|\|-|\|\||!!|[!|](?: |(?={_ATTRIBUTE.pattern}))")
_BLOCK = re.compile("\ue01e[0-9]+\ue01f")
_REFERENCE = re.compile(  # a link, a number of a book, pages, an author by surname, a publisher
    r"://|\b(?:ISBN|ISSN|OCLC|JSTOR|PMID|doi)\b|\bpp?\. ?\d|\d[页頁]|[页頁]\d"
    r"|\A[*#:; ]*[A-Z][\w'’-]+, [A-Z]|\bPress\b|出版社|书局|書局"
    r"|\([^():]*: [^()]*\d{4}\)|\d:\d+[-–]\d"
)
_LETTER = re.compile(r"\w")
MIN_REFERENCES = 0.7
_STOPS, _WIDE_STOPS = frozenset(",;."), frozenset("，、；。")
_TERM = re.compile(r"[ \t]+:[ \t]*|:[ \t]+")
_UNSPACED = re.compile("[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
_UNSPACED_JOIN = re.compile(rf"\n(?<={_UNSPACED.pattern}\n)(?={_UNSPACED.pattern})")


@dataclass(slots=True)
class Section:
    """A heading and the blocks below it, up to the next heading of any level."""

    level: int
    title: str
    blocks: list[str] = field(default_factory=list)


def drop_hatnotes(text: str) -> str:
    """Drop `:''For other uses, see …''` where it opens the page or a section."""
    if "\n:" in text or text.startswith(":"):
        text = _FIRST_HATNOTE.sub("", text)
        text = _HATNOTE.sub("=\n\n", text)
    return text


def mark_indented(text: str) -> str:
    """Mark the lines that begin with a space, before others come to do so by what they lose."""
    return text.replace("\n ", f"\n{INDENT}")


def fence_indented(text: str, shelf: Shelf) -> str:
    """Put the marked lines on the shelf as fenced blocks."""
    if INDENT not in text:
        return text

    def fence(match: re.Match[str]) -> str:
        lines = match[0].split(f"\n{INDENT}")[1:]
        code = "\n".join(line.strip(BREAK).replace(BREAK, "\n").rstrip() for line in lines)
        return shelf.put(f"```\n{shelf.restore(code)}\n```", block=True)

    return _INDENTED.sub(fence, text).replace(INDENT, "")


def drop_stopped(text: str, is_stopped: Callable[[str], bool]) -> str:
    """Drop the sections that `split_sections` would leave out, before more work is done on them."""
    parts: list[str] = []
    position, stopped_level = 0, 0
    for found in _HEADING.finditer(text):
        level, name = _heading(found[1])
        if stopped_level and level > stopped_level:
            continue
        if stopped_level:
            position = found.start()
        stopped_level = level if is_stopped(name) else 0
        if stopped_level:
            parts.append(text[position : found.start()])
    if not parts:
        return text
    return "".join(parts) + ("\n" if stopped_level else text[position:])


def are_references(text: str, is_named: Callable[[str], bool]) -> bool:
    """Tell whether the sections of a name hold little but references.

    The `Sources` of a metal are prose, the `Bibliography` of a writer is a list of works. The text
    still has its external links; a citation by template has left an empty item of a list.
    """
    pieces = _HEADING.split(f"\n{text}\n")
    lines: list[str] = []
    named_level = 0
    for number in range(1, len(pieces), 2):
        level, name = _heading(pieces[number])
        if not named_level or level <= named_level:
            named_level = level if is_named(name) else 0
        if named_level:
            body = pieces[number + 1].partition(SECTION_END)[0]
            lines += [line for line in body.split("\n") if line.strip()]
    num_references = sum(not _LETTER.search(one) or bool(_REFERENCE.search(one)) for one in lines)
    return num_references >= MIN_REFERENCES * len(lines)


def split_sections(
    text: str,
    title: str,
    is_stopped: Callable[[str], bool] = lambda name: False,
    *,
    keep_empty: bool = False,
) -> list[Section]:
    """Return the page's sections, the lead first (level 1, the page's title).

    Stopped ones, what is below those, and, if not told otherwise, empty ones are left out.
    """
    pieces = _HEADING.split(f"\n{text}\n")
    sections = [Section(1, title, split_blocks(pieces[0]))]
    stopped_level = 0
    for number in range(1, len(pieces), 2):
        level, name = _heading(pieces[number])
        if stopped_level and level > stopped_level:
            continue
        stopped_level = level if is_stopped(name) else 0
        if not stopped_level:
            sections.append(Section(level, name, split_blocks(pieces[number + 1])))
    if keep_empty:
        return sections
    filled: list[Section] = []
    for section in reversed(sections):  # a heading stays if something stands below it
        has_child = bool(filled) and filled[-1].level > section.level
        if section.blocks or section.level == 1 or (has_child and section.title):
            filled.append(section)
    return filled[::-1]


@lru_cache(maxsize=16_384)
def _heading(line: str) -> tuple[int, str]:
    """Return level and title of `=== Title ===`; uneven marks belong to the title."""
    line = line.strip()
    left = len(line) - len(line.lstrip("="))
    if left == len(line):
        left = (left - 1) // 2
    right = len(line) - len(line.rstrip("="))
    level = max(1, min(left, right, 6))
    return max(2, level), " ".join(line[level:-level].replace(BREAK, " ").split())


def split_blocks(body: str) -> list[str]:
    """Return the paragraphs, lists and other blocks of a section's lines."""
    if SECTION_END in body:
        body = body.partition(SECTION_END)[0]
    if _SPECIAL_LINE.search(body):
        return _Blocks().build(body)
    blocks = map(_join_lines, _BLANK_LINES.split(body))
    return [block for block in blocks if block]


def _join_lines(block: str) -> str:
    """Join the lines of a paragraph; `<br>` breaks it."""
    block = block.strip()
    if "\n" in block:
        lines = block.split("\n")
        if not block.isascii():
            block = _UNSPACED_JOIN.sub("", "\n".join(map(str.strip, lines)))
            lines = block.split("\n")
        block = close_gaps(" ".join(map(str.strip, lines)))
    if BREAK not in block:
        return block
    lines = [line.strip() for line in block.split(BREAK)]
    return "\n".join(line for line in lines if line)


def _trim(item: str) -> str:
    """Return an item's text without the comma or stop behind what stood first in it."""
    item = item.strip()
    if item[:1] in _WIDE_STOPS:
        return item.lstrip("，、；。")
    return item.lstrip(",;. ") if item[:1] in _STOPS and item[1:2] in ("", " ") else item


class _Blocks:
    """Gathers lines into paragraphs, lists, rows and fenced blocks."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.lines: list[str] = []
        self.kind = ""  # of the lines that wait: "" (paragraph), "list" or "rows"
        self.numbers: list[int] = []  # counters of the open numbered levels

    def build(self, body: str) -> list[str]:
        """Return the blocks of a section."""
        for line in body.split("\n"):
            first = line[:1]
            if first not in _SPECIAL:  # prose, or nothing
                if self.kind:
                    self._flush()
                if not line or line.isspace():
                    self._flush()
                else:
                    self.lines.append(line)
            elif first == "*" and line[1:2] not in _SPECIAL and BREAK not in line:
                if self.kind != "list":  # nearly all items are like this one
                    self._begin("list")
                content = line[1:].strip()
                if content[:1] in _STOPS or content[:1] in _WIDE_STOPS:
                    content = _trim(content)
                if content:
                    self.lines.append(f"- {content}")
                if self.numbers:
                    del self.numbers[1:]
            else:
                self._add_special(line)
        self._flush()
        return self.blocks

    def _add_special(self, line: str) -> None:
        first = line[0]
        if first in "*#:;":
            self._begin("list")
            self._add_item(line)
        elif first == ROW:
            self._begin("rows")
            self.lines.append(line[1:].replace(CELL, "\t"))
        elif first == OPEN and _BLOCK.fullmatch(line.strip()):
            self._flush()
            self.blocks.append(line.strip())
        elif line.startswith("----"):
            self._flush()
            if rest := line.lstrip("-").strip():
                self.lines.append(rest)
        elif first in "{|!" and (rest_of_table := _TABLE_REST.match(line)):
            words = line[rest_of_table.end() :]
            if _ATTRIBUTE.search(words):
                words = words.partition("|")[2]
            if words := words.strip():
                self._begin("")
                self.lines.append(words)
        else:
            self._begin("")
            self.lines.append(line)

    def _begin(self, kind: str) -> None:
        if self.kind != kind:
            self._flush()
            self.kind = kind

    def _flush(self) -> None:
        """End the block that is open."""
        if self.lines:
            block = "\n".join(self.lines)
            if not self.kind:
                block = _join_lines(block)
            if block:
                self.blocks.append(block)
            self.lines = []
        if self.numbers:
            self.numbers = []
        self.kind = ""

    def _add_item(self, line: str) -> None:
        marks = _LIST.match(line)[0]  # type: ignore[index]
        content = line[len(marks) :]
        if BREAK in content:
            content = close_gaps(content.replace(BREAK, " "))
        content = _trim(content)
        marks = marks[:20]
        depth = len(marks)
        del self.numbers[depth:]
        if not content:
            return
        if marks[-1] == ";":
            colon = "：" if _UNSPACED.search(content) else ": "
            content = _TERM.sub(colon, content, count=1)
        self.numbers += [0] * (depth - len(self.numbers))
        indent = "  " * (sum(mark in "*#" for mark in marks) - 1)
        if marks[-1] == "*":
            self.lines.append(f"{indent}- {content}")
        elif marks[-1] == "#":
            self.numbers[-1] += 1
            self.lines.append(f"{indent}{self.numbers[-1]}. {content}")
        else:
            is_inside = "*" in marks or "#" in marks
            self.lines.append(f"{indent}  {content}" if is_inside else content)


def join_sections(sections: list[Section]) -> tuple[str, list[dict[str, object]]]:
    """Return the document's text and the sections' places in it, as character offsets.

    The sections cover the text without gaps; each begins with its own heading line.
    """
    texts: list[str] = []
    places: list[dict[str, object]] = []
    start = 0
    for section in sections:
        heading = f"{'#' * section.level} {section.title}" if section.title else ""
        text = "\n\n".join([heading, *section.blocks] if heading else section.blocks)
        end = start + len(text) + (2 if len(texts) < len(sections) - 1 else 0)
        texts.append(text)
        if section.title or not places:
            place = {"level": section.level, "title": section.title, "start": start, "end": end}
            places.append(place)
        else:  # a heading without words: nobody sees that a section begins
            places[-1]["end"] = end
        start = end
    return "\n\n".join(texts), places
