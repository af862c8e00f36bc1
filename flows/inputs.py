"""A recipe -> the files and folders it names, looked at before the first stage runs.

A path that a late stage needs would else be found wrong there, after hours. Only what the stages of
the way need is looked at: a machine that makes the corpus need not hold the parent of a training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from etude_model.checkpoint_folder import checked_files
from etude_model.config import EtudeConfig
from etude_model.tokenizer import FILE_NAME, Tokenizer
from flows.overrides import one_line_errors
from flows.recipe import STAGES, Recipe
from storage.artifact import sha256_file
from storage.errors import BadInput
from tasks.fetch.config import FileSource, PackageSource
from tasks.fetch.sources import local_path
from tasks.format_sft.readers import detect_format
from tasks.paths import resolve

PARENT_FILES = ("config.json", "model.safetensors", FILE_NAME, "training.json")


def check_inputs(recipe: Recipe, last: str) -> None:
    """Refuse a file or folder that a stage up to `last` could not use; name its field."""
    checks = {
        "fetch": _check_dumps,
        "format_sft": _check_dialogues,
        "train_tokenizer": _check_tokenizer,
        "pretrain": _check_parent,
        "evaluate": _check_questions,
    }
    for stage, check in checks.items():
        if STAGES.index(stage) <= STAGES.index(last):
            check(recipe)


@contextmanager
def _field(name: str) -> Iterator[None]:
    """Name the field whose value is refused."""
    try:
        yield
    except BadInput as error:
        message = str(error)
        raise BadInput(message if message.startswith(name) else f"{name}: {message}") from error


def _check_dumps(recipe: Recipe) -> None:
    for number, source in enumerate(recipe.fetch):
        if isinstance(source, FileSource | PackageSource):
            with _field(f"fetch.{number}"):
                local_path(source)


def _check_dialogues(recipe: Recipe) -> None:
    for name, config in (("format_sft", recipe.format_sft), ("format_lora", recipe.format_lora)):
        for given in config.files if config else ():
            with _field(f"{name}.files"):
                path = resolve(given)
                if not path.is_file():
                    raise BadInput(f"{given} is a folder; name the files in it")
                detect_format(path)


def _check_tokenizer(recipe: Recipe) -> None:
    if recipe.train_tokenizer.path:
        with _field("train_tokenizer.path"):
            Tokenizer(resolve(recipe.train_tokenizer.path))


def _check_parent(recipe: Recipe) -> None:
    if not recipe.pretrain.parent:
        return
    with _field("pretrain.parent"):
        files = checked_files(resolve(recipe.pretrain.parent), PARENT_FILES)
        with one_line_errors(EtudeConfig):
            shape = EtudeConfig.model_validate_json(files["config.json"].read_bytes())
        if recipe.shard.context_length > shape.context_length:
            raise BadInput(
                f"it reads {shape.context_length} tokens, shards are wider; set "
                f"shard.context_length={shape.context_length} or less"
            )
        given = recipe.train_tokenizer.path
        if given and Tokenizer(resolve(given)).digest != sha256_file(files[FILE_NAME]):
            raise BadInput(
                f"its tokenizer is another one; set train_tokenizer.path={files[FILE_NAME]}"
            )


def _check_questions(recipe: Recipe) -> None:
    for path in recipe.evaluate.multiple_choice:
        with _field("evaluate.multiple_choice"):
            resolve(path)
