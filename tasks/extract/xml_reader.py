"""XML bytes -> the site's header and its pages, one at a time, from a file nobody vouches for.

The prolog is read by us before any parser sees it: a document type or entity declaration, or an
encoding other than UTF-8, is refused (they are how a small file becomes a huge one or reads
another, and no MediaWiki export has them). libxml2's own size limits can then be lifted, which
long pages need.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lxml import etree

from storage.errors import BadInput
from tasks.extract.dump import DumpFile

MAX_PROLOG_BYTES = 1 << 16
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
_ROOT = re.compile(rb"<[A-Za-z_]")


class Truncated(Exception):
    """The XML ends before its root does. `page` is the torn page, as far as it is known."""

    def __init__(self, page: RawPage | None) -> None:
        super().__init__("the XML ends early")
        self.page = page


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
    """One `<page>` with its newest revision."""

    page_id: int
    title: str
    namespace: int
    redirect: str | None
    rev_id: int
    timestamp: str
    model: str
    text: str


def read_dump(dump: DumpFile) -> Iterator[Site | RawPage]:
    """Yield the dump's `Site`, then its pages, holding one page in memory.

    Raises BadInput for what is not a MediaWiki export, and Truncated where it ends early.
    """
    stream = _Checked(dump)
    events = etree.iterparse(
        stream,
        events=("start", "end"),
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=True,
        remove_comments=True,
        remove_pis=True,
    )
    site: Site | None = None
    page: etree._Element | None = None
    root: etree._Element | None = None
    language = ""
    try:
        for event, element in events:
            name = _local(element)
            if root is None:
                root = element
                language = element.get("{http://www.w3.org/XML/1998/namespace}lang") or ""
                if name != "mediawiki":
                    raise BadInput(
                        f"{dump.name} is not a MediaWiki export: its root is <{name}>, not "
                        "<mediawiki>; give a pages-articles dump"
                    )
            elif event == "start":
                if name == "page" and element.getparent() is root:
                    page = element
                    if site is None:
                        site = Site(language=language)
                        yield site
            elif name == "siteinfo" and site is None:
                site = _site(element, language)
                yield site
            elif page is not None and element is page:
                yield _page(page, site or Site())
                page.clear()
                while page.getprevious() is not None:  # what follows may be parsed already
                    del root[0]
                page = None
    except etree.XMLSyntaxError as error:
        if root is None:
            raise BadInput(f"{dump.name} is not XML ({error.msg}); give a dump") from error
        if not stream.at_end:
            raise BadInput(
                f"the XML of {dump.name} is broken ({error.msg}); download or copy it again"
            ) from error
        torn = None if page is None else _page(page, site or Site(language=language))
        raise Truncated(torn) from error
    if dump.is_torn:
        raise Truncated(None)


class _Checked:
    """The dump's stream with its prolog read and judged; knows when its end was reached."""

    def __init__(self, dump: DumpFile) -> None:
        self.at_end = False
        self._dump = dump
        self._head = b""
        while len(self._head) < MAX_PROLOG_BYTES and not _ROOT.search(self._head):
            piece = dump.read(1 << 12)
            if not piece:
                break
            self._head += piece
        _check_prolog(self._head, dump)

    def read(self, size: int = -1) -> bytes:
        if self._head:
            piece, self._head = self._head, b""
            return piece
        piece = self._dump.read(size)
        self.at_end = not piece
        return piece


def _check_prolog(head: bytes, dump: DumpFile) -> None:
    """Refuse a file that does not begin as a UTF-8 XML file without declarations."""
    name = dump.name
    if not head:
        what = "ends early, before its first piece of XML" if dump.is_torn else "is empty"
        raise BadInput(f"the dump {name} {what}; download or copy it again")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start.startswith(b"<") or b"\0" in head:
        raise BadInput(f"{name} is not XML in UTF-8; give a pages-articles dump")
    encoding = _ENCODING.match(start)
    if encoding and encoding[1].lower() not in (b"utf-8", b"utf8", b"us-ascii", b"ascii"):
        raise BadInput(f"{name} is XML in {encoding[1].decode('ascii', 'replace')}, not UTF-8")
    root = _ROOT.search(start)
    prolog = start[: root.start()] if root else start
    if b"<!DOCTYPE" in prolog.upper() or b"<!ENTITY" in prolog.upper():
        raise BadInput(
            f"{name} declares a document type or entities, which no MediaWiki export does; "
            "it is refused as unsafe, give a pages-articles dump"
        )
    if root is None:
        raise BadInput(f"{name} is not a MediaWiki export: it has no element; give a dump")


def _local(element: etree._Element) -> str:
    """Return an element's name without the namespace, which changes with every export version."""
    return str(element.tag).rpartition("}")[2]


def _child(element: etree._Element, name: str) -> etree._Element | None:
    return next((child for child in element if _local(child) == name), None)


def _text(element: etree._Element, name: str) -> str:
    child = _child(element, name)
    return "" if child is None else (child.text or "")


def _site(element: etree._Element, language: str) -> Site:
    names = _child(element, "namespaces")
    namespaces = {
        int(one.get("key") or 0): one.text or "" for one in ([] if names is None else names)
    }
    return Site(
        dbname=_text(element, "dbname").strip(),
        language=language,
        base=_text(element, "base").strip(),
        case=_text(element, "case").strip() or "first-letter",
        namespaces=namespaces or dict(CANONICAL_NAMESPACES),
    )


def _page(element: etree._Element, site: Site) -> RawPage:
    """Read a `<page>`; of several revisions the newest, the later one where times are equal."""
    title = " ".join(_text(element, "title").replace("_", " ").split())
    newest: etree._Element | None = None
    for child in element:
        if _local(child) == "revision" and (
            newest is None or _text(child, "timestamp") >= _text(newest, "timestamp")
        ):
            newest = child
    revision = etree.Element("revision") if newest is None else newest
    text = _text(revision, "text")
    number = _text(element, "ns").strip()
    return RawPage(
        page_id=_number(_text(element, "id")),
        title=title,
        namespace=_number(number) if number else site.namespace_of(title),
        redirect=_redirect(element, text),
        rev_id=_number(_text(revision, "id")),
        timestamp=_text(revision, "timestamp").strip(),
        model=_text(revision, "model").strip() or "wikitext",
        text=text,
    )


def _redirect(element: etree._Element, text: str) -> str | None:
    """Return where a redirect leads: by its element, or by its text (dumps before 2010)."""
    child = _child(element, "redirect")
    written = _REDIRECT.match(text)
    if child is not None:
        return child.get("title") or (written[1].strip() if written else "")
    return written[1].replace("_", " ").strip() if written else None


def _number(text: str) -> int:
    text = text.strip()
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else 0
