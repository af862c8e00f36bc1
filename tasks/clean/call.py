"""One call of a template, `{{convert|5|km|abbr=on}}`, and the words of the wiki it stands in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Call:
    """A template call with its arguments already plain text, without spaces around them.

    For a parser function all arguments are in `positional`, as they stand (`a = b` too); the text
    behind its colon is the first.
    """

    name: str
    positional: tuple[str, ...]
    named: dict[str, str]
    language: str
    title: str

    def arg(self, number: int) -> str:
        """Return positional argument `number`, counted from 1; "" if it is not given."""
        return self.positional[number - 1] if len(self.positional) >= number else ""

    def first(self, *names: str) -> str:
        """Return the first of the named arguments that has a value."""
        return next((self.named[name] for name in names if self.named.get(name)), "")

    def value(self, *names: str) -> str:
        """Return the first argument that has a value; a name of digits is a position."""
        for name in names:
            found = self.arg(int(name)) if name.isdecimal() else self.named.get(name, "")
            if found:
                return found
        return ""

    def says(self, name: str) -> bool:
        """Tell whether a switch is on: `abbr=on`, `sign=yes`, `link=1`."""
        return self.named.get(name, "").casefold() in ("yes", "y", "on", "true", "1", "是")


@dataclass(frozen=True, slots=True)
class Wording:
    """What rendering must know of a language: how numbers look, and its names of things."""

    language: str = "en"
    decimal: str = "."
    group: str = ","
    units: Mapping[str, str] = field(default_factory=dict)
    countries: Mapping[str, str] = field(default_factory=dict)
    months: tuple[str, ...] = ()
    is_full_width: bool = False

    @property
    def comma(self) -> str:
        """What stands between the parts of a phrase."""
        return {"zh": "，", "ja": "、"}.get(self.language, ", ")

    def brackets(self, text: str) -> str:
        """Return the text in the language's parentheses, with the space that stands before them."""
        return f"（{text}）" if self.is_full_width else f" ({text})"


Render = Callable[[Call], str]
"""A rule's function: the words of a call."""

Renderer = Callable[[Call, Wording], str]
"""The same before it is bound to a language."""
