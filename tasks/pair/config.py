"""Knobs of the stage corpus -> pairs."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, field_validator

from storage.config import Config

Source = Literal[
    "title-lead", "alias-lead", "heading-section", "link-lead",
    "section-crops", "adjacent-paragraphs", "facts-lead",
]  # fmt: skip
SOURCES: tuple[Source, ...] = get_args(Source)


class SourceConfig(Config):
    """How much of a source is taken."""

    share: float = Field(1.0, ge=0, le=1)
    """Share of the source's pairs that is kept, by a hash; 0 leaves the source out."""
    max_per_page: int = Field(8, ge=1)
    """Most pairs that a page gives."""


LIMITS: dict[Source, SourceConfig] = {
    source: SourceConfig(max_per_page=number)
    for source, number in zip(SOURCES, (1, 2, 1000, 4, 4, 2, 1), strict=True)
}


class PairConfig(Config):
    """Which queries and positives a page gives for the semantic stage."""

    sources: tuple[Source, ...] = Field(SOURCES, min_length=1)
    """title-lead: the title asks, the lead answers; alias-lead: so do other names of the page;
    heading-section: so does each section; link-lead: a sentence that names another page asks for
    that page's lead; section-crops: two pieces of one section; adjacent-paragraphs: a paragraph and
    the next; facts-lead: the facts of the infobox ask."""
    limits: dict[Source, SourceConfig] = LIMITS
    """How much of each source is taken; a source that is not named keeps its default."""
    heading_path: bool = True
    """Name the sections around a section in its query, from the title down."""
    max_query_chars: int = Field(200, ge=1)
    """A longer query is no query: the pair is dropped. Of a text that asks, as much is taken."""
    max_positive_chars: int = Field(1000, ge=20)
    """A longer answer is cut after its last whole sentence."""
    min_positive_chars: int = Field(30, ge=1)
    """A shorter answer says nothing: the pair is dropped."""
    mask_title_share: float = Field(0.5, ge=0, le=1)
    """Share of the leads in which the title is blanked, and of the sentences in which the name of
    the other page is, or matching words would be all to learn."""

    @field_validator("limits")
    @classmethod
    def _fill(cls, limits: dict[Source, SourceConfig]) -> dict[Source, SourceConfig]:
        return {source: limits.get(source, LIMITS[source]) for source in SOURCES}
