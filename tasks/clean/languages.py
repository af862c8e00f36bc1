"""What a cleaner must know of each wiki: its language's words, read from `languages/*.yaml`.

    from tasks.clean.languages import Site
    Site.of("de", {"6": "Datei"}).files          # frozenset({"datei", "bild", "file", "image"})

The dump's header gives the names of the namespaces; a file of the language gives what headers do
not list: aliases, redirect words, the letters that join a link, titles of sections to leave out,
titles of lists, years and disambiguations, the format of numbers, and its templates (read by
templates.py). English names hold in every wiki, as MediaWiki has them. A language without a file
works by the header and English.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from storage.errors import BadInput
from tasks.clean.templates import TemplateTable
from tasks.clean.variants import Converter, Variant

LANGUAGES = ("de", "en", "es", "fr", "it", "ja", "ko", "ru", "uk", "vi", "zh")
"""The languages that have a file."""

FOLDER = Path(__file__).with_name("languages")
_WIKI_CODES = {"zh-classical": "lzh", "zh-min-nan": "nan", "zh-yue": "yue"}
_RELATIVES = {"simple": "en", "sco": "en", "lzh": "zh", "yue": "zh", "wuu": "zh", "gan": "zh"}
_NAMESPACES = {
    "media": "-2", "special": "-1", "talk": "1", "user": "2", "user_talk": "3", "project": "4",
    "file": "6", "mediawiki": "8", "template": "10", "help": "12", "category": "14",
    "portal": "100", "draft": "118", "module": "828",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Language:
    """One file of `languages/`. Titles are regular expressions that match from a title's start."""

    language: str
    is_cjk: bool = False
    namespaces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    redirect_words: tuple[str, ...] = ()
    link_trail: str = "[a-z]+"
    stop_sections: tuple[str, ...] = ()
    stop_if_links: tuple[str, ...] = ()
    list_titles: tuple[str, ...] = ()
    year_titles: tuple[str, ...] = ()
    disambiguation_titles: tuple[str, ...] = ()
    decimal: str = "."
    group: str = ","

    @staticmethod
    def load(code: str) -> Language:
        """Read the language's own file, its relative's, or return what holds for any language."""
        code = base_code(code)
        return _read(_RELATIVES.get(code, code))


def base_code(language: str) -> str:
    """Return the language of a wiki's code: `zh` of `zh-cn`, `nan` of `zh-min-nan`."""
    language = language.casefold().replace("_", "-")
    return _WIKI_CODES.get(language, language.split("-")[0])


@cache
def _read(code: str) -> Language:
    path = FOLDER / f"{code}.yaml"
    if not code.isalnum() or not path.exists():
        return Language(code)
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # all strings: `no` is a word too
    values: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), loader)
    values.pop("templates", None)  # read by templates.py
    values |= values.pop("number", {}) | {"is_cjk": values.get("is_cjk") == "true"}
    unknown = set(values) - set(Language.__dataclass_fields__)
    if unknown:
        raise BadInput(
            f"languages/{path.name} has {', '.join(sorted(unknown))}; "
            f"known: {', '.join(Language.__dataclass_fields__)}, number, templates"
        )
    names = {
        name: _strings(words) for name, words in (values.pop("namespaces", None) or {}).items()
    }
    if strange := set(names) - set(_NAMESPACES):
        raise BadInput(
            f"languages/{path.name} names the namespaces {', '.join(sorted(strange))}; "
            f"known: {', '.join(_NAMESPACES)}"
        )
    lists = {"redirect_words", "stop_sections", "stop_if_links", "list_titles", "year_titles"}
    for name in lists | {"disambiguation_titles"}:
        values[name] = _strings(values.get(name))
    return Language(**values, namespaces=names)


def _strings(value: object) -> tuple[str, ...]:
    """Return a list of words, or one word, as a tuple."""
    if not value:
        return ()
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)


@dataclass(frozen=True, slots=True)
class Site:
    """A wiki's words, ready to compare: all lower case, section titles reduced by `section_key`.

    `namespaces` has the names of all namespaces but the articles'; `files`, `categories` and
    `template_prefixes` those of three of them. `link_trail` matches the letters that join a link.
    `stop_if_links` are titles of sections that are left out where they hold little but references.
    """

    language: str
    is_cjk: bool
    files: frozenset[str]
    categories: frozenset[str]
    template_prefixes: frozenset[str]
    namespaces: frozenset[str]
    redirect_words: tuple[str, ...]
    link_trail: re.Pattern[str]
    stop_sections: frozenset[str]
    stop_if_links: frozenset[str]
    list_titles: re.Pattern[str]
    year_titles: re.Pattern[str]
    disambiguation_titles: re.Pattern[str]
    decimal: str
    group: str
    templates: TemplateTable
    converter: Converter | None

    @staticmethod
    def of(
        language: str,
        namespaces: Mapping[str, str] | None = None,
        stop_sections: Iterable[str] | None = None,
        *,
        variant: Variant = "zh-hans",
        template_redirects: Mapping[str, str] | None = None,
        template_categories: Mapping[str, Sequence[str]] | None = None,
        modules: Mapping[str, str] | None = None,
    ) -> Site:
        """Join the dump's header (`{"6": "Datei", …}`) with what is known of the language.

        `stop_sections` replaces the language's own lists. `template_redirects`,
        `template_categories` and `modules` (Module:CGroup and Template:CGroup pages) are the
        dump's own, by name without namespace.
        """
        own, english, given = Language.load(language), Language.load("en"), namespaces or {}

        def names(namespace: str) -> frozenset[str]:
            local = (given.get(_NAMESPACES[namespace], ""), namespace)
            words = (
                *local,
                *own.namespaces.get(namespace, ()),
                *english.namespaces.get(namespace, ()),
            )
            return frozenset(word.casefold().replace("_", " ") for word in words if word)

        everything = frozenset({"wikipedia", "wp"}).union(*map(names, _NAMESPACES))
        if stop_sections is None:
            stop_sections = (*english.stop_sections, *own.stop_sections)
            stop_if_links = (*english.stop_if_links, *own.stop_if_links)
        else:
            stop_if_links = ()
        return Site(
            language=language,
            is_cjk=own.is_cjk,
            files=names("file"),
            categories=names("category"),
            template_prefixes=names("template"),
            namespaces=everything | {name.casefold() for name in given.values() if name},
            redirect_words=(*own.redirect_words, *english.redirect_words),
            link_trail=re.compile(own.link_trail or "(?!)"),
            stop_sections=frozenset(map(section_key, stop_sections)),
            stop_if_links=frozenset(map(section_key, stop_if_links)),
            list_titles=_any_of(english.list_titles, own.list_titles),
            year_titles=_any_of(english.year_titles, own.year_titles),
            disambiguation_titles=_any_of(english.disambiguation_titles, own.disambiguation_titles),
            decimal=own.decimal,
            group=own.group,
            templates=TemplateTable.of(
                language, template_redirects, template_categories, prefixes=tuple(names("template"))
            ),
            converter=Converter.of(variant, modules or {}) if base_code(language) == "zh" else None,
        )


def _any_of(*patterns: tuple[str, ...]) -> re.Pattern[str]:
    words = dict.fromkeys(one for some in patterns for one in some)
    return re.compile("|".join(f"(?:{one})" for one in words) or "(?!)", re.IGNORECASE)


def section_key(title: str) -> str:
    """Return a section's title as it is compared: letters only, no case."""
    return re.sub(r"[\W\d_]+", "", title.casefold())
