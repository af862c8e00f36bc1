"""A recipe: every setting of the whole way in one tree, made of the rooms' own config sections.

A recipe file (flows/recipes/*.yaml) names only what differs from the defaults, or from the recipe
it is based on (`base: demo`). The same tree is the flow's parameter, the target of the command
line's `a.b=c`, what enters the artifacts' keys and what MLflow shows. All of it is checked before
any work starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from etude_model.config import LoraTrainConfig, PretrainConfig, SemanticConfig, SftConfig
from storage.config import Config
from storage.errors import BadInput
from tasks.clean.config import CleanConfig
from tasks.cut.config import CutConfig
from tasks.dedup.config import DedupConfig
from tasks.evaluate.config import EvaluateConfig
from tasks.extract.config import ExtractConfig
from tasks.fetch.config import FetchConfig
from tasks.format_sft.config import FormatSftConfig
from tasks.pair.config import PairConfig
from tasks.publish.config import PublishConfig
from tasks.shard.config import ShardConfig
from tasks.train_tokenizer.config import TrainTokenizerConfig

Stage = Literal[
    "fetch", "extract", "clean", "dedup", "cut", "pair", "format_sft", "train_tokenizer", "shard",
    "train", "pretrain", "semantic", "sft", "lora", "evaluate", "publish",
]  # fmt: skip
STAGES: tuple[str, ...] = get_args(Stage)

RECIPES = Path(__file__).resolve().parent / "recipes"


class Recipe(Config):
    """The settings of a whole way, from dumps to a published model."""

    base: str | None = Field(default=None, json_schema_extra={"key": False})
    """Recipe that holds where this one is silent: a name under flows/recipes, or a path."""
    fetch: tuple[FetchConfig, ...] = ()
    """The dumps to read, at least one; several wikis make one corpus."""
    extract: ExtractConfig = ExtractConfig()
    """dump -> pages."""
    clean: CleanConfig = CleanConfig()
    """pages -> documents."""
    dedup: DedupConfig = DedupConfig()
    """documents -> corpus."""
    cut: CutConfig = CutConfig()
    """corpus -> passages."""
    pair: PairConfig = PairConfig()
    """corpus -> pairs."""
    format_sft: FormatSftConfig = FormatSftConfig()
    """corpus + user files -> dialogues, for full fine-tuning."""
    format_lora: FormatSftConfig | None = None
    """The dialogues of the LoRA stage; by default those of format_sft."""
    train_tokenizer: TrainTokenizerConfig = TrainTokenizerConfig()
    """passages -> tokenizer."""
    shard: ShardConfig = ShardConfig()
    """passages, pairs, dialogues + tokenizer -> shards."""
    pretrain: PretrainConfig = PretrainConfig()
    """shards -> checkpoint: a new model learns text."""
    semantic: SemanticConfig = SemanticConfig()
    """shards + pairs -> checkpoint: it learns to embed."""
    sft: SftConfig = SftConfig()
    """dialogues -> checkpoint: it learns to answer."""
    lora: LoraTrainConfig = LoraTrainConfig()
    """dialogues -> checkpoint: adapters beside it learn a manner."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """checkpoints -> report."""
    publish: PublishConfig = PublishConfig()
    """checkpoint + report -> release."""

    @model_validator(mode="before")
    @classmethod
    def _stand_on_base(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("base"):
            return merge(_read(values["base"]), values)
        return values

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if not self.fetch:  # not a length limit: the form would ask for it beside `base`
            raise BadInput("fetch is empty; name at least one dump, or a recipe as `base`")
        model = self.pretrain.build_model(self.train_tokenizer.vocab_size)
        if self.shard.context_length > model.context_length:
            raise BadInput(
                f"shard.context_length={self.shard.context_length} is more than the model's "
                f"{model.context_length}; set pretrain.model.context_length="
                f"{self.shard.context_length} or shorten the shards"
            )
        return self


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Return a recipe by name or path, with `a.b=c` overrides (values are YAML).

    Raises BadInput naming the path of the field that is wrong.
    """
    values = _read(name)
    for override in overrides:
        values = merge(values, nested(override))
    return check_recipe(values)


def check_recipe(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe that plain values describe; each error names its field's path."""
    with one_line_errors():
        return Recipe.model_validate(dict(values))


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn pydantic's report into BadInput: one line, each error with its field's path."""
    try:
        yield
    except ValidationError as error:
        lines = []
        for one in error.errors(include_url=False):
            path = ".".join(str(step) for step in one["loc"])
            message = one["msg"].removeprefix("Value error, ")
            given = "" if one["type"] == "value_error" else f" (given: {one['input']!r})"
            lines.append(f"{path}: {message}{given[:120]}" if path else message)
        raise BadInput("; ".join(lines)) from None


def recipe_names() -> list[str]:
    """Return the names of the recipes that ship with Etude."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above` laid over it, mapping by mapping.

    A mapping whose `kind` changes drops its old siblings: they belong to another variant. Into a
    list, `{"0": value}` replaces one entry.
    """
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        if isinstance(value, Mapping) and isinstance(old, list):
            entries = {str(index): entry for index, entry in enumerate(old)}
            merged[name] = list(merge(entries, value).values())
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            changed = "kind" in value and value["kind"] != old.get("kind")
            merged[name] = dict(value) if changed else merge(old, value)
        else:
            merged[name] = value
    return merged


def nested(override: str) -> dict[str, Any]:
    """Return `a.b=c` as nested mappings; the value is YAML."""
    path, equals, text = override.partition("=")
    if not equals or not path.strip("."):
        raise BadInput(f"{override!r} is not an override; write section.field=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"{override!r}: the value is not YAML ({_one_line(error)})") from error
    for step in reversed(path.split(".")):
        value = {step: value}
    return dict(value)


def _read(name: str) -> dict[str, Any]:
    shipped = RECIPES / f"{name}.yaml"
    path = shipped if shipped.exists() else Path(name)
    if not path.is_file():
        known = ", ".join(recipe_names())
        raise BadInput(f"no recipe {name!r}; give a YAML file or one of {known}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not a YAML file: {_one_line(error)}") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path} holds {type(values).__name__}, not sections with settings")
    base = values.get("base")
    return merge(_read(base), values) if base else values


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
