"""Which linears get a low-rank update, how wide and how strong; free of torch.

    y = W x + scale * B A x         scale = alpha / rank, or alpha / sqrt(rank) for rsLoRA
    y = (m / |W + scale * B A|) * (W x + scale * B A x)      DoRA: m is the length of each row

Targets and patterns are endings of module names, as in PEFT: `q_proj`, `mlp.up_proj`,
`layers.0.self_attn.q_proj`. Of several patterns that fit a module the longest counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import Field, model_validator

from storage.config import Config
from storage.errors import BadInput

LINEAR_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Number = TypeVar("Number", int, float)
_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)


class LoraConfig(Config):
    """Low-rank updates beside frozen linears (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = Field(default=8, ge=1)
    """Width of the bottleneck."""
    alpha: float = Field(default=16.0, gt=0, allow_inf_nan=False)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the input of the update, in training only."""
    targets: tuple[str, ...] = Field(default=LINEAR_NAMES, min_length=1)
    """Names of the linears that get an update, or endings of their full names."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank), so that high ranks learn as fast (arXiv 2312.03732)."""
    use_dora: bool = False
    """Train the length of each weight row apart from its direction (arXiv 2402.09353)."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(default={})
    """Other ranks for some linears: ending of the name -> rank."""
    alpha_pattern: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default={})
    """Other alphas for some linears: ending of the name -> alpha."""

    @model_validator(mode="after")
    def _check(self) -> LoraConfig:
        fields = {
            "targets": self.targets,
            "rank_pattern": self.rank_pattern,
            "alpha_pattern": self.alpha_pattern,
        }
        for field, names in fields.items():
            for name in names:
                if not _NAME.fullmatch(name) or name.rpartition(".")[2] not in LINEAR_NAMES:
                    raise BadInput(
                        f"{field} has {name!r}, which is no linear of a block; end it with one of "
                        f"{', '.join(LINEAR_NAMES)} (routed experts, embeddings and the output "
                        "matrix take no update)"
                    )
        return self

    def is_target(self, module: str) -> bool:
        """Say whether the linear with this full name gets an update."""
        return any(ends_with(module, target) for target in self.targets)

    def rank_of(self, module: str) -> int:
        """Return the width of a linear's bottleneck."""
        return _longest(self.rank_pattern, module, self.rank)

    def alpha_of(self, module: str) -> float:
        """Return the alpha of a linear."""
        return _longest(self.alpha_pattern, module, self.alpha)

    def scale_of(self, module: str) -> float:
        """Return what a linear's update is multiplied by."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (rank**0.5 if self.use_rslora else rank)


def ends_with(module: str, ending: str) -> bool:
    """Say whether a dotted name ends with whole words of another."""
    return module == ending or module.endswith(f".{ending}")


def _longest(patterns: Mapping[str, Number], module: str, default: Number) -> Number:
    fitting = [ending for ending in patterns if ends_with(module, ending)]
    return patterns[max(fitting, key=len)] if fitting else default
