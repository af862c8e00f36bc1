"""A user's file -> rows -> messages: four formats, told apart by the rows, not by the name.

| format            | a row                                                                   |
|-------------------|-------------------------------------------------------------------------|
| alpaca            | {instruction, output, input?, system?, history?: [[question, answer]]}   |
| sharegpt          | {conversations: [{from, value} or {role, content}], system?}             |
| messages          | {messages: [{role, content}]}  (OpenAI)                                  |
| prompt-completion | {prompt, completion} or {question, answer}, {prompt, response}, ...      |

A file is a JSON array or JSON lines. Its format is what most of the first 100 rows are; from then
on every row has to be of it. A row that cannot be read is a `Row` with a reason, never an error.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from storage.errors import BadInput

Message = dict[str, str]
DETECTION_ROWS = 100
_ASKS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
)
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: what was read or why not; `line` counts from 1, `raw` is its text."""

    line: int
    raw: str
    value: Any
    reason: str | None = None


class Rejected(ValueError):
    """A row that cannot become a dialogue; the message is the reason that the ledger counts."""


def read_file(path: Path) -> Iterator[Row]:
    """Yield the rows of a JSON array or of JSON lines; which of them the first sign tells."""
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    yield from _array_rows(path) if head.startswith(b"[") else _line_rows(path)


def detect_format(path: Path) -> str:
    """Return the format of most of the first rows; refuse a file of none of the four."""
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
    if format == "alpaca":
        turns = _alpaca_turns(row)
    elif format == "prompt-completion":
        ask, answer = next(keys for keys in _ASKS if keys[0] in row and keys[1] in row)
        turns = [("system", row.get("system")), ("user", row[ask]), ("assistant", row[answer])]
    else:
        items = row["conversations" if format == "sharegpt" else "messages"]
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise Rejected("messages_not_a_list")
        turns = [("system", row.get("system"))]
        for item in items:
            role, content = (
                item.get("role", item.get("from")),
                item.get("content", item.get("value")),
            )
            turns.append((_role(role), "" if content is None else content))
    messages = [{"role": role, "content": _text(content)} for role, content in turns]
    while messages and messages[0] == {"role": "system", "content": ""}:
        messages.pop(0)
    return messages


def _format_of(row: Any) -> str | None:
    if not isinstance(row, dict):
        return None
    if "messages" in row:
        return "messages"
    if "conversations" in row:
        return "sharegpt"
    if "instruction" in row and "output" in row:
        return "alpaca"
    if any(ask in row and answer in row for ask, answer in _ASKS):
        return "prompt-completion"
    return None


def _alpaca_turns(row: dict[str, Any]) -> list[tuple[str, Any]]:
    turns: list[tuple[str, Any]] = [("system", row.get("system"))]
    for pair in row.get("history") or []:
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise Rejected("history_not_pairs")
        turns += [("user", pair[0]), ("assistant", pair[1])]
    question = "\n".join(text for key in ("instruction", "input") if (text := _text(row.get(key))))
    return [*turns, ("user", question), ("assistant", row["output"])]


def _role(role: Any) -> str:
    role = _ROLES.get(role, role) if isinstance(role, str) else None
    if role not in ("system", "user", "assistant"):
        raise Rejected("unknown_role")
    return role


def _text(content: Any) -> str:
    """Return a content's text; OpenAI's list of parts counts if all parts are text."""
    if content is None:
        return ""
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise Rejected("content_not_text")
        content = "".join(str(part.get("text", part.get("value", ""))) for part in content)
    if not isinstance(content, str):
        raise Rejected("content_not_text")
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise Rejected("bad_unicode")
    return content.strip()


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
