"""Knobs of the stage documents -> corpus."""

from __future__ import annotations

from pydantic import Field

from storage.config import Config


class DedupConfig(Config):
    """What counts as a copy, what as noise, and how the corpus is split."""

    validation_share: float = Field(0.02, gt=0, lt=1)
    """Share of the clusters that go to validation; by a hash of the oldest page's id."""
    salt: str = ""
    """Another salt gives another split of the same pages."""
    min_jaccard: float | None = Field(0.72, ge=0.5, le=1)
    """Pages that share this much of their 5-grams are near-duplicates; null keeps them all."""
    max_per_skeleton: int | None = Field(20, ge=1)
    """How many pages stay that differ only in names and numbers (bot stubs); null = all."""
    max_paragraph_documents: int | None = Field(20, ge=1)
    """A paragraph that stands on more pages than this is removed from all; null = none is."""
    min_chars_left: int = Field(80, ge=0)
    """A page that loses paragraphs and keeps fewer characters than this, headings aside, goes."""
    min_alpha_ratio: float = Field(0.3, ge=0, le=1)
    """Least share of letters among the characters that are not space; 0 = any."""
    max_link_density: float = Field(300.0, gt=0)
    """Most links per 1,000 characters."""
    workers: int = Field(0, ge=0, json_schema_extra={"key": False})
    """Processes that read and write the texts; 0 = one per usable core."""
