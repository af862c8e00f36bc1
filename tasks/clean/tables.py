"""`{| … |}` -> Markdown rows, tab-separated lines or nothing.

    {| class=x                 | Name | Area |
    ! Name !! Area             | --- | --- |
    |-                         | Bonn | 141 |
    | Bonn || 141
    |}

A table that only places things (another table inside of it, one column, whole paragraphs in its
cells) becomes the text of its cells. One walk over the lines with a stack of open tables; a table
that is never closed ends at the next blank line or heading.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from tasks.clean.markup import BREAK, CELL, INDENT, LINKED, ROW

TableStyle = Literal["markdown", "tsv", "drop"]
MAX_CELL_CHARS = 600
MAX_DEPTH = 12
_OPEN = re.compile(rf"[ \t:*#;{INDENT}]*+\{{\|")
_CELL = (
    r"\|\|(?!\|(?!\|))"  # of three bars, where a template showed nothing, the first ends attributes
)
_CELLS, _HEADER_CELLS = re.compile(_CELL), re.compile(rf"{_CELL}|!!")
_LIST_MARKS = re.compile(r"[*#:;]+[ \t]*")
_BLANK = f" \t{INDENT}"
_LETTER = re.compile(r"\w")


@dataclass(slots=True)
class _Table:
    """A table that is being read; a cell is a list of lines."""

    is_closed: bool
    rows: list[list[list[str]]] = field(default_factory=lambda: [[]])
    above: list[str] = field(default_factory=list)
    is_layout: bool = False

    def add_cells(self, line: str, separators: re.Pattern[str]) -> None:
        """Begin the cells of a line; before a single bar stand attributes."""
        for cell in separators.split(line):
            attributes, bar, content = cell.partition("|")
            is_text = not bar or "[[" in attributes or LINKED in attributes
            self.rows[-1].append([(cell.replace(LINKED, "") if is_text else content).strip()])

    def add_line(self, line: str) -> None:
        """Go on with the last cell; what stands before the first cell is shown above the table."""
        (self.rows[-1][-1] if self.rows[-1] else self.above).append(line)


def render_tables(text: str, style: TableStyle = "markdown") -> str:
    """Return the text with every table as finished rows, or as the text of its cells."""
    if "{|" not in text:
        return text
    begin = text.rfind("\n", 0, text.find("{|")) + 1
    lines = text[begin:].split("\n")
    unclosed = _unclosed(lines)
    out: list[str] = []
    tables: list[_Table] = []

    def close() -> None:
        shown = _show(tables.pop(), style)
        if len(tables) >= MAX_DEPTH:
            return  # every level copies what is in it
        if tables:
            tables[-1].is_layout = True
            for one in shown:
                tables[-1].add_line(one)
        else:
            out.extend(("", *shown, ""))

    for number, line in enumerate(lines):
        if "{|" in line and _OPEN.match(line):
            if number not in unclosed or not tables or tables[-1].is_closed:
                tables.append(_Table(number not in unclosed))
            continue
        words = line.strip(_BLANK)
        while tables and not tables[-1].is_closed and (not words or words[0] == "="):
            close()
        if not tables:
            out.append(line)
            continue
        table = tables[-1]
        if words.startswith("|}") and table.is_closed:
            close()
            (tables[-1].add_line if tables else out.append)(words[2:])
        elif words.startswith("|-"):
            table.rows.append([])
        elif words.startswith("|+"):
            table.above.append(words[2:].rpartition("|")[2])
        elif words.startswith("|"):
            table.add_cells(words[1:], _CELLS)
        elif words.startswith("!"):
            table.add_cells(words[1:], _HEADER_CELLS)
        else:
            table.add_line(line)
    while tables:
        close()
    return text[:begin] + "\n".join(out)


def _unclosed(lines: list[str]) -> set[int]:
    """Return the numbers of the lines that open a table which nothing closes."""
    opened: list[int] = []
    for number, line in enumerate(lines):
        if "{|" in line and _OPEN.match(line):
            opened.append(number)
        elif opened and line.lstrip(_BLANK).startswith("|}"):
            opened.pop()
    return set(opened)


def _show(table: _Table, style: TableStyle) -> list[str]:
    """Return the lines of a table."""
    if style == "drop":
        return []
    rows = [row for row in table.rows if any(_LETTER.search(line) for cell in row for line in cell)]
    if not rows:
        return table.above
    is_data = (
        not table.is_layout
        and len(rows) > 1
        and max(map(len, rows)) > 1
        and all(sum(map(len, cell)) <= MAX_CELL_CHARS for row in rows for cell in row)
    )
    if not is_data:
        return [*table.above, *(line for row in rows for cell in row for line in ("", *cell))]
    if style == "tsv":
        return [*table.above, *(ROW + CELL.join(map(_flat, row)) for row in rows)]
    shown = [f"{ROW}| {' | '.join(_flat(cell).replace('|', chr(92) + '|') for cell in row)} |"
             for row in rows]  # fmt: skip
    width = max(map(len, rows))
    return [*table.above, "", shown[0], f"{ROW}|{' --- |' * width}", *shown[1:], ""]


def _flat(cell: list[str]) -> str:
    """Return a cell on one line; the items of a list in it are joined by commas."""
    if len(cell) == 1:
        return cell[0].replace(BREAK, " ")
    words = ""
    for line in cell:
        item = _LIST_MARKS.match(line)
        one = line[item.end() :] if item else line
        words += (", " if item and words.strip() else " ") + one.strip()
    return words.replace(BREAK, " ").replace(INDENT, "").strip()
