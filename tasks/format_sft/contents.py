"""What a message says -> text: parts, thoughts and calls of functions, written out in tags.

The model knows three roles, so a call of a function is said by the assistant and its result by the
user, in the tags that Qwen3's models are trained on:

    assistant   <think>It asks for the weather.</think><tool_call>
                {"name": "weather", "arguments": {"city": "Bonn"}}
                </tool_call>
    user        <tool_response>
                {"sky": "grey"}
                </tool_response>
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


class Rejected(ValueError):
    """A row that cannot become a dialogue; the message is the reason that the ledger counts."""


def text_of(content: Any) -> str:
    """Return a content's text: a string, or a list of parts, white space around it removed."""
    if content is None:
        return ""
    if isinstance(content, list):
        content = "".join(map(_part, content))
    return _whole(content).strip()


def answer_of(item: Mapping[str, Any]) -> str:
    """Return what an assistant's message says: its thoughts, its text, and its calls."""
    text = text_of(item.get("content", item.get("value")))
    if thoughts := text_of(item.get("reasoning_content")):
        text = f"<think>{thoughts}</think>{text}"
    calls = item.get("tool_calls") or item.get("function_call") or []
    for call in calls if isinstance(calls, list) else [calls]:
        text += call_of(call.get("function", call) if isinstance(call, Mapping) else call)
    return text.strip()


def call_of(call: Any) -> str:
    """Return the calls that a JSON text, an object or a list of objects stands for, in tags."""
    calls = _from_json(call)
    for one in (calls := calls if isinstance(calls, list) else [calls]):
        if not isinstance(one, Mapping) or "name" not in one:
            raise Rejected("bad_call")
    return "".join(
        "<tool_call>\n"
        + _json({"name": one["name"], "arguments": _from_json(one.get("arguments") or {})})
        + "\n</tool_call>"
        for one in calls
    )


def result_of(content: Any) -> str:
    """Return the result of a call, in tags."""
    return f"<tool_response>\n{text_of(content)}\n</tool_response>"


def with_tools(system: str, tools: Any) -> str:
    """Return a system message that also lists the functions that may be called."""
    tools = _from_json(tools)
    if not tools:
        return system
    listed = "\n".join(_json(tool) for tool in (tools if isinstance(tools, list) else [tools]))
    return f"{system}\n\nFunctions that you may call:\n<tools>\n{listed}\n</tools>".strip()


def weight_of(item: Mapping[str, Any]) -> float:
    """Return how much a message or a row counts: its `weight` or `loss_weight`, else 1."""
    weight = item.get("weight", item.get("loss_weight"))
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1e6:
        raise Rejected("bad_weight")
    return float(weight)


def _part(part: Any) -> str:
    if not isinstance(part, Mapping):
        raise Rejected("content_not_text")
    value = part.get("text", part.get("value", ""))
    match part.get("type"):
        case "text":
            return _whole(value)
        case "reasoning":
            return f"<think>{_whole(value)}</think>"
        case "tool_call":
            return call_of(value)
    raise Rejected("content_not_text")


def _whole(text: Any) -> str:
    """Return a text that can be written as UTF-8; reject half characters and what is no text."""
    if not isinstance(text, str):
        raise Rejected("content_not_text")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Rejected("bad_unicode")
    return text


def _from_json(value: Any) -> Any:
    """Return what a JSON text says; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    try:
        return _whole(json.dumps(value, ensure_ascii=False))
    except RecursionError as error:
        raise Rejected("nested_too_deep") from error
