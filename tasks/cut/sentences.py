"""Where sentences and clauses end, in Latin and in CJK text, by rules without a model.

A border is a position in the text: the sign that ends the sentence, closing quotes and the white
space after them are before it, the next sentence begins at it.

- CJK signs end a sentence by themselves, because no space follows: 。！？； and ……
- A Latin full stop ends one only if white space and something other than a lower-case letter
  follow, and if the word before it is neither an abbreviation nor a single initial.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

_CLOSING = r"[\"'”’»」』）】》〉)\]]*"
_SENTENCE = re.compile(rf"(?:[。！？；]+|…{{2,}}){_CLOSING}\s*|(?<=\S)[.!?]+{_CLOSING}\s+")
_CLAUSE = re.compile(rf"[，、：]{_CLOSING}\s*|[,;:]{_CLOSING}\s+|\s[–—]\s+|——")
_WORD_BEFORE = re.compile(r"[^\s(\[\"'“‘]*$")
_CJK_SIGNS = frozenset("。！？；…")
_ABBREVIATION = re.compile(
    r"mr|mrs|ms|dr|prof|st|jr|sr|rev|hon|gen|col|lt|capt|sgt|maj|cmdr|gov|sen|rep|"
    r"nos?|vol|eds?|pp?|figs?|ch|sec|art|op|cit|ibid|al|et|cf|e\.g|i\.e|viz|vs|etc|approx|"
    r"ca|fl|est|dept|univ|inc|ltd|co|corp|bros|assn|mt|ft|"
    r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|a\.m|p\.m|u\.s|u\.k|u\.n|"
    r"[^\W\d_]"  # an initial
)


def sentence_borders(text: str, start: int = 0, stop: int | None = None) -> Iterator[int]:
    """Yield where a sentence of `text[start:stop]` ends and the next one begins."""
    for match in _SENTENCE.finditer(text, start, len(text) if stop is None else stop):
        if match[0][0] in _CJK_SIGNS or _ends_latin_sentence(text, match):
            yield match.end()


def clause_borders(text: str, start: int = 0, stop: int | None = None) -> Iterator[int]:
    """Yield where a clause of `text[start:stop]` ends and the next one begins."""
    for match in _CLAUSE.finditer(text, start, len(text) if stop is None else stop):
        yield match.end()


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, white space between them removed; a line break ends one."""
    found = []
    for line in text.split("\n"):
        pieces = (line[a:b].strip() for a, b in pairwise([0, *sentence_borders(line), len(line)]))
        found += [piece for piece in pieces if piece]
    return found


def first_sentences(text: str, max_chars: int) -> str:
    """Return as many whole sentences from the start as fit, at least a cut first one."""
    text = text.strip()
    if len(text) <= max_chars:
        return text
    text = text[: max_chars + 50]  # room for closing signs and space behind the last sentence
    borders = {*sentence_borders(text), *(match.end() for match in re.finditer(r"\n", text))}
    fitting = [border for border in borders if len(text[:border].rstrip()) <= max_chars]
    return text[: max(fitting, default=max_chars)].rstrip()


def _ends_latin_sentence(text: str, match: re.Match[str]) -> bool:
    following = text[match.end() : match.end() + 1]
    if following.islower():
        return False
    if match[0].rstrip() != ".":
        return True
    word = _WORD_BEFORE.search(text, max(0, match.start() - 30), match.start())
    return not (word and _ABBREVIATION.fullmatch(word[0].lower()))
