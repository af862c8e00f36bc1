"""`-{zh-hans:计算机;zh-hant:電腦}-` and a page of two scripts -> one text in one script.

    from tasks.clean.variants import Converter
    converter = Converter.of("zh-hans")
    text, rules = converter.resolve("-{H|zh-cn:计算机;zh-tw:電腦}-電腦的-{乾}-隆")
    converter.convert(text, rules)                     # 计算机的乾隆

Chinese wikis mark what differs between scripts and regions inside the text. The grammar is
MediaWiki's (its ConverterRule, its help page on writing systems): `-{flags|rules}-`, where a rule
is `variant:text` (both ways) or `from=>variant:text` (one way), joined by semicolons, and anything
else is text to leave as it is.

    A  shown, and a rule for the page       R  raw text, fixed
    H  hidden, a rule for the page          N  the name of a variant
    -  hidden, takes a rule away            D  describes its rules
    T  the title of the page                zh-hans;zh-tw  converted for these readers alone

Rules hold for the whole page here; in MediaWiki from their place on. A reader of `zh-hans` is one
of zh-cn. What has no text for him is shown in the words it has, converted.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from tasks.clean.chinese import Script, Words, detect_variant, put_back, to_script

Variant = Literal["zh-hans", "zh-hant", "keep"]

PROTECT_OPEN, PROTECT_CLOSE = "\ue00a", "\ue00b"
_HOLE, _OWN, _GROUP = "\ue00c", "\ue00d", "\ue00e"  # protected piece, page's word, group's word

CHAINS = {
    "zh": ("zh", "zh-hans", "zh-hant", "zh-cn", "zh-tw", "zh-hk", "zh-sg", "zh-mo", "zh-my"),
    "zh-hans": ("zh-hans", "zh-cn", "zh-sg", "zh-my", "zh"),
    "zh-hant": ("zh-hant", "zh-tw", "zh-hk", "zh-mo", "zh"),
    "zh-cn": ("zh-cn", "zh-hans", "zh-sg", "zh-my", "zh"),
    "zh-sg": ("zh-sg", "zh-hans", "zh-cn", "zh-my", "zh"),
    "zh-my": ("zh-my", "zh-hans", "zh-sg", "zh-cn", "zh"),
    "zh-tw": ("zh-tw", "zh-hant", "zh-hk", "zh-mo", "zh"),
    "zh-hk": ("zh-hk", "zh-hant", "zh-mo", "zh-tw", "zh"),
    "zh-mo": ("zh-mo", "zh-hant", "zh-hk", "zh-tw", "zh"),
}
"""Whose text a reader sees where his own is not given (the wiki's siteinfo, `languagevariants`)."""

_NAMES = {
    "zh": "原文", "zh-hans": "简体", "zh-hant": "繁體", "zh-cn": "大陆", "zh-tw": "台灣",
    "zh-hk": "香港", "zh-mo": "澳門", "zh-sg": "新加坡", "zh-my": "马来西亚",
}  # fmt: skip
_CODES = {name: name for name in CHAINS} | {
    "zh-hans-cn": "zh-cn", "zh-hans-sg": "zh-sg", "zh-hans-my": "zh-my",
    "zh-hant-tw": "zh-tw", "zh-hant-hk": "zh-hk", "zh-hant-mo": "zh-mo",
}  # fmt: skip

_MAX_TABLES = 64  # a table of 2,000 words takes half a megabyte
_MAX_DEPTH = 10  # MediaWiki's own; it bounds how often a text is copied
_BRACES = re.compile(r"-\{+|\}+")
_FLAGS = re.compile(r"[^\[\]{}<>|]*\|")
_ENTITY = re.compile(r"(&[#A-Za-z0-9]{1,12});")
_ALL_CODES = "|".join(sorted(_CODES, key=len, reverse=True))
_RULE = re.compile(rf"(?:\A|;)(?:([^;]*?)=>)?\s*({_ALL_CODES})\s*:", re.IGNORECASE)
_CJK = "\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_CONVERTIBLE = re.compile(rf"[{_CJK}]|\{{\{{")
_MARKS = re.compile(f"[{PROTECT_OPEN}{PROTECT_CLOSE}]")
_PRIVATE = re.compile(r"\[\[|\{\{|''|[<\ue000-\uf8ff]")  # what a page's word must not hold
_PROTECTED = re.compile(
    rf"{PROTECT_OPEN}([^{PROTECT_OPEN}{PROTECT_CLOSE}]*){PROTECT_CLOSE}"
    r"|```[^`]*(?:`{1,2}(?!`)[^`]*)*```|`[^`\n\ue000-\uf8ff]+`"
    rf"|\$\$[^$\ue000-\uf8ff]+\$\$|\$[^$\n\ue000-\uf8ff{_CJK}]+\$"
    r"|\$(?=[^$\n\\\ue000-\uf8ff]*\\)[^$\n\ue000-\uf8ff]+\$"  # but not `由$5萬漲到$6萬`
    r"|(?:https?|ftp)://[^\s<>，。；：、（）「」『』《》\ue000-\uf8ff]+"
)
_LUA_STRING = re.compile(r"""--[^\n]*|'((?:[^'\\\n]+|\\.)*+)'?|"((?:[^"\\\n]+|\\.)*+)"?""")
_GROUP_ITEM = re.compile(r"\{\{\s*CItem[^{}|\n]{0,20}\|([^{}]*)\}\}", re.IGNORECASE)
_GROUP_NAME = re.compile(r"\bCGroup/([^'\"\]|{}\n]{1,80})")
_MODULE = re.compile(r"(?:module|模块|模組|模组):", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a page says of its own conversion: words for words, groups of them, and its title."""

    pairs: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Converter:
    """Brings the pages of a Chinese wiki to one variant, as a reader of `target` sees them."""

    variant: Variant = "zh-hans"
    target: str = "zh-cn"
    groups: Mapping[str, str] = field(default_factory=dict)
    _group_words: dict[tuple[str, ...], Words | None] = field(default_factory=dict, compare=False)

    @staticmethod
    def of(variant: Variant = "zh-hans", groups: Mapping[str, str] | None = None) -> Converter:
        """Make a converter; `groups` are the dump's Module:CGroup and Template:CGroup pages."""
        pages = sorted((groups or {}).items(), key=lambda page: bool(_MODULE.match(page[0])))
        by_name = {_group_name(title.rpartition("CGroup/")[2]): text for title, text in pages}
        return Converter(variant, "zh-tw" if variant == "zh-hant" else "zh-cn", by_name)

    def resolve(self, wikitext: str) -> tuple[str, Rules]:
        """Replace every `-{…}-` by what it shows, and return what it says of the page.

        What a block fixes stands between PROTECT_OPEN and PROTECT_CLOSE. A block without its end
        is plain text.
        """
        if "-{" not in wikitext:
            return wikitext, Rules()
        chain = CHAINS[self.target]
        if self.variant == "keep" and detect_variant(wikitext) == "zh-hant":
            chain = CHAINS["zh-tw"]
        reader = _Reader(chain, is_marking=self.variant != "keep")
        return reader.read(wikitext), Rules(reader.pairs, (), reader.title)

    def with_note(self, rules: Rules, positional: Sequence[str], named: Mapping[str, str]) -> Rules:
        """Add what `{{NoteTA|T=title|G1=group|1=rules}}` says; the rules there are come first."""
        reader = _Reader(CHAINS[self.target], is_marking=False)
        groups = list(rules.groups)
        arguments = {str(number): one for number, one in enumerate(positional, 1)} | dict(named)
        for name, value in arguments.items():
            value = _MARKS.sub("", value).strip()
            if not value:
                continue
            if name == "T":
                reader.show(f"T|{value}")
            elif name.isdigit():
                reader.show(f"H|{value}")
            elif re.fullmatch(r"[Gg]\d+", name):
                groups.append(_group_name(value))
        title = reader.title if rules.title is None else rules.title
        return Rules({**reader.pairs, **rules.pairs}, tuple(dict.fromkeys(groups)), title)

    def convert(
        self, text: str, rules: Rules | None = None, *, source: Script | None = None
    ) -> str:
        """Bring text to the variant: the page's words by longest match, its groups', then OpenCC.

        Protected pieces, code, formulas and addresses stay as they are; no mark is left. `source`
        is the script of the page, for a text too short to tell.
        """
        if self.variant == "keep":
            return _MARKS.sub("", text)
        kept: list[str] = []

        def keep(match: re.Match[str]) -> str:
            kept.append(_MARKS.sub("", match[0]) if match[1] is None else match[1])
            return _HOLE

        text = _MARKS.sub("", _PROTECTED.sub(keep, re.sub(f"[{_HOLE}{_OWN}{_GROUP}]", "", text)))
        taken: list[tuple[str, list[str]]] = [(_HOLE, kept)]
        if rules:
            tables = ((_OWN, _words(tuple(rules.pairs.items()))), (_GROUP, self._words_of(rules)))
            for mark, words in tables:
                if words:
                    text, found = words.take_out(text, mark)
                    taken.append((mark, found))
        text = to_script(text, self.variant, source=source)
        for mark, pieces in reversed(taken):
            text = put_back(text, mark, pieces)
        return text

    def _words_of(self, rules: Rules) -> Words | None:
        """Return the table of a page's groups; those of the last pages are kept."""
        if rules.groups not in self._group_words:
            if len(self._group_words) >= _MAX_TABLES:
                self._group_words.clear()
            pairs: dict[str, str] = {}
            for name in rules.groups:
                pairs |= self._pairs_of(name)
            self._group_words[rules.groups] = Words.of(pairs)
        return self._group_words[rules.groups]

    def _pairs_of(self, name: str) -> Mapping[str, str]:
        """Return a group's words; a page that only names another group stands for that."""
        text = self.groups.get(name, "")
        pairs = _group_pairs(text, self.target)
        other = None if pairs else _GROUP_NAME.search(text)
        if other:
            pairs = _group_pairs(self.groups.get(_group_name(other[1]), ""), self.target)
        return pairs


class _Reader:
    """Reads the blocks of one page for the reader at the head of `chain`."""

    def __init__(self, chain: tuple[str, ...], *, is_marking: bool) -> None:
        self.chain = chain
        self.is_marking = is_marking
        self.pairs: dict[str, str] = {}
        self.title: str | None = None

    def read(self, text: str) -> str:
        """Return the text with every block replaced, inner ones first; one pass with a stack.

        An even number of braces is a template's: `-{{a}}-` is not a block, `-{{{a}}}-` is one.
        """
        open_blocks: list[list[str]] = [[]]
        num_too_deep = position = 0
        for token in _BRACES.finditer(text):
            start, end = token.span()
            is_open = text[start] == "-"
            if start < position or (end - start - is_open) % 2 == 0:
                continue
            if is_open and len(open_blocks) > _MAX_DEPTH:
                num_too_deep += 1
            elif is_open:
                open_blocks[-1].append(text[position:start])
                open_blocks.append([])
                position = start + 2
            elif not text.startswith("-", end):
                continue
            elif num_too_deep:
                num_too_deep -= 1
            elif len(open_blocks) > 1:
                content = "".join([*open_blocks.pop(), text[position : end - 1]])
                open_blocks[-1].append(self.show(content))
                position = end + 1
        open_blocks[-1].append(text[position:])
        return "-{".join("".join(pieces) for pieces in open_blocks)

    def show(self, content: str) -> str:
        """Note what one block says of the page; return what it shows."""
        flags, body = _split_flags(content)
        if "R" in flags:
            return self._fix(body)
        if "N" in flags:
            return self._fix(_NAMES.get(_CODES.get(body.strip().lower(), ""), ""))
        both, one_way = parse_rules(body)
        if "-" in flags:
            for word in self._pairs(both, one_way, body):
                self.pairs.pop(word, None)
            return ""
        readers = flags & _CODES.keys()
        if readers and "H" not in flags:
            is_for_us = any(_CODES[one] in self.chain for one in readers)
            return body if is_for_us else self._fix(body)
        if flags & {"A", "H"}:
            self.pairs |= self._pairs(both, one_way, body)
        if "T" in flags:
            self.title = _MARKS.sub("", self._choose(both, one_way, body)).strip()
        if "D" in flags and (both or one_way):
            return "" if "A" in flags else self._fix(_describe(both, one_way))
        return "" if "H" in flags or flags == {"T"} else self._choose(both, one_way, body)

    def _choose(self, both: dict[str, str], one_way: dict[str, dict[str, str]], body: str) -> str:
        """Return the reader's text; other readers' is not fixed, so that it will be converted."""
        if not both and not one_way:
            return self._fix(body)
        for name in self.chain:
            if name in both:
                return self._fix(both[name])
        if self.chain[0] in one_way:
            return self._fix(next(iter(one_way[self.chain[0]].values())))
        others = [*both.values(), *(text for table in one_way.values() for text in table.values())]
        return next(filter(None, others), "")

    def _pairs(
        self, both: dict[str, str], one_way: dict[str, dict[str, str]], body: str
    ) -> dict[str, str]:
        """Return words -> the reader's word; text without rules is a word to leave alone."""
        if not both and not one_way:
            pairs = {body.strip(): body.strip()}
        else:
            own = next((both[name] for name in self.chain if both.get(name)), "")
            pairs = {word: own for word in both.values() if own} | one_way.get(self.chain[0], {})
        plain = {_plain(word): _plain(shown) for word, shown in pairs.items()}
        return {a: b for a, b in plain.items() if a and not _PRIVATE.search(a + b)}

    def _fix(self, text: str) -> str:
        """Mark a text that no later conversion may touch, if any could."""
        if not self.is_marking or not _CONVERTIBLE.search(text):
            return text
        return f"{PROTECT_OPEN}{_MARKS.sub('', text)}{PROTECT_CLOSE}"


def _split_flags(content: str) -> tuple[set[str], str]:
    """Return the flags before the first `|`, unknown ones left out, and what is behind it."""
    match = _FLAGS.match(content)
    if match is None:
        return set(), content
    names = {name.strip() for name in match[0][:-1].split(";")}
    known = {name for name in names if name in "ATRD-HN" and len(name) == 1}
    return known | {name for name in names if name in _CODES}, content[match.end() :]


def parse_rules(body: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return ({variant: text}, {variant: {from: text}}); both are empty for plain text.

    A semicolon ends a rule only where another rule, or nothing, follows it. What is no rule but
    has a colon makes plain text of the whole (`note: zh-cn:x`), as in MediaWiki.
    """
    both: dict[str, str] = {}
    one_way: dict[str, dict[str, str]] = {}
    body = _ENTITY.sub("\\1\ue00f", body).replace("=&gt\ue00f", "=>") if "&" in body else body
    rules = list(_RULE.finditer(body))
    if not rules or ":" in body[: rules[0].start()]:
        return both, one_way
    ends = [*(rule.start() for rule in rules[1:]), len(body)]
    for rule, end in zip(rules, ends, strict=True):
        text = body[rule.end() : end].strip().rstrip("; \n").replace("\ue00f", ";")
        variant = _CODES[rule[2].lower()]
        if rule[1] is None:
            both[variant] = text
        elif source := rule[1].strip().replace("\ue00f", ";"):
            one_way.setdefault(variant, {})[source] = text
    return both, one_way


def _describe(both: dict[str, str], one_way: dict[str, dict[str, str]]) -> str:
    lines = [f"{_NAMES[name]}：{text}；" for name, text in both.items()]
    for name, table in one_way.items():
        lines += [f"{source}⇒{_NAMES[name]}：{text}；" for source, text in table.items()]
    return "".join(lines)


def _plain(word: str) -> str:
    return html.unescape(_MARKS.sub("", word))


def group_items(page: str) -> Iterator[str]:
    """Yield the rules of a Module:CGroup or Template:CGroup page, without running any Lua.

    In a module they are the strings that read as rules.
    """
    for match in _LUA_STRING.finditer(page):
        text = re.sub(r"\\(.)", r"\1", match[1] or match[2] or "")
        if _RULE.match(text):
            yield text
    for match in _GROUP_ITEM.finditer(page):
        for argument in match[1].split("|"):
            text = argument.strip().removeprefix("1=")
            if _RULE.match(text):
                yield text


@lru_cache(maxsize=512)
def _group_pairs(page: str, target: str) -> Mapping[str, str]:
    reader = _Reader(CHAINS[target], is_marking=False)
    reader.read(page)
    for item in group_items(page):
        reader.show(f"H|{item}")
    return reader.pairs


def _group_name(name: str) -> str:
    name = " ".join(name.replace("_", " ").split())
    return name[:1].upper() + name[1:]


@lru_cache(maxsize=64)
def _words(pairs: tuple[tuple[str, str], ...]) -> Words | None:
    return Words.of(dict(pairs))
