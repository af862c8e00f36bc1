"""passages -> tokenizer: the right text, the same model, honest errors."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from etude_model.tokenizer import Tokenizer
from storage.artifact import ArtifactRef, Counts
from storage.errors import BadInput
from storage.workspace import Workspace
from tasks.train_tokenizer.config import TrainTokenizerConfig
from tasks.train_tokenizer.task import identity, train_tokenizer
from tasks.train_tokenizer.train import check_round_trip, is_sampled, language_budgets

MakeRef = Callable[..., ArtifactRef]

WORDS = {
    "en": ["river", "mountain", "bridge", "people", "history", "water", "old"],
    "zh": list("河山城市人民历史水"),
}


def passage(page_id: int, language: str, *, split: str = "train", text: str = "") -> dict:
    """Return a passage of made-up sentences."""
    generator = random.Random(page_id)
    glue, stop = (" ", ".\n") if language == "en" else ("", "。\n")
    lines = [glue.join(generator.choices(WORDS[language], k=7)) + stop for _ in range(10)]
    return {
        "wiki": f"{language}wiki",
        "language": language,
        "page_id": page_id,
        "title": "",
        "split": split,
        "index": 0,
        "heading": "",
        "text": text or "".join(lines).strip(),
    }


def run(folder: Path, passages: ArtifactRef, **config: Any) -> tuple[Counts, Tokenizer]:
    """Run the stage; return ledger and tokenizer."""
    workspace = Workspace.scratch(folder)
    settings = TrainTokenizerConfig(**({"vocab_size": 340} | config))
    counts = train_tokenizer.run(passages=passages, config=settings, workspace=workspace)
    return counts, Tokenizer(folder)


def test_the_same_text_gives_the_same_model(
    tmp_path: Path,
    make_artifact: MakeRef,
    file_bytes: Callable[[Path], Any],
) -> None:
    """Would catch a path, a time or a thread order in the model: its digest keys every shard."""
    rows = [passage(number, ("en", "zh")[number % 2]) for number in range(40)]
    counts, tokenizer = run(tmp_path / "a", make_artifact("passages", rows))
    run(tmp_path / "b", make_artifact("passages", rows))
    assert file_bytes(tmp_path / "a") == file_bytes(tmp_path / "b")
    assert tokenizer.vocab_size == 340 == counts.metrics["vocab_size"]
    assert (counts.seen, counts.kept, dict(counts.dropped)) == (40, 40, {})
    assert counts.metrics["bytes_per_token/en"] == counts.metrics["chars_per_token/en"] > 2
    assert counts.metrics["bytes_per_token/zh"] > 2 * counts.metrics["chars_per_token/zh"]


def test_validation_text_is_never_learned(tmp_path: Path, make_artifact: MakeRef) -> None:
    """Would catch pieces made of validation text: bits per byte would flatter."""
    train = [passage(number, "en") for number in range(20)]
    secret = [passage(99, "en", split="validation", text="xylophone " * 500)]
    counts, tokenizer = run(tmp_path / "a", make_artifact("passages", train, secret))
    run(tmp_path / "b", make_artifact("passages", train))
    models = [(tmp_path / name / "tokenizer.model").read_bytes() for name in "ab"]
    assert models[0] == models[1]
    assert len(tokenizer.encode("xylophone")) > 4
    assert dict(counts.dropped) == {"validation": 1}


def test_languages_share_by_temperature() -> None:
    """Would catch a small language drowned by a large one, and a sample over its limit."""
    sizes = {"en": 90_000, "zh": 10_000}
    shares = language_budgets(sizes, max_sample_bytes=20_000, alpha=0.5)
    taken = {language: shares[language] * size for language, size in sizes.items()}
    assert taken == pytest.approx({"en": 15_000, "zh": 5_000})
    shares = language_budgets(sizes, max_sample_bytes=50_000, alpha=1)
    assert shares == pytest.approx({"en": 0.5, "zh": 0.5})
    assert language_budgets(sizes, max_sample_bytes=10**9, alpha=0.5) == {"en": 1, "zh": 1}
    assert language_budgets({}, max_sample_bytes=10, alpha=0.5) == {}


def test_the_sample_is_a_share_of_the_passages(tmp_path: Path, make_artifact: MakeRef) -> None:
    """Would catch a limit that is not kept, and a sample that takes the first pages only."""
    rows = [passage(number, "en") for number in range(400)]
    size = sum(len(row["text"].encode()) for row in rows)
    counts, _ = run(tmp_path / "a", make_artifact("passages", rows), max_sample_bytes=size // 4)
    assert 60 < counts.kept < 140 and counts.dropped["not_sampled"] == 400 - counts.kept
    chosen = [number for number, row in enumerate(rows) if is_sampled(row, {"en": 0.25})]
    assert len(chosen) == counts.kept and min(chosen) < 40 and max(chosen) > 360


def test_a_vocabulary_that_the_text_cannot_fill_is_refused(
    tmp_path: Path, make_artifact: MakeRef
) -> None:
    """Would catch sentencepiece's own words reaching the user; the number named must work."""
    passages = make_artifact("passages", [passage(number, "en") for number in range(3)])
    with pytest.raises(
        BadInput, match=r"^train_tokenizer\.vocab_size=8192, the text supports at most"
    ) as error:
        run(tmp_path / "a", passages, vocab_size=8192)
    largest = int(str(error.value).split("set train_tokenizer.vocab_size=")[1].split()[0])
    _, tokenizer = run(tmp_path / "b", passages, vocab_size=largest)
    assert tokenizer.vocab_size == largest


def test_a_vocabulary_too_small_for_the_characters_is_refused(
    tmp_path: Path, make_artifact: MakeRef
) -> None:
    """Would catch the opposite: more characters than pieces."""
    text = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 300))
    passages = make_artifact("passages", [passage(1, "zh", text=text)])
    with pytest.raises(
        BadInput, match=r"too small for the characters.*train_tokenizer\.vocab_size=5"
    ):
        run(tmp_path / "a", passages, character_coverage=1.0)


def test_no_text_is_refused(tmp_path: Path, make_artifact: MakeRef) -> None:
    """Would catch a trainer that is started on nothing."""
    passages = make_artifact("passages", [passage(1, "en", split="validation")])
    with pytest.raises(BadInput, match="no passages to learn from"):
        run(tmp_path / "a", passages)


def test_the_gate_sees_a_tokenizer_that_loses_text(tmp_path: Path, make_artifact: MakeRef) -> None:
    """Would catch a gate that never closes."""
    _, tokenizer = run(
        tmp_path / "a", make_artifact("passages", [passage(n, "en") for n in range(9)])
    )
    rows = [passage(1, "en", text="a \u2581 b  \n\n c\t")]
    check_round_trip(tokenizer, rows)

    class Lossy(Tokenizer):
        def decode(self, ids: Iterable[int]) -> str:
            return " ".join(super().decode(ids).split())

    with pytest.raises(AssertionError, match="not given back"):
        check_round_trip(Lossy(tmp_path / "a"), rows)


def test_a_given_tokenizer_is_taken_as_it_is(tmp_path: Path, make_artifact: MakeRef) -> None:
    """Would catch shards made with another vocabulary than the parent's, or a key without it."""
    rows = [passage(number, ("en", "zh")[number % 2]) for number in range(40)]
    passages = make_artifact("passages", rows)
    _, learned = run(tmp_path / "learned", passages)
    counts, taken = run(
        tmp_path / "taken", passages, path=str(tmp_path / "learned"), vocab_size=999
    )
    assert taken.digest == learned.digest
    assert (counts.seen, counts.metrics["vocab_size"]) == (40, 340)
    given = TrainTokenizerConfig(path=str(tmp_path / "learned"))
    assert identity(given) == learned.digest and identity(TrainTokenizerConfig()) == ""
    with pytest.raises(BadInput, match="nowhere"):
        identity(TrainTokenizerConfig(path=str(tmp_path / "nowhere")))
