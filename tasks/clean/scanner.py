"""Links and templates -> the words in their place: one pass over the brackets of a page.

    [[Bonn]] is {{convert|141|km2}} large   ->   Bonn is 141 km² (54 sq mi) large

Most links hold no brackets: a split by one expression resolves them inside of the regular
expression engine, innermost first, so that a bar inside of a link never divides a template's
arguments. What is left goes through the scanner: brackets are matched first, by position alone,
then one walk renders them with an explicit stack. A frame keeps a flat list of parts and joins it
once; frames nest at most `MAX_DEPTH` deep, so the work is linear in the page's length whatever the
page holds. Brackets without a partner go, and the prose around them stays.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf

from tasks.clean.call import Call
from tasks.clean.languages import Site
from tasks.clean.markup import (
    BREAK,
    EQUALS,
    INDENT,
    LINKED,
    MARKS,
    PIPE,
    SECTION_END,
    Shelf,
    has_marks,
)
from tasks.clean.templates import Rule, guess, is_fact
from tasks.clean.tidy import tidy

MAX_DEPTH = 40
EVENTS_PER_LOOK = 256  # at the clock
MAX_FACT_CHARS = 300
MAX_POSITION = 99
_PLAIN_LINK = re.compile(r"\[\[(?!/)([^\[\]{}|\n:#]++)(?:\|([^\[\]{}|]++))?\]\]")
_SIMPLE_LINK = re.compile(r"\[\[([^\[\]{}|\n]++)(?:\|([^\[\]{}]*+))?\]\]")
_CELL_LINK = re.compile(  # |a [[b]] | c
    r"(\n\|(?![-}+|])[^|\n{}\[\]]*+)"
    r"(?=(?:\[\[[^\[\]\n{}]*+\]\][^|\n{}\[\]]*+)++\|(?!\|))"
)
_BRACKETS = tuple(re.compile(one) for one in (r"\{\{+", r"\}\}+", r"\[\[", r"\]\]"))
_FRAGMENT = re.compile(r"#[^\n]*+")
_NAME = re.compile(r"[^|{}\[\]\n]*+")
_PARAGRAPH_END = re.compile(r"\n[ \t]*+\n|\n(?==)|\Z")
_FILE_NAME = re.compile(
    r"[^\[\]|\n]{1,250}\.(?:jpe?g|png|svg|gif|tiff?|webp|og[gv]|webm|xcf|djvu|pdf|mid|mp3|wav)\s*",
    re.IGNORECASE,
)
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,}){0,2}|simple|be-x-old")
_PROJECTS = frozenset(
    ["arxiv", "b", "bugzilla", "c", "commons", "d", "doi", "foundation", "google", "imdb",
     "incubator", "m", "mail", "meta", "metawikipedia", "mw", "n", "phab", "q", "s", "species",
     "toollabs", "v", "voy", "w", "wikibooks", "wikidata", "wikinews", "wikipedia", "wikiquote",
     "wikisource", "wikispecies", "wikiversity", "wikivoyage", "wikt", "wiktionary"]
)  # fmt: skip
_TEMPLATE, _ARGUMENT, _LINK, _CLOSE, _LONE_OPEN, _LONE_CLOSE = range(6)
_Event = tuple[int, int, int, int]


@dataclass(slots=True)
class Page:
    """What is found on the way through a page."""

    title: str
    site: Site
    shelf: Shelf = field(default_factory=Shelf)
    links: list[str] = field(default_factory=list)
    categories: dict[str, None] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    marks: set[str] = field(default_factory=set)
    templates: dict[str, None] = field(default_factory=dict)
    unresolved: dict[str, None] = field(default_factory=dict)
    notes: list[Call] = field(default_factory=list)
    is_deep: bool = False

    def titles(self) -> list[str]:
        """Return the articles that the page links to, each once, in order."""
        text = "\n".join(dict.fromkeys(self.links))
        if "_" in text:
            text = text.replace("_", " ")
        if "#" in text:
            text = _FRAGMENT.sub("", text)
        if has_marks(text):
            text = MARKS.sub("", text)
        titles = text.split("\n")
        if " \n" in text or "\n " in text:
            titles = [title.strip() for title in titles]
        capital = [
            title if "A" <= title[:1] <= "Z" else title[:1].upper() + title[1:] for title in titles
        ]
        return [title for title in dict.fromkeys(capital) if title]


def resolve_links(text: str, page: Page) -> str:
    """Return the text with the label of every link that holds no other brackets."""
    if "[[" not in text:
        return text
    if "{|" in text:
        text = _CELL_LINK.sub(rf"\1{LINKED}", text)
    pieces = _PLAIN_LINK.split(text)
    targets = pieces[1::3]
    shown = targets
    if "''" in "\n".join(targets):  # a title is no markup
        shown = [
            page.shelf.put(one) if "''" in one and one[:2] + one[-2:] != "''" * 2 else one
            for one in targets
        ]
    pieces[1::3] = [label or target for target, label in zip(shown, pieces[2::3], strict=True)]
    del pieces[2::3]
    page.links += targets
    text = "".join(pieces)
    for _ in range(2):  # the second time: captions of files, with links in them
        if "[[" not in text:
            break
        pieces = _SIMPLE_LINK.split(text)
        targets, labels = pieces[1::3], pieces[2::3]
        pieces[1::3] = [show_link(*link, page) for link in zip(targets, labels, strict=True)]
        del pieces[2::3]
        text = "".join(pieces)
    return text


def show_link(target: str, label: str | None, page: Page) -> str:
    """Return the words of one link; note the category it puts the page in."""
    site = page.site
    stripped = target.strip()
    is_shown = stripped.startswith(":")
    name = stripped.lstrip(": ")
    if name.startswith("//"):  # [[//place label]] is a link to another place
        return name.partition(" ")[2]
    prefix, colon, rest = name.partition(":")
    is_project = False
    if colon:
        kind = _kind(prefix, site.categories, site.files, site.namespaces)
        if kind and not is_shown:
            if kind == "category":
                page.categories.setdefault(_plain_title(rest))
                return ""
            if kind in ("file", "language"):
                return ""
            if kind == "media":
                return label or ""
        elif not is_shown and _FILE_NAME.fullmatch(rest):
            return ""  # headers do not list the aliases of `File`
        is_project = bool(kind)
        if kind in ("category", "file"):
            name = rest.strip()
            if label and label.lstrip().casefold().startswith(f"{prefix.casefold()}:"):
                label = label.partition(":")[2].lstrip()
    if not is_project and name[:1] not in ("#", "/"):
        page.links.append(name)
    if label:
        return label.replace("|", page.shelf.put("|")) if "|" in label else label
    return name if colon else name.lstrip("#/")


def _plain_title(title: str) -> str:
    """Return the name of a page as a reader sees it."""
    title = " ".join(title.replace("_", " ").split())
    if title.isascii() and "&" not in title and "'" not in title:
        return title
    return MARKS.sub("", tidy(title))


@lru_cache(maxsize=65_536)
def _kind(
    prefix: str,
    categories: frozenset[str],
    files: frozenset[str],
    namespaces: frozenset[str],
) -> str:
    """Return what `prefix:` makes of a link: "category", "file", "media", "language", "project"."""
    space = prefix.strip().replace("_", " ").casefold()
    if space in categories:
        return "category"
    if space in files:
        return "file"
    if space == "media":
        return "media"
    if space in namespaces or space in _PROJECTS:
        return "project"
    return "language" if _LANGUAGE.fullmatch(prefix.strip()) else ""


def render(text: str, page: Page, deadline: float = inf) -> str | None:
    """Return the text with all templates rendered and all links shown; None past the deadline."""
    if any(bracket in text for bracket in ("{{", "}}", "[[", "]]")):
        rendered = _Walk(text, page).render(deadline)
        if rendered is None:
            return None
        text = rendered
    return text.replace(PIPE, "|").replace(EQUALS, "=")


def match_brackets(text: str) -> list[_Event]:
    """Return what stands where: (start, end, kind, end of its partner or start of its partner)."""
    events: list[_Event] = []
    waiting: list[tuple[int, int]] = []  # (start, width) of what is open; links have width 0
    num_braces = 0
    # Four searches for a literal are faster than one for any of four.
    tokens = sorted([one.span() for pattern in _BRACKETS for one in pattern.finditer(text)])
    for start, end in tokens:
        first = text[start]
        if first == "{":
            waiting.append((start, end - start))
            num_braces += 1
        elif first == "[":
            waiting.append((start, 0))
        elif first == "]":
            if waiting and not waiting[-1][1]:
                opened = waiting.pop()[0]
                if text.startswith("]", end) and _ends_label(text, opened + 2, start):
                    start, end = start + 1, end + 1
                events.append((opened, opened + 2, _LINK, end))
                events.append((start, end, _CLOSE, opened))
            else:
                events.append((start, end, _LONE_CLOSE, 0))
        else:
            while num_braces and end - start >= 2:
                opened, width = waiting.pop()
                if not width:
                    events.append((opened, opened + 2, _LONE_OPEN, 0))
                    continue
                num_braces -= 1
                is_argument = width >= 3 and end - start >= 3 and (width, end - start) != (4, 4)
                used = 3 if is_argument else 2
                if end - start == 3 and used == 2 and text[start - 2 : start] == "\n|":
                    start += 1  # {{box|\n{|\n|a\n|}}}
                inner = opened + width - used
                kind = _ARGUMENT if used == 3 else _TEMPLATE
                events.append((inner, inner + used, kind, start + used))
                events.append((start, start + used, _CLOSE, inner))
                start += used
                if width - used >= 2:
                    waiting.append((opened, width - used))
                    num_braces += 1
            if end - start >= 2:
                events.append((start, end, _LONE_CLOSE, 0))
    events += [(start, start + (width or 2), _LONE_OPEN, 0) for start, width in waiting]
    events.sort()
    return events


def _ends_label(text: str, start: int, end: int) -> bool:
    """Tell whether the first of three closing brackets is the label's own: [[a|see [b]]]."""
    return not text.startswith("]", end + 3) and text.rfind("[", start, end) >= 0


@dataclass(slots=True)
class _Frame:
    """An open bracket: where it stands, whose parts it interrupts, and what becomes of it."""

    start: int
    kind: int
    outer: list[str]
    rule: Rule | None


class _Walk:
    """One walk through the brackets of a page."""

    def __init__(self, text: str, page: Page) -> None:
        self.text = text
        self.page = page
        self.look_up = page.site.templates.look_up
        self.parts: list[str] = []
        self.frames: list[_Frame] = []

    def render(self, deadline: float) -> str | None:
        text, position = self.text, 0
        for number, (start, end, kind, partner) in enumerate(match_brackets(text)):
            if not number % EVENTS_PER_LOOK and time.monotonic() > deadline:
                return None
            if start < position:
                continue  # inside of what was dropped whole
            if start > position:
                self.parts.append(text[position:start])
            position = end
            if kind == _TEMPLATE:
                position = self._open_template(start, end, partner)
            elif kind == _CLOSE:
                if self.frames and self.frames[-1].start == partner:
                    self._close(end)
            elif kind in (_LINK, _ARGUMENT):
                if len(self.frames) < MAX_DEPTH:
                    self.frames.append(_Frame(start, kind, self.parts, None))
                    self.parts = []
            elif kind == _LONE_OPEN:
                position = self._recover(start, end)
        self.parts.append(text[position:])
        return "".join(self.parts)

    def _open_template(self, start: int, end: int, close: int) -> int:
        """Begin a template, or leave it out whole; return where to go on."""
        found = _NAME.match(self.text, end)
        rule: Rule = self.look_up(found[0] if found else "")
        page = self.page
        page.marks |= rule.marks
        if not rule.is_function and rule.name:
            page.templates.setdefault(rule.name)
        if len(self.frames) >= MAX_DEPTH:
            page.is_deep = True
            return close
        if rule.role == "drop":
            if rule.name == "IPA" and not self.frames:
                self.parts.append(self._sound(start, end, close))
            return close
        if rule.role == "section":
            self.parts.append(f"\n{SECTION_END}\n")
            return close
        self.frames.append(_Frame(start, _TEMPLATE, self.parts, rule))
        self.parts = []
        return end

    def _sound(self, start: int, end: int, close: int) -> str:
        """Return what `{{IPA|/p/}}` shows in a sentence; beside a title or in parentheses nothing.

        Sounds that a text speaks of are words of it; how its title is said is no prose.
        """
        before = self.text[max(0, start - 200) : start].rpartition("\n")[2].rstrip()
        num_open = sum(map(before.count, "(（")) - sum(map(before.count, ")）"))
        content = self.text[end : close - 2]
        if not before or num_open > 0 or before.endswith("'" * 3) or "{{" in content:
            return ""
        sounds = [one for one in split_arguments(content)[0] if not _FILE_NAME.fullmatch(one)]
        if len(sounds) > 1 and _LANGUAGE.fullmatch(sounds[0]):  # {{IPA|fr|paʁi|label}}
            del sounds[0]
        return sounds[0] if sounds else ""

    def _close(self, end: int) -> None:
        """Put the words of the innermost open bracket behind what came before it."""
        content = "".join(self.parts)
        frame = self.frames.pop()
        self.parts = frame.outer
        if frame.kind == _LINK:
            target, bar, label = content.partition("|")
            words = label
            if target.strip():
                words = show_link(target, label if bar else None, self.page)
        elif frame.kind == _ARGUMENT:
            words = content.partition("|")[2]
        else:
            words = self._call(content, frame.rule, end) if frame.rule else ""
        if self.frames and words:
            words = words.replace("|", PIPE).replace("=", EQUALS)
        if words:
            self.parts.append(words)

    def _call(self, content: str, rule: Rule, end: int) -> str:
        """Return the words of a template or parser function."""
        page = self.page
        language = page.site.language
        if rule.is_function:
            head, _, rest = content.replace(INDENT, " ").partition(":")
            arguments = [one.strip() for one in rest.split("|")] if rest or "|" not in head else []
            call = Call(rule.name, tuple(arguments), {}, language, page.title)
            return rule.function(call) if rule.function else ""
        positional, named = split_arguments(content)
        call = Call(rule.name, positional, named, language, page.title)
        if rule.function is not None:
            words = rule.function(call)
            if rule.role == "fraction":
                return self._beside(words)
            if rule.role in ("code", "pre"):
                return page.shelf.put_code(words, block=rule.role == "pre")
            return words
        if rule.role == "facts":
            self._gather_facts(named)
        elif rule.role == "rules":
            page.notes.append(call)
        elif rule.role == "unknown":
            page.unresolved.setdefault(rule.name)
            before = "".join(self.parts[-4:])[-80:].rpartition("\n")[2]
            return guess(call, before, self.text[end : end + 80].partition("\n")[0])
        return ""

    def _beside(self, fraction: str) -> str:
        """Return a fraction in its place: 5 3/4 behind a digit, (1/2)mv in a formula."""
        around = self.frames[-1].rule if self.frames else None
        if around and around.role == "formula":
            return f"({fraction})"
        before = self.parts[-1][-9:].rstrip("'") if self.parts else ""
        return f" {fraction}" if before[-1:].isdecimal() else fraction

    def _gather_facts(self, named: dict[str, str]) -> None:
        """Note the infobox's values that are short plain text; the first box wins."""
        for name, value in named.items():
            if not value:
                continue
            key = " ".join(name.replace("_", " ").split())
            value = external_links(value.replace(BREAK, "\n"))
            lines = [tidy(line.lstrip("*#:; ")).strip(", ") for line in value.split("\n")]
            words = ", ".join(line for line in lines if line)
            if key and len(words) <= MAX_FACT_CHARS and is_fact(key, words):
                self.page.facts.setdefault(key, MARKS.sub("", words) if PIPE in words else words)

    def _recover(self, start: int, end: int) -> int:
        """Return where prose goes on after a bracket that is never closed."""
        text = self.text
        if text[start] == "{":
            is_box = start == 0 or text[start - 1] == "\n"
        else:
            target = text[end : end + 250].partition("|")[0].partition("\n")[0]
            prefix, colon, rest = target.partition(":")
            is_box = bool(colon) and (
                prefix.strip().casefold() in self.page.site.files
                or _FILE_NAME.fullmatch(rest) is not None
            )
        if not is_box:
            return end
        found = _PARAGRAPH_END.search(text, end)
        return found.start() if found else len(text)


def split_arguments(content: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the positional and the named arguments of `name|a|b=c`; `2=x` is positional too."""
    positional: list[str] = []
    named: dict[str, str] = {}
    if INDENT in content:
        content = content.replace(INDENT, " ")
    for argument in content.split("|")[1:]:
        key, equals, value = argument.partition("=")
        if not equals:
            positional.append(argument.strip())
            continue
        key = key.strip()
        if key.isdecimal() and 1 <= int(key[:4]) <= MAX_POSITION:
            number = int(key[:4])
            positional += [""] * (number - len(positional))
            positional[number - 1] = value.strip()
        else:
            named[key] = value.strip()
    return tuple(positional), named


def external_links(text: str) -> str:
    """Return the text with the labels of links to other places; those without one go."""
    if "[" not in text or ("//" not in text and "mailto:" not in text):
        return text
    return _EXTERNAL_START.sub("", "".join(_EXTERNAL_LINK.split(text)))


_PROTOCOL = r"(?:(?i:https?:|ftps?:|irc:|gopher:|news:)?//|(?i:mailto:|news:))"
_EXTERNAL_LINK = re.compile(
    rf"\[{_PROTOCOL}[^\s\[\]]++[ \t]*+([^\[\]\n]*+(?:\[[^\[\]\n]*+\][^\[\]\n]*+)*+)\]"
)
_EXTERNAL_START = re.compile(rf"\[(?={_PROTOCOL})")
