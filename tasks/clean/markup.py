"""Wikitext with HTML -> wikitext without: comments, references, verbatim and all other tags.

One pass over the `<` of a page. What stands in code, formulas and nowiki is put aside in a `Shelf`
and leaves one marker that no later rule can break (U+E01E digits U+E01F); HTML lists and tables
become their wikitext twins; breaks, superscripts and the like become marks or characters.

A tag that is never closed costs no more than one that is: where a name's next closing tag stands
is searched once and remembered.
"""

from __future__ import annotations

import html
import re

OPEN, CLOSE = "\ue01e", "\ue01f"
"""Around the number of a piece on the shelf."""
BREAK = "\ue002"
"""A line break that a reader sees: `<br>`."""
PIPE, EQUALS = "\ue003", "\ue004"
"""`|` and `=` that are text, while arguments are still to be told apart."""
SECTION_END = "\ue005"
"""What follows in the section is no prose: `{{reflist}}`."""
ROW = "\ue006"
"""Begins a line that is finished: a row of a table."""
SUPER, SUB, SCRIPT_END = "\ue007", "\ue008", "\ue009"
"""Around raised and lowered text that has markup in it. U+E00A to U+E00F: see variants.py."""
CELL = "\ue010"
"""Between the cells of a finished row, where they are set apart by tabs."""
SEPARATOR = "\ue011"
"""Between texts that travel together."""
INDENT = "\ue012"
"""In place of the space that begins a line."""
LINKED = "\ue013"
"""Before a link in front of the first bar of a table's line: those words are no attributes."""
MARKS = re.compile("[\ue000-\ue01f]")
_MARK_BYTES = b"\xee\x80"  # how all marks begin in UTF-8
# What nobody can read: controls, and characters for private use, whose first bytes are the last.
_SUSPECT_BYTES = bytes([*range(9), 11, 12, *range(14, 32), 127, 0xEE, 0xF3, 0xF4])
_SUSPECT_PAIRS = (re.compile(rb"\xc2[\x80-\x9f]"), re.compile(rb"\xef[\x80-\xa3]"))
_UNREADABLE = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\ud800-\uf8ff\U000f0000-\U0010ffff]+"
)
_SHELVED = re.compile(f"{OPEN}([0-9]+){CLOSE}")

_TAG = re.compile(  # an attribute in quotes may hold another tag
    r"<(?:!--|(/?)([a-zA-Z][a-zA-Z0-9]*)(?=[\s/>])"
    r"([^<>]*+(?=>)|(?:[^<>=]{0,200}=\"[^\"\n]{0,200}\"){1,9}[^<>]{0,200})>)"
)
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n|\n(?==)|\Z")
_REF_OPEN = re.compile(r"<(?i:ref)(?=[\s>])[^<>]*+(?<!/)>")
_PLAIN_SCRIPT = re.compile(r"[^<>\[\]{}\n]{0,80}+(?=</su[bp]>)")
_NOT_SHOWN = re.compile(
    r"<includeonly>(?:(?!<includeonly>)[\s\S])*?</includeonly>|</?(?:noinclude|onlyinclude)>"
)
_POEM = re.compile(r"<(?i:poem)[^<>]*+>((?:(?!<(?i:poem))[\s\S])*?)</(?i:poem)\s*+>[ \t]*+")
_SPACES = re.compile(r"[ \t]*+")
_POEM_LINE = re.compile(r"\s*\n[ \t:]*")
_SUPERSCRIPTS = str.maketrans("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
_SUBSCRIPTS = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
_SUPERSCRIPT, _SUBSCRIPT = re.compile(r"[0-9+\-−=()n]+"), re.compile(r"[0-9+\-−=()]+")
_RAISED = re.compile(f"([{SUPER}{SUB}])([^{SUPER}{SUB}{SCRIPT_END}]*+){SCRIPT_END}")

_DROPPED = frozenset(
    ["categorytree", "charinsert", "dynamicpagelist", "gallery", "graph", "hiero", "imagemap",
     "includeonly", "indicator", "inputbox", "mapframe", "maplink", "quiz", "references", "rss",
     "score", "style", "templatedata", "timeline"]
)  # fmt: skip
_VERBATIM = frozenset(["ce", "chem", "code", "math", "nowiki", "pre", "source", "syntaxhighlight"])
_FORMULAS = frozenset(["ce", "chem", "math"])
_UNSEEN = frozenset(  # the tag goes, what it holds stays
    ["a", "abbr", "b", "bdi", "bdo", "big", "cite", "col", "colgroup", "data", "del", "dfn", "em",
     "endfeed", "font", "i", "ins", "kbd", "langconvert", "languages", "mark", "noinclude",
     "noscript", "onlyinclude", "pagelist", "pagequality", "pages", "phonos", "poem", "q", "rb",
     "ref", "rp", "rt", "rtc", "ruby", "s", "samp", "section", "small", "span", "startfeed",
     "strike", "strong", "sub", "sup", "tbody", "templatestyles", "tfoot", "thead", "time",
     "translate", "tt", "tvar", "u", "var", "wbr", *_DROPPED, *_VERBATIM]
)  # fmt: skip
_OPENED = (
    dict.fromkeys(_UNSEEN, "")
    | {
        "br": BREAK,
        "hr": "\n\n",
        "p": "\n\n",
        "blockquote": "\n\n",
        "div": BREAK,
        "center": BREAK,
    }
    | {f"h{level}": f"\n{'=' * level} " for level in range(1, 7)}
    | {
        "table": f"\n{{{PIPE}\n",
        "caption": f"\n{PIPE}+ ",
        "tr": f"\n{PIPE}-\n",
        "td": f"\n{PIPE} {PIPE} ",
        "th": f"\n! {PIPE} ",
    }
)
_CLOSED = (
    dict.fromkeys(
        _UNSEEN - {"includeonly"} | {"hr", "td", "th", "tr", "caption", "li", "dt", "dd"},
        "",
    )
    | {"br": BREAK, "p": "\n\n", "blockquote": "\n\n", "div": BREAK, "center": BREAK}
    | {f"h{level}": f" {'=' * level}\n" for level in range(1, 7)}
    | {"table": f"\n{PIPE}}}\n", "sup": SCRIPT_END, "sub": SCRIPT_END}
)
_TABLE_PARTS = {
    "table": f"\n{{{{{PIPE} {{}}\n",
    "td": f"\n{PIPE} {{}} {PIPE} ",
    "th": f"\n! {{}} {PIPE} ",
}
_TABLE_ATTRIBUTE = re.compile(
    r"(?:row|col)span *= *[\"']?[0-9]+|class *= *(?:[\"'][^\"'|\n]*|\w+)", re.IGNORECASE
)
_LISTS = {"ul": "*", "ol": "#", "dl": ":"}
_MAX_LIST_DEPTH = 8


def normal(wikitext: str) -> str:
    """Return a page with one kind of line end, without controls and private use, as our marks are.

    Bytes are searched several times faster than characters.
    """
    if "\r" in wikitext:
        wikitext = wikitext.replace("\r\n", "\n").replace("\r", "\n")
    try:
        data = wikitext.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        data = _MARK_BYTES
    is_clean = len(data.translate(None, _SUSPECT_BYTES)) == len(data) and (
        len(data) == len(wikitext) or not any(one.search(data) for one in _SUSPECT_PAIRS)
    )
    return wikitext if is_clean else _UNREADABLE.sub("", wikitext)


def has_marks(text: str) -> bool:
    """Tell whether one of our marks is left."""
    return not text.isascii() and _MARK_BYTES in text.encode("utf-8", "replace")


class Shelf:
    """Verbatim pieces put aside while the rest of a page is worked on."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.has_math = False
        self.num_references = 0

    def put(self, piece: str, *, block: bool = False) -> str:
        """Put a piece aside; return its marker, alone on its line for a block."""
        self.pieces.append(piece)
        marker = f"{OPEN}{len(self.pieces) - 1}{CLOSE}"
        return f"\n\n{marker}\n\n" if block else marker

    def put_code(self, code: str, *, block: bool = False) -> str:
        """Put the code that a template shows aside; in it may stand what was put aside before."""
        for mark, shown in ((PIPE, "|"), (EQUALS, "="), (BREAK, "\n")):
            code = code.replace(mark, shown)
        between = _SHELVED.split(code)  # words and the numbers of pieces in turn
        between[::2] = [normal(html.unescape(words)) for words in between[::2]]
        between[1::2] = [self.pieces[int(number)] for number in between[1::2]]
        code = "".join(between).strip("`")
        if block or "\n" in code:
            return self.put(f"```\n{code}\n```", block=True) if code else ""
        return self.put(f"`{code}`") if code else ""

    def restore(self, text: str) -> str:
        """Put the pieces back."""
        if OPEN not in text:
            return text
        return _SHELVED.sub(lambda match: self.pieces[int(match[1])], text)


def take_tags(text: str, shelf: Shelf) -> str:
    """Return the text without comments and tags; no stretch is scanned twice."""
    if "<" not in text:
        return text
    if "include" in text and "nowiki" not in text:  # they may stand inside of other tags
        text = _NOT_SHOWN.sub("", text)
    if "poem" in text:
        text = _POEM.sub(lambda match: f"\n\n{_POEM_LINE.sub(BREAK, match[1].strip())}\n\n", text)
    return _Tags(text, shelf).take()


class _Tags:
    """The way through the tags of one page."""

    def __init__(self, text: str, shelf: Shelf) -> None:
        self.text = text
        self.shelf = shelf
        self.parts: list[str] = []
        self.position = 0
        self.lists: list[str] = []
        self.closings: dict[str, re.Match[str] | None] = {}
        self.is_in_code = False
        self.is_reading_shown = False

    def take(self) -> str:
        text, parts = self.text, self.parts
        for match in _TAG.finditer(text):
            start, end = match.span()
            if start < self.position:
                continue  # inside of what was taken whole
            slash, name, attributes = match.groups()
            if name is None:
                parts.append(text[self.position : start])
                self._take_comment(end)
                continue
            name = name.lower()
            shown: str | None
            if slash:
                shown = _CLOSED.get(name)
                if name == "code" and self.is_in_code:
                    shown, self.is_in_code = "`", False
                if shown is None and name in _LISTS:
                    shown = self._close_list()
            elif name in ("sup", "sub"):
                parts.append(text[self.position : start])
                self.position = end
                self._take_script(name, end)
                continue
            else:
                shown = _OPENED.get(name)
                if attributes and name in _TABLE_PARTS:
                    kept = " ".join(_TABLE_ATTRIBUTE.findall(attributes))
                    shown = _TABLE_PARTS[name].format(kept.replace("=", EQUALS))
                elif shown == "" or shown is None:
                    parts.append(text[self.position : start])
                    self.position = start
                    shown = self._open(name, attributes, end)
                    if shown is not None:
                        end = self.position
            if shown is None:
                continue  # no tag of MediaWiki's: text
            parts.append(text[self.position : start])
            if shown:
                parts.append(shown)
            self.position = end
            if text[end : end + 1] == " " and self._begins_line():
                self.position = _SPACES.match(text, end).end()  # type: ignore[union-attr]
        parts.append(text[self.position :])
        return "".join(parts)

    def _take_comment(self, end: int) -> None:
        """A comment alone on its line leaves no empty line behind."""
        close = self.text.find("-->", end)
        self.position = len(self.text) if close < 0 else close + 3
        if self._begins_line() and self.text.startswith("\n", self.position):
            self.position += 1

    def _begins_line(self) -> bool:
        """Tell whether what comes next begins a line: spaces before it are no indent."""
        while self.parts and not self.parts[-1]:
            self.parts.pop()
        return not self.parts or self.parts[-1].endswith("\n")

    def _take_script(self, name: str, end: int) -> None:
        """Plain superscripts and subscripts become characters at once."""
        content = _PLAIN_SCRIPT.match(self.text, end)
        if content is None:
            self.parts.append(SUPER if name == "sup" else SUB)
            return
        words = content[0].replace("''", "")
        before = self.text[end - 6 : end - 5] if end > 5 else ""
        if name == "sub" and not before.strip():
            self.parts.append(words)  # lowered below nothing
            self.position = content.end() + 6
            return
        self.parts.append(script(html.unescape(words) if "&" in words else words, name))
        self.position = content.end() + 6

    def _open(self, name: str, attributes: str, end: int) -> str | None:
        """Take an opening tag that is more than a word; `position` is behind what it took."""
        is_empty = attributes.endswith("/")
        if name == "nowiki" and not is_empty and attributes.strip() == "/":
            return None  # `<nowiki/ >` is text
        if name == "ref":
            self.shelf.num_references += 1
            self.position = end if is_empty else self._end_of_reference(end)
            return ""
        if name in _LISTS:
            self.lists.append(_LISTS[name])
            self.position = end
            return "\n"
        if name in ("li", "dt", "dd"):
            marks = "".join(self.lists[:_MAX_LIST_DEPTH]) or "*"
            if name != "li":
                marks = marks[:-1] + (";" if name == "dt" else ":")
            self.position = end
            while self.text.startswith((" ", "\n"), self.position):
                self.position += 1
            return f"\n{marks} "
        if name in ("ruby", "rp"):  # readings with parentheses of their own can be read as text
            self.is_reading_shown = name == "rp"
        elif name in ("rt", "rtc") and not self.is_reading_shown:
            following = self.text.find("<", end)
            self.position = len(self.text) if following < 0 else following
            return ""
        if name in _DROPPED or name in _VERBATIM:
            return self._take_whole(name, attributes, end, is_empty=is_empty)
        if name in _UNSEEN:
            self.position = end
            return ""
        return None

    def _take_whole(self, name: str, attributes: str, end: int, *, is_empty: bool) -> str:
        self.position = end
        if is_empty:
            return self.shelf.put("") if name == "nowiki" else ""
        close = self._closing(name, end)
        if close is None:
            if name in _DROPPED and name != "includeonly" and name != "references":
                self.position = _paragraph_end(self.text, end, len(self.text))
            return ""
        content = self.text[end : close.start()]
        if "\n\n" in content and (name in _FORMULAS or (name == "nowiki" and "[[" in content)):
            return ""  # a page, not a formula: the closing tag belongs to another one
        if name == "code" and _LIVE_MARKUP.search(_NOWIKI.sub("", content)):
            self.is_in_code = True  # `<code>` is parsed; its closing tag is found on the way
            return "`"
        if name == "nowiki" and self._is_quoted(content):
            name = "code"
        self.position = close.end()
        return _verbatim(name, attributes, content, self.shelf) if name in _VERBATIM else ""

    def _is_quoted(self, content: str) -> bool:
        """Tell markup that is spoken about, `[[x]]`, from letters: K[[X]]."""
        before = self.parts[-1][-1:] if self.parts else ""
        return (
            not self.is_in_code
            and not (before < "\u2e80" and before.isalnum())  # Chinese sets no space before it
            and "`" not in content
            and _QUOTED_MARKUP.fullmatch(content.strip()) is not None
        )

    def _close_list(self) -> str:
        if self.lists:
            self.lists.pop()
        return "\n"

    def _closing(self, name: str, end: int) -> re.Match[str] | None:
        known = self.closings.get(name)
        if name not in self.closings or (known and known.start() < end):
            known = _closing_pattern(name).search(self.text, end)
            self.closings[name] = known
        return known

    def _end_of_reference(self, end: int) -> int:
        """Return where a reference ends: its closing tag, or, if that is missing, its paragraph."""
        close = self._closing("ref", end)
        following = _REF_OPEN.search(self.text, end, close.start() if close else len(self.text))
        if close and not following:
            return close.end()
        return _paragraph_end(self.text, end, following.start() if following else len(self.text))


_CLOSING_PATTERNS = {
    name: re.compile(rf"</(?i:{name})\s*+>") for name in (*_DROPPED, *_VERBATIM, "ref")
}


def _closing_pattern(name: str) -> re.Pattern[str]:
    return _CLOSING_PATTERNS[name]


def _paragraph_end(text: str, start: int, limit: int) -> int:
    found = _PARAGRAPH_END.search(text, start, limit)
    return found.start() if found else limit


def _verbatim(name: str, attributes: str, content: str, shelf: Shelf) -> str:
    """Return what a tag with verbatim content leaves behind in the text."""
    content = normal(html.unescape(content)) if "&" in content else content
    if name in _FORMULAS:
        formula = " ".join(content.split())
        if formula.endswith("\\") and not formula.endswith("\\\\"):
            formula = formula[:-1].rstrip()  # `\\ ` without its space would escape the closing `$`
        if not formula:
            return ""
        shelf.has_math = True
        if name != "math":
            formula = rf"\ce{{{formula}}}"
        is_block = "block" in attributes
        return shelf.put(f"$${formula}$$" if is_block else f"${formula}$", block=is_block)
    if name == "nowiki":
        return shelf.put('"' if content == "''" else content)  # an editor's way to write quotes
    if name == "code" or "inline" in attributes:
        code = " ".join(_plain_code(content).split())
        return shelf.put(f"`{code}`") if code else " " * bool(content)
    if name == "pre":
        content = _NOWIKI.sub(r"\1", content)
    content = content.strip("\n")
    return shelf.put(f"```\n{content}\n```", block=True) if content.strip() else ""


_LIVE_MARKUP = re.compile(r"\{\{|\[\[")
_QUOTED_MARKUP = re.compile(r"(?:\[\[|\{\{|''+[^'\n])[^\n]*(?:\]\]|\}\}|[^'\n]''+)")
_NOWIKI = re.compile(r"<nowiki>((?:(?!</nowiki>)[\s\S])*+)</nowiki>")
_CODE_TAG = re.compile(r"</?(?:nowiki|b|i|u|em|strong|span|var|font|br|sub|sup|tt)\b[^<>]*+>")


def _plain_code(content: str) -> str:
    return _CODE_TAG.sub("", content).replace("''", "") if "<" in content else content


def resolve_scripts(text: str) -> str:
    """Turn the marks of raised and lowered text into characters, innermost first."""
    if SUPER not in text and SUB not in text and SCRIPT_END not in text:
        return text
    for _ in range(3):
        text, number = _RAISED.subn(
            lambda match: script(match[2], "sup" if match[1] == SUPER else "sub"), text
        )
        if not number:
            break
    return text.replace(SUPER, "").replace(SUB, "").replace(SCRIPT_END, "")


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
