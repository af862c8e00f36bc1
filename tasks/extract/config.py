"""What of a dump becomes pages."""

from __future__ import annotations

from pydantic import Field

from storage.config import Config


class ExtractConfig(Config):
    """Which pages are kept, what to do with a dump that ends early, and in how many pieces."""

    allow_truncated: bool = False
    """Keep the whole pages of a dump that ends early, instead of refusing it."""
    namespaces: tuple[int, ...] = Field((0,), min_length=1)
    """Numbers of the namespaces to keep; 0 holds the articles."""
    models: tuple[str, ...] = Field(("wikitext",), min_length=1)
    """Content models to keep; others are JSON, Lua, CSS and the like."""
    split_bytes: int = Field(2 << 20, ge=1 << 12)
    """Packed bytes of a dump that become one part; a large dump has 400 larger ones."""
    workers: int = Field(0, ge=0, json_schema_extra={"key": False})
    """Processes to extract with; 0 is one per usable core."""
