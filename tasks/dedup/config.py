"""Knobs of the stage documents -> corpus."""

from __future__ import annotations

from pydantic import Field

from storage.config import Config


class DedupConfig(Config):
    """How the corpus is split."""

    validation_share: float = Field(0.02, gt=0, lt=1)
    """Share of the pages that go to validation; by a hash of the page's id, so it never moves."""
    salt: str = ""
    """Another salt gives another split of the same pages."""
