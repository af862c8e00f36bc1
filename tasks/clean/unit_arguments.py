"""The arguments of `{{convert}}` -> an amount, its unit, the units asked for, and the switches."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from tasks.clean.call import Call, Wording
from tasks.clean.numbers import group_digits
from tasks.clean.unit_table import GROUPS, PAIRS, UNITS, Unit

MAX_CHARS, MAX_EXPONENT, MAX_PRECISION = 40, 30, 15
_NUMBER = re.compile(
    r"([-−–+]?)(?:(\d+)[+ -])?(\d+)//?(\d+)|([-−–+]?)(\d*(?:\.\d*)?)(?:[eE]([-+−]?\d{1,3}))?",
    re.ASCII,
)
_MULTIPLE = re.compile(r"e(3|6|9|12)(.+)", re.ASCII)
RANGES = {
    "-": ("–", "–"), "–": ("–", "–"), "to": (" to ", " to "), "to(-)": (" to ", "–"),
    "to-": (" to ", "–"), "and": (" and ", " and "), "and(-)": (" and ", "–"),
    "and-": (" and ", "–"), "or": (" or ", " or "), "or(-)": (" or ", "–"),
    "by": (" by ", " by "), "by(x)": (" by ", " × "), "x": (" × ", " × "), "xx": (" × ", " × "),
    "×": (" × ", " × "), "*": (" × ", " × "), "+/-": (" ± ", " ± "), "±": (" ± ", " ± "),
    "&": (" & ", " & "), "+": (" + ", " + "), "/": ("/", "/"), ",": (", ", ", "),
    ", and": (", and ", ", and "), "-x": ("–", "–"), "–x": ("–", "–"),
    "至": ("至", "至"), "到": ("至", "至"), "和": ("和", "和"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Number:
    """A value as it was written: `precision` counts its digits behind the point."""

    value: Fraction
    text: str
    precision: float


@dataclass(frozen=True, slots=True)
class Amount:
    """The arguments, sorted out: 5 to 10 km mi, or the parts of 5 ft 6 in."""

    numbers: list[Number]
    words: list[str]
    unit_code: str
    parts: list[tuple[Number, str]]
    targets: list[str]
    precision: int | None
    extra: str


@dataclass(frozen=True, slots=True)
class Scaled:
    """A unit and a power of ten before it: `e6km2`."""

    unit: Unit
    power: int
    size: Fraction


@dataclass(frozen=True, slots=True)
class Style:
    """What the switches of a call ask for."""

    names_in: bool
    names_out: bool
    is_adjective: bool
    display: str
    is_flipped: bool
    sigfig: int
    round_to: int
    has_extra: bool
    extra_before: bool
    has_units: bool

    @staticmethod
    def of(call: Call, wording: Wording) -> Style:
        """Read the named arguments; `cvt` is `convert` with symbols in every language."""
        abbreviation, adjective = call.named.get("abbr", ""), call.named.get("adj", "")
        display, order = call.named.get("disp", ""), call.named.get("order", "")
        is_symbolic = call.name.casefold() == "cvt" or abbreviation in (
            "on",
            "y",
            "yes",
            "in",
            "is",
        )
        has_names = bool(wording.units) and not is_symbolic
        return Style(
            names_in=has_names or abbreviation in ("off", "none"),
            names_out=has_names or abbreviation in ("off", "none", "in"),
            is_adjective=adjective in ("on", "mid", "1") and not is_symbolic,
            display=display,
            is_flipped=display == "flip" or order in ("flip", "out"),
            sigfig=_small(call.named.get("sigfig", "")),
            round_to=_small(call.named.get("round", "")),
            has_extra=adjective in ("mid", "pre"),
            extra_before=adjective == "pre",
            has_units=abbreviation != "values",
        )


def _small(text: str) -> int:
    return int(text) if re.fullmatch(r"\d{1,3}", text, re.ASCII) else 0


def read_amount(arguments: list[str], wording: Wording) -> Amount | None:
    """Sort the arguments: numbers and range words, unit, more parts, targets, precision."""
    first = _read_number(arguments[0], wording)
    if first is None:
        return None
    numbers, words, place = [first], [], 1
    while place + 1 < len(arguments) and arguments[place].strip() in RANGES:
        following = _read_number(arguments[place + 1], wording)
        if following is None:
            break
        words.append(arguments[place].strip())
        numbers.append(following)
        place += 2
    unit_code = arguments[place] if place < len(arguments) else ""
    place += 1
    parts: list[tuple[Number, str]] = []
    while len(numbers) == 1 and place + 1 < len(arguments):
        number, code = _read_number(arguments[place], wording), arguments[place + 1]
        if number is None or not _is_part(parts[-1][1] if parts else unit_code, code):
            break
        parts.append((number, code))
        place += 2
    targets: list[str] = []
    precision = None
    extra = ""
    for argument in arguments[place : place + 4]:
        if re.fullmatch(r"[-−]?\d{1,2}", argument, re.ASCII):
            precision = max(-MAX_PRECISION, min(MAX_PRECISION, int(argument.replace("−", "-"))))
        elif codes := _target_codes(argument):
            targets += codes
        else:
            extra = argument
    return Amount(numbers, words, unit_code, parts, targets, precision, extra)


def _is_part(large: str, small: str) -> bool:
    one, other = UNITS.get(large), UNITS.get(small)
    return bool(one and other and one.dimension == other.dimension and one.size > other.size)


def _target_codes(text: str) -> list[str]:
    """Return the codes of a target, `km mi` or `kmmi`; [] if it is none."""
    if find_unit(text) or text in PAIRS:
        return [text]
    if len(text) > MAX_CHARS:
        return []
    codes = GROUPS.get(text, text).replace("+", " ").split()
    return codes if codes and all(find_unit(one) or one in PAIRS for one in codes) else []


def find_unit(code: str) -> Scaled | None:
    """Return the unit of a code, `km` or `e6km`."""
    return _find_unit(code) if len(code) <= MAX_CHARS else None


@lru_cache(maxsize=1000)
def _find_unit(code: str) -> Scaled | None:
    unit = UNITS.get(code) or UNITS.get(code.casefold())
    if unit:
        return Scaled(unit, 0, unit.size)
    multiple = _MULTIPLE.fullmatch(code)
    unit = UNITS.get(multiple[2]) if multiple else None
    if unit is None or multiple is None:
        return None
    power = int(multiple[1])
    return Scaled(unit, power, unit.size * 10**power)


def _read_number(text: str, wording: Wording) -> Number | None:
    """Read 1,300 and 5+1/2 and 1.2e6."""
    clean = text.strip().replace("⁄", "/").replace("&minus;", "−").replace(wording.group, "")
    if wording.decimal != ".":
        clean = clean.replace(wording.decimal, ".")
    match = _NUMBER.fullmatch(clean) if 0 < len(clean) <= MAX_CHARS else None
    if match is None:
        return None
    if match[4]:
        if not int(match[4]):
            return None
        value = Fraction(int(match[3]), int(match[4])) + int(match[2] or 0)
        is_negative = match[1] in ("-", "−", "–")
        shown = f"{match[2]} {match[3]}/{match[4]}" if match[2] else f"{match[3]}/{match[4]}"
        precision = max(math.log10(int(match[4])), 1.0)
    else:
        digits, exponent = match[6], int((match[7] or "0").replace("−", "-"))
        if not digits.strip(".") or abs(exponent) > MAX_EXPONENT:
            return None
        value = Fraction(digits if digits[0] != "." else f"0{digits}") * Fraction(10) ** exponent
        is_negative = match[5] in ("-", "−", "–")
        whole, point, rest = digits.partition(".")
        zeros = len(whole) - len(whole.rstrip("0"))
        precision = (len(rest) if point else -zeros) - exponent
        shown = group_digits(whole, wording) + (wording.decimal + rest if rest else "")
        shown += f"×10^{exponent}" if match[7] else ""
    return Number(-value if is_negative else value, ("−" if is_negative else "") + shown, precision)
