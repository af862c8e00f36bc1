"""question files -> prompts and choices, word for word as lm-evaluation-harness asks them.

Three formats, told apart by their columns, in CSV, JSON, JSON lines or Parquet:

    C-Eval     question, A, B, C, D, answer     a subject a file (Huang et al. 2023, 2305.08322)
    CMMLU      Question, A, B, C, D, Answer     a subject a file (Li et al. 2023, 2306.09212)
    HellaSwag  activity_label, ctx_a, ctx_b, endings, label      (Zellers et al. 2019, 1905.07830)

The first two ask for a letter, the third for a whole ending. Worked examples come from the file of
the split `dev` or `train` that lies beside, else from the other questions of the file itself:

    ceval/val/law_val.csv   takes its examples from   ceval/dev/law_dev.csv

They are its first ones; for HellaSwag they are drawn anew for each question, with the harness's
seed. A row that cannot be asked is set aside with a reason.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from etude_model.evaluation.subjects import CEVAL_SUBJECTS, CMMLU_SUBJECTS
from storage.errors import BadInput

LETTERS = ("A", "B", "C", "D")
ENDINGS = (".csv", ".json", ".jsonl", ".parquet")
EXAMPLE_SPLITS = ("dev", "train")
HARNESS_SEED = 1234
_SPLIT = re.compile(r"(?<![a-z])(val|test|validation|dev|train)(?![a-z])")


@dataclass(frozen=True, slots=True)
class Question:
    """A text, the continuations to choose from, and the place of the right one."""

    text: str
    choices: tuple[str, ...]
    gold: int
    subject: str = ""
    prompt: str = ""
    """What the model reads: the subject, worked examples, the text."""


@dataclass(slots=True)
class QuestionSet:
    """All questions of one format; how many rows were set aside, and why."""

    name: str
    questions: list[Question] = field(default_factory=list)
    set_aside: Counter[str] = field(default_factory=Counter)


class SetAside(Exception):
    """A row that cannot be asked; the message is the reason."""


@dataclass(frozen=True, slots=True)
class _Format:
    name: str
    columns: tuple[str, ...]
    ask: Callable[[Mapping[str, Any]], Question]
    describe: Callable[[str], str] = lambda subject: ""
    draws_examples: bool = False


def read_questions(
    paths: Sequence[Path], *, few_shot: int = 0, limit: int | None = None
) -> list[QuestionSet]:
    """Return the questions of files and folders, a set per format.

    `few_shot` worked examples stand before each question; `limit` takes the first rows of each
    file. A folder means all its files, without those of `dev` and `train` if there are others.
    A file with other columns is set aside under the name "unknown". A path that is not there, too
    few examples and no question at all are BadInput.
    """
    sets: dict[str, QuestionSet] = {}
    for file in [file for path in paths for file in question_files(path)]:
        rows = list(_read_rows(file))
        format = _format_of(rows)
        name = format.name if format else "unknown"
        found = sets.setdefault(name, QuestionSet(name))
        if format is None:
            found.set_aside["columns of no known format"] += max(1, len(rows))
            continue
        subject = _SPLIT.sub("", file.stem).strip("_-.")
        examples = _Examples(file, rows, format, few_shot)
        for row in rows[:limit]:
            worked = examples.before(row)
            question = _ask(row, format, found.set_aside)
            if question is not None:
                prompt = format.describe(subject) + worked + question.text
                found.questions.append(replace(question, subject=subject, prompt=prompt))
    if paths and not any(one.questions for one in sets.values()):
        set_aside = sum((one.set_aside for one in sets.values()), Counter())
        reasons = "; ".join(f"{number} x {reason}" for reason, number in set_aside.items())
        formats = "; ".join(f"{one.name}: {', '.join(one.columns)}" for one in FORMATS)
        raise BadInput(
            f"{', '.join(map(str, paths))}: no row can be asked ({reasons or 'no rows'}); "
            f"give files with the columns of {formats}"
        )
    return list(sets.values())


def files_read(paths: Sequence[Path], *, few_shot: int = 0) -> list[Path]:
    """Return every file that decides what is asked, those of worked examples too."""
    asked = [file for path in paths for file in question_files(path)]
    return asked + [_examples_file(file) for file in asked] if few_shot else asked


def question_files(path: Path) -> list[Path]:
    """Return the files that a path means, in order; a path without any is BadInput."""
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in ENDINGS and file.is_file())
    if not files:
        raise BadInput(f"{path} is no file and no folder with {', '.join(ENDINGS)} in it")
    asked = [file for file in files if not _is_examples(file)]
    return asked or files


# Files


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; a line that cannot be read is an empty row."""
    if path.suffix == ".parquet":
        from pyarrow import ArrowException, parquet

        try:
            yield from parquet.read_table(path).to_pylist()
        except ArrowException as error:
            raise BadInput(f"{path} is no Parquet file ({error}); download it again") from error
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 ({error}); convert it") from error
    if path.suffix == ".csv":
        try:
            yield from csv.DictReader(io.StringIO(text, newline=""))
        except csv.Error as error:
            raise BadInput(f"{path} is no CSV file ({error}); quote its fields") from error
        return
    lines = text.split("\n")
    if text.lstrip().startswith("["):
        lines = [json.dumps(row) for row in _json(text) or []]
    for line in lines:
        if line.strip():
            row = _json(line)
            yield row if isinstance(row, dict) else {}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _is_examples(path: Path) -> bool:
    """Return whether a file is of the split that worked examples are taken from."""
    splits = _SPLIT.findall(path.stem) or _SPLIT.findall(path.parent.name)
    return bool(splits) and splits[-1] in EXAMPLE_SPLITS


def _examples_file(path: Path) -> Path:
    """Return the file of worked examples that belongs to a file: perhaps the file itself."""
    folder = path.parent
    for split in EXAMPLE_SPLITS:
        name = _SPLIT.sub(split, path.stem) + path.suffix
        for beside in (folder.with_name(_SPLIT.sub(split, folder.name)) / name, folder / name):
            if beside.is_file():
                return beside
    return path


# Rows


def _format_of(rows: Sequence[Mapping[str, Any]]) -> _Format | None:
    fits = (one for row in rows for one in FORMATS if set(one.columns) <= row.keys())
    return next(fits, None)


def _ask(
    row: Mapping[str, Any], format: _Format, set_aside: Counter[str] | None = None
) -> Question | None:
    """Return a row's question, or count why there is none."""
    try:
        if any(row.get(column) is None for column in format.columns):
            raise SetAside("broken or short row")
        return format.ask(row)
    except SetAside as reason:
        if set_aside is not None:
            set_aside[str(reason)] += 1
        return None


class _Examples:
    """The worked examples before the questions of a file, never the question that is asked."""

    def __init__(
        self, file: Path, rows: Sequence[Mapping[str, Any]], format: _Format, count: int
    ) -> None:
        source = _examples_file(file) if count else file
        self.count, self.draw = count, Random(HARNESS_SEED) if format.draws_examples else None
        others = rows if source == file else _read_rows(source)
        pool = [(row, _ask(row, format)) for row in others] if count else []
        self.pool = [(row, one) for row, one in pool if one is not None]
        # One more, because the question itself may be among them.
        spare = int(source == file or self.draw is not None)
        if count and len(self.pool) < count + spare:
            raise BadInput(
                f"few_shot={count}, but {source} has {len(self.pool)} questions for examples; "
                f"set few_shot to at most {max(0, len(self.pool) - spare)}"
            )

    def before(self, asked: Mapping[str, Any]) -> str:
        """Return the examples that stand before one question."""
        pool = self.pool
        if self.draw is not None and self.count:
            pool = self.draw.sample(pool, self.count + 1)
        others = (one for row, one in pool if row != asked)
        return "".join(
            f"{one.text} {one.choices[one.gold]}\n\n" for one in islice(others, self.count)
        )


def _lettered(question: str, answer: str) -> Callable[[Mapping[str, Any]], Question]:
    """Return what asks a row of four options, given the names of two of its columns."""

    def ask(row: Mapping[str, Any]) -> Question:
        asked, letter = str(row[question]).strip(), str(row[answer]).strip()
        if not asked:
            raise SetAside("empty question")
        if letter not in LETTERS:
            raise SetAside("answer is none of A, B, C, D" if letter else "no answer")
        options = "".join(f"{one}. {row[one]}\n" for one in LETTERS)
        return Question(f"{asked}\n{options}答案：", LETTERS, LETTERS.index(letter))

    return ask


def _ask_for_ending(row: Mapping[str, Any]) -> Question:
    endings, label = row["endings"], str(row["label"]).strip()
    if not isinstance(endings, list) or len(endings) < 2:
        raise SetAside("endings are no list")
    choices = tuple(_without_marks(str(ending)) for ending in endings)
    if not all(choices):
        raise SetAside("empty ending")
    if not label:
        raise SetAside("no answer")
    if not (label.isdecimal() and int(label) < len(choices)):
        raise SetAside(f"label is not 0 to {len(choices) - 1}")
    context = f"{row['activity_label']}: {row['ctx_a']} {str(row['ctx_b']).capitalize()}"
    return Question(_without_marks(context), choices, int(label))


def _without_marks(text: str) -> str:
    """Remove what WikiHow left in HellaSwag: [title], [step] and the like."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


FORMATS = (
    _Format(
        "ceval",
        ("question", *LETTERS, "answer"),
        _lettered("question", "answer"),
        lambda subject: (
            f"以下是中国关于{CEVAL_SUBJECTS.get(subject, subject)}的单项选择题，"
            "请选出其中的正确答案。\n\n"
        ),
    ),
    _Format(
        "cmmlu",
        ("Question", *LETTERS, "Answer"),
        _lettered("Question", "Answer"),
        lambda subject: (
            f"以下是关于{CMMLU_SUBJECTS.get(subject, subject)}的单项选择题，"
            "请直接给出正确答案的选项。\n\n"
        ),
    ),
    _Format(
        "hellaswag",
        ("activity_label", "ctx_a", "ctx_b", "endings", "label"),
        _ask_for_ending,
        draws_examples=True,
    ),
)
