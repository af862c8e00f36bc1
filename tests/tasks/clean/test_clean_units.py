"""Conversions against exact factors, and the rounding that the template documents."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.clean.call import Call
from tasks.clean.templates import TemplateTable
from tasks.clean.unit_table import PAIRS, UNITS

EN, ZH = TemplateTable.of("en"), TemplateTable.of("zh")


def show(source: str, table: TemplateTable = EN, name: str = "convert") -> str:
    """Render `5|km|abbr=on`."""
    arguments = source.split("|")
    named = dict(one.split("=") for one in arguments if "=" in one)
    positional = tuple(one for one in arguments if "=" not in one)
    function = table.look_up(name).function
    assert function is not None
    return function(Call(name.capitalize(), positional, named, "en", "T"))


DOCUMENTED = [
    ("1300|mi|km", "1,300 mi (2,100 km)"), ("5|km", "5 km (3.1 mi)"), ("100|ft|m", "100 ft (30 m)"),
    ("5|to|10|km2", "5 to 10 km² (1.9 to 3.9 sq mi)"), ("60|and|170|kg|lb",
    "60 and 170 kg (130 and 370 lb)"), ("10|-|15|km", "10–15 km (6.2–9.3 mi)"),
    ("10|to(-)|15|km", "10 to 15 km (6.2–9.3 mi)"),
    ("5|±|0.1|mm|in|2", "5 ± 0.1 mm (0.20 ± 0.00 in)"),
    ("5|ft|6|in|cm", "5 ft 6 in (168 cm)"), ("5|ft|6|in|m", "5 ft 6 in (1.68 m)"),
    ("6|ft|2|in|m|2", "6 ft 2 in (1.88 m)"), ("9|st|7|lb|kg", "9 st 7 lb (60 kg)"),
    ("1.83|m|ftin", "1.83 m (6 ft 0 in)"), ("5|m", "5 m (16 ft)"), ("1.83|m", "1.83 m (6 ft 0 in)"),
    ("100|C|F", "100 °C (212 °F)"), ("-40|C", "−40 °C (−40 °F)"),
    ("20|C|F K", "20 °C (68 °F; 293 K)"),
    ("0|K|C", "0 K (−273.15 °C)"), ("98.6|F", "98.6 °F (37.0 °C)"),
    ("10|nmi|km mi", "10 nmi (19 km; 12 mi)"), ("10|nmi", "10 nmi (19 km; 12 mi)"),
    ("1,234.5|km|mi|1", "1,234.5 km (767.1 mi)"), ("12345|km|mi|-2", "12,345 km (7,700 mi)"),
    ("100|km|mi|sigfig=4", "100 km (62.14 mi)"), ("37|mm|in|round=5", "37 mm (0 in)"),
    ("137|km|mi|round=5", "137 km (85 mi)"), ("5|mi|km|adj=on", "5-mile (8.0 km)"),
    ("10|mi|km|adj=mid|-long", "10-mile-long (16 km)"),
    ("3|x|5|m|ft", "3 m × 5 m (9.8 ft × 16 ft)"),
    ("3|by|5|m|ft", "3 by 5 m (9.8 by 16 ft)"), ("1/2|in|mm", "1/2 in (13 mm)"),
    ("5+1/2|in|cm", "5 1/2 in (14 cm)"), ("250|hp|kW|0|abbr=on", "250 hp (186 kW)"),
    ("14|psi|kPa|abbr=off", "14 pounds per square inch (97 kilopascals)"),
    ("1|mi|km|abbr=off", "1 mile (1.6 kilometres)"), ("100|/km2|/sqmi", "100/km² (260/sq mi)"),
    ("2500|sqft|m2|disp=or", "2,500 sq ft or 230 m²"), ("30|mpgus|L/100km",
    "30 mpg‑US (7.8 L/100 km)"), ("3|e6km2|e6sqmi", "3 million km² (1.2 million sq mi)"),
    ("8848|m|ft|disp=flip", "29,030 ft (8,848 m)"), ("100|m|ft|order=flip", "330 ft (100 m)"),
    ("100|m|ft|disp=out", "330 ft"), ("100|m|ft|disp=number", "330"),
    ("100|m|ft|disp=unit", "100 m"),
    ("100|m|ft|disp=sqbr", "100 m [330 ft]"), ("100|m|ft|disp=comma", "100 m, 330 ft"),
    ("100|m|ft|abbr=values", "100 (330)"), ("1.2e3|m|ft", "1.2×10^3 m (3,900 ft)"),
    ("100|kmh|mph", "100 km/h (62 mph)"), ("100|acres|ha", "100 acres (40 ha)"),
    ("1|acre|ha", "1 acre (0.40 ha)"), ("70|kg|lb stlb", "70 kg (150 lb; 11 st 0 lb)"),
    ("0|km|mi", "0 km (0 mi)"), ("12|USgal", "12 US gal (45 L; 10.0 imp gal)"),
    # what is no conversion is shown as it stands
    ("100|foo", "100 foo"), ("x", "x"), ("", ""), ("5|km|kg", "5 km"), ("5|km|zz", "5 km (3.1 mi)"),
    ("1/0|in|mm", "1/0 in"), ("about 5|km", "about 5 km"), ("5", "5"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), DOCUMENTED, ids=[one[0] for one in DOCUMENTED])
def test_documented(source: str, expected: str) -> None:
    """Catches a number, a unit or a rounding that a reader of the page does not see."""
    assert show(source) == expected


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("convert", "1300|mi|km", "1,300英里（2,100公里）"),
        ("cvt", "1300|mi|km", "1,300 mi（2,100 km）"),
        ("convert", "5|ft|6|in|cm", "5英尺6英寸（168厘米）"),
        ("convert", "1|to|2|m|ft", "1至2米（3.3至6.6英尺）"),
        ("convert", "3|e6km2|e6sqmi", "3百万平方公里（1.2百万平方英里）"),
        ("convert", "20|C", "20°C（68°F）"),
        ("convert", "10|nmi", "10海里（19公里；12英里）"),
        ("convert", "5|km|abbr=on", "5 km（3.1 mi）"),
    ],
)  # fmt: skip
def test_chinese(name: str, source: str, expected: str) -> None:
    """Catches English units in Chinese sentences."""
    assert show(source, ZH, name) == expected


# Metres, square metres and so on of one unit: by international definition, not from our table.
EXACT = {
    "length": {"km": "1000", "m": "1", "cm": "0.01", "mi": "1609.344", "yd": "0.9144",
               "ft": "0.3048", "in": "0.0254", "nmi": "1852"},
    "area": {"km2": "1000000", "m2": "1", "ha": "10000", "sqft": "0.09290304",
             "acre": "4046.8564224", "sqmi": "2589988.110336"},
    "volume": {"m3": "1", "L": "0.001", "cuft": "0.028316846592", "USgal": "0.003785411784",
               "impgal": "0.00454609"},
    "mass": {"kg": "1", "g": "0.001", "lb": "0.45359237", "oz": "0.028349523125", "t": "1000",
             "LT": "1016.0469088", "ST": "907.18474"},
    "speed": {"km/h": "5/18", "m/s": "1", "mph": "0.44704", "kn": "463/900", "ft/s": "0.3048"},
    "pressure": {"Pa": "1", "kPa": "1000", "bar": "100000", "atm": "101325"},
    "energy": {"J": "1", "kJ": "1000", "kWh": "3600000", "cal": "4.184"},
    "power": {"W": "1", "kW": "1000", "PS": "735.49875"},
}  # fmt: skip
ROUTES = [
    (one, other, Fraction(sizes[one]) / Fraction(sizes[other]))
    for sizes in EXACT.values()
    for one in sizes
    for other in sizes
    if one != other
]
RESULT = re.compile(r"\((−?[\d,]+(?:\.\d+)?) ")


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(ROUTES),
    st.decimals(min_value=0, max_value=10**7, places=2) | st.integers(1, 10**9),
)
def test_results_are_the_exact_ones_rounded(
    route: tuple[str, str, Fraction], amount: object
) -> None:
    """Catches a wrong factor, and a result that is off by more than its own last digit."""
    given_unit, unit, factor = route
    text = str(amount)
    exact = Fraction(text) * factor
    match = RESULT.search(show(f"{text}|{given_unit}|{unit}|abbr=on"))
    assert match is not None
    shown = match[1].replace(",", "")
    digits = len(shown.partition(".")[2])
    error = abs(Fraction(shown) - exact)
    if digits:
        assert error <= Fraction(1, 2 * 10**digits)
    else:  # rounded to tens, hundreds …: at least two digits are right
        assert error <= max(Fraction(1, 2), exact / 20)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(ROUTES), st.decimals(min_value=1, max_value=10**6, places=1))
def test_there_and_back(route: tuple[str, str, Fraction], amount: object) -> None:
    """Catches a factor used the wrong way round: nine digits survive a return."""
    one, other, _ = route
    there = show(f"{amount}|{one}|{other}|disp=number|sigfig=12").replace(",", "")
    back = show(f"{there}|{other}|{one}|disp=number|sigfig=12").replace(",", "")
    assert float(back) == pytest.approx(float(str(amount)), rel=1e-9)


@pytest.mark.parametrize("celsius", [-273.15, -40, 0, 36.6, 100])
def test_temperatures(celsius: float) -> None:
    """Catches a zero point that is off."""
    fahrenheit = show(f"{celsius}|C|F|2|disp=number").replace("−", "-")
    assert float(fahrenheit) == pytest.approx(celsius * 9 / 5 + 32, abs=0.006)


def test_the_table_is_sound() -> None:
    """Catches a default target of another kind, and a pair that does not fit."""
    for unit in UNITS.values():
        for target in unit.targets:
            code = PAIRS[target][0] if target in PAIRS else re.sub(r"^e6", "", target)
            assert UNITS[code].dimension == unit.dimension, unit.code
    for large, small, number in PAIRS.values():
        assert UNITS[large].size == number * UNITS[small].size
    assert len({unit.code for unit in UNITS.values()}) > 100


@pytest.mark.parametrize("text", ["9" * 5000, "1e999999999", "1" + ",000" * 2000, "1/" + "9" * 99])
def test_hostile_numbers(text: str) -> None:
    """Catches a number whose digits take minutes."""
    assert len(show(f"{text}|km|mi")) < len(text) + 50
