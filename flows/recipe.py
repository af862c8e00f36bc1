"""A recipe: every setting of the whole way in one tree, made of the rooms' own config sections.

A recipe file (flows/recipes/*.yaml) names only what differs from the defaults, or from the recipe
it is based on (`base: demo`). The same tree is the flow's parameter, the target of the command
line's `a.b=c`, what enters the artifacts' keys and what MLflow shows. All of it is checked before
any work starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import Field, model_validator

from etude_model.config import LoraTrainConfig, PretrainConfig, SemanticConfig, SftConfig
from flows.overrides import merge, nested, one_line, one_line_errors
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

DIALOGUE_TOKENS = 12  # of a dialogue's shortest question and of what stands around its answer
LONGEST_PIECE = 16  # characters: sentencepiece's limit for a token that it learns

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
        has_own_shape = self.pretrain.parent is None  # a parent's shape is known when it is opened
        if has_own_shape and self.shard.context_length > model.context_length:
            raise BadInput(
                f"shard.context_length={self.shard.context_length} is more than the model's "
                f"{model.context_length}; set pretrain.model.context_length="
                f"{self.shard.context_length} or shorten the shards"
            )
        self._check_answers()
        return self

    def _check_answers(self) -> None:
        """Refuse derived answers of a length that fits into no row, whatever the vocabulary."""
        for name, config in (("format_sft", self.format_sft), ("format_lora", self.format_lora)):
            if config is None or not config.derive_from_wiki or self.train_tokenizer.path:
                continue
            least = DIALOGUE_TOKENS + -(-config.max_answer_chars // LONGEST_PIECE)
            if least > self.shard.context_length:
                raise BadInput(
                    f"shard.context_length={self.shard.context_length} is less than the {least} "
                    f"tokens that {name}.max_answer_chars={config.max_answer_chars} takes at "
                    f"least; set shard.context_length={least} or more, or shorten the answers"
                )


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
    with one_line_errors(Recipe):
        return Recipe.model_validate(dict(values))


def recipe_names() -> list[str]:
    """Return the names of the recipes that ship with Etude."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _read(name: str) -> dict[str, Any]:
    shipped = RECIPES / f"{name}.yaml"
    path = shipped if shipped.exists() else Path(name)
    if not path.is_file():
        known = ", ".join(recipe_names())
        raise BadInput(f"no recipe {name!r}; give a YAML file or one of {known}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not a YAML file: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path} holds {type(values).__name__}, not sections with settings")
    base = values.get("base")
    return merge(_read(base), values) if base else values
