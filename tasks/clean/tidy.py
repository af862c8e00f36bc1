"""Running text -> running text without the traces of what was taken out of it."""

from __future__ import annotations

import html
import re

from tasks.clean.markup import LESS

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_TWICE_ESCAPED = re.compile(r"&(?:nbsp|thinsp|ensp|ndash|mdash|minus|times|#160);")
_INVISIBLE = re.compile(
    "[\u200b\u200e\u200f\u2060\u00ad\ufeff\u202a-\u202e\u0000-\u0008\u000b-\u001f\u007f-\u009f]"
)
_SPACES = re.compile("[ \t\u00a0\u2000-\u200a\u202f\u205f]+")
_IDEOGRAPHIC_SPACES = re.compile("\u3000{2,}")
_SEPARATORS = r"\s,;:，；：、/·–—\-"
# `printf()` is code and stays: a half-width pair that is glued to a letter or a digit.
_EMPTY_PARENTHESES = re.compile(
    rf"(?:(?<![A-Za-z0-9_])\(\)|\((?=[{_SEPARATORS}])[{_SEPARATORS}]+\)|"
    rf"（[{_SEPARATORS}]*）|\([{_SEPARATORS}]*）|（[{_SEPARATORS}]*\))"
)
_OPENING = re.compile(r"([(（])[\s,;:，；：、]+")
_CLOSING = re.compile(r"[\s,;，；、]+([)）])")
_DOUBLED = re.compile(r"([,;，；、])(?:\s*[,;，；、])+(?=\s|[^\s,;，；、])")
_COMMAS = re.compile(r",(?:\s*,)+")
_SPACE_BEFORE = re.compile(r" +(?=[,.](?:\s|$)|[，。、；：）])")
_CJK_STOPS = re.compile(r"[，、；]+(?=[。！？])|(?<=[，。、；：])[，、；]+")
_BOLD_ITALIC = re.compile(r"'{2,}")
_RESIDUES = {
    "empty_parentheses": _EMPTY_PARENTHESES,
    "link_brackets": re.compile(r"\[\[|\]\]"),
    "template_braces": re.compile(r"\{\{|\}\}"),
    "table_marks": re.compile(r"^[ \t]*(?:\{\||\|\}|\|-)", re.MULTILINE),
    "quotes": re.compile(r"(?<!')''+(?!')"),
    "file_options": re.compile(r"\bthumb\||\|thumb\b|\|\d+px\b|缩略图\||縮圖\||\|right\|"),
    "categories": re.compile(r"\b(?:Category|分类|分類):"),
    "tags": re.compile(r"</?(?:ref|div|span|br|small|sup|sub|nowiki|gallery)\b", re.IGNORECASE),
    "variants": re.compile(r"-\{|\}-"),
}
_VERBATIM = re.compile(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$", re.DOTALL)


def tidy(text: str, *, is_cjk: bool = False) -> str:
    """Return one block of prose cleaned: quotes, entities, spaces, emptied parentheses."""
    if "''" in text:
        text = drop_quotes(text)
    if "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
        text = _TWICE_ESCAPED.sub(lambda match: html.unescape(match[0]), text)
    text = _INVISIBLE.sub("", text.replace(LESS, "<"))
    text = _IDEOGRAPHIC_SPACES.sub("\u3000", _SPACES.sub(" ", text))
    before = None
    while before != text:
        before = text
        text = _EMPTY_PARENTHESES.sub("", text)
        text = _OPENING.sub(r"\1", text)
        text = _CLOSING.sub(r"\1", text)
        if "(" in text or "（" in text:
            text = re.sub(
                r"[(（][^()（）]{0,200}[)）]", lambda one: _DOUBLED.sub(r"\1", one[0]), text
            )
        if is_cjk:
            text = _CJK_STOPS.sub("", text)
        text = _COMMAS.sub(",", text)
        text = _SPACE_BEFORE.sub("", _SPACES.sub(" ", text))
    return text.strip()


def drop_quotes(text: str) -> str:
    """Remove the marks of bold and italic, leaving apostrophes: L'''amour'' -> L'amour.

    Where both kinds are odd on a line, one `'''` is an apostrophe before `''`, as in MediaWiki.
    """
    lines = []
    for line in text.split("\n"):
        runs = [match for match in _BOLD_ITALIC.finditer(line)]
        lengths = [len(match[0]) for match in runs]
        num_bold = sum(length == 3 or length >= 5 for length in lengths)
        num_italic = sum(length == 2 or length >= 5 for length in lengths)
        apostrophe = -1
        if num_bold % 2 and num_italic % 2:
            triples = [match.start() for match in runs if len(match[0]) == 3]
            glued = [place for place in triples if place and line[place - 1] != " "]
            single = [place for place in glued if place == 1 or line[place - 2] == " "]
            apostrophe = next(iter([*single, *glued, *triples]), -1)

        def plain(match: re.Match[str], apostrophe: int = apostrophe) -> str:
            length = len(match[0])
            return "'" if length == 4 or match.start() == apostrophe else ""

        lines.append(_BOLD_ITALIC.sub(plain, line))
    return "\n".join(lines)


def count_residues(text: str) -> dict[str, int]:
    """Count the traces of markup in a finished text, by kind; not those in code and formulas."""
    prose = _VERBATIM.sub("x", text)
    return {name: sum(1 for _ in pattern.finditer(prose)) for name, pattern in _RESIDUES.items()}
