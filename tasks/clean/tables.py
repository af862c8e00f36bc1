"""`{| … |}` -> Markdown rows, tab-separated lines or nothing.

    {| class=x                 | Name | Area |
    ! Name !! Area             | --- | --- |
    |-                         | Bonn | 141 |
    | Bonn || 141
    |}

A cell that spans rows or columns stands in each of them, so that every word is below its head. A
table that only places things (another table inside of it, one column, whole paragraphs in its
cells) becomes the text of its cells; a box beside the text is left out. One walk over the lines
with a stack of open tables; a table that is never closed ends at the next blank line or heading.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from tasks.clean.markup import BREAK, CELL, INDENT, LINKED, ROW

TableStyle = Literal["markdown", "tsv", "drop"]
MAX_CELL_CHARS = 600
MAX_DEPTH = 12
MAX_SPAN = 50
_BOX = re.compile(  # by their classes: infoboxes, navigation, notes to editors
    r"\bclass *= *[\"']?[^\"'|\n]*\b(?:infobox|navbox|sidebar|metadata|[actfo]?mbox)"
)
_SPAN = re.compile(r"(row|col)span *= *[\"']?([0-9]+)", re.IGNORECASE)
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
    """A table that is being read; a cell is a list of lines, of `spans` rows and columns."""

    is_closed: bool
    is_box: bool
    spans: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    rows: list[list[list[str]]] = field(default_factory=lambda: [[]])
    above: list[str] = field(default_factory=list)
    is_layout: bool = False

    def add_cells(self, line: str, separators: re.Pattern[str]) -> None:
        """Begin the cells of a line; before a single bar stand attributes."""
        row = self.rows[-1]
        for cell in separators.split(line):
            attributes, bar, content = cell.partition("|")
            is_text = not bar or "[[" in attributes or LINKED in attributes
            if not is_text and "span" in attributes.lower():
                found = {
                    name.lower(): int(number[:3]) for name, number in _SPAN.findall(attributes)
                }
                down, across = found.get("row", 1), found.get("col", 1)
                self.spans[len(self.rows) - 1, len(row)] = max(down, 1), max(across, 1)
            row.append([(cell.replace(LINKED, "") if is_text else content).strip()])

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
        table = tables.pop()
        shown = [] if table.is_box else _show(table, style)
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
                tables.append(_Table(number not in unclosed, _BOX.search(line) is not None))
            continue
        if not tables:
            out.append(line)
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
    rows = [row for row in table.rows if _has_letters(row)]
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
    if table.spans:
        rows = _spread(table)
    if style == "tsv":
        return [*table.above, *(ROW + CELL.join(map(_flat, row)) for row in rows)]
    width = max(map(len, rows))
    shown = [f"{ROW}| {' | '.join(_flat(cell).replace('|', chr(92) + '|') for cell in row)} |"
             f"{' |' * (width - len(row))}" for row in rows]  # fmt: skip
    return [*table.above, "", shown[0], f"{ROW}|{' --- |' * width}", *shown[1:], ""]


def _has_letters(row: list[list[str]]) -> bool:
    return any(_LETTER.search(line) for cell in row for line in cell)


def _spread(table: _Table) -> list[list[list[str]]]:
    """Return the rows with each cell in all rows and columns that it spans.

    A cell that has its row for itself is a title across the table, and said once.
    """
    numbered = [(number, row) for number, row in enumerate(table.rows) if row]
    grid: list[dict[int, list[str]]] = [{} for _ in numbered]
    for first, (number, row) in enumerate(numbered):
        is_title = len(row) == 1 and not grid[first]
        column = 0
        for place, cell in enumerate(row):
            while column in grid[first]:
                column += 1
            down, across = table.spans.get((number, place), (1, 1))
            end = column + 1 if is_title else max(column + 1, min(column + across, MAX_SPAN))
            for line in grid[first : first + min(down, MAX_SPAN)]:
                line |= {one: cell for one in range(column, end) if one not in line}
    return [
        [line.get(column, []) for column in range(max(line) + 1)]
        for line, (_, row) in zip(grid, numbered, strict=True)
        if _has_letters(row)
    ]


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
