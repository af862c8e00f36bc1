"""model + question files -> accuracies, the same figures as lm-evaluation-harness.

Each choice is scored by how likely the model finds it after the prompt. `acc` counts the questions
whose right choice is the likeliest, `acc_norm` those where it is the likeliest per character. The
prompts, where they are cut into tokens, and ties (the first choice wins) are lm-eval's; a test
runs both on one model. Unlike there, a prompt that is too long is set aside and counted, unless
`cut_long` asks for lm-eval's way, and special tokens that are spelt out in a text stay text.

An accuracy means little without the size of the set: each has its 95 % interval (Wilson 1927) and
what guessing gives.

    etude evaluate CKPT ceval/val hellaswag_val.jsonl
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from etude_model.evaluation.likelihood import (
    Request,
    cut_left,
    encode_request,
    log_likelihoods,
    num_read,
)
from etude_model.evaluation.questions import Question, QuestionSet, read_questions
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer

TOO_LONG, MELTED = "longer than the model reads", "choice is no token of its own"


@dataclass(frozen=True, slots=True)
class Answer:
    """The log-likelihood of each choice of a question."""

    question: Question
    log_likelihoods: tuple[float, ...]

    @property
    def is_right(self) -> bool:
        """Return whether the likeliest choice is the right one."""
        return int(np.argmax(self.log_likelihoods)) == self.question.gold

    @property
    def is_right_per_character(self) -> bool:
        """Return the same for the likelihood per character of the choice."""
        lengths = np.array([float(len(choice)) for choice in self.question.choices])
        return int(np.argmax(self.log_likelihoods / lengths)) == self.question.gold


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How many of some questions were answered rightly, and what guessing would give."""

    num_questions: int
    acc: float
    acc_norm: float
    chance: float

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Accuracy:
        """Count the answers; there must be some."""
        count = len(answers)
        return cls(
            count,
            sum(one.is_right for one in answers) / count,
            sum(one.is_right_per_character for one in answers) / count,
            sum(1 / len(one.question.choices) for one in answers) / count,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the figures with their intervals as plain values."""
        return {
            "num_questions": self.num_questions,
            "acc": self.acc,
            "acc_interval": wilson_interval(self.acc, self.num_questions),
            "acc_norm": self.acc_norm,
            "acc_norm_interval": wilson_interval(self.acc_norm, self.num_questions),
            "chance": self.chance,
        }


@dataclass(frozen=True, slots=True)
class ChoiceResult:
    """What came of one set: the whole, each subject, and what was not asked."""

    name: str
    overall: Accuracy | None
    subjects: dict[str, Accuracy]
    set_aside: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values; without a question there are no figures."""
        figures = self.overall.to_json() if self.overall else {"num_questions": 0}
        subjects = {name: one.to_json() for name, one in self.subjects.items()}
        return {**figures, "subjects": subjects, "set_aside": self.set_aside}


def evaluate_files(
    model: Etude,
    tokenizer: Tokenizer,
    paths: Sequence[Path],
    *,
    few_shot: int = 0,
    limit: int | None = None,
    cut_long: bool = False,
    batch_size: int = 32,
) -> list[ChoiceResult]:
    """Return the accuracies of a model on question files, a result per format."""
    sets = read_questions(paths, few_shot=few_shot, limit=limit)
    return [
        evaluate_set(model, tokenizer, one, cut_long=cut_long, batch_size=batch_size)
        for one in sets
    ]


def evaluate_set(
    model: Etude,
    tokenizer: Tokenizer,
    questions: QuestionSet,
    *,
    cut_long: bool = False,
    batch_size: int = 32,
) -> ChoiceResult:
    """Return the accuracy of a model on one set."""
    answers, set_aside = answer_questions(
        model, tokenizer, questions.questions, cut_long=cut_long, batch_size=batch_size
    )
    by_subject: dict[str, list[Answer]] = defaultdict(list)
    for one in answers:
        by_subject[one.question.subject].append(one)
    return ChoiceResult(
        questions.name,
        Accuracy.of(answers) if answers else None,
        {name: Accuracy.of(own) for name, own in sorted(by_subject.items())},
        dict(sorted((questions.set_aside + set_aside).items())),
    )


def answer_questions(
    model: Etude,
    tokenizer: Tokenizer,
    questions: Iterable[Question],
    *,
    cut_long: bool = False,
    batch_size: int = 32,
) -> tuple[list[Answer], Counter[str]]:
    """Return the likelihood of every choice, and how many questions were not asked and why."""
    limit, set_aside = model.config.context_length, Counter[str]()
    asked: list[Question] = []
    requests: list[Request] = []
    for question in questions:
        own = [
            encode_request(tokenizer, question.prompt, f" {choice}") for choice in question.choices
        ]
        if not all(continuation for _, continuation in own):
            set_aside[MELTED] += 1
        elif max(map(num_read, own)) > limit and not (
            cut_long and max(len(continuation) for _, continuation in own) <= limit
        ):
            set_aside[TOO_LONG] += 1
        else:
            asked.append(question)
            requests += [cut_left(request, limit) for request in own]
    found = iter(log_likelihoods(model, requests, batch_size=batch_size))
    answers = [
        Answer(question, tuple(next(found).log_likelihood for _ in question.choices))
        for question in asked
    ]
    return answers, set_aside


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the interval in which the true share lies with 95 %, for `count` > 0 trials.

    Unlike share ± z·error it stays within 0 and 1 and holds for small counts (Wilson 1927).
    """
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count)
    half *= math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)
