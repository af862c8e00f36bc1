"""One range of a dump -> one part of pages: every page seen is a row kept or a counted reason.

part-00000/pages.parquet       the kept pages
part-00000/redirects.parquet   title and target of every redirect: the aliases of the documents
part-00000/templates.parquet   the dump's templates: where they redirect to, their categories
part-00000/modules.parquet     wikitext of the pages with conversion rules between variants
part-00000/ledger.parquet      id, title and reason of every page that is not among the pages
part-00000/siteinfo.json       the header: namespaces and the like

`extract_split` runs in a worker, so this module imports nothing heavy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from storage.artifact import Counts
from storage.errors import BadInput
from storage.files import write_json
from storage.formats.schemas import LEDGER, MODULES, PAGES, REDIRECTS, TEMPLATES
from storage.formats.table import TableWriter
from tasks.extract.dump import DumpFile
from tasks.extract.xml_reader import (
    CANONICAL_NAMESPACES,
    End,
    RawPage,
    Site,
    own_pages,
    read_header,
    read_pages,
)

if TYPE_CHECKING:
    from tasks.extract.config import ExtractConfig

TEMPLATE, CATEGORY, MODULE = 10, 14, 828
GROUP_ROWS = 1024  # a row group ends at either limit, so that a worker stays small
GROUP_CHARS = 2_000_000
TELL_PAGES = 64
_DBNAME = re.compile(r"([a-z][a-z_]*(?:wik[a-z]+|source))(?=[-_.\d]|$)")
_WIKIS = (
    "af ar az be bg bn bs ca ceb cs cy da de el eo es et eu fa fi fr gl he hi hr hu hy id it ja ka "
    "kk kn ko la lt lv mk ml mr ms nl nn no pl pt ro ru sh simple sk sl sq sr sv sw ta te th tl tr "
    "uk ur uz vi war yue zh zh_min_nan"
)
# The name of a dump: a wiki with a date, or one of the large ones (anybody has a `mywiki.xml`).
_DUMP_NAME = re.compile(
    rf"([a-z][a-z_]*wik[a-z]+(?=-(?:\d{{8}}|latest)\b)|(?:{_WIKIS.replace(' ', '|')})wiki)(?=[-.])"
)
_HOST = re.compile(r"https?://([a-z-]+)\.(wik[a-z]+)\.org")
_PROJECT = re.compile(r"(?:wiki|wiktionary|wikt)[a-z]*$")
_LANGUAGES = {"simple": "en", "zh-classical": "lzh", "commons": "en", "meta": "en"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which pages are kept; ExtractConfig without its library, for workers."""

    namespaces: frozenset[int]
    models: frozenset[str]
    allow_truncated: bool

    @classmethod
    def of(cls, config: ExtractConfig) -> Wanted:
        """Return what a config says of it."""
        return cls(frozenset(config.namespaces), frozenset(config.models), config.allow_truncated)


@dataclass(frozen=True, slots=True)
class Split:
    """The bytes `start` to `end` of a dump file, whose header said `site`.

    `name` is what messages call the file; the wiki and language are decided.
    """

    path: Path
    name: str
    start: int
    end: int
    site: Site
    wiki: str
    language: str
    wanted: Wanted

    @property
    def is_last(self) -> bool:
        """Tell whether the file ends here."""
        return self.end == self.path.stat().st_size


def extract_split(split: Split, folder: Path, tell: Callable[[float], None]) -> Counts:
    """Write the pages that begin in a range of a dump into `folder`; return the ledger."""
    end = End()
    with (
        DumpFile(split.path, split.name, split.start, split.end) as own,
        DumpFile(split.path, split.name, split.end) as rest,
        _Part(folder, split) as part,
    ):
        pieces = own_pages(own.read, rest.read)
        for page in read_pages(pieces, split.site, split.name, end):
            part.take(page)
            if part.seen % TELL_PAGES == 0:
                tell(min(own.share, 1.0))
        if own.is_torn and not split.is_last:
            raise BadInput(f"the dump {split.name} is damaged; download or copy it again")
        if own.is_torn or rest.is_torn or end.page or (split.is_last and end.is_torn):
            if not split.wanted.allow_truncated:
                raise BadInput(
                    f"the dump {split.name} ends early, {part.seen:,} whole pages after byte "
                    f"{split.start:,}; download or copy it again, or "
                    "extract.allow_truncated=true keeps what is whole"
                )
            part.metrics["truncated"] = 1
            if end.page:
                part.seen += 1
                part.drop(end.page, "truncated", None)
        elif split.is_last and end.is_unclosed and part.seen:
            part.metrics["unclosed"] = 1
    info = split.site.to_json() | {"dbname": split.wiki, "language": split.language}
    write_json(folder / "siteinfo.json", info)
    return Counts(part.seen, part.pages.num_rows, part.dropped, metrics=part.metrics)


class _Part:
    """The tables of one part, while they are written."""

    def __init__(self, folder: Path, split: Split) -> None:
        self.split = split
        self.seen = 0
        self.dropped: Counter[str] = Counter()
        self.metrics: dict[str, float] = {}
        self._chars = 0
        self._categories = category_links(split.site)
        self._files = ExitStack()

        def table(name: str, schema: Any, plain: str = "") -> TableWriter:
            path = folder / f"{name}.parquet"
            return self._files.enter_context(
                TableWriter(path, schema, GROUP_ROWS, compression_level=1, plain=plain.split())
            )

        self.pages = table(
            "pages", PAGES, "page_id rev_id timestamp title namespace redirect url wikitext"
        )
        self.redirects = table("redirects", REDIRECTS, "title target")
        self.templates = table("templates", TEMPLATES)
        self.modules = table("modules", MODULES, "title text")
        self.ledger = table("ledger", LEDGER, "id title detail")

    def __enter__(self) -> _Part:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.__exit__(kind, error, trace)

    def take(self, page: RawPage) -> None:
        """Keep a page or drop it for a reason; note what it says of others."""
        self.seen += 1
        wanted, site = self.split.wanted, self.split.site
        if page.redirect and page.namespace in wanted.namespaces:
            self.redirects.add({"title": page.title, "target": page.redirect})
        if page.namespace == TEMPLATE and page.model == "wikitext":
            self.templates.add(template_row(page, site, self._categories))
        if page.namespace in (TEMPLATE, MODULE) and local_name(page.title).startswith("CGroup/"):
            self.modules.add({"title": page.title, "text": page.text})
        reason, detail = judge(page, wanted)
        if reason:
            self.drop(page, reason, detail)
            return
        row = page_row(page, site, self.split.wiki, self.split.language)
        self.pages.add(row)
        self._chars += len(page.text)
        if self._chars >= GROUP_CHARS:
            self.pages.flush()
            self._chars = 0

    def drop(self, page: RawPage, reason: str, detail: str | None) -> None:
        """Write into the ledger why a page is not among the pages."""
        self.dropped[reason] += 1
        row = {"id": str(page.page_id), "title": page.title, "reason": reason}
        self.ledger.add(row | {"detail": detail})


def extract_dump(
    path: Path,
    folder: Path,
    config: ExtractConfig,
    *,
    wiki: str | None = None,
    language: str | None = None,
) -> Counts:
    """Write all pages of a dump file into `folder` as one part; return the ledger.

    `wiki` and `language` win over the dump's header.
    """
    site = read_site(path, path.name)
    known = identify(site, path.name, wiki, language)
    size = path.stat().st_size
    split = Split(path, path.name, 0, size, site, *known, Wanted.of(config))
    counts = extract_split(split, folder, lambda share: None)
    refuse_nothing(counts, path.name)
    return counts


def refuse_nothing(counts: Counts, name: str) -> None:
    """Refuse a dump without any page to keep."""
    if counts.kept == 0:
        raise BadInput(
            f"the dump {name} has no article: {counts.seen:,} pages, {dict(counts.dropped)}; give "
            "a pages-articles dump, or set extract.namespaces"
        )


def judge(page: RawPage, wanted: Wanted) -> tuple[str | None, str | None]:
    """Return why a page is not kept and a detail, or (None, None)."""
    if page.namespace not in wanted.namespaces:
        return "namespace", str(page.namespace)
    if page.redirect is not None:
        return "redirect", page.redirect
    if page.model not in wanted.models:
        return "model", page.model
    if page.is_cut:
        return "too_large", None
    if not page.text or page.text.isspace():
        return "empty", None
    if page.page_id < 1:
        return "bad_id", None
    return None, None


def page_row(page: RawPage, site: Site, wiki: str, language: str) -> dict[str, Any]:
    """Return a page as a row of PAGES."""
    return {
        "wiki": wiki,
        "language": language,
        "page_id": page.page_id,
        "rev_id": page.rev_id,
        "timestamp": page.timestamp,
        "title": page.title,
        "namespace": page.namespace,
        "model": page.model,
        "redirect": page.redirect,
        "url": page_url(site.base, page.title),
        "wikitext": page.text,
    }


def template_row(page: RawPage, site: Site, categories: re.Pattern[str]) -> dict[str, Any]:
    """Return a page of the template namespace as a row of TEMPLATES."""
    target = page.redirect or ""
    leads_to_template = site.namespace_of(target) == TEMPLATE
    return {
        "name": local_name(page.title),
        "redirect": local_name(target) if leads_to_template else None,
        "categories": [
            " ".join(found.replace("_", " ").split()) for found in categories.findall(page.text)
        ],
    }


def category_links(site: Site) -> re.Pattern[str]:
    """Return the pattern of `[[Category:Name|…]]` in a wiki's words; its group is the name."""
    names = {site.namespaces.get(CATEGORY, ""), CANONICAL_NAMESPACES[CATEGORY]} - {""}
    words = "|".join(re.escape(name).replace(r"\ ", "[ _]") for name in sorted(names))
    return re.compile(rf"\[\[[ _]?(?:{words})[ _]?:([^\]\[|{{}}\n]+)", re.IGNORECASE)


def local_name(title: str) -> str:
    """Return a title without its namespace."""
    return title.partition(":")[2].strip() or title


def page_url(base: str, title: str) -> str | None:
    """Return the page's address, beside the wiki's main page; None where the dump has no base."""
    if "/" not in base:
        return None
    return f"{base.rpartition('/')[0]}/{quote(title.replace(' ', '_'), safe='/:(),!*;@$')}"


def read_site(path: Path, name: str) -> Site:
    """Return what a dump's header says; nothing, where the file's name says it is another wiki's.

    Cuts of dumps often come with the header of the English Wikipedia, whatever they are cut from.
    """
    with DumpFile(path, name) as dump:
        site = read_header(dump)
    named = _DUMP_NAME.match(name)
    if site.dbname == "enwiki" and named and named[1] != "enwiki":
        return Site()
    return site


def identify(site: Site, name: str, wiki: str | None, language: str | None) -> tuple[str, str]:
    """Return the wiki and its language: as told, else by the header, else by the file's name.

    A header's `en` is not believed where its own database name is another large wiki's.
    """
    by_name, by_host = _DBNAME.match(name), _HOST.match(site.base)
    known = wiki or site.dbname or (by_name[1] if by_name else "")
    if not known and by_host:
        project = by_host[2].replace("wikipedia", "wiki")
        known = by_host[1].replace("-", "_") + project
    known = known or "wiki"
    code = _PROJECT.sub("", known).replace("_", "-")
    is_cut = site.language.startswith("en") and code.replace("-", "_") in _WIKIS.split()
    if not language and site.language and not wiki and not is_cut:
        language = site.language.split("-")[0]
    return known, language or _LANGUAGES.get(code) or code or "und"
