"""any model folder + any files -> accuracies and bits per byte, for the command line.

A checkpoint, a release or a Hugging Face folder of the Qwen3 family; question files (see
questions.py) and texts, which are files that end in .txt or .md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from etude_model.evaluation.bits_per_byte import bits_per_byte, text_batches
from etude_model.evaluation.multiple_choice import evaluate_files
from etude_model.export.import_huggingface import import_huggingface
from etude_model.inference.load import CONFIG, LoadedModel, load_checkpoint
from storage.errors import BadInput

TEXT_ENDINGS = (".txt", ".md")


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """How the files are read; the defaults are lm-evaluation-harness's."""

    few_shot: int = 0
    limit: int | None = None
    cut_long: bool = False
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Refuse counts that mean nothing."""
        for name, lowest in (("few_shot", 0), ("limit", 1), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise BadInput(f"{name}={value} is too small; use {lowest} or more")


def open_model(folder: Path, *, device: str = "cpu") -> LoadedModel:
    """Load a checkpoint folder, a release, or a Hugging Face folder; anything else is BadInput."""
    source = folder / "huggingface" if (folder / "huggingface").is_dir() else folder
    try:
        is_foreign = "model_type" in json.loads((source / CONFIG).read_bytes())
    except (OSError, ValueError, TypeError):
        is_foreign = False  # load_checkpoint says what is wrong
    if not is_foreign:
        return load_checkpoint(source, device=device)
    with TemporaryDirectory() as beside:
        return load_checkpoint(import_huggingface(source, Path(beside) / "model"), device=device)


def measure(
    loaded: LoadedModel, files: Sequence[Path], options: MeasureOptions | None = None
) -> dict[str, Any]:
    """Return {"multiple_choice": {set: result}, "texts": {file: {figure: value}}} as plain values.

    No file at all, a text that is not UTF-8, and files of which nothing can be asked are BadInput.
    """
    options = options or MeasureOptions()
    if not files:
        raise BadInput("no file is given; name question files, folders of them, or .txt files")
    texts = [file for file in files if file.suffix in TEXT_ENDINGS]
    found = evaluate_files(
        loaded.model,
        loaded.tokenizer,
        [file for file in files if file not in texts],
        few_shot=options.few_shot,
        limit=options.limit,
        cut_long=options.cut_long,
        batch_size=options.batch_size,
    )
    return {
        "multiple_choice": {one.name: one.to_json() for one in found},
        "texts": {str(file): _text_figures(loaded, file, options.batch_size) for file in texts},
    }


def lines(values: dict[str, Any]) -> list[str]:
    """Return what `measure` found as lines for people."""
    shown = []
    for name, found in values["multiple_choice"].items():
        if "acc" in found:
            low, high = found["acc_interval"]
            shown.append(
                f"{name}: acc {found['acc']:.4f} ({low:.3f} to {high:.3f} with 95 %), "
                f"acc_norm {found['acc_norm']:.4f}, chance {found['chance']:.4f}, "
                f"{found['num_questions']:,} questions"
            )
        shown += [f"{name}: {n:,} rows set aside, {why}" for why, n in found["set_aside"].items()]
    for file, found in values["texts"].items():
        figures = ", ".join(f"{value:.4f} {name}" for name, value in found.items())
        shown.append(f"{file}: {figures or 'no text'}")
    return shown


def _text_figures(loaded: LoadedModel, file: Path, batch_size: int) -> dict[str, float]:
    """Return the bits per byte and per character of a file, read as one text."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{file} cannot be read as UTF-8 ({error}); correct or convert it"
        ) from error
    tokenizer = loaded.tokenizer
    batches = text_batches(
        tokenizer,
        [("text", text)],
        context_length=loaded.config.context_length,
        batch_size=batch_size,
    )
    figures = bits_per_byte(
        loaded.model,
        batches,
        tokenizer.token_bytes,
        token_characters=tokenizer.token_characters,
    )
    names = {"bits_per_byte": "bits_per_byte", "bits_per_character/text": "bits_per_character"}
    return {short: figures[long] for long, short in names.items() if long in figures}
