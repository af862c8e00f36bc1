"""Tokens -> hidden states -> logits or loss: the whole model, parameter for parameter a Qwen3.

    tokens -> embed -> [ + attention(norm) -> + feed_forward(norm) ] x layers -> norm -> logits
                         the two sums are the residual stream

Parameters bear exactly the names of transformers' Qwen3ForCausalLM, so a checkpoint of ours loads
there, in vLLM and in llama.cpp without conversion, and the other way round.

    from etude_model.config import preset
    model = Etude(preset("nano"))
    nats, count = model.loss(model(tokens_BT), targets_BT)

B rows · T tokens · S keys · D hidden_size · V vocab_size
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etude_model.config import EtudeConfig
from etude_model.model.attention import KVCache, MultiHeadAttention, Sight
from etude_model.model.feed_forward import FeedForward
from etude_model.model.loss import chunked_cross_entropy
from etude_model.model.norm import RMSNorm
from etude_model.model.rope import rotations

__all__ = ["Block", "Etude", "RMSNorm"]


class Block(nn.Module):
    """One layer: attention, then feed-forward, each added to what came in."""

    def __init__(self, config: EtudeConfig, layer: int) -> None:
        """Make layer number `layer`."""
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = MultiHeadAttention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config.hidden_size, config.intermediate_size)

    def forward(self, x_BTD: Tensor, sight: Sight) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), sight)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class _Decoder(nn.Module):
    """What Qwen3ForCausalLM calls `model`: everything below the output matrix."""

    def __init__(self, config: EtudeConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, tokens_BT: Tensor, sight: Sight) -> Tensor:
        x_BTD = self.embed_tokens(tokens_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, sight)
        return self.norm(x_BTD)


class Etude(nn.Module):
    """A small language model; calling it gives hidden states after the last norm."""

    def __init__(self, config: EtudeConfig) -> None:
        """Build fresh weights from torch's global generator: seed it for equal weights."""
        super().__init__()
        self.config = config
        self.model = _Decoder(config)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Draw weights; what enters the residual stream is scaled down by its number of writers.

        That keeps the stream's size independent of depth (Radford et al. 2019, GPT-2).
        """
        std = self.config.initializer_range
        for name, weight in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.normal_(0.0, std / (2 * self.config.num_layers) ** 0.5)
            elif weight.dim() == 2:
                weight.normal_(0.0, std)

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        positions: Tensor | None = None,
        segments_BT: Tensor | None = None,
        is_causal: bool = True,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Return the hidden states [B, T, D] of int token ids [B, T].

        `positions` [T] or [B, T] count from what the cache holds if not given. `segments_BT` gives
        each token the number of its document: documents do not see each other, and -1 marks
        padding. With a `cache`, tokens see those in it; rows may stand at different positions.
        """
        if cache is not None and (segments_BT is not None or not is_causal):
            raise ValueError("a cache is for causal rows of one document: give no segments_BT")
        sight = self._sight(tokens_BT, positions, segments_BT, is_causal, cache)
        return self.model(tokens_BT, sight)

    def _sight(
        self,
        tokens_BT: Tensor,
        positions: Tensor | None,
        segments_BT: Tensor | None,
        is_causal: bool,
        cache: KVCache | None,
    ) -> Sight:
        num_rows, num_tokens = tokens_BT.shape
        start = cache.num_used if cache is not None else 0
        in_order = positions is None
        if positions is None:
            positions = torch.arange(start, start + num_tokens, device=tokens_BT.device)
        positions = positions.expand(num_rows, -1) if positions.dim() == 2 else positions[None]
        cos, sin = rotations(positions, head_dim=self.config.head_dim, theta=self.config.rope_theta)
        if cache is None:
            mask = None
            if segments_BT is not None:
                mask = (segments_BT[:, :, None] == segments_BT[:, None, :])[:, None]
                mask = mask.tril() if is_causal else mask
            return Sight(cos, sin, mask, is_causal)
        cache.num_used = max(start, int(positions.max()) + 1)
        if cache.num_used > cache.capacity:
            raise ValueError(
                f"position {cache.num_used - 1} is beyond the cache's {cache.capacity}"
            )
        slots_BT = positions.expand(num_rows, -1)
        if in_order and start == 0:  # a fresh cache holds just these tokens
            return Sight(cos, sin, None, True, cache, slots_BT)
        keys_S = torch.arange(cache.num_used, device=tokens_BT.device)
        mask = (keys_S <= positions[:, :, None])[:, None]
        return Sight(cos, sin, mask, True, cache, slots_BT)

    @property
    def output_weight(self) -> Tensor:
        """Return the matrix [V, D] from hidden states to logits."""
        return self.model.embed_tokens.weight if self.config.tie_embeddings else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [..., V] of hidden states [..., D]."""
        return nn.functional.linear(hidden, self.output_weight).float()

    def loss(self, hidden_BTD: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return summed nats (float32 scalar) and the number of targets; -100 is no target."""
        return chunked_cross_entropy(
            hidden_BTD.flatten(0, 1), self.output_weight, targets_BT.flatten()
        )
