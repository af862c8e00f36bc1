"""User files -> rows of the dialogues: read, checked, without copies, split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.errors import BadInput
from storage.hashing import stable_hash
from tasks.format_sft.contents import Rejected
from tasks.format_sft.readers import UNWANTED, detect_format, messages_of, read_file
from tasks.format_sft.validate import (
    check_dialogue,
    dialogue_hash,
    first_question,
    language_of,
    weigh_earlier,
)

MIN_ROWS_FOR_VALIDATION = 10
RAW_CHARS = 200
LINES_NAMED = 5  # of each reason, in the message that refuses a file


@dataclass(slots=True)
class UserRows:
    """What came of the files: rows kept, rejects (for people), and the ledger of the dropped."""

    seen: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)

    def drop(self, id: str, name: str, reason: str, detail: str | None) -> None:
        """Put a dropped row into the ledger."""
        self.ledger.append({"id": id, "title": name, "reason": reason, "detail": detail})


def read_files(
    paths: Sequence[Path],
    *,
    max_rejected_share: float,
    validation_share: float,
    earlier_answers_weight: float = 1.0,
) -> UserRows:
    """Return all rows of all files; refuse a file of which too much is broken."""
    result = UserRows()
    hashes: dict[str, str] = {}
    for number, path in enumerate(paths, start=1):
        _read_one(path, number, result, hashes, max_rejected_share, earlier_answers_weight)
    _split(result.rows, validation_share)
    return result


def _read_one(
    path: Path,
    number: int,
    result: UserRows,
    hashes: dict[str, str],
    max_rejected_share: float,
    earlier_answers_weight: float,
) -> None:
    format = detect_format(path)
    seen, broken = 0, []
    for row in read_file(path):
        seen += 1
        id = f"{number}-{path.name}:{row.line}"
        try:
            if row.reason:
                raise Rejected(row.reason)
            messages = weigh_earlier(messages_of(row.value, format), earlier_answers_weight)
            check_dialogue(messages)
        except Rejected as error:
            reason = str(error)
            result.drop(id, path.name, reason, f"line {row.line}")
            if reason != UNWANTED:
                raw = row.raw[:RAW_CHARS].encode("utf-8", "replace").decode()
                broken.append({"file": path.name, "line": row.line, "reason": reason, "text": raw})
            continue
        same = hashes.setdefault(dialogue_hash(messages), id)
        if same != id:
            result.drop(id, path.name, "duplicate", same)
            continue
        result.rows.append(
            {
                "id": id,
                "messages": messages,
                "source": path.name,
                "language": language_of(messages),
                "license": None,
                "split": "train",
                "page_id": None,
            }
        )
    if len(broken) > max_rejected_share * seen:
        raise BadInput(
            f"format_sft.files: {len(broken)} of the {seen} rows of {path.name} (read as {format}) "
            f"cannot be used, more than max_rejected_share={max_rejected_share}: "
            f"{_summary(broken)}; correct the file or raise the share"
        )
    result.seen += seen
    result.rejects += broken


def _summary(broken: Sequence[dict[str, Any]]) -> str:
    """Return the reasons, the commonest first, each with how often and on which first lines."""
    lines: dict[str, list[int]] = {}
    for row in broken:
        lines.setdefault(row["reason"], []).append(row["line"])
    return ", ".join(
        f"{len(at)} {reason} (line {', '.join(map(str, at[:LINES_NAMED]))}"
        f"{', ...' if len(at) > LINES_NAMED else ''})"
        for reason, at in sorted(lines.items(), key=lambda item: -len(item[1]))
    )


def _split(rows: Sequence[dict[str, Any]], validation_share: float) -> None:
    """Give each row its side by its first question, so that equal questions never straddle.

    A file of ten rows or more has at least one row in validation: where chance gives none, the
    question with the smallest bucket is taken, in every file it stands in.
    """
    questions = [first_question(row["messages"]) for row in rows]
    rank = {text: (stable_hash(text) % 10_000, stable_hash(text)) for text in questions}
    chosen = {text for text, (bucket, _) in rank.items() if bucket < validation_share * 10_000}
    files = [row["id"].split("-")[0] for row in rows]
    for file, num_rows in Counter(files).items():
        own = {text for text, name in zip(questions, files, strict=True) if name == file}
        if num_rows >= MIN_ROWS_FOR_VALIDATION and len(own) > 1 and not own & chosen:
            chosen.add(min(own, key=rank.__getitem__))
    for row, text in zip(rows, questions, strict=True):
        if text in chosen:
            row["split"] = "validation"
