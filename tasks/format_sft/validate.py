"""What makes messages a dialogue that can be learned from; everything else has a reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from tasks.format_sft.contents import Rejected
from tasks.format_sft.readers import Message

CJK_SHARE = 0.2  # a Chinese answer full of names and code is still Chinese


def check_dialogue(messages: Sequence[Message]) -> None:
    """Raise Rejected unless the roles are system?, (user, assistant)+ and every text is there.

    Control tokens in a text are harmless: the tokenizer never reads them as such.
    """
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    if not any(turn["role"] == "assistant" for turn in turns):
        raise Rejected("no_answer")
    for number, turn in enumerate(turns):
        if turn["role"] != ("user", "assistant")[number % 2]:
            raise Rejected("roles_order")
    if turns[-1]["role"] != "assistant":
        raise Rejected("no_answer")
    for turn in turns:
        if not turn["content"]:
            raise Rejected("empty_answer" if turn["role"] == "assistant" else "empty_question")
    if not any(turn.get("weight", 1) for turn in turns if turn["role"] == "assistant"):
        raise Rejected("nothing_to_learn")


def weigh_earlier(messages: Sequence[Message], weight: float) -> list[Message]:
    """Return the messages with all answers but the last weighed by `weight` more or less."""
    answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    return [
        message | {"weight": message.get("weight", 1.0) * weight}
        if weight != 1 and number in answers[:-1]
        else message
        for number, message in enumerate(messages)
    ]


def dialogue_hash(messages: Sequence[Message]) -> str:
    """Return the hash by which two dialogues count as equal."""
    text = json.dumps([[one["role"], one["content"]] for one in messages], ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def language_of(messages: Sequence[Message]) -> str:
    """Return zh or en by the share of Chinese characters among the letters."""
    letters = [one for message in messages for one in message["content"] if one.isalpha()]
    chinese = sum("\u3400" <= one <= "\u9fff" or one >= "\U00020000" for one in letters)
    return "zh" if chinese > CJK_SHARE * len(letters) else "en"


def first_question(messages: Sequence[Message]) -> str:
    """Return the first user turn: what the split of the user's rows goes by."""
    return next(message["content"] for message in messages if message["role"] == "user")
