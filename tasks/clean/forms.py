"""A form and a call -> text: how a template looks, written as data.

    {1}                     the first argument
    {text|1}                the first of these that has a value
    {1|=Yes}                the argument or, without one, the word Yes
    {1:sup}                 the argument through a filter: number, sup, sub, upper, site,
                            protect (from conversion to another Chinese script)
    {1}[ ({2}[, {3}])]      a stretch in brackets stands only if something in it has a value

The same holds for the whole form: with no value in it there is no text, so that `c. {1}` leaves no
lone "c." behind. A form without braces is a fixed text. A backslash takes a mark as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tasks.clean.call import Call, Render, Wording
from tasks.clean.markup import script
from tasks.clean.numbers import format_number
from tasks.clean.variants import PROTECT_CLOSE, PROTECT_OPEN

_TOKEN = re.compile(r"\\(.)|\{([^{}]*)\}|([\[\]])", re.DOTALL)
_Part = Callable[[Call], str]

FILTERS: dict[str, Callable[[str, Wording], str]] = {
    "number": format_number,
    "sup": lambda text, wording: script(text, "sup"),
    "sub": lambda text, wording: script(text, "sub"),
    "upper": lambda text, wording: text.upper(),
    "protect": lambda text, wording: protect(text),
    "site": lambda text, wording: re.sub(r"\A(?:https?:)?//(?:www\.)?|/\Z", "", text),
}


def protect(text: str) -> str:
    """Return text that conversion between Chinese scripts leaves alone: 東京 is no 东京."""
    return f"{PROTECT_OPEN}{text}{PROTECT_CLOSE}" if text else ""


def compile_form(form: str, wording: Wording) -> Render:
    """Return the function that fills a form."""
    open_groups: list[list[str | _Part]] = [[]]
    position = 0
    for match in _TOKEN.finditer(form):
        _add_text(open_groups[-1], form[position : match.start()])
        position = match.end()
        escaped, names, bracket = match.groups()
        if escaped:
            _add_text(open_groups[-1], escaped)
        elif bracket == "[":
            open_groups.append([])
        elif bracket == "]" and len(open_groups) > 1:
            group = _group(open_groups.pop())
            open_groups[-1].append(group)
        elif bracket:
            raise ValueError(f"form {form!r} has a ] without its [; write \\] for the character")
        else:
            open_groups[-1].append(_value(names, wording))
    _add_text(open_groups[-1], form[position:])
    if len(open_groups) > 1:
        raise ValueError(f"form {form!r} has a [ without its ]; write \\[ for the character")
    (parts,) = open_groups
    if all(isinstance(part, str) for part in parts):
        text = "".join(part for part in parts if isinstance(part, str))
        return lambda call: text
    if len(parts) == 1 and not isinstance(parts[0], str):
        return parts[0]
    return _group(parts)


def _add_text(parts: list[str | _Part], text: str) -> None:
    if text:
        parts.append(text)


def _value(names: str, wording: Wording) -> _Part:
    names, has_default, default = names.partition("|=")
    names, _, filter_name = names.partition(":")
    choices = tuple(name.strip() for name in names.split("|"))
    if has_default:
        return lambda call: call.value(*choices) or default
    if filter_name:
        change = FILTERS[filter_name]

        def filtered(call: Call) -> str:
            value = call.value(*choices)
            return change(value, wording) if value else ""

        return filtered
    if len(choices) == 1 and choices[0].isdecimal():
        number = int(choices[0])
        return lambda call: call.arg(number)
    return lambda call: call.value(*choices)


def _group(parts: list[str | _Part]) -> _Part:
    def fill(call: Call) -> str:
        pieces = []
        has_value = False
        for part in parts:
            if isinstance(part, str):
                pieces.append(part)
            elif text := part(call):
                has_value = True
                pieces.append(text)
        return "".join(pieces) if has_value else ""

    return fill
