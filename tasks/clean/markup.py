"""Wikitext -> wikitext without what no parser is needed for: the linear passes.

Comments, references, tables, files, HTML tags and unbalanced brackets go here, each in one pass
over the page. What is left for mwparserfromhell is small, and holds nothing that makes it slow
(its time is quadratic in unterminated `{{`, `[[` and `<tag`; its issue 364).

Verbatim text (code, math, nowiki) is put aside in a `Shelf` and stands in the text as one marker
that no later rule can break:  U+E000 digits U+E001.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from tasks.clean import variants

OPEN, CLOSE, BREAK, LESS, TERM = "\ue000", "\ue001", "\ue002", "\ue003", "\ue004"
_MARKERS = re.compile("[\ue000-\ue00f]")
_DROPPED_TAGS = (
    "gallery imagemap timeline graph score mapframe maplink templatedata hiero inputbox "
    "categorytree references templatestyles style indicator rss charinsert table includeonly"
)
_MATH_TAGS, _CODE_TAGS = "math chem ce", "syntaxhighlight source pre"
_OPAQUE = re.compile(
    rf"<!--|<({'|'.join(f'{_DROPPED_TAGS} {_MATH_TAGS} {_CODE_TAGS} nowiki code ref'.split())})"
    r"(?=[\s/>])([^<>]*)>",
    re.IGNORECASE,
)
_REF_OPEN = re.compile(r"<ref(?=[\s>])[^<>]*(?<!/)>", re.IGNORECASE)
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n|\n(?==)|\Z")
_SIMPLE_TAG = re.compile(
    r"</?(?:abbr|b|bdi|bdo|big|blockquote|center|cite|data|dd|del|dfn|div|dl|dt|em|font|h[1-6]|i|"
    r"ins|kbd|li|mark|math|noinclude|ol|onlyinclude|p|poem|q|rb|rp|rt|rtc|ruby|s|samp|section|"
    r"small|span|strike|strong|sub|sup|td|th|time|tr|tt|u|ul|var|wbr|nowiki|ref|references|"
    r"gallery|table|tbody|code|pre|includeonly|timeline|source|syntaxhighlight|templatestyles|"
    r"langconvert|caption|col|colgroup|thead|noscript|a)(?:[\s/][^<>]*)?>",
    re.IGNORECASE,
)
_RUBY_READING = re.compile(r"<(rt|rp)\b[^<>]*>[^<]*</\1\s*>", re.IGNORECASE)
_BREAK_TAG = re.compile(r"<br\b[^<>]*>|</br\s*>", re.IGNORECASE)
_POEM = re.compile(r"<poem[^<>]*>((?:(?!<poem).)*?)</poem\s*>", re.IGNORECASE | re.DOTALL)
_RULE_TAG = re.compile(r"<hr\b[^<>]*>", re.IGNORECASE)
_SCRIPT = re.compile(r"<(su[bp])\b[^<>]*>([^<>]{0,200}?)</\1\s*>", re.IGNORECASE)
_MAGIC_WORD = re.compile(
    r"__(?:[A-Z]{3,}|[\u3040-\u30ff\u4e00-\u9fff]{2,12}|(?i:notoc|toc|forcetoc|noeditsection))__"
)
_EXTERNAL_START = re.compile(r"\[(?=(?:(?:https?|ftps?|irc|news):|mailto:)?//)", re.IGNORECASE)
_EXTERNAL_LINK = re.compile(
    r"\[(?:(?:https?|ftps?|irc|news)://|mailto:|//)[^\s\[\]]+[ \t]*"
    r"((?:[^\[\]\n]|\[\[[^\[\]\n]*\]\])*)\]",
    re.IGNORECASE,
)
# Any `[[Word:name.jpg|…` is a file too: headers do not list the aliases of `File`.
_MEDIA_TARGET = (
    r"[^\[\]|\n:]{1,30}:[^\[\]|\n]{1,250}\.(?:jpe?g|png|svg|gif|tiff?|webp|og[gv]|webm|xcf|djvu)"
    r"[ ]*(?=[|\]])"
)
_TERM_LINE = re.compile(r"^([*#:]*);", re.MULTILINE)
_TABLE_OPEN = re.compile(r"[ \t:*#]*\{\|")
_TABLE_CLOSE = re.compile(r"[ \t]*\|\}(?!\}(?!\}))")
_SUPERSCRIPTS = str.maketrans("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
_SUBSCRIPTS = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
_SUPERSCRIPT, _SUBSCRIPT = re.compile(r"[0-9+\-−=()n]+"), re.compile(r"[0-9+\-−=()]+")


class Shelf:
    """Verbatim pieces put aside while the rest of a page is worked on."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.has_math = False

    def put(self, piece: str, *, block: bool = False) -> str:
        """Put a piece aside; return its marker, alone on its line for a block."""
        self.pieces.append(piece)
        marker = f"{OPEN}{len(self.pieces) - 1}{CLOSE}"
        return f"\n\n{marker}\n\n" if block else marker

    def restore(self, text: str) -> str:
        """Put the pieces back."""
        pattern = re.compile(f"{OPEN}(\\d+){CLOSE}")
        return pattern.sub(lambda match: self.pieces[int(match[1])], text)


def prepare(text: str, shelf: Shelf, file_names: Iterable[str], *, is_chinese: bool = False) -> str:
    """Return the page without comments, references, tables, files and HTML, brackets balanced."""
    text = _MARKERS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = take_opaque(text, shelf)
    if is_chinese:
        text = variants.resolve(text)
    text = drop_tables(text)
    text = drop_files(text, file_names)
    text = _MAGIC_WORD.sub("", text)
    text = plain_tags(text)
    text = _TERM_LINE.sub(rf"\1{TERM}", text)  # mwparserfromhell loses templates on such lines
    text = _EXTERNAL_LINK.sub(r"\1", text)
    text = _EXTERNAL_START.sub("", text)
    return balance(balance(text, "{"), "[")


def take_opaque(text: str, shelf: Shelf) -> str:
    """Drop comments and references, put verbatim tags on the shelf; never scan a stretch twice."""
    pieces: list[str] = []
    closings: dict[str, re.Match[str] | None] = {}  # the next closing tag of each name
    position = 0
    while match := _OPAQUE.search(text, position):
        start, end = match.span()
        pieces.append(text[position:start])
        position = end
        if match[1] is None:
            close = text.find("-->", end)
            position = len(text) if close < 0 else close + 3
            if pieces[-1][-1:] in ("", "\n") and text.startswith("\n", position):
                position += 1  # a comment alone on its line leaves no empty line behind
            continue
        name = match[1].lower()
        if match[2].endswith("/"):
            continue
        known = closings.get(name)
        if name not in closings or (known and known.start() < end):
            known = re.compile(rf"</{name}\s*>", re.IGNORECASE).search(text, end)
            closings[name] = known
        if name == "ref":
            position = _end_of_reference(text, end, known)
        elif known:
            pieces.append(_verbatim(name, match[2], text[end : known.start()], shelf))
            position = known.end()
    return "".join([*pieces, text[position:]])


def _end_of_reference(text: str, end: int, close: re.Match[str] | None) -> int:
    """Return where a reference ends: its closing tag, or, if that is missing, its paragraph."""
    following = _REF_OPEN.search(text, end, close.start() if close else len(text))
    if close and not following:
        return close.end()
    return _paragraph_end(text, end, following.start() if following else len(text))


def _paragraph_end(text: str, start: int, limit: int) -> int:
    found = _PARAGRAPH_END.search(text, start, limit)
    return found.start() if found else limit


def _verbatim(name: str, attributes: str, content: str, shelf: Shelf) -> str:
    """Return what an opaque tag leaves behind in the text."""
    if name in _MATH_TAGS.split():
        formula = " ".join(html.unescape(content).split())
        shelf.has_math = shelf.has_math or bool(formula)
        if name != "math":
            formula = rf"\ce{{{formula}}}"
        if not formula:
            return ""
        is_block = "block" in attributes
        return shelf.put(f"$${formula}$$" if is_block else f"${formula}$", block=is_block)
    if name in _CODE_TAGS.split() and "inline" not in attributes:
        return shelf.put(f"```\n{html.unescape(content).strip(chr(10))}\n```", block=True)
    if name in ("code", *_CODE_TAGS.split()):
        if (
            "{{" in content or "[[" in content
        ):  # `<code>` is parsed: only its plain text is verbatim
            return content
        code = " ".join(html.unescape(_SIMPLE_TAG.sub("", content)).split())
        return shelf.put(f"`{code}`") if code else ""
    return shelf.put(html.unescape(content)) if name == "nowiki" and content else ""


def drop_tables(text: str) -> str:
    """Drop `{| … |}` with all inside; an unclosed one goes up to the next blank line."""
    if "{|" not in text:
        return text
    lines = text.split("\n")
    opened: list[int] = []
    closed: dict[int, int] = {}
    for number, line in enumerate(lines):
        if _TABLE_OPEN.match(line):
            opened.append(number)
        elif opened and _TABLE_CLOSE.match(line):
            closed[opened.pop()] = number
    unclosed = set(opened)
    kept: list[str] = []
    number = 0
    while number < len(lines):
        if number in closed:
            number = closed[number]
            kept.append(_TABLE_CLOSE.sub("", lines[number], count=1))
        elif number in unclosed:
            while (
                number < len(lines) and lines[number].strip() and not lines[number].startswith("=")
            ):
                number += 1
            continue
        else:
            kept.append(lines[number])
        number += 1
    return "\n".join(kept)


def drop_files(text: str, names: Iterable[str]) -> str:
    """Drop `[[File:…]]` with its caption and the links in it, whatever the wiki calls files."""
    words = "|".join(re.escape(name).replace(r"\ ", "[ _]") for name in sorted(names))
    pattern = re.compile(rf"\[\[(?:[ _]*(?:{words})[ _]*:|{_MEDIA_TARGET})", re.IGNORECASE)
    bracket = re.compile(r"\[\[|\]\]|\n[ \t]*\n|\n(?==)")
    pieces, position = [], 0
    while match := pattern.search(text, position):
        pieces.append(text[position : match.start()])
        depth, position = 1, match.end()
        while depth:
            found = bracket.search(text, position)
            if found is None or found[0].startswith("\n"):  # unclosed: up to its paragraph's end
                position = found.start() if found else len(text)
                break
            depth += 1 if found[0] == "[[" else -1
            position = found.end()
    return "".join([*pieces, text[position:]])


def plain_tags(text: str) -> str:
    """Turn HTML into plain text: breaks, super- and subscripts, contents of all other tags."""
    if "<" not in text:
        return text
    text = _RUBY_READING.sub("", text)
    text = _BREAK_TAG.sub(BREAK, text)
    text = _RULE_TAG.sub("\n\n", text)
    text = _POEM.sub(lambda match: f"\n\n{match[1].strip().replace(chr(10), BREAK)}\n\n", text)
    for _ in range(3):  # nested ones, innermost first
        text = _SCRIPT.sub(lambda match: script(match[2], match[1].lower()), text)
    return _SIMPLE_TAG.sub("", text).replace("<", LESS)


def script(content: str, kind: str) -> str:
    """Return a superscript ("sup") or subscript ("sub") in plain characters: 10⁶, 19th, x_i."""
    content = content.strip()
    if kind == "sup":
        if _SUPERSCRIPT.fullmatch(content):
            return content.translate(_SUPERSCRIPTS)
        if not content or (len(content) > 1 and content.isalpha()) or content.startswith("["):
            return content
        return f"^{content}" if len(content) == 1 else f"^({content})"
    if _SUBSCRIPT.fullmatch(content):
        return content.translate(_SUBSCRIPTS)
    if not content or "{" in content:
        return content
    return f"_{content}" if content.isalnum() else f"_({content})"


def balance(text: str, bracket: str) -> str:
    """Remove double brackets without a partner, so that every `{{` (or `[[`) left has its end.

    An unclosed template at the start of a line takes its lines with it, up to a blank line or a
    heading; elsewhere only the brackets go and the prose stays.
    """
    closing = {"{": "}", "[": "]"}[bracket]
    tokens = re.compile(rf"{re.escape(bracket)}{{2,}}|{re.escape(closing)}{{2,}}")
    opened: list[tuple[int, int]] = []  # (start, width) of runs that wait for their end
    cuts: list[tuple[int, int]] = []
    for match in tokens.finditer(text):
        start, width = match.start(), match.end() - match.start()
        if match[0][0] == bracket:
            opened.append((start, width))
            continue
        used = 0
        while opened and width - used >= 2:
            where, waiting = opened.pop()
            pair = 3 if bracket == "{" and waiting == 3 and width - used >= 3 else 2
            used += pair
            if waiting - pair >= 2:
                opened.append((where, waiting - pair))
        if width - used >= 2:
            cuts.append((start + used, match.end()))
    covered = 0
    for start, width in opened:
        if start < covered:
            continue
        covered = start + width
        if bracket == "{" and (start == 0 or text[start - 1] == "\n"):
            covered = _paragraph_end(text, covered, len(text))
        cuts.append((start, covered))
    return _without(text, cuts)


def _without(text: str, cuts: list[tuple[int, int]]) -> str:
    pieces, position = [], 0
    for start, end in sorted(cuts):
        pieces.append(text[position : max(start, position)])
        position = max(position, end)
    return "".join([*pieces, text[position:]])
