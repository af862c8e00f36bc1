"""checkpoints + held-out shards -> figures and samples: the same questions to all.

Each document is scored by itself (no other document of its row is seen), so that checkpoints that
were trained with and without that mask compare. All figures are rounded to four digits: what lies
below differs between processors and batch sizes. torch is imported when a function needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.errors import BadInput
from storage.files import read_json
from tasks.evaluate.choices import answer_sets, read_sets
from tasks.evaluate.config import EvaluateConfig
from tasks.evaluate.measures import rounded
from tasks.evaluate.prompts import (
    Prompts,
    dialogue_text,
    questions,
    text_prompts,
    whole_characters,
)

if TYPE_CHECKING:
    from etude_model.data.lm import TokenRows
    from etude_model.data.pairs import PairRows
    from etude_model.data.sft import SftRows
    from etude_model.evaluation.questions import QuestionSet
    from etude_model.inference.load import LoadedModel

CHAT_STAGES = ("sft", "lora")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The validation rows, and what every checkpoint is asked: prompts by language, questions."""

    text: TokenRows
    dialogues: SftRows
    pairs: PairRows
    text_prompts: Prompts
    questions: Prompts
    multiple_choice: list[QuestionSet]


@dataclass(frozen=True, slots=True)
class Sample:
    """Something a checkpoint wrote; `finish_reason` is "stop" or "length"."""

    checkpoint: str
    language: str
    prompt: str
    text: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of one checkpoint and its samples."""

    name: str
    stage: str
    num_parameters: int
    training: dict[str, Any]
    metrics: dict[str, float]
    samples: list[Sample]
    multiple_choice: dict[str, dict[str, Any]]
    """By set: the accuracies with their intervals, by subject too, and what was set aside."""


def open_held_out(
    text: Sequence[Path],
    dialogues: Sequence[Path],
    pairs: Sequence[Path],
    *,
    tokenizer_digest: str,
    config: EvaluateConfig,
) -> HeldOut:
    """Open the validation parts of shard folders; refuse those of another tokenizer.

    A kind that has no validation rows gives no figures; that is no error.
    """
    from etude_model.data.lm import TokenRows
    from etude_model.data.pairs import PairRows
    from etude_model.data.rows import find_shards
    from etude_model.data.sft import SftRows

    lm = TokenRows(find_shards(text, "tokens.parquet", split="validation"))
    sft = SftRows(find_shards(dialogues, "tokens.parquet", split="validation"))
    couples = PairRows(find_shards(pairs, "pairs.parquet", split="validation"))
    for name, rows in (("lm_shards", lm), ("sft_shards", sft), ("pair_shards", couples)):
        if rows.num_rows and rows.tokenizer_digest != tokenizer_digest:
            raise BadInput(
                f"{name} were made with tokenizer {rows.tokenizer_digest}, not {tokenizer_digest}; "
                "shard again with the checkpoints' tokenizer"
            )
    beginnings = text_prompts(lm, config.num_samples, config.prompt_tokens)
    asked = questions(sft, config.num_answers)
    return HeldOut(lm, sft, couples, beginnings, asked, read_sets(config))


def evaluate_checkpoint(
    folder: Path, held_out: HeldOut, config: EvaluateConfig, *, name: str
) -> Evaluation:
    """Return the figures and samples of one checkpoint folder, an adapter merged."""
    import torch

    from etude_model.device import pick_device
    from etude_model.evaluation.repetition import writing_figures
    from etude_model.inference.load import load_checkpoint

    loaded = load_checkpoint(folder, device=pick_device(config.device))
    with torch.inference_mode():
        metrics = _bits(loaded, held_out.text, config)
        metrics |= {
            f"sft_{metric}": value
            for metric, value in _bits(loaded, held_out.dialogues, config).items()
        }
        metrics |= _retrieval(loaded, held_out.pairs, config)
        choices = answer_sets(loaded, held_out.multiple_choice, config)
    for figure in ("acc", "acc_norm"):
        metrics |= {f"{figure}/{set}": one[figure] for set, one in choices.items() if figure in one}
    is_chat = loaded.stage in CHAT_STAGES
    samples, written = _write(loaded, held_out, config, name, is_chat=is_chat)
    ended = [sample.finish_reason == "stop" for sample in samples]
    figures = writing_figures(written, ended)
    if "ended" in figures:
        metrics["answers_ended" if is_chat else "texts_ended"] = figures.pop("ended")
    metrics |= figures
    return Evaluation(
        name,
        loaded.stage,
        loaded.config.num_parameters,
        read_json(folder / "training.json"),
        rounded(metrics),
        _first_of_each(samples, config.num_samples),
        choices,
    )


def checkpoint_names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each checkpoint: its stage, numbered where a stage comes again."""
    names: list[str] = []
    for folder in folders:
        stage = str(read_json(folder / "training.json")["stage"])
        number = 1 + sum(name.split("-")[0] == stage for name in names)
        names.append(stage if number == 1 else f"{stage}-{number}")
    return names


def chance(num_pairs: int) -> dict[str, float]:
    """Return what a random ranking of `num_pairs` reaches; empty without pairs."""
    if not num_pairs:
        return {}
    places = range(1, min(10, num_pairs) + 1)
    figures = {f"recall@{cut}": min(cut, num_pairs) / num_pairs for cut in (1, 5, 10)} | {
        "mrr@10": sum(1 / place for place in places) / num_pairs,
    }
    return {metric: round(value, 6) for metric, value in figures.items()}


def num_pairs_ranked(held_out: HeldOut, config: EvaluateConfig) -> int:
    """Return the size of the pool that retrieval ranks."""
    return min(config.num_pairs, held_out.pairs.num_rows)


# Figures


def _bits(loaded: LoadedModel, rows: TokenRows, config: EvaluateConfig) -> dict[str, float]:
    from etude_model.data.lm import validation_batches
    from etude_model.evaluation.bits_per_byte import bits_per_byte

    if not rows.num_rows:
        return {}
    _check_context(rows.context_length, loaded)
    batches = validation_batches(rows, num_rows=config.num_rows, batch_size=config.batch_size)
    tokenizer = loaded.tokenizer
    return bits_per_byte(
        loaded.model,
        batches,
        tokenizer.token_bytes,
        token_characters=tokenizer.token_characters,
    )


def _retrieval(loaded: LoadedModel, pairs: PairRows, config: EvaluateConfig) -> dict[str, float]:
    import torch

    from etude_model.evaluation.retrieval import positive_ranks, rank_metrics
    from etude_model.inference.embed import embed

    count = min(config.num_pairs, pairs.num_rows)
    if not count:
        return {}
    chosen = np.linspace(0, pairs.num_rows - 1, count).astype(np.int64)
    parts = []
    for start in range(0, count, config.batch_size):
        batch = pairs.batch(chosen[start : start + config.batch_size])
        batch = batch.to(loaded.model.output_weight.device)
        queries = embed(loaded.model, batch.query_BT, batch.query_lengths_B)
        positives = embed(loaded.model, batch.positive_BT, batch.positive_lengths_B)
        parts.append((queries, positives, batch.articles_B, batch.query_articles_B))
    return rank_metrics(positive_ranks(*(torch.cat(part) for part in zip(*parts, strict=True))))


def _check_context(context_length: int, loaded: LoadedModel) -> None:
    if context_length > loaded.config.context_length:
        raise BadInput(
            f"shards have context_length={context_length}, the {loaded.stage} checkpoint "
            f"{loaded.config.context_length}; shard again with the model's context_length"
        )


# Texts


def _write(
    loaded: LoadedModel, held_out: HeldOut, config: EvaluateConfig, name: str, *, is_chat: bool
) -> tuple[list[Sample], list[list[int]]]:
    """Return a sample per prompt and the ids that were written."""
    from etude_model.inference.generate import SamplingConfig, generate

    tokenizer = loaded.tokenizer
    by_language = held_out.questions if is_chat else held_out.text_prompts
    if not is_chat:
        by_language = {
            language: [whole_characters(tokenizer, ids) for ids in all_ids]
            for language, all_ids in by_language.items()
        }
    room = loaded.config.context_length - config.max_new_tokens
    prompts = [
        (language, ids)
        for language, all_ids in by_language.items()
        for ids in all_ids
        if len(ids) <= room
    ]
    sampling = SamplingConfig(
        max_new_tokens=config.max_new_tokens,
        temperature=0.0 if is_chat else config.temperature,
        repetition_penalty=config.repetition_penalty if is_chat else 1.0,
        seed=config.seed,
    )
    stops = {tokenizer.eos_id, tokenizer.im_end_id}
    written = generate(loaded.model, [ids for _, ids in prompts], sampling, stop_ids=stops)
    samples = []
    for (language, ids), one in zip(prompts, written, strict=True):
        prompt = dialogue_text(tokenizer, ids) if is_chat else tokenizer.decode(ids)
        text = tokenizer.decode(one.token_ids)
        samples.append(Sample(name, language, prompt, text, one.finish_reason))
    return samples, [one.token_ids for one in written]


def _first_of_each(samples: list[Sample], count: int) -> list[Sample]:
    languages = sorted({sample.language for sample in samples})
    return [
        sample
        for language in languages
        for sample in [one for one in samples if one.language == language][:count]
    ]
