"""One dump -> one part of pages: every page seen is a row kept or a counted reason.

part-00000/pages.parquet       the kept pages
part-00000/redirects.parquet   title and target of every redirect: the aliases of the documents
part-00000/ledger.parquet      id, title and reason of every page that is not among the pages
part-00000/siteinfo.json       the header: namespaces and the like
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from storage.artifact import Counts
from storage.errors import BadInput
from storage.files import write_json
from storage.formats.schemas import LEDGER, PAGES
from storage.formats.table import TableWriter
from tasks.extract.config import ExtractConfig
from tasks.extract.dump import DumpFile
from tasks.extract.xml_reader import RawPage, Site, Truncated, read_dump

REDIRECTS = pa.schema([("title", pa.string()), ("target", pa.string())])
_DBNAME = re.compile(r"([a-z][a-z_]*(?:wik[a-z]+|source))(?=[-_.\d]|$)")
_HOST = re.compile(r"https?://([a-z-]+)\.(wik[a-z]+)\.org")
_PROJECT = re.compile(r"(?:wiki|wiktionary|wikt)[a-z]*$")
_LANGUAGES = {"simple": "en", "zh-classical": "lzh", "commons": "en", "meta": "en"}


def extract_dump(
    path: Path,
    folder: Path,
    config: ExtractConfig,
    *,
    wiki: str | None = None,
    language: str | None = None,
    name: str | None = None,
    progress: Callable[[float, float | None, str], None] = lambda done, total, unit: None,
    log: Callable[[str], None] = lambda message: None,
) -> Counts:
    """Write the pages of a dump file into `folder`; return the ledger.

    `wiki` and `language` win over the dump's header; `name` is what messages call the file.
    """
    seen = kept = 0
    dropped: Counter[str] = Counter()
    site = Site()
    name = name or path.name
    with (
        DumpFile(path, name) as dump,
        TableWriter(folder / "pages.parquet", PAGES, rows_per_group=1024) as pages,
        TableWriter(folder / "redirects.parquet", REDIRECTS) as redirects,
        TableWriter(folder / "ledger.parquet", LEDGER) as ledger,
    ):

        def drop(page: RawPage, reason: str, detail: str | None) -> None:
            dropped[reason] += 1
            row = {"id": str(page.page_id), "title": page.title, "reason": reason}
            ledger.add(row | {"detail": detail})

        try:
            for item in read_dump(dump):
                if isinstance(item, Site):
                    site = item
                    wiki, language = identify(site, name, wiki, language)
                    continue
                seen += 1
                progress(dump.position, dump.num_bytes, "bytes")
                reason, detail = judge(item, config)
                if item.redirect and item.namespace in config.namespaces:
                    redirects.add({"title": item.title, "target": item.redirect})
                if reason:
                    drop(item, reason, detail)
                else:
                    kept += 1
                    pages.add(page_row(item, site, wiki or "", language or ""))
        except Truncated as error:
            if not config.allow_truncated:
                raise BadInput(
                    f"the dump {name} ends early, after {seen:,} whole pages; download or copy it "
                    "again, or extract.allow_truncated=true keeps what is whole"
                ) from error
            if error.page is not None:
                seen += 1
                drop(error.page, "truncated", None)
            log(f"{name} ends early; {seen:,} pages were found")
    if kept == 0:
        raise BadInput(
            f"the dump {name} has no article: {seen:,} pages, {dict(dropped)}; give a "
            "pages-articles dump, or set extract.namespaces"
        )
    write_json(folder / "siteinfo.json", site.to_json() | {"dbname": wiki, "language": language})
    return Counts(seen, kept, dropped)


def judge(page: RawPage, config: ExtractConfig) -> tuple[str | None, str | None]:
    """Return why a page is not kept and a detail, or (None, None)."""
    if page.namespace not in config.namespaces:
        return "namespace", str(page.namespace)
    if page.redirect is not None:
        return "redirect", page.redirect
    if page.model not in config.models:
        return "model", page.model
    if not page.text.strip():
        return "empty", None
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


def page_url(base: str, title: str) -> str | None:
    """Return the page's address, beside the wiki's main page; None where the dump has no base."""
    if "/" not in base:
        return None
    return f"{base.rpartition('/')[0]}/{quote(title.replace(' ', '_'), safe='/:(),!*;@$')}"


def identify(site: Site, name: str, wiki: str | None, language: str | None) -> tuple[str, str]:
    """Return the wiki and its language: as told, else by the header, else by the file's name."""
    by_name, by_host = _DBNAME.match(name), _HOST.match(site.base)
    known = wiki or site.dbname or (by_name[1] if by_name else "")
    if not known and by_host:
        project = by_host[2].replace("wikipedia", "wiki")
        known = by_host[1].replace("-", "_") + project
    known = known or "wiki"
    code = _PROJECT.sub("", known).replace("_", "-")
    if not language and site.language and not wiki:
        language = site.language.split("-")[0]
    return known, language or _LANGUAGES.get(code) or code or "und"
