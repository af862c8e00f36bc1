"""`{{convert|1300|mi|km}}` -> 1,300 mi (2,100 km).

Units are shown by their symbols in all languages without names for them (`abbr=off` gives English
names; Chinese has names). Values are exact fractions; a result has the precision of what was given
and at least two significant digits, three in kelvins for temperatures, as Module:Convert documents.
"""

from __future__ import annotations

import math
from fractions import Fraction

from tasks.clean.call import Call, Wording
from tasks.clean.numbers import group_digits
from tasks.clean.unit_arguments import RANGES, Amount, Number, Scaled, Style, find_unit, read_amount
from tasks.clean.unit_table import PAIRS, UNITS

MAX_PRECISION = 40
_THOUSANDS = {3: ("thousand ", "千"), 6: ("million ", "百万"), 9: ("billion ", "十亿"),
              12: ("trillion ", "兆")}  # fmt: skip


def convert(call: Call, wording: Wording) -> str:
    """Return the amount as given and, in parentheses, in the other units."""
    arguments = [one for one in call.positional if one]
    if not arguments:
        return ""
    amount = read_amount(arguments, wording)
    if amount is None:
        return " ".join(arguments[:2])
    unit = find_unit(amount.unit_code)
    style = Style.of(call, wording)
    given = _show_given(amount, unit, style, wording)
    if unit is None:
        return given
    results = [
        text
        for code in amount.targets or unit.unit.targets
        if (text := _show_result(amount, unit, code, style, wording))
    ]
    return _join(given, results, style, wording)


def _show_given(amount: Amount, unit: Scaled | None, style: Style, wording: Wording) -> str:
    """Return what was given: 5–10 km, 5 ft 6 in, 5-mile."""
    if amount.parts:
        pieces = [(amount.numbers[0], amount.unit_code), *amount.parts]
        glue = "" if style.names_in and wording.is_full_width else " "
        return glue.join(
            _with_unit(
                one.text, find_unit(code), code, abs(one.value) == 1, style, wording, is_in=True
            )
            for one, code in pieces
        )
    words = [_range_word(word, wording, is_in=True) for word in amount.words]
    if "x" in amount.words:
        each = (
            _with_unit(
                one.text, unit, amount.unit_code, abs(one.value) == 1, style, wording, is_in=True
            )
            for one in amount.numbers
        )
        return _interleave(list(each), words)
    text = _interleave([one.text for one in amount.numbers], words)
    if style.has_extra and style.extra_before and amount.extra:
        text += f" {amount.extra}"
    is_one = abs(amount.numbers[-1].value) == 1
    text = _with_unit(text, unit, amount.unit_code, is_one, style, wording, is_in=True)
    if style.has_extra and not style.extra_before and amount.extra:
        text += amount.extra if amount.extra[:1] == "-" else f" {amount.extra}"
    return text


def _range_word(word: str, wording: Wording, *, is_in: bool) -> str:
    shown = RANGES[word][0 if is_in else 1]
    return wording.units.get(word.partition("(")[0], shown) if wording.units else shown


def _interleave(texts: list[str], words: list[str]) -> str:
    return "".join(piece for pair in zip(texts, [*words, ""], strict=True) for piece in pair)


def _with_unit(
    text: str, unit: Scaled | None, code: str, is_one: bool, style: Style, wording: Wording,
    *, is_in: bool,
) -> str:  # fmt: skip
    """Return a number with its unit's symbol or name."""
    if not style.has_units:
        return text
    if unit is None:
        return f"{text} {code}".strip()
    english, chinese = _THOUSANDS.get(unit.power, ("", ""))
    local = wording.units.get(unit.unit.code)
    has_name = style.names_in if is_in else style.names_out
    if local and has_name:
        return f"{text}{chinese}{local}"
    is_one = is_one and not unit.power
    if wording.language == "en" and is_in and style.is_adjective and unit.unit.symbol[0] != "°":
        name = unit.unit.name.replace(" ", "-")
        return f"{text}{' ' if english else '-'}{english.replace(' ', '-')}{name}"
    if has_name and wording.language == "en":
        return f"{text} {english}{unit.unit.name if is_one else unit.unit.plural}"
    one, slash, many = unit.unit.symbol.partition("/")
    is_plural = slash and unit.unit.symbol[0] != "/" and many.startswith(one)
    symbol = (one if is_one else many) if is_plural else unit.unit.symbol
    return f"{text}{'' if symbol[0] == '/' else ' '}{english}{symbol}"


def _show_result(amount: Amount, unit: Scaled, code: str, style: Style, wording: Wording) -> str:
    """Return the amount in another unit, "" if that is of another kind."""
    total = amount.numbers[0].value * unit.size
    for number, part in amount.parts:
        total += number.value * UNITS[part].size
    values = [total] if amount.parts else [_to_base(one.value, unit) for one in amount.numbers]
    if code == "ftin" and not amount.targets and unit.unit.code == "m" and max(values) >= 3:
        code = "ft"  # 5 m (16 ft), but 1.83 m (6 ft 0 in)
    if code in PAIRS:
        if UNITS[PAIRS[code][0]].dimension != unit.unit.dimension:
            return ""
        shown = [_show_pair(value, code, style, wording) for value in values]
        words = [_range_word(word, wording, is_in=False) for word in amount.words]
        return _interleave(shown, words)
    target = find_unit(code)
    if target is None or target.unit.dimension != unit.unit.dimension:
        return ""
    texts = []
    is_one = False
    precise = [amount.parts[-1][0]] if amount.parts else amount.numbers
    for number, value in zip(precise, values, strict=True):
        result = _from_base(value, target)
        if result is None:
            return ""
        if amount.precision is not None:
            precision = amount.precision
        else:
            precision = _precision(number, value, result, unit, target, style, amount)
        if style.round_to > 1:
            precision, digits = 0, _round(result / style.round_to, 0) * style.round_to
        else:
            precision = max(-MAX_PRECISION, min(MAX_PRECISION, precision))
            digits = _round(result, precision)
        is_one = abs(digits) == 10 ** max(precision, 0) and precision >= 0
        texts.append(_show_digits(digits, precision, wording))
    words = [_range_word(word, wording, is_in=False) for word in amount.words]
    if "x" in amount.words:
        each = (
            _with_unit(text, target, code, is_one, style, wording, is_in=False) for text in texts
        )
        return _interleave(list(each), words)
    if style.display in ("number", "output number only"):
        return _interleave(texts, words)
    text = _interleave(texts, words)
    return _with_unit(text, target, code, is_one, style, wording, is_in=False)


def _to_base(value: Fraction, unit: Scaled) -> Fraction:
    if unit.unit.code == "L/100km":
        return unit.size / value if value else Fraction(0)
    return value * unit.size + unit.unit.zero


def _from_base(value: Fraction, unit: Scaled) -> Fraction | None:
    if unit.unit.code == "L/100km":
        return unit.size / value if value else None
    return (value - unit.unit.zero) / unit.size


def _precision(
    number: Number, base: Fraction, result: Fraction, unit: Scaled, target: Scaled,
    style: Style, amount: Amount,
) -> int:  # fmt: skip
    """Return how many digits behind the point a result has; below 0 it is rounded to tens."""
    if style.sigfig and result:
        return style.sigfig - 1 - _magnitude(result)
    if unit.unit.dimension == "temperature":
        least = 2 - _magnitude(base) if base else 2
        return max(math.floor(number.precision), least)
    if not result or not base:
        return 0
    if amount.parts:  # as precise as the last part, whatever zeros it ends in
        small = UNITS[amount.parts[-1][1]]
        is_inch = small.code == "in"  # 5 ft 6 in is 168 cm, 1.68 m
        size = target.size * 100 if is_inch else target.size / small.size
        adjust = math.log10(2 * float(size))
        return max(math.floor(max(number.precision, 0.0) + adjust), 1 - _magnitude(result))
    given = abs(number.value)
    ratio = math.log10(2 * float(given / abs(result))) if given else 0.0
    return max(math.floor(number.precision + ratio), 1 - _magnitude(result))


def _magnitude(value: Fraction) -> int:
    """Return the power of ten of a value: 2 for 100 to 999."""
    above, below = abs(value.numerator), value.denominator
    power = math.floor(math.log10(above) - math.log10(below))
    if _is_less(above, below, power):
        return power - 1
    return power if _is_less(above, below, power + 1) else power + 1


def _is_less(above: int, below: int, power: int) -> bool:
    """Tell whether a fraction is less than a power of ten."""
    return above < below * 10**power if power >= 0 else above * 10**-power < below


def _round(value: Fraction, precision: int) -> int:
    """Return how many units of the last digit a value has, half of one away from zero."""
    above, below = abs(value.numerator), value.denominator
    if precision >= 0:
        above *= 10**precision
    else:
        below *= 10**-precision
    units = (2 * above + below) // (2 * below)
    return -units if value < 0 else units


def _show_digits(units: int, precision: int, wording: Wording) -> str:
    """Return a rounded value, in units of its last digit, with its decimal point."""
    if precision < 0:
        units, precision = units * 10**-precision, 0
    digits = str(abs(units)).rjust(precision + 1, "0")
    whole, rest = (digits[:-precision], digits[-precision:]) if precision else (digits, "")
    sign = "−" if units < 0 else ""
    return f"{sign}{group_digits(whole, wording)}{wording.decimal + rest if rest else ''}"


def _show_pair(value: Fraction, code: str, style: Style, wording: Wording) -> str:
    """Return 5 ft 6 in."""
    large, small, ratio = PAIRS[code]
    whole, rest = divmod(_round(abs(value) / UNITS[small].size, 0), ratio)
    sign = "−" if value < 0 else ""
    pieces = []
    for number, one in ((whole, large), (rest, small)):
        if number or one == small:
            text = group_digits(str(number), wording)
            unit = find_unit(one)
            pieces.append(_with_unit(text, unit, one, number == 1, style, wording, is_in=False))
    glue = "" if style.names_out and wording.is_full_width else " "
    return sign + glue.join(pieces)


def _join(given: str, results: list[str], style: Style, wording: Wording) -> str:
    semicolon = "；" if wording.is_full_width else "; "
    if not results:
        return given
    if style.display in ("out", "output only", "number", "output number only"):
        return semicolon.join(results)
    if style.is_flipped:
        given, results = results[0], [*results[1:], given]
    if style.display == "or":
        return f"{given} or {', '.join(results)}"
    if style.display in ("comma", "/"):
        return given + (", " if style.display == "comma" else "/") + ", ".join(results)
    if style.display in ("unit", "unit2"):
        return given
    if style.display == "sqbr":
        return f"{given} [{semicolon.join(results)}]"
    return given + wording.brackets(semicolon.join(results))
