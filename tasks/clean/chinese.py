"""Chinese text -> the script it is written in; the same text in the other script.

    from tasks.clean.chinese import detect_variant, to_script
    detect_variant("電腦與軟體")           # zh-hant
    to_script("電腦與軟體", "zh-hans")     # 电脑与软体

OpenCC, by script alone. Its phrase tables (tw2sp, s2twp) suit texts of one region, and over 64
articles of zhwiki tw2sp differs from t2s at 2,450 places, most of them wrong (恒星核心 becomes
恒星内核, 应用程序 应用进程, 开埠 开端口); words of regions are what a page's own rules are for
(variants.py). Pages in traditional characters go through tw2s, which knows 存在著 -> 存在着 (4,841
times in 7.3 million characters) and would spoil 显著 in simplified ones; these go through t2s,
which turns what is traditional in them. The other way, traditional text
stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from tasks.clean.markup import SEPARATOR

if TYPE_CHECKING:
    from opencc import OpenCC

Script = Literal["zh-hans", "zh-hant", "mixed"]

_LINE_END = re.compile(f"[\n{SEPARATOR}]")
_MOSTLY = 0.9  # the share of telling characters that makes a page's script
_CONFIGS = {
    ("zh-hans", "zh-hant"): "tw2s", ("zh-hans", "zh-hans"): "t2s", ("zh-hans", "mixed"): "t2s",
    ("zh-hant", "zh-hans"): "s2tw", ("zh-hant", "mixed"): "s2tw",
}  # fmt: skip


def detect_variant(text: str) -> Script:
    """Return the script of nine in ten of the characters that tell; `mixed` if there is none."""
    only_simplified, only_traditional = _telling_characters()
    simplified = len(only_simplified.findall(text))
    traditional = len(only_traditional.findall(text))
    least = _MOSTLY * (simplified + traditional)
    if simplified == traditional:
        return "mixed"
    if simplified >= least:
        return "zh-hans"
    return "zh-hant" if traditional >= least else "mixed"


def to_script(text: str, script: str, *, source: Script | None = None) -> str:
    """Convert by script alone; `source` is what the text is written in, if that is known.

    A page of many hands is mixed, but its paragraphs seldom are: there each line goes by its own
    script, in one call of OpenCC for each script.
    """
    source = source or detect_variant(text)
    if source != "mixed":
        return _convert(text, script, source)
    lines = _LINE_END.split(text)
    groups: dict[Script, list[int]] = {}
    for number, line in enumerate(lines):
        groups.setdefault(detect_variant(line), []).append(number)
    for own, numbers in groups.items():
        together = _convert("\n".join([lines[number] for number in numbers]), script, own)
        for number, line in zip(numbers, together.split("\n"), strict=True):
            lines[number] = line
    ends = [*_LINE_END.findall(text), ""]
    return "".join([part for pair in zip(lines, ends, strict=True) for part in pair])


def _convert(text: str, script: str, source: Script) -> str:
    config = _CONFIGS.get((script, source))
    # OpenCC stops at a NUL, as C does.
    return _converter(config).convert(text.replace("\0", "")) if config else text


@cache
def _converter(config: str) -> OpenCC:
    from opencc import OpenCC  # 10 ms, and only Chinese wikis need it

    return OpenCC(config)


@cache
def _telling_characters() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return patterns of the characters that only simplified, only traditional text has."""
    characters = [chr(code) for code in range(0x4E00, 0xA000)]
    lines = "\n".join(characters)
    simplified = _converter("t2s").convert(lines).split("\n")
    traditional = _converter("s2t").convert(lines).split("\n")
    both = list(zip(characters, simplified, traditional, strict=True))
    return (
        re.compile("[" + "".join(one for one, s, t in both if s == one != t) + "]"),
        re.compile("[" + "".join(one for one, s, t in both if s != one == t) + "]"),
    )


@dataclass(frozen=True, slots=True)
class Words:
    """Words and what stands for them, found by longest match in one pass over the text.

    For 2,000 words this takes 75 to 100 ms per MB, one regular expression of alternatives 480.
    """

    pairs: Mapping[str, str]
    first: re.Pattern[str]
    lengths: Mapping[str, tuple[int, ...]]

    @staticmethod
    def of(pairs: Mapping[str, str]) -> Words | None:
        """Make the table; None if there is nothing in it."""
        lengths: dict[str, set[int]] = {}
        for word in filter(None, pairs):
            lengths.setdefault(word[0], set()).add(len(word))
        if not lengths:
            return None
        begin = f"[{''.join(map(re.escape, lengths))}]"
        if all(1 not in some for some in lengths.values()):  # a third fewer places to look at
            second = {word[1] for word in pairs if word}
            begin += f"(?=[{''.join(map(re.escape, sorted(second)))}])"
        longest = {one: tuple(sorted(some, reverse=True)) for one, some in lengths.items()}
        return Words(pairs, re.compile(begin), longest)

    def take_out(self, text: str, mark: str) -> tuple[str, list[str]]:
        """Return the text with a mark for every word found, and what stands for each."""
        kept: list[str] = []
        found: list[str] = []
        position = 0
        for match in self.first.finditer(text):
            start = match.start()
            if start < position:
                continue
            for length in self.lengths[match[0]]:
                word = self.pairs.get(text[start : start + length])
                if word is not None:
                    kept.append(text[position:start])
                    found.append(word)
                    position = start + length
                    break
        return mark.join([*kept, text[position:]]), found


def put_back(text: str, mark: str, pieces: list[str]) -> str:
    """Return the text with the pieces in the marks' places."""
    between = text.split(mark)
    assert len(between) == len(pieces) + 1, "a mark was lost"
    joined = [part for pair in zip(between, pieces, strict=False) for part in pair]
    return "".join([*joined, between[-1]])
