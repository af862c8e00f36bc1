"""Knobs of the stage checkpoint + report -> release."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from storage.config import Config


class PublishConfig(Config):
    """What a release is called, and by which figure it has to beat the champion."""

    model_name: str = Field("etude", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Name in the model registry; recipes whose figures do not compare need names of their own."""
    metric: str = "sft_bits_per_byte"
    """Figure of the report that decides who is champion."""
    lower_is_better: bool = True
    """Whether the smaller figure wins."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the exported weights."""
    register_model: bool = True
    """Make a version of the release in the model registry."""
