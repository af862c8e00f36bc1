"""What of the pages becomes documents."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from storage.config import Config


class CleanConfig(Config):
    """Which pages are worth keeping, and which of their sections."""

    min_chars: int = Field(200, ge=0)
    """Shortest text to keep, in characters without the title."""
    min_chars_cjk: int = Field(80, ge=0)
    """The same for Chinese, Japanese and Korean, which say more per character."""
    drop_sections: tuple[str, ...] | None = None
    """Titles of sections to leave out, such as `See also`; by default the language's own list."""
    variant: Literal["zh-hans", "zh-hant", "keep"] = "zh-hans"
    """Chinese wikis only: the script and region words that text is brought to."""
    tables: Literal["markdown", "tsv", "drop"] = "markdown"
    """Tables as Markdown rows, as lines of tab-separated cells, or left out."""
    keep_disambiguation: bool = False
    """Keep the pages that only list what a word may mean."""
    workers: int = Field(0, ge=0, json_schema_extra={"key": False})
    """Processes to clean with; 0 is one per usable core."""
