"""Whatever JSON a row holds, it is a dialogue that can be written or a reason that is counted."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.formats.schemas import DIALOGUES
from tasks.format_sft.files import UserRows, read_files

NEEDED = {
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "preference": ("prompt", "chosen"),
}
OPTIONAL = ("history", "system", "input", "tools", "weight")
TEXTS = ("", "a", "gpt", "[1]", '{"name": "f"}', '{"name": "\\ud83d"}', "\ud83d")
FIELDS = ("from", "value", "role", "content", "type", "text", "name", "arguments", "function")

text = st.sampled_from(TEXTS)
plain = st.none() | st.booleans() | st.integers() | st.floats() | text
anything = st.recursive(
    plain,
    lambda one: st.lists(one, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), one),
    max_leaves=4,
)
part = st.fixed_dictionaries(
    {"type": st.sampled_from(("text", "reasoning", "tool_call")), "text": anything}
)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(("user", "assistant", "tool", "system", "function_call"))},
    optional={
        "content": text | anything | st.lists(part, min_size=1, max_size=2),
        "weight": anything,
        "tool_calls": anything,
        "reasoning_content": anything,
    },
)
content = text | anything | st.lists(message, max_size=3)


def read(rows: list[Any]) -> UserRows:
    """Read rows as a user's file of JSON lines."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mine.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return read_files([path], max_rejected_share=1, validation_share=0.5)


@pytest.mark.parametrize("format", NEEDED)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_row_is_a_dialogue_or_a_reason(format: str, data: st.DataObject) -> None:
    """Catches a row that ends the stage with a traceback, here or when the table is written."""
    needed = dict.fromkeys(NEEDED[format], content)
    optional = dict.fromkeys(OPTIONAL, anything)
    row = data.draw(st.fixed_dictionaries(needed, optional=optional))
    came = read([row])
    assert came.seen == 1 == len(came.rows) + len(came.ledger)
    pa.Table.from_pylist(came.rows, DIALOGUES)
    for message in came.rows[0]["messages"] if came.rows else ():
        assert message["role"] in ("system", "user", "assistant")
        assert isinstance(message["content"], str)


def test_rows_beside_the_format() -> None:
    """Catches a row that is no object, or nested deeper than Python reads, among good ones."""
    good = {"prompt": "a", "completion": "b"}
    deep = {**good, "tools": json.loads("[" * 900 + "]" * 900)}
    came = read([good, 5, None, [good], "text", deep])
    assert came.seen == 6 == len(came.rows) + len(came.ledger)
    assert [row["reason"] for row in came.ledger][:4] == ["not_an_object"] * 4
