"""Numbers -> words, Roman numerals, centuries and times: `{{spellnum|21}}` twenty-one."""

from __future__ import annotations

import re

from tasks.clean.call import Call, Renderer, Wording
from tasks.clean.numbers import format_number, ordinal

_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred"))
_ROMAN = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"),
    (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip
_SPELLED = re.compile(r"([-−]?)(\d{1,12})", re.ASCII)


def _number_words(call: Call, wording: Wording) -> str:
    """`{{spellnum|-21}}` minus twenty-one; in other languages the digits."""
    found = _SPELLED.fullmatch(call.arg(1))
    if not found or wording.language != "en":
        return format_number(call.arg(1), wording)
    return ("minus " if found[1] else "") + _spelled(int(found[2]))


def _spelled(number: int) -> str:
    if number < 20:
        return _SMALL[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return _TENS[tens - 1] + (f"-{_SMALL[rest]}" if rest else "")
    size, name = next(one for one in _SCALES if number >= one[0])
    count, rest = divmod(number, size)
    words = f"{_spelled(count)} {name}"
    if not rest:
        return words
    return f"{words} and {_spelled(rest)}" if rest < 100 else f"{words} {_spelled(rest)}"


def _roman(call: Call, wording: Wording) -> str:
    """`{{roman numeral|14}}` XIV."""
    text = call.arg(1)
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or int(text) > 3999:
        return text
    number, letters = int(text), ""
    for value, letter in _ROMAN:
        count, number = divmod(number, value)
        letters += letter * count
    return letters


def _century(call: Call, wording: Wording) -> str:
    """`{{century|19}}` and `{{century|1850}}` 19th century."""
    number = call.arg(1)
    if not re.fullmatch(r"\d{1,4}", number, re.ASCII):
        return number
    count = number if len(number) < 3 else str((int(number) + 99) // 100)
    if wording.language == "zh":
        return f"{count}世纪"
    return f"{ordinal(count)} century" if wording.language == "en" else number


def _decade(call: Call, wording: Wording) -> str:
    """`{{decade|1985}}` 1980s."""
    number = call.arg(1)
    if not re.fullmatch(r"\d{2,4}", number, re.ASCII):
        return number
    return f"{number[:-1]}0" + {"zh": "年代", "en": "s"}.get(wording.language, "")


def _duration(call: Call, wording: Wording) -> str:
    """`{{duration|h=1|m=2|s=3}}` 1:02:03, `{{duration|m=4|s=5}}` 4:05."""
    pairs = (("h", "1"), ("m", "2"), ("s", "3"))
    hours, minutes, seconds = (call.value(name, place) for name, place in pairs)
    if ":" in hours or not (hours or minutes or seconds):
        return hours
    if not hours.strip("0"):
        return f"{minutes or 0}:{seconds.zfill(2)}"
    return f"{hours}:{minutes.zfill(2)}:{seconds.zfill(2)}"


SPELLED: dict[str, Renderer] = {
    "century": _century,
    "decade": _decade,
    "duration": _duration,
    "number_words": _number_words,
    "roman": _roman,
}
