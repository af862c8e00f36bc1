"""Knobs of the stage corpus + user files -> dialogues."""

from __future__ import annotations

from pydantic import Field, field_validator

from storage.config import Config

PATTERNS: dict[str, tuple[str, ...]] = {
    "en": (
        "What is {title}?",
        "What does {title} mean?",
        "Tell me about {title}.",
        "Explain {title} in a few words.",
        "Can you explain what {title} is?",
        "I would like to know what {title} is.",
        "Give me a short description of {title}.",
        "How would you describe {title}?",
        "In short, what is {title}?",
        "Please introduce {title}.",
    ),
    "zh": (
        "{title}是什么？",
        "什么是{title}？",
        "请介绍一下{title}。",
        "请简单解释{title}。",
        "你知道{title}吗？请说明。",
        "能告诉我{title}是什么吗？",
        "用几句话描述{title}。",
        "我想了解{title}。",
        "{title}指的是什么？",
        "简要说明{title}。",
    ),
}


class FormatSftConfig(Config):
    """Which dialogues the model is tuned on."""

    files: tuple[str, ...] = Field((), json_schema_extra={"key": False})
    """Your own dialogues: Alpaca, ShareGPT, OpenAI messages, prompt/completion or preferences, as
    JSON array or JSON lines. `recipe:demo/x.jsonl` names a file shipped with a recipe. Contents
    enter the key."""
    earlier_answers_weight: float = Field(1.0, ge=0)
    """How much the answers before a dialogue's last count in the loss; 0 leaves only the last."""
    derive_from_wiki: bool = True
    """Also ask "What is X?" of pages whose lead says what X is."""
    max_derived: int = Field(10_000, ge=0)
    """Most questions derived from the wiki; the choice is a hash of the page's id."""
    max_answer_chars: int = Field(400, ge=20)
    """A derived answer is as many whole sentences of the lead as fit."""
    patterns: dict[str, tuple[str, ...]] = PATTERNS
    """Ways to ask, by language; {title} stands for the title."""
    max_rejected_share: float = Field(0.1, ge=0, le=1)
    """A file with a larger share of broken rows is refused, not quietly thinned."""
    validation_share: float = Field(0.02, gt=0, lt=1)
    """Share of the user's dialogues that go to validation; derived ones follow their page."""

    @field_validator("patterns")
    @classmethod
    def _title_in_each(cls, patterns: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for language, texts in patterns.items():
            if not texts or any(text.count("{title}") != 1 for text in texts):
                raise ValueError(f"patterns.{language} needs texts that each hold {{title}} once")
        return patterns
