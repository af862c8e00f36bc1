"""question files that a config names -> the accuracies of a checkpoint on each set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storage.artifact import canonical_json, sha256_file
from tasks.evaluate.config import EvaluateConfig
from tasks.evaluate.measures import rounded
from tasks.paths import resolve

if TYPE_CHECKING:
    from etude_model.evaluation.questions import QuestionSet
    from etude_model.inference.load import LoadedModel


def question_identity(config: EvaluateConfig) -> str:
    """Return the names and digests of the question files: they decide the output."""
    from etude_model.evaluation.questions import files_read

    paths = [resolve(path) for path in config.multiple_choice]
    files = files_read(paths, few_shot=config.few_shot)
    return canonical_json([[path.parent.name, path.name, sha256_file(path)] for path in files])


def read_sets(config: EvaluateConfig) -> list[QuestionSet]:
    """Return the questions of all files that the config names, a set per format."""
    from etude_model.evaluation.questions import read_questions

    return read_questions(
        [resolve(path) for path in config.multiple_choice],
        few_shot=config.few_shot,
        limit=config.questions_per_file,
    )


def answer_sets(
    loaded: LoadedModel, sets: list[QuestionSet], config: EvaluateConfig
) -> dict[str, dict[str, Any]]:
    """Return by set: accuracies with their intervals, by subject too, and what was set aside."""
    from etude_model.evaluation.multiple_choice import evaluate_set

    found = {
        one.name: evaluate_set(
            loaded.model,
            loaded.tokenizer,
            one,
            cut_long=config.cut_long_prompts,
            batch_size=config.batch_size,
        )
        for one in sets
    }
    return {name: rounded(result.to_json()) for name, result in found.items()}
