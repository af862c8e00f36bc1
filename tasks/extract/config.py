"""What of a dump becomes pages."""

from __future__ import annotations

from pydantic import Field

from storage.config import Config


class ExtractConfig(Config):
    """Which pages are kept, and what to do with a dump that ends early."""

    allow_truncated: bool = False
    """Keep the whole pages of a dump that ends early, instead of refusing it."""
    namespaces: tuple[int, ...] = Field((0,), min_length=1)
    """Numbers of the namespaces to keep; 0 holds the articles."""
    models: tuple[str, ...] = Field(("wikitext",), min_length=1)
    """Content models to keep; others are JSON, Lua, CSS and the like."""
