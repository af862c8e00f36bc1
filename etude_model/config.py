"""Names and numbers -> checked configs: the shape of a model and the knobs of its four trainings.

Comes in: presets, recipes, `config.json` of a checkpoint. Goes out: frozen pydantic objects that
cannot hold an impossible model. Free of torch, so that forms and the command line load quickly.

    python -c "from etude_model.config import preset; print(preset('nano').num_parameters)"
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from storage.config import Config
from storage.errors import BadInput

LINEAR_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# Sizes that load in transformers, vLLM and llama.cpp unchanged. head_dim 64 or 128 suits the GPU
# kernels (nano's 32 is for CPUs); hidden and intermediate sizes suit GGUF's blocks.
_SIZES = (
    *("hidden_size", "num_layers", "num_heads", "head_dim", "num_kv_heads"),
    *("intermediate_size", "vocab_size", "context_length"),
)
PRESETS: dict[str, dict[str, Any]] = {
    "nano": dict(zip(_SIZES, (128, 4, 4, 32, 2, 384, 4096, 256), strict=True)),
    "micro": dict(zip(_SIZES, (256, 8, 4, 64, 2, 768, 16384, 512), strict=True)),
    "mini": dict(zip(_SIZES, (512, 8, 8, 64, 4, 1536, 16384, 1024), strict=True)),
    "small": dict(zip(_SIZES, (768, 12, 12, 64, 4, 2048, 32768, 2048), strict=True)),
    "medium": dict(zip(_SIZES, (1024, 24, 16, 64, 8, 3072, 32768, 2048), strict=True)),
    "large": dict(zip(_SIZES, (2048, 18, 16, 128, 8, 5632, 65536, 2048), strict=True)),
}
PRESETS["large"]["tie_embeddings"] = False


class EtudeConfig(Config):
    """The shape of a model: a Qwen3 dense decoder (RMSNorm, GQA with QK-norm, RoPE, SwiGLU)."""

    vocab_size: int = Field(ge=1, le=65536)
    """Number of token ids; at most 65536, because shards store ids in 16 bits."""
    hidden_size: int = Field(ge=1)
    """Width of the residual stream."""
    num_layers: int = Field(ge=1)
    """Number of blocks."""
    num_heads: int = Field(ge=1)
    """Number of query heads in a block."""
    num_kv_heads: int = Field(ge=1)
    """Number of key/value heads; each serves num_heads / num_kv_heads query heads."""
    head_dim: int = Field(ge=2)
    """Width of one head; even, because RoPE turns pairs."""
    intermediate_size: int = Field(ge=1)
    """Inner width of the feed-forward network."""
    context_length: int = Field(ge=1)
    """Most tokens that one sequence may have."""
    rope_theta: float = Field(default=10000.0, gt=1)
    """Base of the RoPE wavelengths."""
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    """Added to the mean square inside every norm."""
    tie_embeddings: bool = True
    """Use the embedding matrix as the output matrix too."""
    initializer_range: float = Field(default=0.02, gt=0)
    """Standard deviation of fresh weights."""

    @model_validator(mode="after")
    def _check(self) -> EtudeConfig:
        if self.num_heads % self.num_kv_heads:
            raise BadInput(
                f"num_heads={self.num_heads} is not a multiple of num_kv_heads="
                f"{self.num_kv_heads}; set num_kv_heads to a divisor of {self.num_heads}"
            )
        if self.head_dim % 2:
            raise BadInput(
                f"head_dim={self.head_dim} is odd, but RoPE turns pairs; "
                f"use head_dim={self.head_dim + 1}"
            )
        return self

    @property
    def num_parameters(self) -> int:
        """Return the exact number of weights; a tied embedding counts once."""
        width, head = self.hidden_size, self.head_dim
        attention = 2 * width * head * (self.num_heads + self.num_kv_heads) + 2 * head
        block = attention + 3 * width * self.intermediate_size + 2 * width
        embeddings = self.vocab_size * width * (1 if self.tie_embeddings else 2)
        return embeddings + self.num_layers * block + width


def preset(name: str, **overrides: Any) -> EtudeConfig:
    """Build the model config called `name` (a key of PRESETS), with some fields replaced."""
    if name not in PRESETS:
        raise BadInput(f"preset={name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return EtudeConfig(**{**PRESETS[name], **overrides})


class ModelOverrides(Config):
    """Fields of the preset to replace; what is left empty stays as the preset has it."""

    hidden_size: int | None = None
    """Width of the residual stream."""
    num_layers: int | None = None
    """Number of blocks."""
    num_heads: int | None = None
    """Number of query heads."""
    num_kv_heads: int | None = None
    """Number of key/value heads."""
    head_dim: int | None = None
    """Width of one head."""
    intermediate_size: int | None = None
    """Inner width of the feed-forward network."""
    context_length: int | None = None
    """Most tokens in one sequence."""
    rope_theta: float | None = None
    """Base of the RoPE wavelengths."""
    tie_embeddings: bool | None = None
    """Use the embedding matrix as the output matrix too."""


class LoraConfig(Config):
    """Low-rank updates beside frozen linears (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = Field(default=8, ge=1)
    """Width of the bottleneck."""
    alpha: float = Field(default=16.0, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the input of the update, in training only."""
    targets: tuple[str, ...] = Field(default=LINEAR_NAMES, min_length=1)
    """Names of the linears that get an update."""

    @model_validator(mode="after")
    def _check(self) -> LoraConfig:
        unknown = sorted(set(self.targets) - set(LINEAR_NAMES))
        if unknown:
            raise BadInput(f"targets has {unknown}, which no block has; use {list(LINEAR_NAMES)}")
        return self


class TrainConfig(Config):
    """The knobs that every training stage has."""

    num_steps: int = Field(default=400, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(default=32, ge=1)
    """Sequences in one optimiser step."""
    micro_batch_size: int | None = Field(default=None, ge=1, json_schema_extra={"key": False})
    """Sequences computed at once; empty means the whole batch. Changes memory, not the result."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW."""
    min_learning_rate_ratio: float = Field(default=0.05, ge=0, le=1)
    """The last learning rate, as a share of the peak."""
    warmup_steps: int = Field(default=10, ge=0)
    """Steps in which the learning rate grows from 0 to its peak."""
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    """Warm-up, then: flat and a linear fall at the end (wsd), half a cosine, or flat."""
    decay_share: float = Field(default=0.3, ge=0, le=1)
    """Share of the steps in which wsd falls."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay; matrices only, no embeddings or norms."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's two moments."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Longest gradient (global L2 norm)."""
    seed: int = Field(default=0, ge=0)
    """Decides fresh weights, the order of the data, dropout and samples."""
    checkpoint_every: int = Field(default=100, ge=1, json_schema_extra={"key": False})
    """Steps between two checkpoints from which a run can be taken up again."""
    evaluate_every: int = Field(default=100, ge=1, json_schema_extra={"key": False})
    """Steps between two evaluations."""
    evaluation_rows: int = Field(default=64, ge=1)
    """Held-out rows that an evaluation reads, shared out among the languages."""
    keep_checkpoints: int = Field(default=2, ge=1, json_schema_extra={"key": False})
    """How many of the newest step checkpoints to keep."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the matrix products; auto asks the processor, and times nothing."""
    document_mask: bool = True
    """Hide the other documents of a packed row from each token."""
    threads: int | None = Field(default=None, ge=1, json_schema_extra={"key": False})
    """CPU threads; empty means all cores."""
    device: str = Field(default="auto", json_schema_extra={"key": False})
    """auto, cpu, cuda or cuda:N; auto takes a GPU where there is one."""
    sample_prompts: tuple[str, ...] = Field(default=(), json_schema_extra={"key": False})
    """Prompts to continue (or to answer, in sft and lora) now and then, for people to read."""
    sample_every: int = Field(default=100, ge=1, json_schema_extra={"key": False})
    """Steps between two samples."""

    @model_validator(mode="after")
    def _check_training(self) -> TrainConfig:
        if self.warmup_steps > self.num_steps:
            raise BadInput(
                f"warmup_steps={self.warmup_steps} is more than num_steps={self.num_steps}; "
                f"set warmup_steps to at most {self.num_steps}"
            )
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise BadInput(
                f"batch_size={self.batch_size} is not a multiple of micro_batch_size="
                f"{self.micro_batch_size}; set micro_batch_size to a divisor of {self.batch_size}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise BadInput(f"betas={self.betas} must lie in [0, 1); use for instance (0.9, 0.95)")
        return self


class PretrainConfig(TrainConfig):
    """Training from fresh weights on packed text."""

    preset: str = "nano"
    """Name of the model size: nano, micro, mini, small, medium or large."""
    model: ModelOverrides = ModelOverrides()
    """Fields of the preset to replace."""
    learning_rate: float = Field(default=4e-3, gt=0)
    """Peak learning rate of AdamW."""
    document_mask: bool = False
    """Hide the other documents of a packed row; bought nothing in pretraining at 2048 tokens."""

    @model_validator(mode="after")
    def _check_model(self) -> PretrainConfig:
        self.build_model(vocab_size=4096)
        return self

    def build_model(self, vocab_size: int) -> EtudeConfig:
        """Return the model's shape for a tokenizer of `vocab_size` ids."""
        overrides = self.model.model_dump(exclude_none=True)
        return preset(self.preset, **{**overrides, "vocab_size": vocab_size})


class SemanticConfig(TrainConfig):
    """Contrastive training of text embeddings beside the language-model loss."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW."""
    temperature: float = Field(default=0.05, gt=0)
    """Cosines are divided by this before the softmax."""
    contrastive_weight: float = Field(default=0.3, ge=0)
    """Weight of the contrastive loss; the language-model loss has weight 1."""
    pair_batch_size: int = Field(default=64, ge=2)
    """Pairs in one step; each is contrasted with all others."""
    matryoshka_dims: tuple[int, ...] = (32, 64)
    """Prefixes of the embedding that are trained too; the full width always is."""
    evaluation_pairs: int = Field(default=512, ge=2)
    """Held-out pairs that an evaluation ranks against each other."""

    @model_validator(mode="after")
    def _check_dims(self) -> SemanticConfig:
        dims = self.matryoshka_dims
        if list(dims) != sorted(set(dims)) or any(dim < 1 for dim in dims):
            raise BadInput(f"matryoshka_dims={dims} must rise and be positive, as in (32, 64)")
        return self


class SftConfig(TrainConfig):
    """Supervised fine-tuning of all weights on dialogues."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW."""


class LoraTrainConfig(TrainConfig):
    """Supervised fine-tuning of low-rank updates on dialogues."""

    learning_rate: float = Field(default=5e-3, gt=0)
    """Peak learning rate of AdamW; about ten times that of full fine-tuning suits LoRA."""
    lora: LoraConfig = LoraConfig()
    """Shape of the updates."""
