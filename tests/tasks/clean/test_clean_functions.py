"""Parser functions and magic words: pure, bounded, without a clock."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.clean.call import Call, Wording
from tasks.clean.dates import format_date, parse_date, show_date
from tasks.clean.expressions import ExpressionError, evaluate, show
from tasks.clean.functions import FUNCTIONS
from tasks.clean.templates import TemplateTable

EN = TemplateTable.of("en")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
ENGLISH, GERMAN = Wording(months=MONTHS), Wording("de", decimal=",", group=".")


def call(source: str, title: str = "A/B/C", table: TemplateTable = EN) -> str:
    """Render `#if: x | y | z`, all arguments as they stand."""
    rule = table.look_up(source.partition("|")[0])
    name, colon, rest = source.partition(":")
    positional = tuple(one.strip() for one in rest.split("|")) if colon else ()
    if rule.function is None:
        assert rule.role == "drop", name
        return ""
    return rule.function(Call(rule.name, positional, {}, "en", title))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("#if: x | y | z", "y"), ("#if: | y | z", "z"), ("#if: x", ""), ("#if:|a", ""),
        ("#ifeq: 1 | 1.0 | y | n", "y"), ("#ifeq: 01 | 1 | y | n", "y"),
        ("#ifeq: a | A | y | n", "n"),
        ("#ifeq: | | y | n", "y"), ("#ifeq: 1e3 | 1000 | y | n", "y"),
        ("#ifeq: nan | nan | y", "y"),
        ("#ifexpr: 1 > 2 | y | n", "n"), ("#ifexpr: 2 > 1 | y | n", "y"), ("#ifexpr: | y | n", "n"),
        ("#ifexpr: 1 + | y | n", ""), ("#iferror: fine | bad | good", "good"),
        ("#iferror: fine | bad", "fine"), ('#iferror: <b class="error">x</b> | bad | good', "bad"),
        ("#ifexist: Page | there | not", "there"),
        ("#switch: b | a = 1 | b = 2 | 3", "2"), ("#switch: a | a | b = 2 | c = 3", "2"),
        ("#switch: q | a = 1 | other", "other"), ("#switch: q | a = 1 | #default = d", "d"),
        ("#switch: q | #default = d | a = 1", "d"), ("#switch: q | a = 1", ""),
        ("#switch: a | #default | a = 1", "1"), ("#switch: q | #default | a = 1 | b = 2", "1"),
        ("#switch: 1.0 | 1 = one", "one"), ("#switch: x | x = a=b", "a=b"), ("#switch: x", ""),
        ("#expr: 1 + 2", "3"), ("#expr: 1 / 0", ""), ("#expr:", ""), ("#expr: a", ""),
        ("#titleparts: a/b/c | 2", "a/b"), ("#titleparts: a/b/c | 1 | 2", "b"),
        ("#titleparts: a/b/c | 0 | -1", "c"), ("#titleparts: a/b | x", "a/b"),
        ("#tag: ref | cite", ""), ("#tag: b | bold", "bold"), ("#tag: math | x^2", "$x^2$"),
        ("#tag: math | a %s b", "$a %s b$"), ("#tag: nowiki |", ""),
        ("#invoke: Module | main", ""), ("#property: P31", ""), ("#lst: Page | part", ""),
        ("lc: ABC", "abc"), ("uc: abc", "ABC"), ("ucfirst: abc", "Abc"), ("lcfirst: ABC", "aBC"),
        ("padleft: 7 | 3 | 0", "007"), ("padleft: 7 | 3", "007"), ("padright: 7 | 4 | ab", "7aba"),
        ("padleft: abcd | 3 | 0", "abcd"), ("padleft: 7 | x", "7"), ("padleft: 7 | 99999 | 0", "7"),
        ("plural: 1 | cat | cats", "cat"), ("plural: 2 | cat | cats", "cats"),
        ("plural: 2 | sheep", "sheep"), ("grammar: genitive | word", "word"),
        ("gender: X | he | she", "he"), ("urlencode: a b&c", "a+b%26c"), ("ns: 0", ""),
        ("formatnum: 1234567.891", "1,234,567.891"), ("formatnum: 1,234 | R", "1234"),
        ("formatnum: 999", "999"), ("formatnum: -1234", "−1,234"), ("formatnum: abc", "abc"),
        ("formatnum: 0012345", "0,012,345"), ("formatnum: 1234 | NOSEP", "1234"),
        ("PAGENAME", "A/B/C"), ("PAGENAME: Other", "Other"), ("BASEPAGENAME", "A/B/C"),
        ("ROOTPAGENAME", "A"), ("SUBPAGENAME", "C"), ("FULLPAGENAME", "A/B/C"),
        ("SITENAME", "Wikipedia"), ("!", "|"), ("NAMESPACE", ""), ("REVISIONID", ""),
        ("NUMBEROFARTICLES", ""), ("DEFAULTSORT: x", ""), ("DISPLAYTITLE: x", ""),
        ("int: Word", "Word"),
        ("CURRENTYEAR", ""), ("CURRENTMONTHNAME", ""), ("LOCALTIMESTAMP", ""), ("REVISIONYEAR", ""),
        ("#time: Y", ""), ("#time: Y | now", ""), ("#time: Y | +1 day", ""), ("#timel: Y", ""),
        ("#time: j F Y | 2004-05-06", "6 May 2004"), ("#time: Ymd | 6 May 2004", "20040506"),
        ("#time: F j, Y | May 6, 2004", "May 6, 2004"), ('#time: "Y" Y \\Y | 2004', ""),
        ("#time: D, l N | 2004-05-06", "Thu, Thursday 4"), ("#time: t L | 2004-02-01", "29 1"),
        ("#time: Y | 2004-02-31", ""), ("#time: z | 2004-02-01", "31"),
    ],
)  # fmt: skip
def test_functions(source: str, expected: str) -> None:
    """Catches text lost or invented where MediaWiki computes it, and a clock in a text."""
    assert call(source) == expected


def test_a_number_of_another_language() -> None:
    """Catches 18,000 in a German text, where it means eighteen."""
    assert call("formatnum: 18000.5", table=TemplateTable.of("de")) == "18.000,5"
    assert FUNCTIONS["formatnum"](Call("x", ("18.000,5", "R"), {}, "de", ""), GERMAN) == "18000.5"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1 + 2 * 3", "7"), ("(1 + 2) * 3", "9"), ("2 ^ 3 ^ 2", "64"), ("-2 ^ 2", "4"),
        ("2 ^ -1", "0.5"),
        ("7 mod 3", "1"), ("-7 mod 3", "-1"), ("5.5 fmod 2", "1.5"), ("6 div 4", "1.5"), ("1/3",
        "0.33333333333333"), ("0.1 + 0.2", "0.3"), ("1 = 1", "1"), ("1 != 1", "0"), ("1 <> 2", "1"),
        ("2 >= 2 and 1 < 0", "0"), ("0 or 3", "1"), ("not 0", "1"), ("not 3", "0"), ("--1", "1"),
        ("2.5 round 0", "3"), ("-2.5 round 0", "-3"), ("1234 round -2", "1200"),
        ("1.005 round 2", "1.01"),
        ("trunc -1.5", "-1"), ("floor -1.5", "-2"), ("ceil 1.2", "2"), ("abs -3", "3"),
        ("sqrt 9", "3"),
        ("pi round 4", "3.1416"), ("e round 3", "2.718"), ("1e3 + 1", "1001"), ("1.5e-3", "0.0015"),
        ("ln exp 2", "2"), ("sin 0", "0"), ("1e20 * 1e10", "1.0E+30"), ("1000000 * 1000000",
        "1000000000000"), ("3 − 1", "2"), ("4 × 2", "8"), (".5 + 1.", "1.5"), ("1 &lt; 2", "1"),
        ("0 * -1", "0"),
    ],
)  # fmt: skip
def test_expressions(expression: str, expected: str) -> None:
    """Catches an operator that binds too strongly, or the wrong way round."""
    assert show(evaluate(expression)) == expected


@pytest.mark.parametrize(
    "expression",
    ["", "1 +", "+ * 2", "(1", "1)", "1 2", "foo", "1/0", "0 ^ -1", "ln 0", "sqrt -1", "9^9^9^9",
     "1 mod 0", "__import__('os')", "(lambda: 1)()", "1" * 2000, "(" * 400, "1+" * 400 + "1",
     "exp 1000", "asin 2", "-8 ^ 0.5"],
)  # fmt: skip
def test_what_has_no_value(expression: str) -> None:
    """Catches page text that runs as a program, or that makes a number of a million digits."""
    with pytest.raises(ExpressionError):
        evaluate(expression)


@dataclass(frozen=True)
class Sum:
    """An expression, its value by exact fractions, and how large the numbers on the way are."""

    text: str
    value: Fraction
    size: Fraction


def leaf(number: object) -> Sum:
    """Return a number as an expression."""
    value = Fraction(str(number))
    return Sum(str(number), value, max(Fraction(1), value))


LEAVES = st.integers(0, 999).map(leaf) | st.decimals(0, 99, places=2).map(leaf)


def combined(parts: st.SearchStrategy[Sum]) -> st.SearchStrategy[Sum]:
    """Join expressions, with parentheses around each so that precedence plays no part."""

    def add(one: Sum, other: Sum) -> Sum:
        text = f"({one.text}) + ({other.text})"
        return Sum(text, one.value + other.value, one.size + other.size)

    def subtract(one: Sum, other: Sum) -> Sum:
        text = f"({one.text}) - ({other.text})"
        return Sum(text, one.value - other.value, one.size + other.size)

    def multiply(one: Sum, other: Sum) -> Sum:
        return Sum(f"({one.text})*({other.text})", one.value * other.value, one.size * other.size)

    def divide(one: Sum, number: int) -> Sum:
        return Sum(f"({one.text}) / {number}", one.value / number, one.size)

    def negate(one: Sum) -> Sum:
        return Sum(f"-({one.text})", -one.value, one.size)

    return st.one_of(
        st.builds(add, parts, parts),
        st.builds(subtract, parts, parts),
        st.builds(multiply, parts, parts),
        st.builds(divide, parts, st.integers(1, 99)),
        st.builds(negate, parts),
    )


@settings(max_examples=300, deadline=None)
@given(st.recursive(LEAVES, combined, max_leaves=12))
def test_expressions_are_worth_what_fractions_say(one: Sum) -> None:
    """Catches arithmetic that is wrong somewhere, with Python's fractions as the judge."""
    assume(len(one.text) < 900 and one.size < 10**30)
    assert abs(Fraction(evaluate(one.text)) - one.value) <= one.size / 10**12


OPERANDS = st.integers(0, 99).map(str)
CHAINS = st.lists(st.tuples(st.sampled_from(["+", "-", "*"]), OPERANDS), max_size=15)


@settings(max_examples=300, deadline=None)
@given(OPERANDS, CHAINS)
def test_chains_follow_precedence(first: str, rest: list[tuple[str, str]]) -> None:
    """Catches `1 + 2 * 3` read from left to right: Python's own grammar agrees on + - *."""
    terms = [[Fraction(first)]]
    for operator, operand in rest:
        if operator == "*":
            terms[-1].append(Fraction(operand))
        else:
            terms.append([Fraction(operator + "1"), Fraction(operand)])
    total = Fraction(0)
    for factors in terms:
        product = Fraction(1)
        for factor in factors:
            product *= factor
        total += product
    text = first + "".join(f" {operator} {operand}" for operator, operand in rest)
    assert Fraction(evaluate(text)) == pytest.approx(total, rel=1e-9)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("0123456789.+-*/^()<>=! eabcdnortmfsp"), max_size=60))
def test_any_expression_ends(text: str) -> None:
    """Catches an exception other than the one that says there is no value."""
    with contextlib.suppress(ExpressionError):
        assert isinstance(show(evaluate(text)), str)


def test_hostile_arguments_take_no_time() -> None:
    """Catches padding, switches and expressions that grow with what a page asks for."""
    began = time.process_time()
    call("#switch: x |" + "|".join(["a"] * 50_000))
    call("#expr: " + "(" * 1_000_000)
    call("#switch: " + "1" * 1_000_000 + " |" + "|".join(["1"] * 10_000))
    call("#ifeq: " + "1" * 1_000_000 + "x | 1 | a")
    call("plural: " + "1" * 1_000_000 + "x | a | b")
    call("padleft: x | 999999999999 | ab")
    assert len(call("padleft: x | 500 | " + "a" * 1_000_000)) == 500
    call("formatnum: " + "9" * 1_000_000)
    call("#titleparts: " + "a/" * 500_000 + "| 999999999 | -999999999")
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2004-05-06", (2004, 5, 6)), ("2004-05", (2004, 5, 0)), ("6 May 2004", (2004, 5, 6)),
        ("May 6, 2004", (2004, 5, 6)), ("May 2004", (2004, 5, 0)), ("6 Sept 2004", (2004, 9, 6)),
        ("2004年5月6日", (2004, 5, 6)), ("2004年", (2004, 0, 0)), ("yesterday", None), ("", None),
        ("2004-13-01", None), ("now", None), ("6 Foo 2004", None), ("0-1-1", None),
    ],
)  # fmt: skip
def test_dates_are_read(text: str, expected: tuple[int, int, int] | None) -> None:
    """Catches a date that is misread, and a word that is read as one."""
    assert parse_date(text, ENGLISH) == expected


def test_dates_are_shown() -> None:
    """Catches the order of one language in another."""
    date = (1950, 1, 2)
    assert show_date(date, ENGLISH) == "January 2, 1950"
    assert show_date(date, ENGLISH, is_day_first=True) == "2 January 1950"
    assert show_date(date, Wording("zh")) == "1950年1月2日"
    assert show_date((1950, 1, 0), Wording("zh")) == "1950年1月"
    assert show_date((1950, 0, 0), Wording("ja")) == "1950年"
    assert show_date(date, Wording("xx")) == "1950-01-02"
    assert format_date("xg j", date, ENGLISH) == " 2"
