"""The units of `{{convert}}`: what they are, what they are called, what they turn into.

One line a unit: its code and other codes for it | dimension | size in the dimension's base unit
(a decimal or a fraction) | symbol | name | units it turns into when the call names none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: `size` base units and, for temperatures, where its zero lies."""

    code: str
    dimension: str
    size: Fraction
    symbol: str
    name: str
    plural: str
    targets: tuple[str, ...]
    zero: Fraction = Fraction(0)


_LINES = """
km kilometre kilometer | length | 1000 | km | kilometre | mi
m metre meter | length | 1 | m | metre | ftin
dm | length | 0.1 | dm | decimetre | in
cm | length | 0.01 | cm | centimetre | in
mm | length | 0.001 | mm | millimetre | in
um μm µm | length | 0.000001 | μm | micrometre | in
nm | length | 0.000000001 | nm | nanometre | in
mi mile miles | length | 1609.344 | mi | mile | km
yd yard | length | 0.9144 | yd | yard | m
ft foot feet ' | length | 0.3048 | ft | foot | m
in inch inches " | length | 0.0254 | in | inch | mm
nmi NM nmile | length | 1852 | nmi | nautical mile | km mi
fathom | length | 1.8288 | fathom | fathom | ft m
furlong | length | 201.168 | furlong | furlong | ft m
chain | length | 20.1168 | chain | chain | ft m
rod perch pole | length | 5.0292 | rod | rod | ft m
league | length | 4828.032 | league | league | km
hand | length | 0.1016 | hands | hand | in cm
li | length | 500 | li | li | km mi
ly | length | 9460730472580800 | ly | light-year | pc
pc parsec | length | 30856775814913673 | pc | parsec | ly
kpc | length | 30856775814913673000 | kpc | kiloparsec | ly
Mpc | length | 30856775814913673000000 | Mpc | megaparsec | ly
AU au | length | 149597870700 | AU | astronomical unit | km mi
km2 sqkm | area | 1000000 | km² | square kilometre | sqmi
m2 sqm | area | 1 | m² | square metre | sqft
cm2 | area | 0.0001 | cm² | square centimetre | sqin
mm2 | area | 0.000001 | mm² | square millimetre | sqin
ha hectare | area | 10000 | ha | hectare | acre
sqmi mi2 | area | 2589988.110336 | sq mi | square mile | km2
sqft ft2 sqfoot | area | 0.09290304 | sq ft | square foot | m2
sqin in2 | area | 0.00064516 | sq in | square inch | cm2
sqyd | area | 0.83612736 | sq yd | square yard | m2
acre acres ac | area | 4046.8564224 | acre/acres | acre | ha
dunam | area | 1000 | dunam/dunams | dunam | m2 acre
m3 | volume | 1 | m³ | cubic metre | cuft
km3 | volume | 1000000000 | km³ | cubic kilometre | cumi
cm3 cc | volume | 0.000001 | cm³ | cubic centimetre | cuin
mm3 | volume | 0.000000001 | mm³ | cubic millimetre | cuin
dm3 | volume | 0.001 | dm³ | cubic decimetre | cuin
cuft ft3 | volume | 0.028316846592 | cu ft | cubic foot | m3
cuyd yd3 | volume | 0.764554857984 | cu yd | cubic yard | m3
cuin in3 CID | volume | 0.000016387064 | cu in | cubic inch | cm3
cumi mi3 | volume | 4168181825.440579584 | cu mi | cubic mile | km3
acre.ft acreft acre·ft | volume | 1233.48183754752 | acre⋅ft | acre-foot | m3
L l litre liter | volume | 0.001 | L | litre | impgal USgal
mL ml | volume | 0.000001 | mL | millilitre | impoz USoz
cL cl | volume | 0.00001 | cL | centilitre | impoz USoz
hL hl | volume | 0.1 | hL | hectolitre | impgal USgal
ML | volume | 1000 | ML | megalitre | e6impgal
GL | volume | 1000000 | GL | gigalitre | cuft
USgal usgal U.S.gal | volume | 0.003785411784 | US gal | US gallon | L impgal
impgal imp.gal gal | volume | 0.00454609 | imp gal | imperial gallon | L USgal
USqt usqt | volume | 0.000946352946 | US qt | US quart | L
impqt | volume | 0.0011365225 | imp qt | imperial quart | L
USpt uspt | volume | 0.000473176473 | US pt | US pint | L
imppt pt | volume | 0.00056826125 | imp pt | imperial pint | L
USoz USfloz usoz usfloz | volume | 0.0000295735295625 | US fl oz | US fluid ounce | mL
impoz impfloz | volume | 0.0000284130625 | imp fl oz | imperial fluid ounce | mL
oilbbl bbl | volume | 0.158987294928 | bbl | barrel | m3
kg | mass | 1 | kg | kilogram | lb
g | mass | 0.001 | g | gram | oz
mg | mass | 0.000001 | mg | milligram | gr
t tonne MT | mass | 1000 | t | tonne | LT ST
Mt | mass | 1000000000 | Mt | megatonne | e6LT
lb lbs pound | mass | 0.45359237 | lb | pound | kg
oz ounce | mass | 0.028349523125 | oz | ounce | g
ozt | mass | 0.0311034768 | ozt | troy ounce | oz g
st stone | mass | 6.35029318 | st | stone | lb kg
gr grain | mass | 0.00006479891 | gr | grain | g
carat | mass | 0.0002 | carat/carats | carat | g
LT long_ton longton | mass | 1016.0469088 | long ton/long tons | long ton | t ST
ST short_ton shortton ton | mass | 907.18474 | short ton/short tons | short ton | t LT
lboz | mass | 0.45359237 | lb | pound | kg
km/h kph kmh | speed | 5/18 | km/h | kilometre per hour | mph
mph mi/h | speed | 0.44704 | mph | mile per hour | km/h
kn knot knots kt | speed | 463/900 | kn | knot | km/h mph
m/s | speed | 1 | m/s | metre per second | ft/s
km/s | speed | 1000 | km/s | kilometre per second | mi/s
mi/s | speed | 1609.344 | mi/s | mile per second | km/s
ft/s | speed | 0.3048 | ft/s | foot per second | m/s
ft/min | speed | 0.00508 | ft/min | foot per minute | m/s
m/min | speed | 1/60 | m/min | metre per minute | ft/min
C °C degC | temperature | 1 | °C | degree Celsius | F
F °F degF | temperature | 5/9 | °F | degree Fahrenheit | C
K kelvin | temperature | 1 | K | kelvin | C F
C-change | change | 1 | °C | degree Celsius | F-change
F-change | change | 5/9 | °F | degree Fahrenheit | C-change
J | energy | 1 | J | joule | ftlbf
kJ | energy | 1000 | kJ | kilojoule | kcal
MJ | energy | 1000000 | MJ | megajoule | kWh
GJ | energy | 1000000000 | GJ | gigajoule | kWh
TJ | energy | 1000000000000 | TJ | terajoule | GWh
cal | energy | 4.184 | cal | calorie | J
kcal Cal | energy | 4184 | kcal | kilocalorie | kJ
Wh | energy | 3600 | Wh | watt-hour | kJ
kWh kW.h | energy | 3600000 | kWh | kilowatt-hour | MJ
MWh MW.h | energy | 3600000000 | MWh | megawatt-hour | GJ
GWh GW.h | energy | 3600000000000 | GWh | gigawatt-hour | TJ
TWh TW.h | energy | 3600000000000000 | TWh | terawatt-hour | TJ
BTU Btu | energy | 1055.05585262 | BTU | British thermal unit | kJ
ftlbf ftlb ft.lbf | energy | 1.3558179483314004 | ft⋅lbf | foot-pound | J
eV | energy | 0.0000000000000000001602176634 | eV | electronvolt | J
W | power | 1 | W | watt | hp
kW | power | 1000 | kW | kilowatt | hp
MW | power | 1000000 | MW | megawatt | hp
GW | power | 1000000000 | GW | gigawatt | hp
hp | power | 745.69987158227022 | hp | horsepower | kW
bhp | power | 745.69987158227022 | bhp | brake horsepower | kW
ihp | power | 745.69987158227022 | ihp | indicated horsepower | kW
shp | power | 745.69987158227022 | shp | shaft horsepower | kW
PS metric_horsepower | power | 735.49875 | PS | metric horsepower | kW
Pa | pressure | 1 | Pa | pascal | psi
hPa | pressure | 100 | hPa | hectopascal | inHg
kPa | pressure | 1000 | kPa | kilopascal | psi
MPa | pressure | 1000000 | MPa | megapascal | ksi
GPa | pressure | 1000000000 | GPa | gigapascal | psi
bar | pressure | 100000 | bar | bar | kPa
mbar | pressure | 100 | mbar | millibar | kPa
atm | pressure | 101325 | atm | standard atmosphere | kPa
psi | pressure | 6894.757293168361 | psi | pound per square inch | kPa
ksi | pressure | 6894757.293168361 | ksi | kilopound per square inch | MPa
mmHg | pressure | 133.322387415 | mmHg | millimetre of mercury | kPa
inHg | pressure | 3386.388640341 | inHg | inch of mercury | kPa
Torr torr | pressure | 20265/152 | Torr | torr | kPa
N | force | 1 | N | newton | lbf
kN | force | 1000 | kN | kilonewton | lbf
MN | force | 1000000 | MN | meganewton | lbf
lbf | force | 4.4482216152605 | lbf | pound-force | N
kgf | force | 9.80665 | kgf | kilogram-force | N lbf
Nm N.m N·m | torque | 1 | N⋅m | newton-metre | lbft
lbft lb.ft ft.lb lb·ft lbfft lbf.ft | torque | 1.3558179483314004 | lb⋅ft | pound-foot | Nm
/km2 PD/km2 pd/km2 | density of people | 0.000001 | /km² | per square kilometre | /sqmi
/sqmi PD/sqmi pd/sqmi | density of people | 1/2589988.110336 | /sq mi | per square mile | /km2
/ha PD/ha | density of people | 0.0001 | /ha | per hectare | /acre
/acre PD/acre | density of people | 1/4046.8564224 | /acre | per acre | /ha
m3/s cumec | flow | 1 | m³/s | cubic metre per second | cuft/s
cuft/s cufts cfs | flow | 0.028316846592 | cu ft/s | cubic foot per second | m3/s
L/s | flow | 0.001 | L/s | litre per second | cuft/s
kg/m3 | density | 1 | kg/m³ | kilogram per cubic metre | lb/cuft
g/cm3 | density | 1000 | g/cm³ | gram per cubic centimetre | lb/cuin
lb/cuft lb/ft3 | density | 16.018463373960142 | lb/cu ft | pound per cubic foot | g/cm3
lb/cuin lb/in3 | density | 27679.904710203125 | lb/cu in | pound per cubic inch | g/cm3
kg/m2 | surface density | 1 | kg/m² | kilogram per square metre | lb/sqft
lb/sqft lb/ft2 | surface density | 4.882427636383051 | lb/sq ft | pound per square foot | kg/m2
km/l km/L | economy | 1000000 | km/L | kilometre per litre | mpgimp mpgUS
mpgus mpgUS | economy | 1609.344/0.003785411784 | mpg‑US | mile per US gallon | L/100km mpgimp
mpgimp | economy | 1609.344/0.00454609 | mpg‑imp | mile per imperial gallon | L/100km mpgUS
L/100km l/100km | economy | 100000/0.001 | L/100 km | litre per 100 kilometres | mpgimp mpgUS
"""

_IRREGULAR = {
    "foot": "feet", "inch": "inches", "horsepower": "horsepower", "stone": "stone", "bar": "bar",
    "torr": "torr",
}  # fmt: skip

PAIRS: dict[str, tuple[str, str, int]] = {
    "ftin": ("ft", "in", 12),
    "footin": ("ft", "in", 12),
    "ydft": ("yd", "ft", 3),
    "miyd": ("mi", "yd", 1760),
    "mift": ("mi", "ft", 5280),
    "michain": ("mi", "chain", 80),
    "lboz": ("lb", "oz", 16),
    "stlb": ("st", "lb", 14),
}
"""A large unit, a small one, and how many of these make one of those: 5 ft 6 in."""

GROUPS = {
    "kmmi": "km mi", "mikm": "mi km", "kmnmi": "km nmi", "minmi": "mi nmi", "LUSgal": "L USgal",
    "impgalUSgal": "impgal USgal", "LTST": "LT ST", "kgst": "kg stlb", "kmphmph": "km/h mph",
    "km/hmph": "km/h mph", "mphkm/h": "mph km/h", "km/hkn": "km/h kn", "mphkn": "mph kn",
    "cmin": "cm in", "mmin": "mm in", "ftm": "ft m", "mft": "m ft", "hakm2": "ha km2",
    "km2sqmi": "km2 sqmi", "sqmikm2": "sqmi km2", "haacre": "ha acre", "acresqmi": "acre sqmi",
    "CF": "C F", "FC": "F C", "KC": "K C", "KF": "K F", "kWhp": "kW hp", "hpkW": "hp kW",
    "PSkW": "PS kW", "kWPS": "kW PS", "ton": "LT ST", "tonne": "t", "fuel economy": "mpgUS",
}  # fmt: skip
"""Codes that name several units at once."""


def _number(text: str) -> Fraction:
    above, _, below = text.partition("/")
    return Fraction(above) / Fraction(below or 1)


def _plural(name: str) -> str:
    """Return a unit's plural: square feet, miles per hour, degrees Celsius."""
    match = re.fullmatch(r"(.*?)((?: per | of | Celsius| Fahrenheit|-force).*)?", name)
    head, tail = (match[1], match[2] or "") if match else (name, "")
    word = re.split("[ -]", head)[-1]
    plural = _IRREGULAR.get(word, f"{word}s")
    return name if name.startswith("per ") else f"{head.removesuffix(word)}{plural}{tail}"


def _units() -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    zeros = {"C": Fraction("273.15"), "F": Fraction("459.67") * 5 / 9}
    for line in _LINES.strip().splitlines():
        codes, dimension, size, symbol, name, targets = (part.strip() for part in line.split("|"))
        code, *aliases = codes.split()
        unit = Unit(
            code, dimension, _number(size), symbol, name, _plural(name), tuple(targets.split()),
            zeros.get(code, Fraction(0)),
        )  # fmt: skip
        units |= {alias.replace("_", " "): unit for alias in (code, *aliases)}
    return units


UNITS: dict[str, Unit] = _units()
