"""Accuracies by hand, intervals against known values, questions that do not fit."""

from __future__ import annotations

import random

import pytest
import torch

from etude_model.config import EtudeConfig
from etude_model.evaluation.multiple_choice import (
    MELTED,
    TOO_LONG,
    Accuracy,
    Answer,
    answer_questions,
    evaluate_set,
    wilson_interval,
)
from etude_model.evaluation.questions import Question, QuestionSet
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def model(tiny_model_config: EtudeConfig) -> Etude:
    """A random model of a context of 32."""
    torch.manual_seed(0)
    return Etude(tiny_model_config.model_copy(update={"initializer_range": 0.2})).eval()


def question(prompt: str, choices: tuple[str, ...], gold: int = 0, subject: str = "") -> Question:
    """Return a question whose prompt is all its text."""
    return Question(prompt, choices, gold, subject, prompt)


def test_accuracy_per_choice_and_per_character() -> None:
    """Catches a normalisation by tokens or bytes, and a tie that the last choice wins."""
    two = question("", ("ab", "abcd"), gold=1)
    assert Answer(two, (-3.0, -4.0)).is_right is False
    assert Answer(two, (-3.0, -4.0)).is_right_per_character is True  # -1.5 and -1
    assert Answer(question("", ("山", "ab"), gold=0), (-2.5, -3.0)).is_right_per_character is False
    assert Answer(question("", ("a", "b"), gold=0), (-1.0, -1.0)).is_right is True
    four = question("", ("a", "b", "c", "d"), gold=2)
    found = Accuracy.of([Answer(two, (-3.0, -4.0)), Answer(four, (-4.0, -4.0, -1.0, -4.0))])
    assert (found.num_questions, found.acc, found.acc_norm) == (2, 0.5, 1.0)
    assert found.chance == pytest.approx((1 / 2 + 1 / 4) / 2)


@pytest.mark.parametrize(
    ("right", "count", "interval"),
    [(50, 100, (0.4038, 0.5962)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0))],
)
def test_wilson_interval(right: int, count: int, interval: tuple[float, float]) -> None:
    """Catches the normal approximation, which gives 0 to 0 for no right answer of ten."""
    assert wilson_interval(right / count, count) == pytest.approx(interval, abs=1e-4)


def test_interval_holds_the_true_share_in_about_95_of_100_draws() -> None:
    """Catches a wrong quantile or a standard error of the wrong count."""
    draw, held = random.Random(0), 0
    for _ in range(1000):
        low, high = wilson_interval(sum(draw.random() < 0.25 for _ in range(80)) / 80, 80)
        held += low <= 0.25 <= high
    assert 930 <= held <= 975


def test_long_questions_are_set_aside_or_cut(model: Etude, tiny_tokenizer: Tokenizer) -> None:
    """Catches a prompt cut in silence, whose figure nobody can compare."""
    prompt = " ".join(["city"] * 40)
    some = [question(prompt, ("river", "old bridge")), question("old", ("city", "river"))]
    one_is_long = question("old", ("city", "city " * 40))
    answers, set_aside = answer_questions(model, tiny_tokenizer, [one_is_long], cut_long=True)
    assert not answers and set_aside == {TOO_LONG: 1}, "no cut of the prompt makes it fit"
    answers, set_aside = answer_questions(model, tiny_tokenizer, some)
    assert [one.question for one in answers] == some[1:] and set_aside == {TOO_LONG: 1}
    answers, set_aside = answer_questions(model, tiny_tokenizer, some, cut_long=True)
    assert len(answers) == 2 and not set_aside
    # What is read is the end of the prompt: as many tokens as fit before the choice.
    whole = tiny_tokenizer.encode(f"{prompt} old bridge")
    ids = torch.tensor([whole[-33:]])
    with torch.no_grad():
        log_p = model.logits(model(ids[:, :-1]))[0].log_softmax(dim=-1)
    choice = len(whole) - len(tiny_tokenizer.encode(prompt))
    expected = log_p.gather(1, ids[0, 1:, None])[-choice:].sum()
    assert answers[0].log_likelihoods[1] == pytest.approx(float(expected), rel=1e-4)


def test_a_choice_that_melts_into_the_prompt_is_set_aside(
    model: Etude, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a continuation without a token, whose likelihood of 1 would always win."""
    monkeypatch.setattr(
        "etude_model.evaluation.multiple_choice.encode_request",
        lambda tokenizer, context, continuation: ((1, 20), () if "B" in continuation else (21,)),
    )
    some = [question("x", ("A", "B")), question("x", ("A", "C"))]
    answers, set_aside = answer_questions(model, tiny_tokenizer, some)
    assert [one.question for one in answers] == some[1:] and set_aside == {MELTED: 1}


def test_result_by_subject_and_without_a_question(model: Etude, tiny_tokenizer: Tokenizer) -> None:
    """Catches a division by none, and a mean of subjects where the harness weighs by questions."""
    draw = random.Random(0)
    some = [
        question(
            " ".join(draw.choices(["old", "city", "river"], k=3)),
            ("north", "water people", "a"),
            gold=draw.randrange(3),
            subject="law" if number % 3 else "arts",
        )
        for number in range(30)
    ]
    answers, _ = answer_questions(model, tiny_tokenizer, some, batch_size=4)
    result = evaluate_set(model, tiny_tokenizer, QuestionSet("mine", some)).to_json()
    assert result["acc"] == pytest.approx(sum(one.is_right for one in answers) / 30)
    subjects = result["subjects"]
    assert {name: one["num_questions"] for name, one in subjects.items()} == {"arts": 10, "law": 20}
    weighed = sum(one["acc"] * one["num_questions"] for one in subjects.values()) / 30
    assert result["acc"] == pytest.approx(weighed)
    long = QuestionSet("long", [question("city " * 40, ("a", "b"))])
    assert evaluate_set(model, tiny_tokenizer, long).to_json() == {
        "num_questions": 0,
        "subjects": {},
        "set_aside": {TOO_LONG: 1},
    }
