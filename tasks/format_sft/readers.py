"""A user's file -> rows -> messages: five formats, told apart by the rows, not by the name.

| format            | a row                                                                   |
|-------------------|-------------------------------------------------------------------------|
| alpaca            | {instruction, output, input?, system?, history?: [[question, answer]]}   |
| sharegpt          | {conversations: [{from, value} or {role, content}], system?, tools?}     |
| messages          | {messages: [{role, content, weight?}], tools?, weight?}  (OpenAI)        |
| prompt-completion | {prompt, completion} or {question, answer}, {prompt, response}, ...      |
| preference        | one of these with {chosen, rejected}, or {chosen_messages, ...}: the     |
|                   | chosen answer is read. With {label} (KTO) a row is read if it is true    |

A file is a JSON array or JSON lines. Its format is what most of the first 100 rows are; from then
on every row has to be of it. A row that cannot be read is a `Row` with a reason, never an error.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from storage.errors import BadInput
from tasks.format_sft.contents import (
    Rejected,
    answer_of,
    call_of,
    result_of,
    text_of,
    weight_of,
    with_tools,
)

Message = dict[str, Any]
"""{"role", "content"}, and "weight" where an answer does not count 1."""
UNWANTED = "unwanted_answer"
"""The reason of rows that are not broken, but examples of what not to say."""
DETECTION_ROWS = 100
_MEDIA = ("images", "videos", "audios")
_ASKS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
)
_ROLES = {
    **{"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"},
    **{"observation": "tool", "function": "tool", "developer": "system"},
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: what was read or why not; `line` counts from 1, `raw` is its text."""

    line: int
    raw: str
    value: Any
    reason: str | None = None


def read_file(path: Path) -> Iterator[Row]:
    """Yield the rows of a JSON array or of JSON lines; which of them the first sign tells."""
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    yield from _array_rows(path) if head.startswith(b"[") else _line_rows(path)


def detect_format(path: Path) -> str:
    """Return the format of most of the first rows; refuse a file of none of the five."""
    rows = [row.value for row in islice(read_file(path), DETECTION_ROWS)]
    formats = Counter(format for row in rows if (format := _format_of(row)))
    if formats:
        return formats.most_common(1)[0][0]
    keys = sorted({key for row in rows if isinstance(row, dict) for key in row})
    found = f"its rows have the fields {', '.join(keys)}" if keys else "it has no JSON objects"
    raise BadInput(
        f"format_sft.files: {path.name} is in no known format ({found}); give alpaca (instruction, "
        "output), sharegpt (conversations), messages, or prompt and completion"
    )


def messages_of(row: Any, format: str) -> list[Message]:
    """Return a row's messages, white space around the contents removed; raise Rejected."""
    if not isinstance(row, dict):
        raise Rejected("not_an_object")
    if _format_of(row) != format:
        raise Rejected(f"not_{format}")
    if any(row.get(medium) for medium in _MEDIA):
        raise Rejected("needs_media")
    if row.get("label") is False:
        raise Rejected(UNWANTED)
    row = _with_chosen(row)
    kind = _plain_format_of(row)
    if kind == "alpaca":
        messages = _of_turns(_alpaca_turns(row))
    elif kind == "prompt-completion":
        ask, answer = next(keys for keys in _ASKS if keys[0] in row and keys[1] in row)
        messages = _of_turns([("user", row[ask]), ("assistant", row[answer])])
    else:
        items = row["conversations" if kind == "sharegpt" else "messages"]
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise Rejected("messages_not_a_list")
        messages = _joined_results(map(_message, items))
    if not messages or messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": text_of(row.get("system"))})
    messages[0]["content"] = with_tools(messages[0]["content"], row.get("tools"))
    for message in messages:
        weight = message.pop("weight", 1.0) * weight_of(row)
        if weight != 1 and message["role"] == "assistant":
            message["weight"] = weight
    return messages if messages[0]["content"] else messages[1:]


def _format_of(row: Any) -> str | None:
    if not isinstance(row, dict):
        return None
    if "chosen" in row or "chosen_messages" in row:
        return "preference" if _plain_format_of(_with_chosen(row)) else None
    return _plain_format_of(row)


def _plain_format_of(row: Mapping[str, Any]) -> str | None:
    if "messages" in row:
        return "messages"
    if "conversations" in row:
        return "sharegpt"
    if "instruction" in row and "output" in row:
        return "alpaca"
    if any(ask in row and answer in row for ask, answer in _ASKS):
        return "prompt-completion"
    return None


def _with_chosen(row: dict[str, Any]) -> dict[str, Any]:
    """Return a preference as a row of another format whose last answer is the chosen one."""
    if "chosen_messages" in row:
        return row | {"messages": row["chosen_messages"]}
    if "chosen" not in row:
        return row
    chosen = row["chosen"]
    for key in ("conversations", "messages", "prompt"):
        if isinstance(row.get(key), list):
            answer = chosen if isinstance(chosen, list) else [_as_message(chosen)]
            return row | {"messages" if key == "prompt" else key: [*row[key], *answer]}
    if isinstance(chosen, list):  # the whole dialogue
        return row | {"messages": chosen}
    return row | ({"output": chosen} if "instruction" in row else {"completion": chosen})


def _as_message(answer: Any) -> Any:
    return {"role": "assistant", "content": answer} if isinstance(answer, str) else answer


def _alpaca_turns(row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    history = row.get("history")
    if history is None:
        history = []
    if not isinstance(history, list) or not all(map(_is_pair, history)):
        raise Rejected("history_not_pairs")
    turns = [turn for ask, answer in history for turn in (("user", ask), ("assistant", answer))]
    question = "\n".join(
        text for key in ("instruction", "input") if (text := text_of(row.get(key)))
    )
    return [*turns, ("user", question), ("assistant", row["output"])]


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) for one in value)
    )


def _of_turns(turns: Sequence[tuple[str, Any]]) -> list[Message]:
    return [{"role": role, "content": text_of(content)} for role, content in turns]


def _message(item: Mapping[str, Any]) -> Message:
    role = item.get("role", item.get("from"))
    role = _ROLES.get(role, role) if isinstance(role, str) else None
    content = item.get("content", item.get("value"))
    message: Message
    if role == "function_call":
        message = {"role": "assistant", "content": call_of(content)}
    elif role == "assistant":
        message = {"role": role, "content": answer_of(item)}
    elif role == "tool":
        message = {"role": role, "content": result_of(content)}
    elif role in ("system", "user"):
        message = {"role": role, "content": text_of(content)}
    else:
        raise Rejected("unknown_role")
    return message | {"weight": weight_of(item)}


def _joined_results(messages: Iterator[Message]) -> list[Message]:
    """Return the messages with results as the user's; several in a row are one message."""
    joined: list[Message] = []
    before = None
    for message in messages:
        if before == message["role"] == "tool":
            joined[-1]["content"] += "\n" + message["content"]
        else:
            joined.append(message | {"role": "user"} if message["role"] == "tool" else message)
        before = message["role"]
    return joined


def _line_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            raw = line.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace").strip()
            if not raw:
                continue
            try:
                yield Row(number, raw, json.loads(raw))
            except (ValueError, RecursionError):
                yield Row(number, raw, None, "bad_json")


def _array_rows(path: Path) -> Iterator[Row]:
    """Yield the elements of a JSON array with the lines they begin on."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"format_sft.files: {path.name} is not UTF-8; convert it") from error
    decoder, line = json.JSONDecoder(), 1
    position = text.index("[") + 1
    counted = 0
    while True:
        while position < len(text) and (text[position].isspace() or text[position] == ","):
            position += 1
        line, counted = line + text.count("\n", counted, position), position
        if text[position : position + 1] == "]":
            return
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise BadInput(
                f"format_sft.files: {path.name} is broken JSON after line {line} ({error}); "
                "correct it, or give JSON lines, where only the broken line is lost"
            ) from error
        yield Row(line, text[position:end], value)
        position = end
