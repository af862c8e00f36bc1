"""`{{name|…}}` -> its rule: left out, an argument, a rendering, a fact box, or unknown.

    from tasks.clean.templates import TemplateTable
    table = TemplateTable.of("en", redirects={"Bq": "Blockquote"})
    table.look_up("template:nowrap ").role        # "argument"

The rules are data, `languages/*.yaml` under `templates:`, by role; English names hold in every
wiki, a language's own come first. A name is looked for in the table, in its families (`.*-stub`),
as a redirect of the dump to another template, and by the categories that the dump puts the
template in; what is left is unknown, and counted by the caller. Nothing is expanded: that needs
Lua for half of the templates, and days (the idea of roles is wiki2dataset's).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from storage.errors import BadInput
from tasks.clean.call import Call, Render, Renderer, Wording
from tasks.clean.forms import compile_form
from tasks.clean.functions import FUNCTIONS
from tasks.clean.markup import MARKS
from tasks.clean.renderers import RENDERERS

__all__ = ["Call", "Rule", "TemplateTable", "guess", "is_fact"]

FOLDER = Path(__file__).with_name("languages")
MAX_NAME_CHARS = 250
MAX_KNOWN_NAMES = 200_000
_RELATIVES = {"simple": "en", "sco": "en", "lzh": "zh", "yue": "zh", "wuu": "zh", "gan": "zh"}
_TITLE = re.compile(r"[^:/\[\]{}<>|][^\[\]{}<>|]{0,249}")
_PLAIN_ROLES = ("drop", "section", "facts", "rules")
_OWN_ROLES = {"code": "code", "pre": "code", "formula": "formula", "fraction": "fraction"}
_SUBSTITUTIONS = ("subst", "safesubst", "msg", "msgnw", "raw")


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of a template.

    Roles: drop; argument, join and render (words in the running text); block (a paragraph of its
    own); code and pre (verbatim text); formula and fraction (which looks at what is around it);
    section (ends its section's prose); facts (an infobox); rules (conversion rules of Chinese);
    unknown. `marks` is what the template says of its page: stub, disambiguation, maintenance,
    hatnote, featured, good, citation.

    `is_function` is a parser function or a magic word: its name ends at the colon, the text behind
    the colon is its first argument, and `a = b` is an argument as it stands.
    """

    name: str
    role: str
    marks: frozenset[str] = frozenset()
    function: Render | None = None
    is_function: bool = False


class TemplateTable:
    """All rules of one wiki."""

    def __init__(
        self,
        rules: _Rules,
        redirects: Mapping[str, str],
        categories: Mapping[str, Sequence[str]],
        prefixes: frozenset[str],
    ) -> None:
        self._rules = rules
        self._redirects = {_key(name): target for name, target in redirects.items()}
        self._categories = {_key(name): names for name, names in categories.items()}
        self._prefixes = prefixes
        self._known: dict[str, Rule] = {}

    @staticmethod
    def of(
        language: str,
        redirects: Mapping[str, str] | None = None,
        categories: Mapping[str, Sequence[str]] | None = None,
        *,
        prefixes: Sequence[str] = (),
    ) -> TemplateTable:
        """Read a language's table; `redirects` and `categories` are those of the dump's templates.

        Names are without namespace; `prefixes` are the wiki's names of the template namespace.
        """
        rules = _load(language)
        words = frozenset(prefix.casefold() for prefix in prefixes)
        return TemplateTable(rules, redirects or {}, categories or {}, rules.prefixes | words)

    def look_up(self, raw_name: str) -> Rule:
        """Return the rule of a template by its name as it stands in the page."""
        rule = self._known.get(raw_name)
        return rule if rule is not None else self._find(raw_name)

    def _find(self, raw_name: str) -> Rule:
        name = _name(raw_name)
        head, colon, rest = name.partition(":")
        while colon and head.casefold().strip() in (*_SUBSTITUTIONS, *self._prefixes):
            name = rest.strip()
            head, colon, rest = name.partition(":")
        if colon or name.startswith("#"):
            function = self._rules.functions.get(head.strip().casefold())
            if function is not None:
                return function  # not remembered: the name has the argument in it
        if not _TITLE.fullmatch(name):
            return Rule(name[:MAX_NAME_CHARS], "drop")
        rule = self._resolve(name[0].upper() + name[1:])
        if len(self._known) >= MAX_KNOWN_NAMES:
            self._known.clear()
        if len(raw_name) <= 2 * MAX_NAME_CHARS:
            self._known[raw_name] = rule
        return rule

    def _resolve(self, name: str) -> Rule:
        target = self._redirects.get(_key(name), name)
        for find in (self._rules.by_name, self._rules.by_family):
            for one in dict.fromkeys((name, target)):
                rule = find(one)
                if rule is not None:
                    return replace(rule, name=target)
        for one in dict.fromkeys((target, name)):
            for category in self._categories.get(_key(one), ()):
                rule = self._rules.by_category(_key(category))
                if rule is not None:
                    return replace(rule, name=target)
        return Rule(target, "unknown")


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rules of a language, without what a dump adds."""

    names: Mapping[str, Rule]
    families: tuple[tuple[re.Pattern[str], Rule], ...]
    categories: tuple[tuple[re.Pattern[str], Rule], ...]
    codes: Mapping[str, Rule]
    functions: Mapping[str, Rule]
    prefixes: frozenset[str]

    def by_name(self, name: str) -> Rule | None:
        """Return the rule of a name; `{{GER}}` is a country, `{{ger}}` is not."""
        key = _key(name)
        return self.codes.get(name) or self.names.get(key) or self.functions.get(key)

    def by_family(self, name: str) -> Rule | None:
        """Return the rule of all names like this one."""
        key = _key(name)
        return next((one for pattern, one in self.families if pattern.fullmatch(key)), None)

    def by_category(self, key: str) -> Rule | None:
        """Return the rule of all templates in a category."""
        found = (one for pattern, one in self.categories if pattern.fullmatch(key))
        return next(found, None)


def _name(raw_name: str) -> str:
    return " ".join(MARKS.sub(" ", raw_name).replace("_", " ").split())


def _key(name: str) -> str:
    return name.casefold().replace("_", " ")


@cache
def _load(language: str) -> _Rules:
    """Join a language's table with the English one, which holds in every wiki."""
    code = language.casefold().split("-")[0]
    code = _RELATIVES.get(code, code)
    english = _read("en")
    own = _read(code) if code != "en" else {}
    wording = _wording(code, english, own)
    names: dict[str, Rule] = {}
    families: list[tuple[re.Pattern[str], Rule]] = []
    categories: list[tuple[re.Pattern[str], Rule]] = []
    functions = {
        name: Rule(name, "render", function=_bound(function, wording), is_function=True)
        for name, function in FUNCTIONS.items()
    }
    prefixes = set()
    for data in (own, english):
        table = data.get("templates") or {}
        for name, rule in _entries(table, wording):
            names.setdefault(_key(name), rule)
        for pattern, rule in _entries(table.get("families") or {}, wording):
            families.append((re.compile(pattern), rule))
        for pattern, rule in _entries(table.get("categories") or {}, wording):
            categories.append((re.compile(pattern), rule))
        for name, aliases in (table.get("functions") or {}).items():
            functions |= {alias.casefold(): functions[name] for alias in aliases}
        prefixes |= {word.casefold() for word in _template_words(data)}
    country = Rule("", "render", function=_rendering("country_code", wording))
    codes = {code: country for code in wording.countries if len(code) == 3}
    return _Rules(names, tuple(families), tuple(categories), codes, functions, frozenset(prefixes))


def _read(code: str) -> dict[str, Any]:
    path = FOLDER / f"{code}.yaml"
    if not code.isalnum() or not path.exists():
        return {}
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # all strings: `no` is a template too
    data: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), loader) or {}
    return data


def _template_words(data: Mapping[str, Any]) -> list[str]:
    return (data.get("namespaces") or {}).get("template") or []


def _wording(code: str, english: dict[str, Any], own: dict[str, Any]) -> Wording:
    number = own.get("number") or english.get("number") or {}
    ours, theirs = (data.get("templates") or {} for data in (own, english))
    return Wording(
        language=code,
        decimal=number.get("decimal", "."),
        group=number.get("group", ","),
        units=ours.get("units") or {},
        countries={**(theirs.get("countries") or {}), **(ours.get("countries") or {})},
        months=tuple((ours if own else theirs).get("months", "").split()),
        is_full_width=code in ("zh", "ja"),
    )


def _entries(table: Mapping[str, Any], wording: Wording) -> Iterator[tuple[str, Rule]]:
    """Yield (name, rule) of a table by roles; see the head of languages/en.yaml for its shape."""
    for mark, names in (table.get("marks") or {}).items():
        yield from _each(names, Rule("", "drop", frozenset({mark})))
    for role in _PLAIN_ROLES:
        yield from _each(table.get(role) or (), Rule("", role))
    for role, form in _OWN_ROLES.items():
        names = table.get(role) or ()
        yield from _each(names, Rule("", role, function=_rendering(form, wording)))
    for number, names in (table.get("argument") or {}).items():
        function = compile_form(f"{{{number}}}", wording)
        yield from _each(names, Rule("", "argument", function=function))
    for separator, names in (table.get("join") or {}).items():
        is_list = separator == ", " and wording.is_full_width
        function = partial(_join, separator="、" if is_list else separator)
        yield from _each(names, Rule("", "join", function=function))
    for form, names in (table.get("render") or {}).items():
        yield from _each(names, Rule("", "render", function=_rendering(form, wording)))
    for form, names in (table.get("block") or {}).items():
        function = partial(_paragraph, render=_rendering(form, wording))
        yield from _each(names, Rule("", "block", function=function))


def _each(names: Sequence[Any], rule: Rule) -> Iterator[tuple[str, Rule]]:
    """Yield a rule for each name; long lists are written as lists of lists."""
    for name in names:
        yield from _each(name, rule) if isinstance(name, list) else [(name, rule)]


def _rendering(form: str, wording: Wording) -> Render:
    """A rendering is the name of a function, or a form with arguments in braces."""
    if form in RENDERERS:
        return _bound(RENDERERS[form], wording)
    if re.fullmatch("[a-z_]{3,}", form):
        raise BadInput(
            f"templates of {wording.language}: {form} is no renderer; known: "
            f"{', '.join(RENDERERS)}; a form has its arguments in braces"
        )
    try:
        return compile_form(form, wording)
    except (ValueError, KeyError) as error:
        raise BadInput(f"templates of {wording.language}: {error}") from None


def _bound(function: Renderer, wording: Wording) -> Render:
    return lambda call: function(call, wording)


def _join(call: Call, separator: str) -> str:
    return separator.join(one for one in call.positional if one)


def _paragraph(call: Call, render: Render) -> str:
    text = render(call)
    return f"\n\n{text}\n\n" if text else ""


_BEFORE = re.compile(r"[\w,;:，；：、》」”’)）%°][ \t'\"“‘(（「《]*\Z")
_AFTER = re.compile(r"[ \t'\"”’)）」》]*[\w,.;:!?，。；：、！？(（\-–—]")
_NO_WORDS = re.compile(r"[\d\s.,:;+\-−–#%/]*\Z|.*(?:=|://|www\.|\||\n)", re.DOTALL)


def guess(call: Call, before: str, after: str) -> str:
    """Return the text of an unknown template in a sentence: its last argument, if it is short.

    `before` and `after` are the text around it on the same line. What stands alone on its line is
    a box: of 5,929 unknown calls in real English pages 155 stood in a sentence.
    """
    if not 1 <= len(call.positional) <= 2:
        return ""
    word = call.positional[-1]
    if not 0 < len(word) <= 40 or _NO_WORDS.match(word):
        return ""
    is_inside = _BEFORE.search(before[-20:]) and _AFTER.match(after[:20])
    return word if is_inside else ""


_LAYOUT_NAMES = (
    # pictures and what is written below them
    r".*image.*|.*picture.*|.*caption.*|.*logo(?!g).*|.*signature.*|.*pushpin.*|.*photo(?!gr).*",
    r"(?:.*[_ ])?(?:map|flag|seal|shield|emblem|crest|icon|audio)\d*(?:[_ ](?!carrier).*)?",
    r"(?:.*[_ ])?(?:alt|coat[_ ]?of[_ ]?arms|coat|coa)\d*|(?:map|flag|coa)size|mapframe.*",
    r".*[图圖][片像].*|.*[说說]明|.*画像.*",
    # looks
    r".*(?:body|title|header|label|above|below|data|row|list|box|css|font)\d*[_ ]?style.*",
    r".*(?:bg|ground|box|header|text|title|line|border|mark|label|route|font|bar)[_ ]?colou?r\d*",
    r"(?:.*[_ ])?(?:img|pic|thumb|font|cover|box|symbol|text)[_ ]?size|.*[_ ]px|upright|zoom|scale",
    r"(?:no)?cat|embed|embedded|module\d*|(?:body|header)class|border|align|float|.*[颜顏]色",
    # places and notes
    r".*coord.*|lat(?:itude|d|m|s|ns|_.*)?",
    r"long?(?:gitude|d|m|s|ew|[_ ](?:[dmsew]|deg|min|sec|dir))?|[xy]|iso_region|refs?\d*",
    r"(?:.*[_ ])?(?:refs?|notes?|footnotes?|link|reference)\d*|familycolou?r|area[_ ]magnitude",
    r"(?:native_)?name_lang",
)
_LAYOUT_FACT = re.compile("|".join(_LAYOUT_NAMES))
_LAYOUT_VALUE = re.compile(
    r".*\.(?:png|svg|jpe?g|gif|webp|tiff?|og[gav]|webm)|x?\d+(?:x\d+)?\s*px|#[0-9a-f]{3,8}|"
    r"yes|no|on|off|auto|center|left|right|none|increase|decrease|steady|\W*",
    re.IGNORECASE | re.DOTALL,
)


def is_fact(name: str, value: str) -> bool:
    """Tell a fact of an infobox from its pictures, colours and layout."""
    if (
        not value
        or name.isdecimal()
        or len(name) > MAX_NAME_CHARS
        or _LAYOUT_VALUE.fullmatch(value)
    ):
        return False
    return not _LAYOUT_FACT.fullmatch(name.casefold())
