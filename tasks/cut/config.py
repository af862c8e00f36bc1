"""Knobs of the stage corpus -> passages."""

from __future__ import annotations

from pydantic import Field, model_validator

from storage.config import Config


class CutConfig(Config):
    """How long a passage is."""

    max_chars: int = Field(2000, ge=2)
    """Longest passage, in characters."""
    min_chars: int = Field(50, ge=1)
    """Shortest piece that a cut may leave; a page shorter than this is one passage."""

    @model_validator(mode="after")
    def _room_for_two(self) -> CutConfig:
        if self.max_chars < 2 * self.min_chars:
            raise ValueError(
                f"max_chars={self.max_chars} is less than twice min_chars={self.min_chars}; "
                "raise max_chars or lower min_chars"
            )
        return self
