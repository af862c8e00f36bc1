"""Names and numbers -> the checked shape of a model: how wide, how deep, how many experts.

A shape is a frozen object that cannot be impossible. It comes from a preset, a depth or the
`config.json` of a checkpoint, and holds all that the weights' shapes and the forward pass follow
from. Free of torch, so that forms and the command line load quickly.

    python -c "from etude_model.architecture import preset; print(preset('d12').num_parameters)"
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from storage.config import Config
from storage.errors import BadInput

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
# As many active weights per token as nano and small; they export as Dots1 (DeepSeek-V3's routing).
_ROUTING = {"num_shared_experts": 1, "router_score": "sigmoid"}
PRESETS["nano-moe"] = PRESETS["nano"] | _ROUTING | {"num_experts": 4, "num_experts_per_token": 2}
PRESETS["small-moe"] = PRESETS["small"] | _ROUTING | {"num_experts": 32, "num_experts_per_token": 3}


class YarnScaling(Config):
    """RoPE for longer contexts than the weights were trained on (YaRN, arXiv 2309.00071)."""

    type: Literal["yarn"] = "yarn"
    """How the wavelengths are stretched."""
    factor: float = Field(gt=1)
    """How many times longer the new context is."""
    original_context_length: int = Field(ge=1)
    """The context that the weights were trained on."""
    beta_fast: float = Field(default=32.0, gt=0)
    """Pairs that turn at least this often in the original context keep their speed."""
    beta_slow: float = Field(default=1.0, gt=0)
    """Pairs that turn at most this often are slowed down by the whole factor."""
    attention_factor: float | None = Field(default=None, gt=0)
    """Multiplies sines and cosines; empty means 0.1 ln(factor) + 1, the paper's choice."""


class EtudeConfig(Config):
    """The shape of a model: a Qwen3 decoder (RMSNorm, GQA with QK-norm, RoPE, SwiGLU).

    With experts it is a Qwen3-MoE (softmax) or a Dots1 (sigmoid, shared experts, bias balancing).
    """

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
    rope_scaling: YarnScaling | None = None
    """Stretch RoPE beyond the context of training; empty means plain RoPE."""
    sliding_window: int | None = Field(default=None, ge=1)
    """Tokens, itself included, that a token sees in a windowed layer; empty means all."""
    full_attention_every: int | None = Field(default=None, ge=1)
    """Every n-th layer sees the whole context all the same; empty means none does."""
    num_experts: int = Field(default=0, ge=0)
    """Experts of a sparse layer; 0 makes a dense model."""
    num_experts_per_token: int = Field(default=2, ge=1)
    """Experts that each token is sent to."""
    num_shared_experts: int = Field(default=0, ge=0)
    """Experts that every token goes through as well."""
    moe_intermediate_size: int | None = Field(default=None, ge=1)
    """Inner width of one expert; empty means that a token's experts add up to a dense layer."""
    num_dense_layers: int = Field(default=0, ge=0)
    """Layers at the start that stay dense (DeepSeek's first_k_dense_replace)."""
    router_score: Literal["softmax", "sigmoid"] = "softmax"
    """How router logits become scores; only sigmoid has the bias that balances the experts."""
    norm_topk_prob: bool = True
    """Divide the scores of a token's experts by their sum."""
    routed_scaling_factor: float = Field(default=1.0, gt=0)
    """Multiplies what the routed experts give."""
    router_bias_update_rate: float = Field(default=0.001, ge=0)
    """Step of the balancing bias after each optimiser step (arXiv 2408.15664)."""
    router_aux_loss_weight: float = Field(default=0.0, ge=0)
    """Weight of the loss that spreads tokens over experts (Switch, arXiv 2101.03961)."""
    router_z_loss_weight: float = Field(default=0.0, ge=0)
    """Weight of the loss that keeps router logits small (ST-MoE, arXiv 2202.08906)."""

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
        self._check_experts()
        if self.full_attention_every and not self.sliding_window:
            raise BadInput(
                f"full_attention_every={self.full_attention_every} but sliding_window is empty, "
                "so every layer is full already; set sliding_window or leave both empty"
            )
        if self.rope_scaling and self.rope_scaling.beta_slow >= self.rope_scaling.beta_fast:
            raise BadInput(
                f"rope_scaling: beta_slow={self.rope_scaling.beta_slow} is not below beta_fast="
                f"{self.rope_scaling.beta_fast}; use for instance 1 and 32"
            )
        return self

    def _check_experts(self) -> None:
        if not self.num_experts:
            unused = ("num_shared_experts", "moe_intermediate_size", "num_dense_layers")
            for name in unused:
                if getattr(self, name):
                    raise BadInput(
                        f"{name}={getattr(self, name)} but num_experts=0 makes a dense model; "
                        f"set num_experts or leave {name} out"
                    )
            return
        if self.num_experts_per_token > self.num_experts:
            raise BadInput(
                f"num_experts_per_token={self.num_experts_per_token} is more than num_experts="
                f"{self.num_experts}; set it to at most {self.num_experts}"
            )
        if self.num_dense_layers >= self.num_layers:
            raise BadInput(
                f"num_dense_layers={self.num_dense_layers} leaves no layer of num_layers="
                f"{self.num_layers} for the {self.num_experts} experts; set it to at most "
                f"{self.num_layers - 1}, or num_experts to 0"
            )
        active = self.num_experts_per_token + self.num_shared_experts
        if self.moe_intermediate_size is None and self.intermediate_size % active:
            raise BadInput(
                f"intermediate_size={self.intermediate_size} cannot be shared out among the "
                f"{active} experts of a token; set moe_intermediate_size"
            )

    @property
    def expert_size(self) -> int:
        """Return the inner width of one expert; 0 in a dense model."""
        if not self.num_experts:
            return 0
        active = self.num_experts_per_token + self.num_shared_experts
        return self.moe_intermediate_size or self.intermediate_size // active

    @property
    def layer_types(self) -> tuple[str, ...]:
        """Return "full_attention" or "sliding_attention" for each layer, transformers' words."""
        every = self.full_attention_every or self.num_layers + 1
        return tuple(
            "sliding_attention" if self.sliding_window and layer % every else "full_attention"
            for layer in range(1, self.num_layers + 1)
        )

    def is_sparse(self, layer: int) -> bool:
        """Say whether layer number `layer`, counted from 0, has experts."""
        return self.num_experts > 0 and layer >= self.num_dense_layers

    @property
    def num_parameters(self) -> int:
        """Return the exact number of weights; a tied embedding counts once."""
        return self._num_parameters(self.num_experts)

    @property
    def num_active_parameters(self) -> int:
        """Return the weights that one token meets: all but the experts it is not sent to."""
        return self._num_parameters(min(self.num_experts, self.num_experts_per_token))

    def _num_parameters(self, routed: int) -> int:
        width, head = self.hidden_size, self.head_dim
        attention = 2 * width * head * (self.num_heads + self.num_kv_heads) + 2 * head
        dense = 3 * width * self.intermediate_size
        experts = 3 * width * self.expert_size * (routed + self.num_shared_experts)
        num_sparse = sum(self.is_sparse(layer) for layer in range(self.num_layers))
        feed_forward = (self.num_layers - num_sparse) * dense
        feed_forward += num_sparse * (experts + self.num_experts * width)  # and the router
        embeddings = self.vocab_size * width * (1 if self.tie_embeddings else 2)
        return embeddings + self.num_layers * (attention + 2 * width) + feed_forward + width


def preset(name: str, **overrides: Any) -> EtudeConfig:
    """Build the model config called `name`, with some fields replaced.

    A name is a key of PRESETS or a depth such as "d12", from which all else follows.
    """
    depth = name.removeprefix("d")
    if name.startswith("d") and depth.isascii() and depth.isdigit() and int(depth) > 0:
        return EtudeConfig(**{**_shape_of_depth(int(depth)), **overrides})
    if name not in PRESETS:
        raise BadInput(
            f"preset={name!r} is unknown; choose one of {', '.join(PRESETS)}, or a depth as d12"
        )
    return EtudeConfig(**{**PRESETS[name], **overrides})


def _shape_of_depth(depth: int) -> dict[str, Any]:
    """Return a model of `depth` layers, 64 wide per layer (the aspect that nanochat found best).

    Heads have 64 numbers, and 128 from a width of 1024 on, where GPUs prefer them; two query heads
    share a key/value head. SwiGLU's 8/3 of the width is rounded up to GGUF's blocks of 256.
    """
    width = 64 * depth
    head_dim = 64 if width < 1024 else 128
    num_kv_heads = max(1, round(width / head_dim / 2))
    return {
        "hidden_size": width,
        "num_layers": depth,
        "num_heads": 2 * num_kv_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "intermediate_size": -(-8 * width // (3 * 256)) * 256,
        "vocab_size": 16384 if depth < 12 else 32768 if depth < 24 else 65536,
        "context_length": min(2048, 512 * max(1, depth // 3)),
        "tie_embeddings": depth < 24,
    }


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
    rope_scaling: YarnScaling | None = None
    """Stretch RoPE beyond the context of training."""
    sliding_window: int | None = None
    """Tokens that a token sees in a windowed layer."""
    full_attention_every: int | None = None
    """Every n-th layer sees the whole context all the same."""
    num_experts: int | None = None
    """Experts of a sparse layer; 0 makes a dense model."""
    num_experts_per_token: int | None = None
    """Experts that each token is sent to."""
    num_shared_experts: int | None = None
    """Experts that every token goes through as well."""
    moe_intermediate_size: int | None = None
    """Inner width of one expert."""
    num_dense_layers: int | None = None
    """Layers at the start that stay dense."""
    router_score: Literal["softmax", "sigmoid"] | None = None
    """How router logits become scores."""
    norm_topk_prob: bool | None = None
    """Divide the scores of a token's experts by their sum."""
    routed_scaling_factor: float | None = None
    """Multiplies what the routed experts give."""
    router_bias_update_rate: float | None = None
    """Step of the balancing bias after each optimiser step."""
    router_aux_loss_weight: float | None = None
    """Weight of the loss that spreads tokens over experts."""
    router_z_loss_weight: float | None = None
    """Weight of the loss that keeps router logits small."""
