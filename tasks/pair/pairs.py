"""A page -> (query, positive) pairs, without a teacher: what asks, and the text that answers.

    title-lead            "Ada Lovelace"                -> "Ada Lovelace was an English ..." or, in
                                                           a seeded half, "___ was an English ..."
    alias-lead            "Countess of Lovelace"        -> the same, with this name blanked too
    heading-section       "Ada Lovelace: Life: Youth"   -> the section's own text
    link-lead             "Babbage met Ada Lovelace in  -> the lead of the page that is named;
                           1833 at a party."               "Babbage met ___ in ..." in the half
    section-crops         some sentences of a section   -> some others of it (Contriever, Izacard
                                                           et al. 2021, arXiv 2112.09118)
    adjacent-paragraphs   the start of a paragraph      -> the paragraph after it
    facts-lead            "born: 1815; field: logic"    -> the lead

All that looks like chance is a hash of ids: the same on every machine, for ever.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from storage.hashing import stable_hash
from tasks.cut.sentences import first_sentences, sentence_borders
from tasks.pair.config import PairConfig
from tasks.pair.leads import Leads
from tasks.pair.texts import (
    blank_title,
    heading_paths,
    lead_text,
    section_spans,
    title_pattern,
    without_heading,
)

Page = Mapping[str, Any]
MIN_CROP_SENTENCES = 4
MAX_MENTIONS = 3
_NO_PROSE = re.compile(r"[#|*\-]")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair that a page offers; `reason` says why it is not good enough, None = it is.

    `page_id` is the page that the positive stands on.
    """

    source: str
    query: str
    positive: str
    reason: str | None
    page_id: int


def page_pairs(page: Page, config: PairConfig, leads: Leads | None = None) -> Iterator[Candidate]:
    """Yield every pair that a row of the corpus offers, with the reason against it if any.

    Without `leads` there are no link-lead pairs. What is over a source's limit is not looked for.
    """
    for source in config.sources:
        limits, number = config.limits[source], 0
        offers = _OFFERS[source](page, config, leads)
        while number < limits.max_per_page and (offer := next(offers, None)) is not None:
            one = _checked(source, offer, page, config)
            if one.reason is None and not _is_chosen(
                f"{source}:{_id(page)}:{one.query}", limits.share
            ):
                one = replace(one, reason="left_out")
            number += one.reason is None
            yield one


@dataclass(frozen=True, slots=True)
class _Offer:
    """A query and a positive before their lengths are looked at; `lead` is of another page."""

    query: str
    positive: str
    page_id: int | None = None
    reason: str | None = None


def _title_lead(page: Page, config: PairConfig, leads: Leads | None) -> Iterator[_Offer]:
    yield _Offer(page["title"], _lead(page, config))


def _alias_lead(page: Page, config: PairConfig, leads: Leads | None) -> Iterator[_Offer]:
    lead, title = _lead(page, config), _letters(page["title"])
    for alias in _shuffled(page["redirects"] or (), page):
        if _letters(alias) != title:
            yield _Offer(alias, blank_title(lead, alias) if _is_masked(page, config) else lead)


def _heading_section(page: Page, config: PairConfig, leads: Leads | None) -> Iterator[_Offer]:
    sections = page["sections"] or []
    paths = heading_paths(sections)
    for heading, start, stop in section_spans(page["text"], sections):
        path = paths[start] if config.heading_path else [heading]
        body = without_heading(page["text"][start:stop])
        yield _Offer(": ".join([page["title"], *path]), body)


def _link_lead(page: Page, config: PairConfig, leads: Leads | None) -> Iterator[_Offer]:
    if leads is None:
        return
    for title in _shuffled(page["links"] or (), page):
        lead = leads.find(page["wiki"], title)
        if lead is None or lead.page_id == page["page_id"]:
            continue
        sentence = sentence_with(page["text"], title, config.max_query_chars)
        if sentence is None:
            continue
        if lead.split != page["split"]:  # a pair belongs to one side with all its text
            yield _Offer(sentence, lead.text, lead.page_id, "sides_differ")
            continue
        if _is_chosen(f"mask:{_id(page)}:{title}", config.mask_title_share):
            sentence = blank_title(sentence, title)
        yield _Offer(sentence, lead.text, lead.page_id)


def _section_crops(page: Page, config: PairConfig, leads: Leads | None) -> Iterator[_Offer]:
    for start, body in _shuffled(_bodies(page), page):
        borders = sorted({0, *_borders(body), len(body)})
        if len(borders) <= MIN_CROP_SENTENCES:
            continue
        generator = random.Random(stable_hash(f"crop:{_id(page)}:{start}"))
        query, positive = (
            _crop(body, borders, generator, limit)
            for limit in (config.max_query_chars, config.max_positive_chars)
        )
        if query not in positive and positive not in query:
            yield _Offer(query, positive)


def _adjacent_paragraphs(page: Page, config: PairConfig, leads: Leads | None) -> Iterator[_Offer]:
    for _, body in _shuffled(_bodies(page), page):
        paragraphs = [part.strip() for part in body.split("\n\n")]
        for one, following in pairwise(paragraphs):
            is_prose = not _NO_PROSE.match(one) and not _NO_PROSE.match(following)
            if is_prose and len(one) >= config.min_positive_chars:
                yield _Offer(first_sentences(one, config.max_query_chars), following)


def _facts_lead(page: Page, config: PairConfig, leads: Leads | None) -> Iterator[_Offer]:
    title, query = title_pattern(page["title"]), ""
    for name, value in page["facts"] or ():
        fact = f"{name}: {value}"
        if not title.search(fact) and len(query) + 2 + len(fact) <= config.max_query_chars:
            query = f"{query}; {fact}" if query else fact
    if query:
        yield _Offer(query, _lead(page, config))


_OFFERS: dict[str, Callable[[Page, PairConfig, Leads | None], Iterator[_Offer]]] = {
    "title-lead": _title_lead,
    "alias-lead": _alias_lead,
    "heading-section": _heading_section,
    "link-lead": _link_lead,
    "section-crops": _section_crops,
    "adjacent-paragraphs": _adjacent_paragraphs,
    "facts-lead": _facts_lead,
}


def sentence_with(text: str, title: str, max_chars: int) -> str | None:
    """Return a sentence of running text that names the title, None without a fitting one."""
    for number, match in enumerate(title_pattern(title).finditer(text)):
        if number == MAX_MENTIONS:
            break
        start = text.rfind("\n", 0, match.start()) + 1
        stop = text.find("\n", match.end())
        line_stop = len(text) if stop < 0 else stop
        if _NO_PROSE.match(text, start):
            continue
        borders = [start, *sentence_borders(text, start, line_stop), line_stop]
        for one, following in pairwise(borders):
            if one <= match.start() < following:
                sentence = text[one:following].strip()
                if 2 * len(match[0]) < len(sentence) <= max_chars:
                    return sentence
    return None


def _checked(source: str, offer: _Offer, page: Page, config: PairConfig) -> Candidate:
    query = offer.query.strip()
    positive = first_sentences(offer.positive, config.max_positive_chars)
    reason = offer.reason
    if not query or len(query) > config.max_query_chars:
        reason = "query_too_long" if query else "query_empty"
    elif len(positive) < config.min_positive_chars:
        reason = "positive_too_short"
    page_id = page["page_id"] if offer.page_id is None else offer.page_id
    return Candidate(source, query, positive, reason, page_id)


def _lead(page: Page, config: PairConfig) -> str:
    """Return the page's lead, its title blanked in the half that is."""
    lead = lead_text(page["text"], page["sections"] or [])
    return blank_title(lead, page["title"]) if _is_masked(page, config) else lead


def _is_masked(page: Page, config: PairConfig) -> bool:
    return _is_chosen(f"mask:{_id(page)}", config.mask_title_share)


def _is_chosen(name: str, share: float) -> bool:
    return stable_hash(name) % 10_000 < share * 10_000


def _shuffled(items: Iterable[Any], page: Page) -> list[Any]:
    return sorted(items, key=lambda item: stable_hash(f"{_id(page)}:{item}"))


def _bodies(page: Page) -> Iterator[tuple[int, str]]:
    """Yield (start, text) of the lead and of each section, headings left out."""
    sections = page["sections"] or []
    yield 0, lead_text(page["text"], sections)
    for _, start, stop in section_spans(page["text"], sections):
        yield start, without_heading(page["text"][start:stop])


def _borders(text: str) -> Iterator[int]:
    yield from sentence_borders(text)
    yield from (match.end() for match in re.finditer(r"\n+", text))


def _crop(text: str, borders: Sequence[int], generator: random.Random, max_chars: int) -> str:
    """Return some sentences in a row, a quarter to all of `max_chars` long, at least one."""
    start = generator.randrange(len(borders) - 1)
    room = max_chars * generator.uniform(0.25, 1)
    stop = start + 1
    while stop + 1 < len(borders) and borders[stop + 1] - borders[start] <= room:
        stop += 1
    return first_sentences(text[borders[start] : borders[stop]], max_chars)


def _letters(title: str) -> str:
    """Return what tells a name from another: letters and digits, whatever their case."""
    return "".join(sign for sign in title.casefold() if sign.isalnum())


def _id(page: Page) -> str:
    return f"{page['wiki']}:{page['page_id']}"
