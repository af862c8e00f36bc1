"""Tokens -> hidden states -> logits or loss: the whole model, parameter for parameter a Qwen3.

    tokens -> embed -> [ + attention(norm) -> + feed_forward(norm) ] x layers -> norm -> logits
                         the two sums are the residual stream

Parameters bear exactly the names of transformers' Qwen3ForCausalLM, so a checkpoint of ours loads
there, in vLLM and in llama.cpp without conversion, and the other way round. With experts in the
place of the feed-forward network the names are those of Qwen3-MoE and Dots1.

    from etude_model.config import preset
    model = Etude(preset("nano"))
    nats, count = model.loss(model(tokens_BT), targets_BT)

B rows · T tokens · S keys · D hidden_size · V vocab_size
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from etude_model.config import EtudeConfig
from etude_model.model.attention import KVCache, MultiHeadAttention, Sight
from etude_model.model.feed_forward import FeedForward
from etude_model.model.loss import chunked_cross_entropy
from etude_model.model.moe import SparseMOE, without_counts
from etude_model.model.norm import RMSNorm
from etude_model.model.sight import look

__all__ = ["Block", "Etude", "RMSNorm"]


def _once(x_BTD: Tensor) -> Tensor:
    """Return what autocast would make of x, once for all linears that read it."""
    device = x_BTD.device.type
    if not torch.is_autocast_enabled(device):
        return x_BTD
    return x_BTD.to(torch.get_autocast_dtype(device))


class Block(nn.Module):
    """One layer: attention, then feed-forward, each added to what came in."""

    def __init__(self, config: EtudeConfig, layer: int) -> None:
        """Make layer number `layer`."""
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = MultiHeadAttention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp: FeedForward | SparseMOE
        if config.is_sparse(layer):
            self.mlp = SparseMOE(config)
        else:
            self.mlp = FeedForward(config.hidden_size, config.intermediate_size)

    def forward(self, x_BTD: Tensor, sight: Sight) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        x_BTD = x_BTD + self.self_attn(_once(self.input_layernorm(x_BTD)), sight)
        return x_BTD + self.mlp(_once(self.post_attention_layernorm(x_BTD)))


class _Decoder(nn.Module):
    """What Qwen3ForCausalLM calls `model`: everything below the output matrix."""

    def __init__(self, config: EtudeConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, tokens_BT: Tensor, sight: Sight, recomputes: bool) -> Tensor:
        x_BTD = self.embed_tokens(tokens_BT)
        for layer in self.layers:
            x_BTD = _checkpointed(layer, x_BTD, sight) if recomputes else layer(x_BTD, sight)
        return self.norm(x_BTD)


def _checkpointed(layer: nn.Module, x_BTD: Tensor, sight: Sight) -> Tensor:
    """Run a layer, keep its input only, and run it again in the backward pass, uncounted."""

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), without_counts(layer)

    y_BTD: Tensor = checkpoint(layer, x_BTD, sight, use_reentrant=False, context_fn=contexts)
    return y_BTD


class Etude(nn.Module):
    """A small language model; calling it gives hidden states after the last norm.

    With `activation_checkpointing` set, the backward pass computes each layer once more instead of
    keeping what is inside it: about a third more work for far less memory, and the same results.
    """

    def __init__(self, config: EtudeConfig) -> None:
        """Build fresh weights from torch's global generator: seed it for equal weights."""
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
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
            if name.endswith(("o_proj.weight", "down_proj.weight", "experts.down_proj")):
                weight.normal_(0.0, std / (2 * self.config.num_layers) ** 0.5)
            elif weight.dim() >= 2:
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
        each token the number of its document (equal numbers side by side): documents do not see
        each other, and -1 marks padding. With a `cache`, tokens see those in it; rows may stand
        at different positions.
        """
        if cache is not None and (segments_BT is not None or not is_causal):
            raise ValueError("a cache is for causal rows of one document: give no segments_BT")
        device = tokens_BT.device.type
        is_mixed = torch.is_autocast_enabled(device)
        sight = look(
            self.config,
            tokens_BT,
            positions=positions,
            segments_BT=segments_BT,
            is_causal=is_causal,
            cache=cache,
            dtype=torch.get_autocast_dtype(device) if is_mixed else self.output_weight.dtype,
        )
        recomputes = self.activation_checkpointing and torch.is_grad_enabled()
        return self.model(tokens_BT, sight, recomputes)

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

    def sparse_layers(self) -> list[SparseMOE]:
        """Return the expert layers, from the first to the last; empty in a dense model."""
        return [layer.mlp for layer in self.model.layers if isinstance(layer.mlp, SparseMOE)]

    def router_loss(self) -> Tensor | None:
        """Return the weighted router losses of the last training pass, summed over layers."""
        losses = [layer.router_loss for layer in self.sparse_layers()]
        there = [loss for loss in losses if loss is not None]
        return torch.stack(there).sum() if there else None

    @torch.no_grad()
    def take_expert_counts(self) -> Tensor | None:
        """Return the tokens that each expert got since the last call, int64 [sparse layers, E]."""
        layers = self.sparse_layers()
        if not layers:
            return None
        counts_LE = torch.stack([layer.expert_counts for layer in layers])
        for layer in layers:
            layer.expert_counts.zero_()
        return counts_LE

    def update_router_bias(self, counts_LE: Tensor) -> None:
        """Move the balancing biases by the counts of a whole step (sigmoid routing only)."""
        for layer, counts_E in zip(self.sparse_layers(), counts_LE, strict=True):
            layer.update_bias(counts_E)
