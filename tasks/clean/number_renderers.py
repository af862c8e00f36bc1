"""Numbers, measures, money and formulas -> their words: `{{val|5|0.2|u=kg}}` 5 ± 0.2 kg."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal

from tasks.clean.call import Call, Renderer, Wording
from tasks.clean.markup import script
from tasks.clean.numbers import format_number, ordinal
from tasks.clean.units import convert

_CURRENCIES = {
    "USD": "US$", "EUR": "€", "GBP": "£", "JPY": "¥", "CNY": "CN¥", "INR": "₹", "AUD": "A$",
    "CAD": "CA$", "NZD": "NZ$", "HKD": "HK$", "SGD": "S$", "TWD": "NT$", "BRL": "R$", "KRW": "₩",
    "PHP": "₱", "RUB": "₽", "ILS": "₪", "THB": "฿", "UAH": "₴", "VND": "₫", "ZAR": "R",
    "IDR": "Rp", "MYR": "RM", "NGN": "₦", "TRY": "₺", "BDT": "৳", "PKR": "₨",
}  # fmt: skip
_MUSIC = {
    "flat": "♭", "b": "♭", "sharp": "♯", "#": "♯", "natural": "♮", "n": "♮", "doubleflat": "𝄫",
    "doublesharp": "𝄪", "x": "𝄪", "bb": "𝄫",
}  # fmt: skip
_SOLAR = {"mass": "M☉", "radius": "R☉", "luminosity": "L☉"}
_GAUGES = {
    "sg": "1435mm", "ussg": "4ft8.5in", "std": "1435mm", "standard": "1435mm", "mg": "1000mm",
    "metre": "1000mm", "meter": "1000mm", "cape": "1067mm", "irish": "1600mm", "broad": "1676mm",
    "iberian": "1668mm", "russian": "1520mm", "indian": "1676mm",
}  # fmt: skip
_SCALES = {
    "k": ("thousand", "千"), "l": ("lakh", "十万"), "m": ("million", "百万"),
    "c": ("crore", "千万"), "b": ("billion", "十亿"), "t": ("trillion", "万亿"),
    "lc": ("lakh crore", "万亿"),
}  # fmt: skip
_QUOTES = re.compile("'{2,}")
_UNIT_DOT = re.compile(r"(?<=[^\W_])[.*](?=[^\W\d_])")
_UNIT_POWER = re.compile(r"(?<=[^\W\d_])[-−]?\d+")
_SUM = re.compile(r"\S\s*[-+−–±]")
_FACTOR = re.compile(r"[\d.,]+|[^\W\d]+[²³\d]*|\(.*\)")
_LONE_FRACTION = re.compile(r"\A\((\d+/\d+)\)\Z")


def _value(call: Call, wording: Wording) -> str:
    """`{{val|1234.5|0.3|e=6|u=kg}}`."""
    number, error = call.arg(1), call.arg(2)
    words = format_number(number, wording) if number else ""
    if error and call.arg(3):
        words += f" +{error.lstrip('+')}−{call.arg(3).lstrip('-−')}"
    elif error.startswith("("):
        words += error
    elif error:
        words += f" ± {error}"
    if power := call.first("e"):
        is_wrapped = error and not error.startswith("(")
        words = f"({words})" if is_wrapped else words
        words = f"{words} × 10{script(power, 'sup')}" if words else f"10{script(power, 'sup')}"
    unit, per = call.first("u", "ul"), call.first("up", "upl")
    unit = "/".join(one for one in (unit, per) if one)
    unit = unit if " " in unit else _UNIT_DOT.sub("⋅", unit)
    unit = _UNIT_POWER.sub(lambda power: script(power[0], "sup"), unit)
    glue = "" if unit in ("%", "°", "'", '"') else " "
    text = f"{call.first('p')}{words}{call.first('s')}"
    return f"{text}{glue}{unit}" if unit else text


def _fraction(call: Call, wording: Wording) -> str:
    """`{{frac|1|2}}` 1/2, `{{frac|3|1|2}}` 3 1/2, `{{frac|4}}` 1/4."""
    one, two, three = call.arg(1), call.arg(2), call.arg(3)
    whole, above, below = (one, two, three) if three else ("", one, two) if two else ("", "1", one)
    if not below:
        return "/"
    above = f"({above})" if _SUM.search(above) and above[0] != "(" else above
    below = below if _FACTOR.fullmatch(_QUOTES.sub("", below)) else f"({below})"
    return f"{whole} {above}/{below}".strip()


def _plus_minus(call: Call, wording: Wording) -> str:
    """`{{±|5}}` ±5, `{{±|5|4}}` +5−4."""
    return f"+{call.arg(1)}−{call.arg(2)}" if call.arg(2) else f"±{call.arg(1)}"


def _gap_number(call: Call, wording: Wording) -> str:
    """`{{gaps|1|234|567}}`: the groups of a long number."""
    words = " ".join(one for one in call.positional if one)
    power = call.first("e")
    text = f"{words} × 10{script(power, 'sup')}" if power and words else words
    return " ".join(one for one in (text, call.first("u")) if one)


def _formula(call: Call, wording: Wording) -> str:
    formula = _LONE_FRACTION.sub(r"\1", _QUOTES.sub("", call.arg(1)))
    return f"${formula}$" if formula else ""


def _chemical(call: Call, wording: Wording) -> str:
    r"""`{{chem2|H2SO4}}` $\ce{H2SO4}$."""
    text = _QUOTES.sub("", "".join(call.positional))
    return rf"$\ce{{{text}}}$" if text else ""


def _old_chemical(call: Call, wording: Wording) -> str:
    """`{{chem|SO|4|2-}}`: elements, how many of them, and a charge."""
    pieces = []
    for place, one in enumerate(call.positional):
        text = _QUOTES.sub("", one)
        if re.fullmatch(r"\d*[-+−–]", text):
            pieces.append(script(text.replace("–", "−"), "sup"))
        else:
            pieces.append(script(text, "sub") if place % 2 else text)
    return "".join(pieces)


def _currency(call: Call, wording: Wording) -> str:
    """`{{currency|1200|USD}}` US$1,200."""
    amount, code = format_number(call.arg(1), wording), (call.arg(2) or "USD").upper()
    symbol = _CURRENCIES.get(code, f"{code} ")
    return f"{symbol}{amount}" if amount else ""


def _scaled_currency(call: Call, wording: Wording) -> str:
    """`{{INRConvert|5|c}}` ₹5 crore; what it is worth in dollars depends on the day."""
    amount, code = format_number(call.arg(1), wording), call.name[:3].upper()
    english, chinese = _SCALES.get(call.arg(2).casefold(), ("", ""))
    scale = chinese if wording.language == "zh" else f" {english}".rstrip()
    return f"{_CURRENCIES.get(code, f'{code} ')}{amount}{scale}" if amount else ""


def _height(call: Call, wording: Wording) -> str:
    """`{{height|ft=6|in=2}}` 6 ft 2 in (1.88 m), `{{height|m=1.83}}` 1.83 m (6 ft 0 in)."""
    feet, inches = call.first("ft", "feet"), call.first("in", "inch", "inches")
    if feet:
        given, target = ((feet, "ft", inches, "in") if inches else (feet, "ft")), ("m", "2")
    elif meters := call.first("m", "meter", "metre", "meters", "metres"):
        given, target = (meters, "m"), ("ftin", "")
    else:
        centimetres = call.first("cm")
        given, target = (centimetres, "cm"), ("ftin", "")
    return convert(replace(call, positional=(*given, *target), named={}), wording)


def _gauge(call: Call, wording: Wording) -> str:
    """`{{track gauge|1435mm}}` 1,435 mm."""
    known = _GAUGES.get(call.arg(1).casefold().replace(" ", ""), call.arg(1))
    return re.sub(r"(?<=\d)(?=[a-z])|(?<=ft)(?=\d)", " ", re.sub(r"(?<=\d)(?=\d{3}mm)", ",", known))


def _music(call: Call, wording: Wording) -> str:
    """`{{music|flat}}` ♭."""
    return _MUSIC.get(call.arg(1).casefold(), call.arg(1))


def _solar(call: Call, wording: Wording) -> str:
    """`{{solar mass|1.2}}` 1.2 M☉."""
    symbol = _SOLAR.get(call.name.casefold().removeprefix("solar").strip(), "")
    return f"{format_number(call.arg(1), wording)} {symbol}".strip()


def _round(call: Call, wording: Wording) -> str:
    """`{{round|3.14159|2}}` 3.14."""
    return _rounded(call, wording, is_significant=False)


def _significant(call: Call, wording: Wording) -> str:
    """`{{sigfig|3.14159|2}}` 3.1."""
    return _rounded(call, wording, is_significant=True)


def _rounded(call: Call, wording: Wording, *, is_significant: bool) -> str:
    number, digits = call.arg(1).replace("−", "-").replace(",", ""), call.arg(2) or "0"
    if not re.fullmatch(r"-?\d{1,20}(?:\.\d{0,20})?", number, re.ASCII):
        return call.arg(1)
    value = Decimal(number)
    if not re.fullmatch(r"-?\d{1,2}", digits, re.ASCII):
        return format_number(number, wording)
    place = int(digits) - 1 - value.adjusted() if is_significant else int(digits)
    place = max(-20, min(20, place))
    rounded = value.quantize(Decimal(1).scaleb(-place), ROUND_HALF_UP)
    return format_number(f"{rounded:f}", wording)


def _ordinal(call: Call, wording: Wording) -> str:
    return ordinal(call.arg(1))


def _percentage(call: Call, wording: Wording) -> str:
    """`{{percentage|1|3|1}}` 33.3%."""
    try:
        part, whole = float(call.arg(1)), float(call.arg(2))
        digits = min(int(call.arg(3) or call.first("decimals") or "0"), 10)
        return f"{100 * part / whole:.{max(digits, 0)}f}%"
    except (ValueError, ZeroDivisionError, OverflowError):
        return ""


NUMBERS: dict[str, Renderer] = {
    "chemical": _chemical,
    "convert": convert,
    "currency": _currency,
    "formula": _formula,
    "fraction": _fraction,
    "gap_number": _gap_number,
    "gauge": _gauge,
    "height": _height,
    "music": _music,
    "old_chemical": _old_chemical,
    "ordinal": _ordinal,
    "percentage": _percentage,
    "plus_minus": _plus_minus,
    "round": _round,
    "scaled_currency": _scaled_currency,
    "significant": _significant,
    "solar": _solar,
    "value": _value,
}
