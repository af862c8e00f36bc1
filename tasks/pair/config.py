"""Knobs of the stage corpus -> pairs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from storage.config import Config

Source = Literal["title-lead", "heading-section"]


class PairConfig(Config):
    """Which queries and positives a page gives for the semantic stage."""

    sources: tuple[Source, ...] = Field(("title-lead", "heading-section"), min_length=1)
    """title-lead: the title asks, the lead answers. heading-section: so does each section."""
    max_query_chars: int = Field(200, ge=1)
    """A longer query is no query: the pair is dropped."""
    max_positive_chars: int = Field(1000, ge=20)
    """A longer answer is cut after its last whole sentence."""
    min_positive_chars: int = Field(30, ge=1)
    """A shorter answer says nothing: the pair is dropped."""
    mask_title_share: float = Field(0.5, ge=0, le=1)
    """Share of the leads in which the title is blanked, or matching words would be all to learn."""
