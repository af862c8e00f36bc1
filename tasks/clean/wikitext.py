"""One page's wikitext -> its document: text, sections, links, categories, facts, kind and flags.

    from tasks.clean.languages import Site
    from tasks.clean.wikitext import parse_page
    parse_page("'''Bonn''' is a [[city]].", title="Bonn", site=Site.of("en")).text

A page goes through a handful of passes, each linear in its length: tags and verbatim text
(markup.py), links and templates (scanner.py), tables (tables.py), quotes, entities and gaps
(tidy.py), paragraphs and lists (layout.py). A page that is too long or takes too long goes on
roughly, by two expressions in place of the scanner, and says so in its flags.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from tasks.clean.chinese import detect_variant
from tasks.clean.languages import Site, section_key
from tasks.clean.layout import (
    Section,
    are_references,
    drop_hatnotes,
    drop_stopped,
    fence_indented,
    join_sections,
    mark_indented,
    split_sections,
)
from tasks.clean.markup import MARKS, OPEN, SEPARATOR, has_marks, normal, resolve_scripts, take_tags
from tasks.clean.scanner import Page, external_links, render, resolve_links
from tasks.clean.tables import TableStyle, render_tables
from tasks.clean.tidy import plain, repair
from tasks.clean.variants import Rules

MAX_CHARS = 2_000_000
MAX_SECONDS = 10.0
_MAGIC_WORD = re.compile(
    r"__(?:[A-Z]{3,}|[\u3040-\u30ff\u4e00-\u9fff]{2,12}|(?i:notoc|toc|forcetoc|noeditsection))__"
)
_section_key = lru_cache(maxsize=65_536)(section_key)
_ROUGH_TEMPLATE = re.compile(r"\{\{[^{}]*+\}\}")
_ROUGH_DEPTH = 40


@dataclass(slots=True)
class Document:
    """What a page says. `sections` cover `text` and each begins with its heading line.

    `templates` are those the page uses, `unresolved` those of them that no rule knows; `variant`
    is the script of a Chinese text. `flags` has `rough` and `deep` for pages over a budget.
    """

    text: str
    num_body_chars: int
    kind: str
    sections: list[dict[str, object]]
    links: list[str]
    categories: list[str]
    facts: dict[str, str]
    flags: list[str]
    templates: list[str]
    unresolved: list[str]
    num_refs: int
    variant: str | None


def parse_page(
    wikitext: str,
    *,
    title: str,
    site: Site,
    tables: TableStyle = "markdown",
    keep_empty_sections: bool = False,
) -> Document:
    """Return the document of one page; it may have an empty body."""
    page = Page(title, site)
    shelf = page.shelf
    began = time.monotonic()
    text = take_tags(normal(wikitext), shelf)
    if text.startswith("#"):
        text = _redirect(site).sub("", text, count=1)
    converter = site.converter
    rules = Rules()
    if converter is not None:
        text, rules = converter.resolve(text)
    text = resolve_links(mark_indented(f"\n{text}"), page)
    in_time = render(text, page, began + MAX_SECONDS) if len(text) <= MAX_CHARS else None
    is_rough = in_time is None
    rendered = render_roughly(text) if in_time is None else in_time
    text = resolve_scripts(external_links(rendered))
    if "__" in text:
        text = _MAGIC_WORD.sub("", text)

    stopped: dict[str, bool] = {}  # of the sections that it depends on

    def is_stopped(name: str) -> bool:
        key = _section_key(name)
        if key in site.stop_if_links and key not in stopped:
            stopped[key] = are_references(rendered, lambda one: _section_key(one) == key)
        return key in site.stop_sections or stopped.get(key, False)

    text = drop_stopped(drop_hatnotes(render_tables(text, tables)), is_stopped)
    text = fence_indented(plain(text, shelf.put), shelf)
    text = _composed(repair(text, is_cjk=site.is_cjk))
    sections = split_sections(text, title, is_stopped, keep_empty=keep_empty_sections)
    if converter is not None:
        for note in page.notes:
            rules = converter.with_note(rules, note.positional, note.named)
        sections[0].title = rules.title or title
        _convert(sections, page, lambda one: converter.convert(one, rules))
    if shelf.pieces:
        _restore(sections, page)
    text, places = join_sections(sections)
    if has_marks(text):
        for section in sections:
            section.title = MARKS.sub("", section.title)
            section.blocks = [MARKS.sub("", block) for block in section.blocks]
        text, places = join_sections(sections)
    return Document(
        text=text,
        num_body_chars=max(0, len(text) - len(sections[0].title) - 4),
        kind=_kind(page),
        sections=places,
        links=page.titles(),
        categories=list(page.categories),
        facts={name: MARKS.sub("", value) for name, value in page.facts.items()},
        flags=_flags(page, is_rough=is_rough),
        templates=list(page.templates),
        unresolved=list(page.unresolved),
        num_refs=shelf.num_references,
        variant=_variant(site, text),
    )


def _redirect(site: Site) -> re.Pattern[str]:
    words = "|".join(re.escape(word.lstrip("#")) for word in site.redirect_words)
    return re.compile(rf"#(?:{words})\s*:?\s*\[\[[^\[\]\n{OPEN}]++\]\]", re.IGNORECASE)


def render_roughly(text: str) -> str:
    """Return the text of a page that is over its budget: templates dropped, no nested links."""
    for _ in range(_ROUGH_DEPTH):
        text, number = _ROUGH_TEMPLATE.subn("", text)
        if not number:
            break
    for bracket in ("{{", "}}", "[[", "]]"):
        text = text.replace(bracket, "")
    return text


def _convert(sections: list[Section], page: Page, convert: Callable[[str], str]) -> None:
    """Bring all words of the page to one script at once; offsets are made afterwards."""
    words = [one for section in sections for one in (section.title, *section.blocks)]
    pieces = iter(
        convert(SEPARATOR.join([*words, *page.facts, *page.facts.values()])).split(SEPARATOR)
    )
    for section in sections:
        section.title = next(pieces)
        section.blocks = [next(pieces) for _ in section.blocks]
    names = [next(pieces) for _ in page.facts]
    page.facts = dict(zip(names, pieces, strict=True))


def _composed(text: str) -> str:
    """Return the text with its characters composed; never NFKC, which rewrites １ and ①."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", text)


def _restore(sections: list[Section], page: Page) -> None:
    """Put what is on the shelf back into the words."""
    restore = page.shelf.restore
    for section in sections:
        section.title = restore(section.title)
        section.blocks = [restore(block) for block in section.blocks]
    page.facts = {name: restore(value) for name, value in page.facts.items()}


def _variant(site: Site, text: str) -> str | None:
    if site.converter is None:
        return None
    variant = site.converter.variant
    return detect_variant(text) if variant == "keep" else variant


def _kind(page: Page) -> str:
    site, title = page.site, page.title
    if "disambiguation" in page.marks or site.disambiguation_titles.match(title):
        return "disambiguation"
    if site.list_titles.match(title):
        return "list"
    if site.year_titles.match(title):
        return "year"
    return "stub" if "stub" in page.marks else "article"


def _flags(page: Page, *, is_rough: bool) -> list[str]:
    flags = page.marks - {"disambiguation", "citation", "hatnote"}
    if page.shelf.has_math:
        flags.add("math")
    if is_rough:
        flags.add("rough")
    if page.is_deep:
        flags.add("deep")
    return sorted(flags)
