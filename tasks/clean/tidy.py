"""Running text -> running text without the traces of what was taken out of it.

All of it works on a whole page at once and leaves its lines where they are. A step whose trigger
is not in the text costs one search; expressions begin with a literal, so that the search for it
runs in C (`,(?: *,)+`, never `[,;] *`). Time is linear: parentheses are emptied from the inside
out with a stack, not by repetition.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from html.entities import html5

_ENTITY = re.compile(r"&(?:#[0-9]{1,12}|#[xX][0-9a-fA-F]{1,12}|[A-Za-z][A-Za-z0-9]{1,31});")
_TWICE_ESCAPED = re.compile(
    r"&(?:nbsp|thinsp|ensp|emsp|ndash|mdash|minus|times|lt|gt|quot|middot|hellip|#[0-9]{2,5});"
)
_MARKUP = frozenset("*#:;=|!{}[]<>'&-_~")
_NO_CHARACTER = re.compile("[\ufffd\ue000-\uf8ff\u0080-\u009f\ud800-\udfff\ufffe\uffff]")
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufffe\uffff]+")
_SPACES = re.compile("[\u0085\u00a0\u2000-\u200a\u2028\u2029\u202f\u205f]+")
_ODD_BYTES = (  # in UTF-8, what those and joiners begin with
    re.compile(rb"\xe2(?:\x80[\x80-\x8f\xa8-\xaf]|\x81[\x9f-\xaf])"),
    re.compile(rb"\xef(?:\xbb\xbf|\xbf[\xbe\xbf])"),
    re.compile(rb"\xc2[\x85\xa0\xad]"),
)
# Joiners shape the letters of Arabic, Indic scripts and emoji; between others they are noise.
_JOINERS = re.compile("[\u200c\u200d]+(?:(?<![^\u0000-\u02ff][\u200c\u200d])|(?![^\u0000-\u02ff]))")

_SEPARATORS = r"\s,;:，；：、/·–—\-"
_CONTENT = re.compile(rf"[^{_SEPARATORS}]")
# `printf()` is code and stays: a half-width pair that is glued to a letter or a digit.
_EMPTY_PARENTHESES = re.compile(
    rf"\((?:(?<![A-Za-z0-9_]\()\)|[{_SEPARATORS}]++[)）]|）)|（[{_SEPARATORS}]*+[)）]"
)
_PARENTHESIS = re.compile(r"[(（)）]")
_RAGGED_PARENTHESES = (  # what shows that a page has parentheses to repair
    re.compile(rf"\((?=[{_SEPARATORS}]*+[)）]|[ ,;])"),
    re.compile(r"\)(?<=[ ,;，；、]\))"),
)
_RAGGED_WIDE_PARENTHESES = (
    re.compile(rf"（(?=[{_SEPARATORS}]*+[)）]|[ ,;，；：、（])"),
    re.compile(r"）(?<=[ ,;，；、]）)"),
)
_TRIMMED_FIRST = " ,;:，；：、\u3000"
_TRIMMED = " ,;，；、\u3000"
_COMMAS = re.compile(r",(?: *[,;])+(?=[\s)])")
_SEMICOLONS = re.compile(r";(?: *[,;])+(?=[\s)])")
_SPACE_BEFORE_STOP = re.compile(r" \.(?=\s|\Z)")
_WIDE_STOPS = re.compile(r"[，、；]+(?=[。！？])|(?<=[，、。；：])[，、；]+")
_SPACE_BEFORE_WIDE = re.compile(r" +(?=[，。、；：）])")
_TWO_SPACES = re.compile("  +")
_WIDE_SPACES = re.compile("\u3000\u3000+")
_APOSTROPHES = re.compile("''+")
_GLUED_BOLD = re.compile(r"'''(?<=\w''')(?=\w)|''''")

_VERBATIM = re.compile(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$(?:[^$\n\\]|\\.)++\$", re.DOTALL)
# By a character without which none of them is there: most texts cost a few searches for one each.
_RESIDUES = tuple(
    (gate, name, re.compile(pattern))
    for gate, name, pattern in (
        ("(", "empty_parentheses", rf"\((?:(?<![A-Za-z0-9_]\()\)|[{_SEPARATORS}]++[)）]|）)"),
        ("（", "empty_parentheses", rf"（[{_SEPARATORS}]*+[)）]"),
        ("[", "link_brackets", r"\[\["),
        ("]", "link_brackets", r"\]\]"),
        ("{", "template_braces", r"\{\{"),
        ("}", "template_braces", r"\}\}"),
        ("{", "table_marks", r"\{\|(?<![^\s:]\{\|)"),
        ("}", "table_marks", r"\|\}(?<![^\s:]\|\})"),
        ("|", "table_marks", r"\n\|-"),
        ("''", "quotes", r"''+(?!(?<='x'')x')"),  # a grammar's 'x''x'
        ("|", "file_options", r"\|thumb\b"),
        ("|", "file_options", r"thumb\|"),
        ("|", "file_options", r"px\|(?<=\dpx\|)"),
        ("|", "file_options", r"\|right\|"),
        ("缩", "file_options", r"缩略图\|"),
        ("縮", "file_options", r"縮圖\|"),
        ("Category:", "categories", r"\bCategory:"),
        ("类", "categories", r"分类:"),
        ("類", "categories", r"分類:"),
        ("<", "tags", r"</?(?i:ref|div|span|br|small|sup|sub|nowiki|gallery)\b"),
        ("&", "escapes", r"&(?:lt|gt|amp|nbsp|quot|#\d+);"),
        ("{", "variants", r"-\{"),
        ("}", "variants", r"\}-"),
        (" ,", "space_before_punctuation", r" ,"),
        (" .", "space_before_punctuation", r" \.(?=\s|\Z)"),
        ("，", "space_before_punctuation", r" ，"),
        ("。", "space_before_punctuation", r" 。"),
    )
)


def tidy(text: str, *, is_cjk: bool = False) -> str:
    """Return a piece of prose cleaned: quotes, entities, spaces, emptied parentheses."""
    return repair(plain(text), is_cjk=is_cjk).strip()


def plain(text: str, keep: Callable[[str], str] | None = None) -> str:
    """Return the text without marks of bold and italic, entities decoded.

    A character that could be read as markup goes through `keep` (`&#42;` at a line's start is no
    list).
    """
    if "''" in text:
        text = drop_quotes(text)
    if "&" in text:
        text = decode(text, keep)
    return text


def decode(text: str, keep: Callable[[str], str] | None = None) -> str:
    """Return the text with its entities decoded, those escaped twice too."""

    def character(match: re.Match[str]) -> str:
        entity = match[0]
        if entity[1] != "#":
            shown = html5.get(entity[1:], "")
        elif (number := int(entity[3:-1], 16) if entity[2] in "xX" else int(entity[2:-1])) > 31:
            shown = html.unescape(entity) if number < 0x110000 else ""
        else:
            return " " if number in (9, 10) else entity
        if shown == "\u00a0":
            return " "
        if "\ue000" <= shown <= "\uf8ff":
            return ""  # for private use: nobody else can read it
        if not shown or shown > "~":
            return entity if not shown or _NO_CHARACTER.search(shown) else shown
        if shown in _MARKUP and keep is not None:
            return keep(shown) if shown != "&" else shown
        return shown

    text = _ENTITY.sub(character, text)
    return _TWICE_ESCAPED.sub(character, text) if "&" in text else text


def repair(text: str, *, is_cjk: bool = False) -> str:
    """Return the text with its spaces in order and nothing that shows where a template was."""
    if not text.isascii():
        text = _repair_characters(text)
    text = _TWO_SPACES.sub(" ", text.replace("\t", " "))
    if any(one.search(text) for one in _RAGGED_PARENTHESES) or (
        "（" in text and any(one.search(text) for one in _RAGGED_WIDE_PARENTHESES)
    ):
        text = _repair_parentheses(text)
    text = _COMMAS.sub(",", text)
    text = _SEMICOLONS.sub(";", text)
    text = close_gaps(text)
    if is_cjk:
        text = _WIDE_STOPS.sub("", _SPACE_BEFORE_WIDE.sub("", text))
    return text


def close_gaps(text: str) -> str:
    """Return the text without spaces before commas and full stops."""
    text = text.replace(" ,", ",")
    if " ." in text:
        text = _SPACE_BEFORE_STOP.sub(".", text)
    if "，" in text or "。" in text:
        text = text.replace(" ，", "，").replace(" 。", "。")
    return text


def _repair_characters(text: str) -> str:
    """Drop what cannot be seen, and make one kind of space of all others."""
    data = text.encode("utf-8", "replace")
    if any(one.search(data) for one in _ODD_BYTES):
        text = _INVISIBLE.sub("", _JOINERS.sub("", _SPACES.sub(" ", text)))
    return _WIDE_SPACES.sub("\u3000", text) if "\u3000" in text else text


def _repair_parentheses(text: str) -> str:
    """Drop pairs with nothing but separators in them, inner ones first; trim what is left.

    A wide pair that holds nothing but another one goes too: （（1881年－1936年）） of a template.
    """
    parts: list[str] = []
    opened: list[int] = []  # where in `parts` an opening stands
    filled: list[bool] = []  # whether something stands behind it
    inner = (0, 0)  # the places of the pair that was closed last
    position = 0
    for token in _PARENTHESIS.finditer(text):
        start, mark = token.start(), token[0]
        piece = text[position:start]
        position = start + 1
        if opened and not filled[-1] and _CONTENT.search(piece):
            piece = _fill(parts, opened, filled, piece)
        parts.append(piece)
        if mark in "(（":
            opened.append(len(parts))
            filled.append(False)
            parts.append(mark)
        elif opened:
            begin = opened.pop()
            if filled.pop() or _is_call(parts, begin, mark):
                while len(parts) > begin + 1 and not (trimmed := parts[-1].rstrip(_TRIMMED)):
                    parts.pop()
                if len(parts) > begin + 1:
                    parts[-1] = trimmed
                is_double = inner == (begin + 2, len(parts) - 1) and not parts[begin + 1]
                if is_double and parts[begin] + mark == "（）" == parts[begin + 2] + parts[-1]:
                    parts[begin + 2] = parts[-1] = ""
                inner = begin, len(parts)
                parts.append(mark)
                if opened and not filled[-1]:
                    _fill(parts, opened, filled, "", begin)
            else:
                del parts[begin:]
        else:
            parts.append(mark)
    parts.append(text[position:])
    return _TWO_SPACES.sub(" ", "".join(parts))


def _fill(
    parts: list[str],
    opened: list[int],
    filled: list[bool],
    piece: str,
    end: int | None = None,
) -> str:
    """Note that something stands in the innermost parenthesis, and drop separators before it."""
    filled[-1] = True
    begin = opened[-1] + 1
    for number in range(begin, len(parts) if end is None else end):
        parts[number] = ""
    return piece.lstrip(_TRIMMED_FIRST)


def _is_call(parts: list[str], begin: int, mark: str) -> bool:
    """Tell `printf()` from an emptied parenthesis."""
    if parts[begin] != "(" or mark != ")" or any(parts[begin + 1 :]):
        return False
    before = parts[begin - 1][-1:] if begin else ""
    return before.isascii() and (before.isalnum() or before == "_")


def drop_quotes(text: str) -> str:
    """Remove the marks of bold and italic, leaving apostrophes: L'''amour'' -> L'amour.

    Where both kinds are odd on a line, one `'''` is an apostrophe before `''`, as in MediaWiki.
    """
    if _GLUED_BOLD.search(text):
        lines = text.split("\n")
        text = "\n".join(_drop_line_quotes(one) if "'''" in one else one for one in lines)
    return _APOSTROPHES.sub("", text)


def _drop_line_quotes(line: str) -> str:
    runs = list(_APOSTROPHES.finditer(line))
    lengths = [len(match[0]) for match in runs]
    num_bold = sum(length == 3 or length >= 5 or length == 4 for length in lengths)
    num_italic = sum(length == 2 or length >= 5 for length in lengths)
    apostrophe = -1
    if num_bold % 2 and num_italic % 2:
        triples = [match.start() for match in runs if len(match[0]) == 3]
        glued = [place for place in triples if line[max(place - 1, 0) : place] != " "]
        single = [place for place in glued if place > 1 and line[place - 2] == " "]
        apostrophe = next(iter([*single, *glued, *triples]), -1)

    def shown(match: re.Match[str]) -> str:
        length = len(match[0])
        if length > 5:
            return "'" * (length - 5)
        return "'" if length == 4 or match.start() == apostrophe else ""

    return _APOSTROPHES.sub(shown, line)


def count_residues(text: str) -> dict[str, int]:
    """Count the traces of markup in a finished text, by kind; not those in code and formulas."""
    counts = dict.fromkeys((name for _, name, _ in _RESIDUES), 0)
    found = [(name, one) for gate, name, one in _RESIDUES if gate in text and one.search(text)]
    if found:
        prose = _VERBATIM.sub("x", text)
        for name, pattern in found:
            counts[name] += len(pattern.findall(prose))
    return counts
