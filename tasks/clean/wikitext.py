"""One page's wikitext -> its document: text, sections, links, categories, facts, kind and flags.

    from tasks.clean.languages import Site
    from tasks.clean.wikitext import parse_page
    parse_page("'''Bonn''' is a [[city]].", title="Bonn", site=Site.of("en")).text

Linear passes (markup.py) take away what needs no parser; mwparserfromhell reads the templates and
links of the rest; layout.py and tidy.py make lines into paragraphs and leave no trace of the gaps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mwparserfromhell
from mwparserfromhell.nodes import (
    Argument,
    Comment,
    Heading,
    Tag,
    Template,
    Wikilink,
)
from mwparserfromhell.wikicode import Wikicode

from tasks.clean import templates
from tasks.clean.languages import Site, section_key
from tasks.clean.layout import join_sections, keep_sections, split_sections
from tasks.clean.markup import BREAK, Shelf, prepare
from tasks.clean.tidy import tidy

MAX_PARSED_CHARS = 2_000_000
MAX_FACT_CHARS = 300
_INTERLANGUAGE = re.compile(r"(?:[a-z]{2,3}|simple|be-x-old|zh-[a-z-]+|[a-z]{2,3}-[a-z]{2,})")
_INTERWIKI = frozenset(
    {
        "w", "wikt", "wiktionary", "s", "wikisource", "q", "wikiquote", "b", "wikibooks", "n",
        "wikinews", "v", "wikiversity", "voy", "wikivoyage", "m", "meta", "commons", "c", "d",
        "wikidata", "species", "wikispecies", "mw", "doi", "arxiv", "google", "imdb",
    }
)  # fmt: skip
_PIPE_TRICK = re.compile(r"\s*(?:\([^()]*\)|（[^（）]*）)$|,.*$")
_PICTURE_FACT = re.compile(
    r"image|logo|map|photo|picture|caption|alt$|size|width|color|colour|style|flag|seal|"
    r"pushpin|coord|lat[dms]?$|long?[dms]?$|图|圖|像|説明|说明"
)
_PICTURE_VALUE = re.compile(r"\.(?:png|svg|jpe?g|gif|webp|tiff?)$", re.IGNORECASE)
_ROUGH_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
_ROUGH_LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
_ROUGH_DEPTH = 40


@dataclass(slots=True)
class Document:
    """What a page says. `sections` cover `text` and each begins with its heading line."""

    text: str
    num_body_chars: int
    kind: str
    sections: list[dict[str, object]]
    links: list[str]
    categories: list[str]
    facts: dict[str, str]
    flags: list[str]


@dataclass(slots=True)
class _Page:
    """What is found on the way through a page."""

    title: str
    site: Site
    links: dict[str, None] = field(default_factory=dict)
    categories: dict[str, None] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    roles: set[str] = field(default_factory=set)


def parse_page(wikitext: str, *, title: str, site: Site) -> Document:
    """Return the document of one page; it may have an empty body."""
    page = _Page(title, site)
    shelf = Shelf()
    is_chinese = site.language.startswith("zh")
    source = prepare(wikitext, shelf, site.files, is_chinese=is_chinese)
    is_rough = len(source) > MAX_PARSED_CHARS
    if is_rough:
        rendered = _render_roughly(source)
    else:
        rendered = _render(mwparserfromhell.parse(source, skip_style_tags=True), page)

    def clean(block: str) -> str:
        return tidy(block, is_cjk=site.is_cjk)

    rendered = _ROUGH_TEMPLATE.sub("", rendered)  # what the parser could not make sense of
    rendered = _ROUGH_LINK.sub(r"\1", rendered)
    sections = split_sections(rendered, title, clean)
    sections = keep_sections(sections, lambda name: section_key(name) in site.stop_sections)
    for section in sections:
        section.title = shelf.restore(section.title)
        section.blocks = [shelf.restore(block) for block in section.blocks]
    text, places = join_sections(sections)
    flags = {"math"} if shelf.has_math else set()
    flags |= {"rough"} if is_rough else set()
    flags |= page.roles & {"maintenance", "stub"}
    return Document(
        text=text,
        num_body_chars=max(0, len(text) - len(title) - 4),
        kind=_kind(page),
        sections=places,
        links=list(page.links),
        categories=list(page.categories),
        facts={name: shelf.restore(value) for name, value in page.facts.items()},
        flags=sorted(flags),
    )


def _kind(page: _Page) -> str:
    if "disambiguation" in page.roles or re.search(
        r"[(（](?:disambiguation|消歧[义義])[)）]$", page.title
    ):
        return "disambiguation"
    if page.site.list_titles.match(page.title):
        return "list"
    return "stub" if "stub" in page.roles else "article"


def _render(code: Wikicode, page: _Page) -> str:
    return "".join(_render_node(node, page) for node in code.nodes)


def _render_node(node: Any, page: _Page) -> str:
    if isinstance(node, Wikilink):
        return _render_link(node, page)
    if isinstance(node, Template):
        return _render_template(node, page)
    if isinstance(node, Heading):
        marks = "=" * node.level
        return f"{marks} {_render(node.title, page).strip()} {marks}"
    if isinstance(node, Tag):
        if node.wiki_markup:
            return str(node.wiki_markup)
        return _render(node.contents, page) if node.contents else ""
    if isinstance(node, Argument):
        return _render(node.default, page) if node.default is not None else ""
    return "" if isinstance(node, Comment) else str(node)


def _render_link(node: Wikilink, page: _Page) -> str:
    """Return a link's label; note where it leads, or the category it puts the page in."""
    target = " ".join(_render(node.title, page).replace("_", " ").split())
    label = None if node.text is None else _render(node.text, page)
    is_shown = target.startswith(":")
    target = target.lstrip(": ")
    prefix, colon, rest = target.partition(":")
    space = prefix.strip().casefold()
    if colon and space in page.site.categories and not is_shown:
        page.categories.setdefault(tidy(rest))
        return ""
    is_project = bool(colon) and (space in page.site.namespaces or space in _INTERWIKI)
    is_language = bool(colon) and not is_project and bool(_INTERLANGUAGE.fullmatch(prefix))
    if is_language and not is_shown:
        return ""
    if not is_project and not is_language:
        _note_link(target, page)
    if label is not None and label.strip():
        return label
    shown = rest.strip() if is_project or is_language else target
    if label is not None:  # the pipe trick: [[Apple (fruit)|]]
        return _PIPE_TRICK.sub("", shown)
    return shown.lstrip("#")


def _note_link(target: str, page: _Page) -> None:
    name = tidy(target.partition("#")[0])
    if name:
        page.links.setdefault(name[0].upper() + name[1:])


def _render_template(node: Template, page: _Page) -> str:
    name = _template_name(str(node.name))
    if name.startswith("formatnum:"):
        number = _render(node.name, page).partition(":")[2]
        return templates.render(_call("convert", [number], {}, page))
    what = templates.role(name, page.site.disambiguations)
    if what:
        page.roles.add(what)
        if what == "infobox":
            _gather_facts(node, page)
        return ""
    if name not in templates.RULES and not name.startswith(
        ("lang-", "link-", "script", "internal")
    ):
        return ""
    positional: list[str] = []
    named: dict[str, str] = {}
    for parameter in node.params:
        value = _render(parameter.value, page).strip()
        if parameter.showkey:
            key = str(parameter.name).strip()
            named[key] = value
            if key.isdigit() and 1 <= int(key) <= 20:
                positional += [""] * (int(key) - len(positional))
                positional[int(key) - 1] = value
        else:
            positional.append(value)
    return templates.render(_call(name, positional, named, page))


def _call(
    name: str, positional: list[str], named: Mapping[str, str], page: _Page
) -> templates.Call:
    return templates.Call(name, tuple(positional), dict(named), page.site.language, page.title)


def _template_name(name: str) -> str:
    name = " ".join(name.replace("_", " ").split()).casefold()
    for prefix in ("template:", "模板:", "subst:", "safesubst:"):
        name = name.removeprefix(prefix)
    return name.strip()


def _gather_facts(node: Template, page: _Page) -> None:
    """Note the infobox's values that are short plain text; the first box wins."""
    for parameter in node.params:
        key = " ".join(str(parameter.name).replace("_", " ").split())
        if not parameter.showkey or not key or _PICTURE_FACT.search(key.casefold()):
            continue
        value = _render(parameter.value, page).replace(BREAK, ", ")
        lines = [tidy(line.strip().lstrip("*#: ")) for line in value.split("\n")]
        value = ", ".join(line.strip(", ") for line in lines if line.strip(", "))
        if 0 < len(value) <= MAX_FACT_CHARS and not _PICTURE_VALUE.search(value):
            page.facts.setdefault(key, value)


def _render_roughly(source: str) -> str:
    """Return the text of a page too large to parse: templates dropped, labels of links kept."""
    for _ in range(_ROUGH_DEPTH):
        source, number = _ROUGH_TEMPLATE.subn("", source)
        if not number:
            break
    return _ROUGH_LINK.sub(r"\1", source)
