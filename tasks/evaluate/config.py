"""Knobs of the stage checkpoint -> report."""

from __future__ import annotations

from pydantic import Field

from etude_model.config import DEVICE
from storage.config import Config


class EvaluateConfig(Config):
    """How much of the held-out data is looked at, and what is written for people to read."""

    num_rows: int = Field(128, ge=1)
    """Held-out rows of text, and as many of dialogues, for bits per byte; shared by languages."""
    num_pairs: int = Field(256, ge=2)
    """Held-out pairs that are ranked against each other; the fewer, the easier the ranking."""
    num_answers: int = Field(16, ge=1)
    """Held-out dialogues that are answered, to count the answers that come to an end."""
    num_samples: int = Field(3, ge=0)
    """Samples of each checkpoint and language in the report."""
    prompt_tokens: int = Field(16, ge=1)
    """Tokens of a held-out text that a checkpoint of the base stages continues."""
    max_new_tokens: int = Field(96, ge=1)
    """Most tokens of a continuation or an answer."""
    temperature: float = Field(0.8, ge=0, le=5)
    """Of continuations; answers always take the likeliest token."""
    repetition_penalty: float = Field(1.1, gt=0)
    """Of answers, as `etude chat` has it: small models that take the likeliest token go round."""
    seed: int = Field(0, ge=0)
    """Decides the continuations."""
    multiple_choice: tuple[str, ...] = ()
    """Question files or folders in the formats of C-Eval, CMMLU or HellaSwag; `recipe:` works."""
    few_shot: int = Field(0, ge=0, le=100)
    """Worked examples before each question; more of them need a longer context."""
    questions_per_file: int | None = Field(None, ge=1)
    """Most questions of a file, the first ones; empty means all."""
    cut_long_prompts: bool = False
    """Cut a prompt that is too long on its left, as lm-eval does, instead of setting it aside."""
    batch_size: int = Field(32, ge=1, json_schema_extra={"key": False})
    """Rows computed at once; changes memory, and the result by rounding only."""
    device: str = Field("auto", pattern=DEVICE, json_schema_extra={"key": False})
    """auto, cpu, cuda or cuda:N; auto takes a GPU where there is one."""
