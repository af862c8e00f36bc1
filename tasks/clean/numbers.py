"""Digits -> the digits a reader sees: grouped by thousands, fractions, powers of ten, signs."""

from __future__ import annotations

import re

from tasks.clean.call import Wording

_PLAIN = re.compile(r"([-−+]?)(\d+)((?:\.\d*)?)((?:[eE][-+]?\d+)?)", re.ASCII)
_LONG = re.compile(r"(?<![\d.])\d{4,}", re.ASCII)
MAX_DIGITS = 400


def format_number(text: str, wording: Wording) -> str:
    """Return a number as the language writes it: 18000.5 -> 18,000.5; other text as it is.

    As `{{formatnum:}}` does: every run of four digits or more is grouped, but not behind a point.
    """
    if len(text) > MAX_DIGITS:
        return text
    match = _PLAIN.fullmatch(text)
    if match:
        sign, whole, rest, power = match.groups()
        return f"{_signed(sign)}{group_digits(whole, wording)}{_decimals(rest, wording)}{power}"
    if not text[:1].isdigit():
        return text
    return _LONG.sub(lambda run: group_digits(run[0], wording), text)


def plain_number(text: str, wording: Wording) -> str:
    """Return a number without grouping, as `{{formatnum:…|R}}` does: 18,000.5 -> 18000.5."""
    return text.replace(wording.group, "").replace(wording.decimal, ".")


def group_digits(whole: str, wording: Wording) -> str:
    """Return a whole number's digits with the language's mark at each thousand."""
    if len(whole) < 4 or (len(whole) == 4 and wording.language in ("es", "pl", "pt", "it")):
        return whole
    first = len(whole) % 3 or 3
    rest = (whole[place : place + 3] for place in range(first, len(whole), 3))
    return wording.group.join((whole[:first], *rest))


def ordinal(number: str) -> str:
    """Return an English ordinal, 21 -> 21st; what is no number as it is."""
    if not number.isdecimal():
        return number
    tens = number[-2:].rjust(2, "0")
    ending = "th" if tens[0] == "1" else {"1": "st", "2": "nd", "3": "rd"}.get(tens[1], "th")
    return number + ending


def _decimals(rest: str, wording: Wording) -> str:
    return rest.replace(".", wording.decimal, 1)


def _signed(sign: str) -> str:
    return "−" if sign == "-" else sign
