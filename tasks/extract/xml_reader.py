"""XML bytes -> the site's header and its pages, one at a time, from a file nobody vouches for.

What comes before the first `<page>` is the header; it is read apart, and judged before any parser
sees it: a document type or entity declaration, or an encoding other than UTF-8 and UTF-16, is
refused (they are how a small file becomes a huge one or reads another, and no MediaWiki export has
them). libxml2's own size limits can then be lifted, which long pages need. Pages are parsed under
a root of ours, so a range of a dump reads like a whole one, and so does a bare `<page>` without
root. A `<page` inside a text is impossible: there it is written `&lt;page`.

Several revisions of a page: the newest is taken, the later one where times are equal. A text that
closes itself is empty; the rest of one of more than 16 MB is passed over, and its page is marked.
A dump without its last tag is whole if it ends after a `</page>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from lxml import etree

from storage.errors import BadInput
from tasks.extract.dump import CHUNK, DumpFile

MAX_HEADER_BYTES = 1 << 20
MAX_TEXT_BYTES = 1 << 24  # eight times what MediaWiki lets anyone save
# Names every wiki understands beside its own; also the fallback where a dump has no header.
CANONICAL_NAMESPACES = {
    -2: "Media", -1: "Special", 0: "", 1: "Talk", 2: "User", 3: "User talk", 4: "Project",
    5: "Project talk", 6: "File", 7: "File talk", 8: "MediaWiki", 9: "MediaWiki talk",
    10: "Template", 11: "Template talk", 12: "Help", 13: "Help talk", 14: "Category",
    15: "Category talk", 828: "Module", 829: "Module talk",
}  # fmt: skip
REDIRECT_WORDS = (
    "REDIRECT|重定向|WEITERLEITUNG|REDIRECTION|転送|リダイレクト|REDIRECCIÓN|ПЕРЕНАПРАВЛЕНИЕ|"
    "ПЕРЕНАПРАВЛЕННЯ|تحويل|넘겨주기|YÖNLENDİRME|RINVIA|DOORVERWIJZING|REDIRECIONAMENTO|"
    "OMDIRIGERING|PRZEKIERUJ|PATRZ|ĐỔI|ALIH"
)
_REDIRECT = re.compile(rf"\s*#(?:{REDIRECT_WORDS})\s*:?\s*\[\[:?([^\]|#\n]+)", re.IGNORECASE)
_ENCODING = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([^"']+)""", re.IGNORECASE)
_ROOT = re.compile(rb"<([A-Za-z_][\w.:-]*)")
_INTEGER = re.compile(r"\s*-?[0-9]{1,18}\s*")
_PAGE = re.compile(rb"<page[\s>]")
_OVERLAP = 5  # one byte less than that
_TAIL = 1 << 12
_BEGUN = re.compile(rb"[\x80-\xbf]{0,3}[\w#]{0,10};?")  # what is left of a character or an entity


@dataclass(frozen=True, slots=True)
class Site:
    """What `<siteinfo>` says; empty strings where the dump has none."""

    dbname: str = ""
    language: str = ""
    base: str = ""
    case: str = "first-letter"
    namespaces: dict[int, str] = field(default_factory=lambda: dict(CANONICAL_NAMESPACES))

    def namespace_of(self, title: str) -> int:
        """Return the namespace a title's prefix names; 0 for `2001: A Space Odyssey`."""
        prefix, colon, _ = title.partition(":")
        wanted = prefix.replace("_", " ").strip().casefold()
        if colon and wanted:
            for names in (self.namespaces, CANONICAL_NAMESPACES):
                for number, name in names.items():
                    if name.casefold() == wanted:
                        return number
        return 0

    def to_json(self) -> dict[str, Any]:
        """Return the site as `siteinfo.json` has it."""
        return {
            "dbname": self.dbname,
            "language": self.language,
            "base": self.base,
            "case": self.case,
            "namespaces": {str(number): name for number, name in self.namespaces.items()},
        }


@dataclass(frozen=True, slots=True)
class RawPage:
    """One `<page>` with its newest revision; `page_id` is 0 where the dump has no number."""

    page_id: int
    title: str
    namespace: int
    redirect: str | None
    rev_id: int
    timestamp: str
    model: str
    text: str
    is_cut: bool = False
    """The text was too large to be read to its end."""


@dataclass(slots=True)
class End:
    """How a stream of pages ended. `page` is the torn page, as far as it is known."""

    is_torn: bool = False
    is_unclosed: bool = False
    page: RawPage | None = None


@dataclass(frozen=True, slots=True)
class _Revision:
    time: str
    element: etree._Element
    is_cut: bool


def read_header(dump: DumpFile) -> Site:
    """Read what comes before the first page; refuse what is not a MediaWiki export."""
    head = b""
    while len(head) < MAX_HEADER_BYTES and not _PAGE.search(head):
        piece = dump.read(1 << 16)
        if not piece:
            break
        head += piece
    page = _PAGE.search(head)
    start = head[: page.start() if page else None].removeprefix(b"\xef\xbb\xbf").lstrip()
    _check_prolog(head, start, dump)
    root = _ROOT.search(start)
    if root is None:
        return Site()  # a bare page
    if root[1].rpartition(b":")[2] != b"mediawiki":
        raise BadInput(
            f"{dump.name} is not a MediaWiki export: its root is <{root[1].decode()}>, not "
            "<mediawiki>; give a pages-articles dump"
        )
    return _read_site(start[root.start() :], dump.name)


def _check_prolog(head: bytes, start: bytes, dump: DumpFile) -> None:
    """Refuse a file that does not begin as an XML file without declarations."""
    name = dump.name
    if not head:
        what = "ends early, before its first piece of XML" if dump.is_torn else "is empty"
        raise BadInput(f"the dump {name} {what}; download or copy it again")
    if (start and not start.startswith(b"<")) or b"\0" in head:
        raise BadInput(f"{name} is not XML in UTF-8 or UTF-16; give a pages-articles dump")
    encoding = _ENCODING.match(start)
    if encoding and not dump.is_utf16:
        word = encoding[1].decode("ascii", "replace").lower()
        if word not in ("utf-8", "utf8", "us-ascii", "ascii"):
            raise BadInput(f"{name} is XML in {word}, not in UTF-8 or UTF-16; recode it first")
    root = _ROOT.search(start)
    prolog = (start[: root.start()] if root else start).upper()
    if b"<!DOCTYPE" in prolog or b"<!ENTITY" in prolog:
        raise BadInput(
            f"{name} declares a document type or entities, which no MediaWiki export does; "
            "it is refused as unsafe, give a pages-articles dump"
        )
    if root is None and not _PAGE.search(head):
        raise BadInput(f"{name} is not a MediaWiki export: it has no element; give a dump")


def _read_site(header: bytes, name: str) -> Site:
    """Return the `<siteinfo>` of a header, which may well have none."""
    parser = etree.XMLPullParser(("start", "end"), **_OPTIONS)
    language, site = "", Site()
    try:
        parser.feed(header)
        for event, element in _events(parser):
            if event == "start" and element.getparent() is None:
                language = element.get("{http://www.w3.org/XML/1998/namespace}lang") or ""
                site = Site(language=language)
            elif event == "end" and _local(element) == "siteinfo":
                return _site(element, language)
    except etree.XMLSyntaxError as error:
        raise BadInput(
            f"the XML of {name} is broken ({error.msg}); download or copy it again"
        ) from error
    return site


def own_pages(own: Callable[[int], bytes], rest: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield the XML of the pages that begin in `own`; the last one may end in `rest`.

    So every page belongs to exactly one range of a dump, wherever the ranges meet.
    """
    tail = b""
    is_inside = False
    while piece := own(CHUNK):
        if not is_inside:
            piece = tail + piece
            page = _PAGE.search(piece)
            if page is None:
                tail = piece[-_OVERLAP:]
                continue
            piece, is_inside = piece[page.start() :], True
        tail = (tail + piece[-_TAIL:])[-_TAIL:]
        yield piece
    if not is_inside:
        piece = tail + rest(_OVERLAP)  # the tag itself may lie astride
        page = _PAGE.search(piece)
        if page is None:
            return
        tail = piece[page.start() :]
        yield tail
    if tail.rstrip().endswith(b"</page>"):
        return
    tail = b""
    while piece := rest(CHUNK):
        piece = tail + piece
        page = _PAGE.search(piece)
        if page is not None:
            yield piece[: page.start()]
            return
        yield piece[:-_OVERLAP]
        tail = piece[-_OVERLAP:]
    yield tail


def read_pages(pieces: Iterator[bytes], site: Site, name: str, end: End) -> Iterator[RawPage]:
    """Yield the pages of some XML that begins with one, holding one in memory.

    `end` says afterwards how the XML ended: a page that is not whole is not yielded, but there.
    """
    parser = etree.XMLPullParser(("end",), tag=("begin", "page", "revision"), **_OPTIONS)
    newest: _Revision | None = None
    tail, unread, is_cut = b"", 0, False
    try:
        parser.feed(b"<mediawiki><begin/>")
        ((_, last),) = _events(parser)
        root = last.getparent()
        assert root is not None
        for piece in pieces:
            is_in_tag = tail.rfind(b"<") > tail.rfind(b">")
            tail = (tail + piece[-_TAIL:])[-_TAIL:]
            if unread > MAX_TEXT_BYTES and not is_in_tag:
                begun = b"" if is_cut else _BEGUN.match(piece)[0]  # type: ignore[index]
                _, bracket, after = piece.partition(b"<")  # in a text is none before its end
                piece, is_cut = begun + bracket + after, True
                unread = 0 if bracket else unread
            parser.feed(piece)
            unread += len(piece)
            for _, element in _events(parser):
                unread = 0
                if element.tag == "revision":
                    revision = _Revision(element.findtext("timestamp") or "", element, is_cut)
                    is_cut = False
                    if newest is None or revision.time >= newest.time:
                        newest, revision = revision, newest or revision
                    if revision is not newest:
                        revision.element.clear()
                elif element.tag == "page" and element.getparent() is root:
                    yield _page(element, newest, site)
                    newest, last = None, element
                    element.clear()
                    while element.getprevious() is not None:  # what follows may be parsed already
                        del root[0]
    except etree.XMLSyntaxError as error:
        raise BadInput(
            f"the XML of {name} is broken ({error.msg}); download or copy it again"
        ) from error
    tail = tail.rstrip()
    end.is_unclosed = not tail.endswith(b"</mediawiki>")
    end.is_torn = end.is_unclosed and not tail.endswith(b"</page>") and tail != b""
    if root[-1] is not last and root[-1].tag == "page":
        end.page = _page(root[-1], newest, site)


_OPTIONS: dict[str, Any] = {
    "resolve_entities": False,
    "no_network": True,
    "load_dtd": False,
    "huge_tree": True,
    "remove_comments": True,
    "remove_pis": True,
}


def _events(parser: etree.XMLPullParser) -> Iterator[tuple[str, etree._Element]]:
    """Return what the parser has read; of elements only, as asked."""
    return cast("Iterator[tuple[str, etree._Element]]", parser.read_events())


def _local(element: etree._Element) -> str:
    """Return an element's name without the namespace, which changes with every export version."""
    return str(element.tag).rpartition("}")[2]


def _site(element: etree._Element, language: str) -> Site:
    """Return what a `<siteinfo>` says."""
    fields = {_local(child): child for child in element}

    def text(name: str) -> str:
        return (fields[name].text or "").strip() if name in fields else ""

    namespaces = {
        _number(one.get("key") or "0"): one.text or "" for one in fields.get("namespaces", ())
    }
    return Site(
        dbname=text("dbname"),
        language=language,
        base=text("base"),
        case=text("case") or "first-letter",
        namespaces=namespaces or dict(CANONICAL_NAMESPACES),
    )


def _page(element: etree._Element, revision: _Revision | None, site: Site) -> RawPage:
    """Read a `<page>` and the revision that counts."""
    fields = {child.tag: child for child in element}
    newest = {child.tag: child for child in revision.element} if revision else {}
    title = " ".join(_text(fields, "title").replace("_", " ").split())
    text = _text(newest, "text")
    number = _text(fields, "ns").strip()
    return RawPage(
        page_id=_number(_text(fields, "id")),
        title=title,
        namespace=_number(number) if number else site.namespace_of(title),
        redirect=_redirect(fields.get("redirect"), text),
        rev_id=_number(_text(newest, "id")),
        timestamp=_text(newest, "timestamp").strip(),
        model=_text(newest, "model").strip() or "wikitext",
        text=text,
        is_cut=revision is not None and revision.is_cut,
    )


def _text(fields: dict[str, etree._Element], name: str) -> str:
    return (fields[name].text or "") if name in fields else ""


def _redirect(element: etree._Element | None, text: str) -> str | None:
    """Return where a redirect leads: by its element, or by its text (dumps before 2010)."""
    written = _REDIRECT.match(text)
    if element is not None:
        return element.get("title") or (written[1].strip() if written else "")
    return written[1].replace("_", " ").strip() if written else None


def _number(text: str) -> int:
    return int(text) if _INTEGER.fullmatch(text) else 0
