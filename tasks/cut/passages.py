"""A page's text -> passages: cut where a reader would pause, never within a formula.

A passage is at most `max_chars` long and as long as the best kind of border allows: of all
borders within reach, the last one of the best kind is taken.

    section > paragraph > sentence > clause > word > character

Joined, the passages of a page give its text back, but for white space at the cuts. No cut falls
inside `$..$`, a code fence or a grapheme (a letter with its accents, a family of emoji), unless
such a thing is itself longer than a passage; nor between a heading line and what it heads.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.cut.sentences import clause_borders, sentence_borders

_PARAGRAPH = re.compile(r"\s*\n\s*")
_WORD = re.compile(r"\s+")
_PROTECTED = re.compile(r"```.*?```|\$\$.+?\$\$|\$[^$\n]+\$", re.DOTALL)
_JOINER = "\u200d"


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a page: `text` without outer white space, under the heading it begins in."""

    heading: str
    text: str


def cut_page(
    text: str, sections: Sequence[tuple[int, str]], *, max_chars: int, min_chars: int
) -> list[Passage]:
    """Return the passages of a page; `sections` are (start, title) in characters of the text."""
    inside_text = [section for section in sections if 0 <= section[0] < len(text)]
    sections = sorted(inside_text, key=lambda section: section[0])
    starts = [start for start, _ in sections]
    protected = [
        (match.start(), match.end())
        for match in _PROTECTED.finditer(text)
        if match.end() - match.start() <= max_chars
    ]
    passages = []
    begin = _skip_space(text, 0)
    while begin < len(text):
        end = _next_cut(text, begin, starts, protected, max_chars, min_chars)
        inside = bisect_right(starts, begin)
        heading = sections[inside - 1][1] if inside else ""
        passages.append(Passage(heading, text[begin:end].rstrip()))
        begin = _skip_space(text, end)
    return passages


def is_grapheme_border(text: str, position: int) -> bool:
    """Tell whether a reader sees two signs here: no accent, joiner or half a flag is torn off."""
    if not 0 < position < len(text):
        return True
    before, after = text[position - 1], text[position]
    if _JOINER in (before, after) or unicodedata.category(after).startswith("M"):
        return False
    if before == "\r" and after == "\n":
        return False
    if "\U0001f3fb" <= after <= "\U0001f3ff":  # skin tones
        return False
    if _is_flag_half(before) and _is_flag_half(after):
        first = position - 1
        while first > 0 and _is_flag_half(text[first - 1]):
            first -= 1
        return (position - first) % 2 == 0
    return True


def _next_cut(
    text: str,
    begin: int,
    starts: Sequence[int],
    protected: Sequence[tuple[int, int]],
    max_chars: int,
    min_chars: int,
) -> int:
    """Return where the passage that begins at `begin` ends."""
    if len(text) - begin <= max_chars:
        return len(text)
    last = begin + max_chars
    reach = range(begin + min_chars, min(last, len(text) - min_chars) + 1)

    def is_free(position: int) -> bool:
        index = bisect_right(protected, (position, -1)) - 1
        in_formula = index >= 0 and position < protected[index][1]
        return not in_formula and is_grapheme_border(text, position)

    for borders in _borders_by_kind(text, begin, last + 1, starts):
        fitting = [border for border in borders if border in reach and is_free(border)]
        if fitting:
            return fitting[-1]
    for nearest in (reach, range(begin + 1, last + 1)):
        for position in reversed(nearest):
            if is_free(position):
                return position
    return last  # one grapheme or formula longer than a passage


def _borders_by_kind(
    text: str, begin: int, stop: int, starts: Sequence[int]
) -> Iterator[list[int]]:
    """Yield the borders within `text[begin:stop]`, the best kind first, each in order."""
    yield list(starts[bisect_right(starts, begin) : bisect_right(starts, stop)])
    paragraphs = _PARAGRAPH.finditer(text, begin, stop)
    yield [match.end() for match in paragraphs if not _is_heading(text, match.start())]
    yield list(sentence_borders(text, begin, stop))
    yield list(clause_borders(text, begin, stop))
    yield [match.end() for match in _WORD.finditer(text, begin, stop)]


def _is_heading(text: str, end: int) -> bool:
    """Tell whether the line that ends at `end` is a heading (`## History`)."""
    return text.startswith("#", text.rfind("\n", 0, end) + 1)


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _is_flag_half(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"
