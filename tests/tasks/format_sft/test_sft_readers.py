"""User files -> messages: four formats, two layouts, every broken row with its line and reason."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from storage.errors import BadInput
from tasks.format_sft.contents import Rejected
from tasks.format_sft.readers import UNWANTED, detect_format, messages_of, read_file
from tasks.format_sft.validate import (
    check_dialogue,
    dialogue_hash,
    language_of,
    weigh_earlier,
)

U, A, S = "user", "assistant", "system"
TEXT = "content_not_text"


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
        ("alpaca", {"instruction": "a", "output": "b", "history": None}, [(U, "a"), (A, "b")]),
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
        ({"messages": [{"role": "narrator", "content": "a"}]}, "unknown_role"),
        ({"messages": [{"content": "a"}]}, "unknown_role"),
        ({"messages": [{"role": "user", "content": 3}]}, "content_not_text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "content_not_text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}, TEXT),
        ({"messages": [{"role": "user", "content": [{"type": "reasoning", "text": 3}]}]}, TEXT),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "bad_unicode"),
        ({"messages": [{"role": "function_call", "content": {"name": "\ud83d"}}]}, "bad_unicode"),
        ({"messages": [{"role": "function_call", "content": "buy milk"}]}, "bad_call"),
        ({"messages": [{"role": "assistant", "content": "a", "weight": "much"}]}, "bad_weight"),
        ({"messages": [{"role": "assistant", "content": "a", "weight": -1}]}, "bad_weight"),
        ({"messages": [{"role": "user", "content": "<image>a"}], "images": ["a"]}, "needs_media"),
        ({"messages": [{"role": "user", "content": "a"}], "label": False}, UNWANTED),
    ],
)
def test_rows_that_cannot_be_read(row: object, reason: str) -> None:
    """Would catch a broken row that stops the stage, or slips through as an empty dialogue."""
    with pytest.raises(Rejected, match=reason):
        messages_of(row, "messages")


@pytest.mark.parametrize(
    "history", [5, "ab", {}, ["ab"], [["a"]], [["a", "b", "c"]], [["a", None]], [["a", 3]]]
)
def test_a_history_is_pairs_of_texts(history: object) -> None:
    """Would catch a traceback, and a word whose letters are taken for a question and an answer."""
    row = {"instruction": "a", "output": "b", "history": history}
    with pytest.raises(Rejected, match="history_not_pairs"):
        messages_of(row, "alpaca")


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
    ("row", "expected"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, [(U, "a"), (A, "b")]),
        ({"instruction": "a", "chosen": "b", "rejected": "c"}, [(U, "a"), (A, "b")]),
        (
            {
                "conversations": [{"from": "human", "value": "a"}],
                "chosen": {"from": "gpt", "value": "b"},
            },
            [(U, "a"), (A, "b")],
        ),
        (
            {"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": A, "content": "b"}]},
            [(U, "a"), (A, "b")],
        ),
        (
            {"chosen": [{"role": U, "content": "a"}, {"role": A, "content": "b"}]},
            [(U, "a"), (A, "b")],
        ),
        ({"chosen_messages": [{"role": U, "content": "a"}], "rejected_messages": []}, [(U, "a")]),
    ],
)
def test_preferences_give_the_chosen_answer(
    tmp_path: Path, row: dict, expected: list[tuple[str, str]]
) -> None:
    """Would catch the rejected answer learned, or the question left out."""
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row))
    assert detect_format(path) == "preference"
    assert turns(row, "preference") == expected


def test_calls_results_and_tools() -> None:
    """Would catch a call learned as the user's words, and results that break the turns."""
    call = {"name": "add", "arguments": '{"a": 1}'}
    written = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    row = {
        "tools": '[{"name": "add"}]',
        "messages": [
            {"role": "user", "content": "1+1"},
            {"role": "assistant", "content": None, "tool_calls": [{"function": call}] * 2},
            {"role": "tool", "content": "2"},
            {"role": "tool", "content": [{"type": "text", "value": "2"}]},
            {
                "role": "assistant",
                "content": [{"type": "reasoning", "value": "hm"}, {"type": "text", "text": "Two."}],
            },
        ],
    }
    system, *rest = turns(row, "messages")
    assert system[0] == S and '<tools>\n{"name": "add"}\n</tools>' in system[1]
    results = "<tool_response>\n2\n</tool_response>"
    assert rest == [
        (U, "1+1"),
        (A, written * 2),
        (U, f"{results}\n{results}"),
        (A, "<think>hm</think>Two."),
    ]
    check_dialogue(messages_of(row, "messages"))
    old = {"conversations": [{"from": "function_call", "value": json.dumps([call])}]}
    assert turns(old, "sharegpt") == [(A, written)]


def test_weights_of_turns_and_rows() -> None:
    """Would catch a weight on the wrong turn, or lost, or a dialogue that teaches nothing."""
    ask, answer = {"role": U, "content": "a"}, {"role": A, "content": "b"}
    row = {"messages": [ask, answer | {"weight": 0}, ask, answer | {"weight": 0.5}], "weight": 2}
    messages = messages_of(row, "messages")
    assert [one.get("weight", 1) for one in messages] == [1, 0, 1, 1]  # half of twice is one
    plain = messages_of({"messages": [ask, answer, ask, answer]}, "messages")
    assert not any("weight" in one for one in plain)
    assert [one.get("weight") for one in weigh_earlier(plain, 0.25)] == [None, 0.25, None, None]
    assert weigh_earlier(plain, 1) == plain
    with pytest.raises(Rejected, match="nothing_to_learn"):
        check_dialogue([ask, answer | {"weight": 0.0}])


REAL_FILES = {  # format, rows, and why how many of them are set aside
    "alpaca_zh_carbonz0/zh-data-part-00.json": ("alpaca", 10021, {"empty_answer": 6}),
    "llamafactory/alpaca_en_demo.json": ("alpaca", 999, {}),
    "llamafactory/alpaca_zh_demo.json": ("alpaca", 1000, {}),
    "llamafactory/identity.json": ("alpaca", 91, {}),
    "llamafactory/dpo_en_demo.json": ("preference", 300, {}),
    "llamafactory/dpo_zh_demo.json": ("preference", 300, {}),
    "llamafactory/v1_dpo_demo.jsonl": ("preference", 10, {}),
    "llamafactory/kto_en_demo.json": ("messages", 300, {UNWANTED: 150}),
    "llamafactory/glaive_toolcall_en_demo.json": ("sharegpt", 300, {}),
    "llamafactory/glaive_toolcall_zh_demo.json": ("sharegpt", 300, {}),
    "llamafactory/reason_tool_use_demo_50.jsonl": ("messages", 50, {}),
    "llamafactory/v1_sft_demo.jsonl": ("messages", 500, {}),
    "llamafactory/mllm_demo.json": ("messages", 6, {"needs_media": 6}),
    "llamafactory/mllm_audio_demo.json": ("messages", 3, {"needs_media": 3}),
    "llamafactory/mllm_video_demo.json": ("messages", 3, {"needs_media": 3}),
    "llamafactory/mllm_video_audio_demo.json": ("messages", 3, {"needs_media": 3}),
    "llamafactory/v1_multimodal_demo.jsonl": ("messages", 24, {"content_not_text": 24}),
}


def test_every_real_file(shared_data: Path) -> None:
    """Would catch a format that reads our own examples and not what people have."""
    folder = shared_data / "sft"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.json*")}
    no_dialogues = {"llamafactory/dataset_info.json", "llamafactory/c4_demo.jsonl"}
    assert files - no_dialogues == REAL_FILES.keys()
    for name, (format, num_rows, reasons) in REAL_FILES.items():
        assert detect_format(folder / name) == format, name
        set_aside: Counter[str] = Counter()
        read = 0
        for row in read_file(folder / name):
            try:
                check_dialogue(messages_of(row.value, format))
                read += 1
            except Rejected as error:
                set_aside[str(error)] += 1
        assert dict(set_aside) == reasons, name
        assert read + sum(set_aside.values()) == num_rows, name
    with pytest.raises(BadInput, match="no known format"):
        detect_format(folder / "llamafactory/c4_demo.jsonl")
