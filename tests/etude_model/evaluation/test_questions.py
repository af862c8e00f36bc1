"""Question files: prompts word for word, examples from the right place, every bad row counted."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from etude_model.evaluation.questions import files_read, question_files, read_questions
from storage.errors import BadInput

LAW = {"question": " 谁立法？ ", "A": "人民", "B": "法院", "C": "公司", "D": "0.50", "answer": "A"}
HELLASWAG = {
    "activity_label": "Roof",
    "ctx_a": "A man stands [title] up.",
    "ctx_b": "he LOOKS",
    "endings": ["[step] down.", "up  there", "at  a [x]  dog"],
    "label": 1,
}


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as CSV with the columns of the first one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def cmmlu(row: dict[str, str]) -> dict[str, str]:
    """Return a C-Eval row with CMMLU's names of the columns."""
    return {name.title() if len(name) > 1 else name: value for name, value in row.items()}


def test_prompts_are_those_of_lm_eval(tmp_path: Path) -> None:
    """Catches a lost blank, a wrong subject or an option turned into a number, lm-eval or not."""
    options = "A. 人民\nB. 法院\nC. 公司\nD. 0.50\n答案："
    val = write_csv(tmp_path / "val" / "law_val.csv", [LAW])
    write_csv(tmp_path / "dev" / "law_dev.csv", [LAW | {"question": f"{n}？"} for n in range(3)])
    (law,) = read_questions([val], few_shot=2)
    assert (law.name, law.questions[0].subject, law.questions[0].gold) == ("ceval", "law", 0)
    assert law.questions[0].prompt == (
        "以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n"
        f"0？\n{options} A\n\n1？\n{options} A\n\n谁立法？\n{options}"
    )
    (arts,) = read_questions([write_csv(tmp_path / "arts.csv", [cmmlu(LAW)])])
    assert arts.questions[0].prompt == (
        f"以下是关于艺术学的单项选择题，请直接给出正确答案的选项。\n\n谁立法？\n{options}"
    )
    (roof,) = read_questions([write_lines(tmp_path / "roof.jsonl", [HELLASWAG])])
    assert roof.questions[0].prompt == "Roof: A man stands. up. He looks"
    assert roof.questions[0].choices == (" down.", "up there", "at a  dog")
    assert roof.questions[0].gold == 1


def test_every_row_that_cannot_be_asked_is_counted(tmp_path: Path) -> None:
    """Catches a test split without answers that counts as answered wrongly, and silent losses."""
    rows = [LAW, LAW | {"answer": ""}, LAW | {"answer": "E"}, LAW | {"question": " "}]
    path = write_csv(tmp_path / "law.csv", rows)
    with path.open("a", encoding="utf-8") as file:
        file.write("only a question\n")
    (law,) = read_questions([path])
    assert len(law.questions) == 1
    assert law.set_aside == {
        "no answer": 1,
        "answer is none of A, B, C, D": 1,
        "empty question": 1,
        "broken or short row": 1,
    }
    endings: list[Any] = [
        HELLASWAG,
        HELLASWAG | {"label": "3"},
        HELLASWAG | {"label": ""},
        HELLASWAG | {"label": -1},
        HELLASWAG | {"endings": "one"},
        HELLASWAG | {"endings": ["a", "[b]"]},
        [1, 2],
    ]
    path = write_lines(tmp_path / "hellaswag_val.jsonl", endings)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"ctx_a": "cut off')
    (roof,) = read_questions([path])
    assert len(roof.questions) == 1 and roof.set_aside.total() == 7
    assert roof.set_aside["label is not 0 to 2"] == 2
    assert roof.set_aside["broken or short row"] == 2


def test_a_file_of_other_columns_is_set_aside_and_said(tmp_path: Path) -> None:
    """Catches one stray file that ends an evaluation, and one that is passed over in silence."""
    write_csv(tmp_path / "set" / "law.csv", [LAW])
    stray = write_csv(tmp_path / "set" / "notes.csv", [{"question": "?", "answer": "A"}] * 3)
    found = {one.name: one for one in read_questions([tmp_path / "set"])}
    assert found.keys() == {"ceval", "unknown"} and not found["unknown"].questions
    assert found["unknown"].set_aside == {"columns of no known format": 3}
    with pytest.raises(BadInput, match=r"3 x columns of no known format.*ceval: question, A, B"):
        read_questions([stray])
    with pytest.raises(BadInput, match="is no file and no folder with"):
        read_questions([tmp_path / "nowhere"])
    (tmp_path / "latin.csv").write_bytes("Größe".encode("latin-1"))
    (tmp_path / "no.parquet").write_bytes(b"PAR2")
    (tmp_path / "open_quote.csv").write_text('question\n"' + "x" * 200_000)
    for name, message in (
        ("latin.csv", "is not UTF-8"),
        ("no.parquet", "is no Parquet file"),
        ("open_quote.csv", "is no CSV file"),
    ):
        with pytest.raises(BadInput, match=message):
            read_questions([tmp_path / name])


def test_json_list_and_parquet_are_read_like_csv(tmp_path: Path) -> None:
    """Catches a format that only one of the readers knows."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = [HELLASWAG | {"label": str(number)} for number in range(3)]
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "validation-00000.parquet")
    write_lines(tmp_path / "lines.jsonl", rows)
    for name in ("list.json", "validation-00000.parquet", "lines.jsonl"):
        (found,) = read_questions([tmp_path / name])
        assert [one.gold for one in found.questions] == [0, 1, 2], name
    separated = LAW | {"question": "first\u2028second\nthird"}  # no line ends for a CSV field
    (found,) = read_questions([write_csv(tmp_path / "law.csv", [separated])])
    assert found.questions[0].text.startswith("first\u2028second\nthird\nA. 人民\n")


def test_folders_leave_the_examples_out(tmp_path: Path) -> None:
    """Catches worked examples that are asked too, and a cache key that forgets them."""
    val = write_csv(tmp_path / "val" / "law_val.csv", [LAW] * 2)
    dev = write_csv(tmp_path / "dev" / "law_dev.csv", [LAW | {"A": "甲"}] * 2)
    assert question_files(tmp_path) == [val]
    assert question_files(tmp_path / "dev") == [dev]
    assert files_read([tmp_path]) == [val] and files_read([tmp_path], few_shot=1) == [val, dev]
    train = write_lines(tmp_path / "test_of_mine" / "swag_train.jsonl", [HELLASWAG] * 4)
    swag = write_lines(tmp_path / "test_of_mine" / "swag_validation.jsonl", [HELLASWAG])
    assert files_read([swag], few_shot=1) == [swag, train]


@pytest.mark.parametrize("few_shot", [1, 3])
def test_a_question_is_never_its_own_example(few_shot: int, tmp_path: Path) -> None:
    """Catches an accuracy of 1 because the answer stands in the prompt."""
    rows = [LAW | {"question": f"question {number}"} for number in range(4)]
    (law,) = read_questions([write_csv(tmp_path / "law.csv", rows)], few_shot=few_shot, limit=3)
    assert len(law.questions) == 3
    for number, one in enumerate(law.questions):
        assert one.prompt.count(f"question {number}\n") == 1
        assert one.prompt.count("答案： A\n\n") == few_shot and one.prompt.endswith("答案：")
    swags = [HELLASWAG | {"ctx_b": f"number {number}"} for number in range(4)]
    (swag,) = read_questions([write_lines(tmp_path / "swag.jsonl", swags)], few_shot=few_shot)
    for number, one in enumerate(swag.questions):
        assert one.prompt.count(f"Number {number}") == 1 and one.prompt.count("\n\n") == few_shot
    with pytest.raises(BadInput, match=r"few_shot=4.*set few_shot to at most 3"):
        read_questions([tmp_path / "law.csv"], few_shot=4)


def test_examples_are_drawn_as_lm_eval_draws_them(tmp_path: Path) -> None:
    """Catches another seed or another order of draws; lm_eval 0.4.13 gave these numbers."""
    train = [HELLASWAG | {"ctx_b": f"number {number}"} for number in range(9)]
    write_lines(tmp_path / "swag_train.jsonl", train)
    asked = [HELLASWAG, HELLASWAG | {"label": ""}, HELLASWAG, HELLASWAG]
    path = write_lines(tmp_path / "swag_validation.jsonl", asked)
    (swag,) = read_questions([path], few_shot=2)
    drawn = [re.findall(r"Number (\d)", one.prompt) for one in swag.questions]
    assert drawn == [["7", "1"], ["1", "8"], ["5", "3"]], "the row without an answer draws too"


def test_the_real_sets_are_whole(shared_data: Path) -> None:
    """Catches a row of the real files that is lost: C-Eval's validation split has 1,346."""
    ceval, cmmlu_dev = read_questions(
        [shared_data / "eval" / "ceval", shared_data / "eval" / "cmmlu"], few_shot=4
    )
    assert (len(ceval.questions), len({one.subject for one in ceval.questions})) == (1346, 52)
    assert (len(cmmlu_dev.questions), len({one.subject for one in cmmlu_dev.questions})) == (
        335,
        67,
    )
    assert not ceval.set_aside and not cmmlu_dev.set_aside
    known = {one.prompt.split("\n")[0] for one in [*ceval.questions, *cmmlu_dev.questions]}
    assert not [line for line in known if line.isascii() or "_" in line], "a subject has no name"
