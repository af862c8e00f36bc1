"""User files -> messages: four formats, two layouts, every broken row with its line and reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from storage.errors import BadInput
from tasks.format_sft.readers import Rejected, detect_format, messages_of, read_file
from tasks.format_sft.validate import check_dialogue, dialogue_hash, language_of

U, A, S = "user", "assistant", "system"


def turns(row: object, format: str) -> list[tuple[str, str]]:
    """Return a row's messages as pairs."""
    return [(one["role"], one["content"]) for one in messages_of(row, format)]


@pytest.mark.parametrize(
    ("format", "row", "expected"),
    [
        ("alpaca", {"instruction": "a", "input": "b", "output": " c\n"}, [(U, "a\nb"), (A, "c")]),
        (
            "alpaca",
            {"instruction": "a", "output": "b", "system": "s", "history": [["q", "r"]]},
            [(S, "s"), (U, "q"), (A, "r"), (U, "a"), (A, "b")],
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            [(U, "a"), (A, "b")],
        ),
        (
            "sharegpt",
            {"conversations": [{"role": "user", "content": "a"}], "system": "s"},
            [(S, "s"), (U, "a")],
        ),
        (
            "messages",
            {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "a"}]},
            [(U, "a")],
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
            [(U, "a")],
        ),
        ("prompt-completion", {"prompt": "a", "completion": "b"}, [(U, "a"), (A, "b")]),
        ("prompt-completion", {"question": "a", "answer": "b"}, [(U, "a"), (A, "b")]),
    ],
)
def test_formats(tmp_path: Path, format: str, row: dict, expected: list[tuple[str, str]]) -> None:
    """Would catch a role taken for another, an input or a history lost."""
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row))
    assert detect_format(path) == format
    assert turns(row, format) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([], "not_an_object"),
        ({"instruction": "a", "output": "b"}, "not_messages"),
        ({"messages": "hello"}, "messages_not_a_list"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "unknown_role"),
        ({"messages": [{"content": "a"}]}, "unknown_role"),
        ({"messages": [{"role": "user", "content": 3}]}, "content_not_text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "content_not_text"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "bad_unicode"),
    ],
)
def test_rows_that_cannot_be_read(row: object, reason: str) -> None:
    """Would catch a broken row that stops the stage, or slips through as an empty dialogue."""
    with pytest.raises(Rejected, match=reason):
        messages_of(row, "messages")


@pytest.mark.parametrize(
    ("roles", "contents", "reason"),
    [
        ([U], "a", "no_answer"),
        ([], "", "no_answer"),
        ([S, A], "ab", "roles_order"),
        ([U, U, A], "abc", "roles_order"),
        ([U, A, S, U, A], "abcde", "roles_order"),
        ([U, A, U], "abc", "no_answer"),
    ],
)
def test_what_is_no_dialogue(roles: list[str], contents: str, reason: str) -> None:
    """Would catch dialogues that end in a question or begin with an answer."""
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
    with pytest.raises(Rejected, match=reason):
        check_dialogue(messages)


def test_empty_texts() -> None:
    """Would catch an empty answer: the model would learn to say nothing."""
    ask, answer = {"role": U, "content": "a"}, {"role": A, "content": "b"}
    check_dialogue([ask, answer])
    check_dialogue([{"role": S, "content": "s"}, ask, answer, ask, answer])
    with pytest.raises(Rejected, match="empty_answer"):
        check_dialogue([ask, answer | {"content": ""}])
    with pytest.raises(Rejected, match="empty_question"):
        check_dialogue([ask | {"content": ""}, answer])


def test_array_and_lines_read_alike_with_true_line_numbers(tmp_path: Path) -> None:
    """Would catch line numbers that point beside the broken row, and a BOM taken for text."""
    rows = [{"prompt": "a\n[,]", "completion": str(number)} for number in range(3)]
    array, lines = tmp_path / "a.txt", tmp_path / "l.json"
    array.write_text("\ufeff[\n" + ",\n\n".join(json.dumps(row, indent=1) for row in rows) + "\n]")
    lines.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows) + "\n{oops\n")
    assert [row.value for row in read_file(array)] == rows
    assert [row.line for row in read_file(array)] == [2, 7, 12]
    found = list(read_file(lines))
    assert [row.value for row in found[:3]] == rows
    assert [(row.line, row.reason) for row in found] == [
        (1, None),
        (3, None),
        (5, None),
        (6, "bad_json"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"prompt": "a", "completion": "b"},\n {"prompt": ', "broken JSON after line 2"),
        ('[{"text": "a"}]', "fields text"),
        ("", "no JSON objects"),
        ("plain words", "no JSON objects"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, text: str, words: str) -> None:
    """Would catch a traceback where the user needs the file's name and what to do."""
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=words) as error:
        list(read_file(path))
        detect_format(path)
    assert "mine.json" in str(error.value)


def test_language_and_hash() -> None:
    """Would catch Chinese with English names taken for English, and equal dialogues kept."""
    zh = [{"role": U, "content": "请介绍Python语言的特点"}]
    assert language_of(zh) == "zh"
    assert language_of([{"role": U, "content": "What does 道 mean in Chinese philosophy?"}]) == "en"
    assert language_of([{"role": U, "content": "1 + 1?"}]) == "en"
    assert dialogue_hash(zh) == dialogue_hash([dict(zh[0])])
    assert dialogue_hash(zh) != dialogue_hash([zh[0] | {"role": A}])


@pytest.mark.parametrize(
    ("name", "format", "max_bad_share"),
    [
        ("llamafactory/alpaca_en_demo.json", "alpaca", 0),
        ("llamafactory/alpaca_zh_demo.json", "alpaca", 0),
        ("llamafactory/identity.json", "alpaca", 0),
        ("llamafactory/v1_sft_demo.jsonl", "messages", 0),
        ("llamafactory/glaive_toolcall_en_demo.json", "sharegpt", 0.9),
        ("alpaca_zh_carbonz0/zh-data-part-00.json", "alpaca", 0.01),
    ],
)
def test_real_files(shared_data: Path, name: str, format: str, max_bad_share: float) -> None:
    """Would catch a format that reads our own examples and not what people have."""
    path = shared_data / "sft" / name
    if not path.exists():
        pytest.skip(f"{name} is not among the shared data")
    assert detect_format(path) == format
    text = path.read_text(encoding="utf-8")
    values = (
        json.loads(text) if path.suffix == ".json" else list(map(json.loads, text.splitlines()))
    )
    assert [row.value for row in read_file(path)] == values
    bad = 0
    for value in values:
        try:
            check_dialogue(messages_of(value, format))
        except Rejected:
            bad += 1
    assert bad <= max_bad_share * len(values)
