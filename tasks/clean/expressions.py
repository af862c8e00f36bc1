"""`1 + 2 * 3` -> 7: the arithmetic of `{{#expr:}}`, by two stacks and a table of operators.

Precedence and results are those that MediaWiki documents (Help:Extension:ParserFunctions): all
operators group to the left, a minus sign binds before `^`, comparisons give 1 or 0. Numbers are
floats, so that nothing grows; length and number of tokens are bounded. Never `eval`: WikiExtractor
ran page text that way (its issue 377).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal

MAX_CHARS, MAX_TOKENS = 1_000, 300
_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)|([a-z]+)|(<=|>=|<>|!=|[-+*/^()=<>]))", re.ASCII)
_WORDS = {"−": "-", "×": "*", "÷": "/", "&lt;": "<", "&gt;": ">", "&minus;": "-", "&times;": "*"}

_BINARY: dict[str, tuple[int, Callable[[float, float], float]]] = {
    "e": (10, lambda a, b: a * math.pow(10, b)),
    "^": (8, math.pow),
    "*": (7, lambda a, b: a * b),
    "/": (7, lambda a, b: a / b),
    "div": (7, lambda a, b: a / b),
    "mod": (7, lambda a, b: math.fmod(int(a), int(b))),
    "fmod": (7, math.fmod),
    "+": (6, lambda a, b: a + b),
    "-": (6, lambda a, b: a - b),
    "round": (5, lambda a, b: _round(a, int(b))),
    "=": (4, lambda a, b: float(a == b)),
    "<>": (4, lambda a, b: float(a != b)),
    "!=": (4, lambda a, b: float(a != b)),
    "<": (4, lambda a, b: float(a < b)),
    ">": (4, lambda a, b: float(a > b)),
    "<=": (4, lambda a, b: float(a <= b)),
    ">=": (4, lambda a, b: float(a >= b)),
    "and": (3, lambda a, b: float(bool(a) and bool(b))),
    "or": (2, lambda a, b: float(bool(a) or bool(b))),
}
_UNARY: dict[str, tuple[int, Callable[[float], float]]] = {
    "-": (10, lambda a: -a),
    "+": (10, lambda a: a),
    "not": (9, lambda a: float(not a)),
    "abs": (9, abs),
    "ceil": (9, lambda a: float(math.ceil(a))),
    "floor": (9, lambda a: float(math.floor(a))),
    "trunc": (9, lambda a: float(math.trunc(a))),
    "sqrt": (9, math.sqrt),
    "exp": (9, math.exp),
    "ln": (9, math.log),
    "sin": (9, math.sin),
    "cos": (9, math.cos),
    "tan": (9, math.tan),
    "asin": (9, math.asin),
    "acos": (9, math.acos),
    "atan": (9, math.atan),
}
_CONSTANTS = {"pi": math.pi, "e": math.e}


class ExpressionError(ValueError):
    """What stands in `{{#expr:}}` has no value."""


def evaluate(text: str) -> float:
    """Return the value of an expression."""
    if len(text) > MAX_CHARS:
        raise ExpressionError("too long")
    for word, sign in _WORDS.items():
        text = text.replace(word, sign)
    values: list[float] = []
    operators: list[tuple[str, bool]] = []  # (operator, has two sides)
    is_operand_next = True
    for token in _tokens(text.casefold()):
        if is_operand_next:
            if token[0].isdigit() or token[0] == ".":
                values.append(float(token))
                is_operand_next = False
            elif token in _CONSTANTS:
                values.append(_CONSTANTS[token])
                is_operand_next = False
            elif token == "(" or token in _UNARY:
                operators.append((token, False))
            else:
                raise ExpressionError(f"{token} where a number should be")
        elif token == ")":
            while operators and operators[-1][0] != "(":
                _apply(operators.pop(), values)
            if not operators:
                raise ExpressionError(") without its (")
            operators.pop()
        elif token in _BINARY:
            while operators and _precedence(operators[-1]) >= _BINARY[token][0]:
                _apply(operators.pop(), values)
            operators.append((token, True))
            is_operand_next = True
        else:
            raise ExpressionError(f"{token} where an operator should be")
    while operators:
        _apply(operators.pop(), values)
    if is_operand_next or len(values) != 1 or not math.isfinite(values[0]):
        raise ExpressionError("no value")
    return values[0]


def show(value: float) -> str:
    """Return a value as MediaWiki prints it: 14 digits, 3 for 3.0, 1.0E+25."""
    text = f"{value:.14G}"
    digits, power, exponent = text.partition("E")
    if power and "." not in digits:
        digits += ".0"
    text = f"{digits}E{exponent[0]}{exponent[1:].lstrip('0')}" if power else digits
    return "0" if text == "-0" else text


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) >= MAX_TOKENS:
            raise ExpressionError(f"cannot read {text[position : position + 20]!r}")
        tokens.append(match[0].strip())
        position = match.end()
    return tokens


def _precedence(operator: tuple[str, bool]) -> int:
    name, is_binary = operator
    if name == "(":
        return -1
    return _BINARY[name][0] if is_binary else _UNARY[name][0]


def _apply(operator: tuple[str, bool], values: list[float]) -> None:
    name, is_binary = operator
    if name == "(":
        raise ExpressionError("( without its )")
    try:
        if is_binary:
            right, left = values.pop(), values.pop()
            values.append(_BINARY[name][1](left, right))
        else:
            values.append(_UNARY[name][1](values.pop()))
    except (ArithmeticError, ValueError, IndexError) as error:
        raise ExpressionError(f"{name}: {error}") from None


def _round(value: float, digits: int) -> float:
    """Round half away from zero, on the digits that are shown."""
    if not -20 <= digits <= 20 or abs(value) > 1e20:
        return value
    return float(Decimal(repr(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))
