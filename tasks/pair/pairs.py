"""A page -> (query, positive) pairs, without a teacher: titles and headings ask, the text answers.

    title-lead        "Ada Lovelace"             -> "Ada Lovelace was an English ..." or, in a
                                                    seeded half, "___ was an English ..."
    heading-section   "Ada Lovelace: Childhood"  -> the section's own text

The half is chosen by a hash of the page's id: the same on every machine, for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.hashing import stable_hash
from tasks.cut.sentences import first_sentences
from tasks.pair.config import PairConfig

BLANK = "___"
_HEADING = re.compile(r"#{1,6} ")
_QUALIFIER = re.compile(r"\s*[(（][^()（）]*[)）]\s*$")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair that a page offers; `reason` says why it is not good enough, None = it is."""

    source: str
    query: str
    positive: str
    reason: str | None


def page_pairs(page: Mapping[str, Any], config: PairConfig) -> Iterator[Candidate]:
    """Yield every pair that a row of the corpus offers, with the reason against it if any."""
    text, title = page["text"], page["title"]
    spans = section_spans(text, page["sections"] or [])
    if "title-lead" in config.sources:
        lead = lead_text(text, page["sections"] or [])
        bucket = stable_hash(f"mask:{page['wiki']}:{page['page_id']}") % 10_000
        if bucket < config.mask_title_share * 10_000:
            lead = blank_title(lead, title)
        yield _candidate("title-lead", title, lead, config)
    if "heading-section" in config.sources:
        for heading, start, stop in spans:
            body = _without_heading(text[start:stop])
            yield _candidate("heading-section", f"{title}: {heading}", body, config)


def section_spans(text: str, sections: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, int]]:
    """Return (title, start, stop) of each section's own text, that of subsections left out.

    The lead (level 1, under the page's title) is none of them.
    """
    ordered = sorted(sections, key=lambda section: section["start"])
    starts = [section["start"] for section in ordered] + [len(text)]
    return [
        (section["title"], section["start"], min(section["end"], following))
        for section, following in zip(ordered, starts[1:], strict=True)
        if section["title"] and section["level"] > 1
    ]


def lead_text(text: str, sections: Sequence[Mapping[str, Any]]) -> str:
    """Return what stands before the first heading below the page's title."""
    starts = [section["start"] for section in sections if section["level"] > 1]
    return _without_heading(text[: min(starts, default=len(text))])


def bare_title(title: str) -> str:
    """Return a title without the qualifier in brackets that tells it from its namesakes."""
    return _QUALIFIER.sub("", title) or title


def blank_title(lead: str, title: str) -> str:
    """Return the lead with the title blanked wherever it stands, whatever its case."""
    word = re.escape(bare_title(title))
    if title.isascii():
        word = rf"(?<!\w){word}(?!\w)"
    return re.sub(word, BLANK, lead, flags=re.IGNORECASE)


def _candidate(source: str, query: str, positive: str, config: PairConfig) -> Candidate:
    query, positive = query.strip(), first_sentences(positive, config.max_positive_chars)
    reason = None
    if not query or len(query) > config.max_query_chars:
        reason = "query_too_long" if query else "query_empty"
    elif len(positive) < config.min_positive_chars:
        reason = "positive_too_short"
    return Candidate(source, query, positive, reason)


def _without_heading(body: str) -> str:
    """Return a section's text without its own heading line (`## History`)."""
    first, _, rest = body.strip().partition("\n")
    return rest.strip() if _HEADING.match(first) else body.strip()
