"""One row of pages -> one row of documents, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.clean.config import CleanConfig
from tasks.clean.languages import Site
from tasks.clean.wikitext import parse_page


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A page after cleaning: `row` is a document, or `reason` says why there is none."""

    row: dict[str, Any] | None
    reason: str | None = None
    detail: str | None = None


def clean_page(page: Mapping[str, Any], *, site: Site, config: CleanConfig) -> Cleaned:
    """Clean one page. What breaks on a page is its reason, never the end of the stage."""
    try:
        document = parse_page(
            page["wikitext"], title=page["title"], site=site, tables=config.tables
        )
    except Exception as error:  # the text of a stranger: quarantined, counted, shown in the ledger
        return Cleaned(None, "error", f"{type(error).__name__}: {error}"[:300])
    if document.kind == "disambiguation" and not config.keep_disambiguation:
        return Cleaned(None, "disambiguation")
    if document.num_body_chars == 0:
        return Cleaned(None, "empty")
    limit = config.min_chars_cjk if site.is_cjk else config.min_chars
    if document.num_body_chars < limit:
        return Cleaned(None, "too_short", f"{document.num_body_chars} characters")
    row = {name: page[name] for name in ("wiki", "language", "page_id", "rev_id", "timestamp")}
    row |= {
        "title": page["title"],
        "url": page["url"],
        "text": document.text,
        "sections": document.sections,
        "categories": document.categories,
        "links": document.links,
        "redirects": [],
        "facts": list(document.facts.items()),
        "kind": document.kind,
        "num_chars": len(document.text),
        "flags": document.flags,
        "templates": document.templates,
        "num_refs": document.num_refs,
        "variant": document.variant,
    }
    return Cleaned(row)


def clean_batch(
    batch: Sequence[Mapping[str, Any]], *, site: Site, config: CleanConfig
) -> list[Cleaned]:
    """Clean a few pages: the piece of work of one process."""
    return [clean_page(page, site=site, config=config) for page in batch]
