"""Names and numbers -> checked configs: the knobs of the four trainings of a model.

Comes in: recipes and forms. Goes out: frozen pydantic objects that cannot hold an impossible run;
the shape of the model is architecture.py's. Free of torch, so that forms and the command line load
quickly.

    python -c "from etude_model.config import PretrainConfig; print(PretrainConfig(preset='d12'))"
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from etude_model.architecture import PRESETS, EtudeConfig, ModelOverrides, YarnScaling, preset
from etude_model.lora_config import LoraConfig
from storage.config import Config
from storage.errors import BadInput

__all__ = [
    "DEVICE",
    "PRESETS",
    "EtudeConfig",
    "LoraConfig",
    "LoraTrainConfig",
    "ModelOverrides",
    "PretrainConfig",
    "SemanticConfig",
    "SftConfig",
    "TrainConfig",
    "YarnScaling",
    "preset",
    "rule_learning_rate",
]

DEVICE = r"^(auto|cpu|cuda(:[0-9]+)?)$"
"""The names of the devices that a model runs on."""


class TrainConfig(Config):
    """The knobs that every training stage has."""

    num_steps: int = Field(default=400, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(default=32, ge=1)
    """Sequences in one optimiser step."""
    micro_batch_size: int | None = Field(default=None, ge=1, json_schema_extra={"key": False})
    """Sequences that a process computes at once; empty: what suits its caches or fills its GPU."""
    learning_rate: float | None = Field(default=1e-3, gt=0)
    """Peak learning rate, AdamW's and Muon's alike."""
    min_learning_rate_ratio: float = Field(default=0.05, ge=0, le=1)
    """The last learning rate, as a share of the peak."""
    warmup_steps: int = Field(default=10, ge=0)
    """Steps in which the learning rate grows from 0 to its peak."""
    schedule: Literal["wsd", "cosine", "linear", "constant"] = "wsd"
    """Warm-up, then: flat and a linear fall at the end (wsd), half a cosine, a line, or flat."""
    decay_share: float = Field(default=0.3, ge=0, le=1)
    """Share of the steps in which wsd falls."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """What moves the matrices (arXiv 2502.16982 for Muon); embeddings and norms are AdamW's."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay; matrices only, no embeddings or norms."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's two moments."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Longest gradient (global L2 norm)."""
    max_skipped_steps: int = Field(default=3, ge=1, json_schema_extra={"key": False})
    """A step whose loss or gradient is not finite is left out; so many in a row end the run."""
    seed: int = Field(default=0, ge=0)
    """Decides fresh weights, the order of the data, dropout and samples."""
    checkpoint_every: int = Field(default=100, ge=1, json_schema_extra={"key": False})
    """Steps between two checkpoints from which a run can be taken up again."""
    checkpoint_minutes: float | None = Field(default=None, gt=0, json_schema_extra={"key": False})
    """Minutes after which a checkpoint is due in any case; empty means steps alone decide."""
    evaluate_every: int = Field(default=100, ge=1, json_schema_extra={"key": False})
    """Steps between two evaluations."""
    evaluation_rows: int = Field(default=64, ge=1)
    """Held-out rows that an evaluation reads, shared out among the languages."""
    keep_checkpoints: int = Field(default=2, ge=1, json_schema_extra={"key": False})
    """How many of the newest step checkpoints to keep, beside the best."""
    finished_weights: Literal["last", "best"] = Field(
        default="last", json_schema_extra={"key": False}
    )
    """Weights of the result: the last step's, or those that were best at an evaluation."""
    precision: Literal["auto", "float32", "bfloat16", "pure_bfloat16"] = "auto"
    """Number format of the matrix products; auto asks the processor, and times nothing. Pure: the
    weights and gradients too, and the optimiser keeps the weights in float32."""
    compile: Literal["auto", "on", "off"] = Field(default="auto", json_schema_extra={"key": False})
    """Compile each layer with torch.compile: a minute at the start; auto does so on a GPU."""
    document_mask: bool = True
    """Hide the other documents of a packed row from each token."""
    mixture_alpha: float = Field(default=1.0, ge=0, le=1)
    """Languages share the tokens by their sizes to this power: 1 as they are, 0 all alike."""
    threads: int | None = Field(default=None, ge=1, json_schema_extra={"key": False})
    """CPU threads; empty means all cores."""
    activation_checkpointing: bool = Field(default=False, json_schema_extra={"key": False})
    """Compute each layer again in the backward pass: less memory, a third more work."""
    deterministic: bool = Field(default=False, json_schema_extra={"key": False})
    """Only kernels that always add in one order: a GPU run repeats bit for bit, but slower."""
    profile_steps: int = Field(default=0, ge=0, json_schema_extra={"key": False})
    """Steps to trace, after the first three, into logs/trace.json.gz."""
    heartbeat_minutes: float = Field(default=30.0, gt=0, json_schema_extra={"key": False})
    """A process silent for longer is stopped, and by then for 20 times its longest silence."""
    device: str = Field(default="auto", pattern=DEVICE, json_schema_extra={"key": False})
    """auto, cpu, cuda or cuda:N; auto takes a GPU where there is one."""
    num_processes: int = Field(default=1, ge=0, json_schema_extra={"key": False})
    """Processes that train together, by torchrun; 0 means one per GPU. Changes no result."""
    parallel: Literal["auto", "replicate", "shard"] = Field(
        default="auto", json_schema_extra={"key": False}
    )
    """Several processes: whole weights on each, or shards (FSDP2); auto shards what is too big."""
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

    def key_dict(self) -> dict[str, Any]:
        """Return what decides the output; where the best is looked for does when it is wanted."""
        if self.finished_weights == "last":
            return super().key_dict()
        looked = {"finished_weights": self.finished_weights, "evaluate_every": self.evaluate_every}
        return super().key_dict() | looked

    @property
    def peak_learning_rate(self) -> float:
        """Return the peak learning rate as a number."""
        assert self.learning_rate is not None, "the trainer fills in the rule's (training/plan.py)"
        return self.learning_rate


def rule_learning_rate(model: EtudeConfig, tokens_per_step: int) -> float:
    """Return the peak learning rate of AdamW, and of Muon, for fresh weights.

    Half of Porian et al. 2024 (arXiv 2406.19146) as OLMo-core's model ladder has it, for N active
    weights outside the embeddings: 0.0024 (N / 108M)^(-1/3), at most 0.008. That is for 328k
    (N / 108M)^(2/3) tokens a step; fewer or more tokens change it by the square root.
    """
    tables = model.vocab_size * model.hidden_size * (1 if model.tie_embeddings else 2)
    size = (model.num_active_parameters - tables) / 108e6
    batch = tokens_per_step / (327_680 * size ** (2 / 3))
    return min(0.008, 0.00235 * size ** (-1 / 3) * batch**0.5)


class PretrainConfig(TrainConfig):
    """Training from fresh weights on packed text, or going on from those of a `parent`."""

    parent: str | None = Field(default=None, json_schema_extra={"key": False})
    """Checkpoint folder to go on from, perhaps an imported one; its shape then holds, not preset
    and model, and train_tokenizer.path must name its tokenizer. Its weights enter the key."""
    preset: str = "nano"
    """Size of the model: nano, micro, mini, small, medium, large, nano-moe, small-moe, or d12."""
    model: ModelOverrides = ModelOverrides()
    """Fields of the preset to replace."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate; empty: by rule_learning_rate, from the model's and the batch's size."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """What moves the matrices; with Muon 360 steps of nano end below AdamW's 600."""
    document_mask: bool = False
    """Hide the other documents of a packed row; bought nothing in pretraining at 2048 tokens."""

    @model_validator(mode="after")
    def _check_model(self) -> PretrainConfig:
        try:
            self.build_model(vocab_size=4096)
        except ValidationError as error:  # of a field of the shape, which is set under `model`
            errors: list[Any] = [one | {"loc": ("model", *one["loc"])} for one in error.errors()]
            raise ValidationError.from_exception_data(error.title, errors) from None
        return self

    def build_model(self, vocab_size: int) -> EtudeConfig:
        """Return the model's shape for a tokenizer of `vocab_size` ids."""
        overrides = self.model.model_dump(exclude_none=True)
        return preset(self.preset, **{**overrides, "vocab_size": vocab_size})


class SemanticConfig(TrainConfig):
    """Contrastive training of text embeddings beside the language-model loss."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW."""
    temperature: float | None = Field(default=None, gt=0)
    """Cosines are divided by this before the softmax; empty: 0.05, and 0.02 from 2,048 pairs."""
    contrastive_weight: float = Field(default=0.3, ge=0)
    """Weight of the contrastive loss; the language-model loss has weight 1."""
    pair_batch_size: int = Field(default=64, ge=2)
    """Pairs in one step; each is contrasted with all others."""
    pair_micro_batch_size: int = Field(default=64, ge=1, json_schema_extra={"key": False})
    """Pairs computed at once (GradCache). Changes memory and time, not the result."""
    matryoshka_dims: tuple[int, ...] = (32, 64)
    """Prefixes of the embedding that are trained too; the full width always is."""
    evaluation_pairs: int = Field(default=512, ge=2)
    """Held-out pairs that an evaluation ranks against each other, shared out among the sources."""
    max_text_loss: float | None = Field(default=0.01, gt=0)
    """When bits per byte are worse than the parent's by more than this share, contrastive_weight
    is halved, and weights from before are what is kept in the end; empty: no such guard."""
    evaluate_every: int = Field(default=100, ge=1)
    """Steps between two evaluations; here they decide what the guard sees."""

    @model_validator(mode="after")
    def _check_dims(self) -> SemanticConfig:
        dims = self.matryoshka_dims
        if list(dims) != sorted(set(dims)) or any(dim < 1 for dim in dims):
            raise BadInput(f"matryoshka_dims={dims} must rise and be positive, as in (32, 64)")
        return self

    @property
    def pair_temperature(self) -> float:
        """Return the temperature: more negatives at once stand a sharper one."""
        return self.temperature or (0.02 if self.pair_batch_size >= 2048 else 0.05)


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
    quantization: Literal["none", "nf4"] = "none"
    """nf4 holds the frozen base in 4 bits (QLoRA, arXiv 2305.14314): a GPU and the extra qlora."""
