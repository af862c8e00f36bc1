"""Experts, windows and stretched RoPE against transformers' classes with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    Dots1Config,
    Dots1ForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from etude_model.config import EtudeConfig
from etude_model.inference.embed import embed
from etude_model.model.transformer import Etude

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "context_length": 64,
}


def build(**changes: Any) -> Etude:
    """Return a small model with weights and biases large enough to make mistakes visible."""
    torch.manual_seed(0)
    model = Etude(EtudeConfig(**SHAPE | changes))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
        for layer in model.sparse_layers():
            if layer.gate.e_score_correction_bias is not None:
                layer.gate.e_score_correction_bias.normal_(std=0.3)
    return model.eval()


def shared_settings(config: EtudeConfig) -> dict[str, Any]:
    """Return what the configs of all three classes call by the same name."""
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        rope |= {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_context_length,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "attention_factor": scaling.attention_factor,
        }
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "max_position_embeddings": config.context_length,
        "tie_word_embeddings": config.tie_embeddings,
        "rope_parameters": rope,
    }


def expert_settings(config: EtudeConfig) -> dict[str, Any]:
    """Return what the configs of both expert classes call by the same name."""
    return {
        "moe_intermediate_size": config.expert_size,
        "num_experts_per_tok": config.num_experts_per_token,
        "norm_topk_prob": config.norm_topk_prob,
    }


def qwen3(config: EtudeConfig, **more: Any) -> Qwen3ForCausalLM:
    """Return the dense class, with windows where the config has them."""
    windows = {
        "use_sliding_window": config.sliding_window is not None,
        "sliding_window": config.sliding_window,
        "layer_types": list(config.layer_types),
    }
    return Qwen3ForCausalLM(Qwen3Config(**shared_settings(config), **windows, **more))


def qwen3_moe(config: EtudeConfig) -> Qwen3MoeForCausalLM:
    """Return the class of softmax routing."""
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **shared_settings(config),
            **expert_settings(config),
            num_experts=config.num_experts,
            mlp_only_layers=list(range(config.num_dense_layers)),
            use_sliding_window=config.sliding_window is not None,
            sliding_window=config.sliding_window,
        )
    )


def dots1(config: EtudeConfig) -> Dots1ForCausalLM:
    """Return the class of sigmoid routing."""
    return Dots1ForCausalLM(
        Dots1Config(
            **shared_settings(config),
            **expert_settings(config),
            n_routed_experts=config.num_experts,
            n_shared_experts=config.num_shared_experts,
            first_k_dense_replace=config.num_dense_layers,
            routed_scaling_factor=config.routed_scaling_factor,
            n_group=1,
            topk_group=1,
            sliding_window=config.sliding_window,
            layer_types=list(config.layer_types),
        )
    )


def assert_same_logits(ours: Etude, theirs: PreTrainedModel) -> None:
    """Load our weights into their class and compare at several lengths."""
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected
    # transformers builds shared experts of width 0 where there are none.
    empty = [name for name in missing if theirs.get_parameter(name).numel() == 0]
    tied = ["lm_head.weight"] if ours.config.tie_embeddings else []
    assert sorted(missing) == sorted(empty + tied)
    theirs.tie_weights()
    theirs.eval()
    for num_tokens in (1, 37, ours.config.context_length):
        tokens = torch.randint(97, (2, num_tokens))
        with torch.no_grad():
            difference = ours.logits(ours(tokens)) - theirs(tokens).logits
        assert difference.abs().max() <= 1e-5, num_tokens


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_topk_prob": False, "tie_embeddings": False},
        {"num_dense_layers": 1, "moe_intermediate_size": 24},
        {"num_experts_per_token": 4, "num_kv_heads": 1},
        {"num_experts_per_token": 1, "num_kv_heads": 4},
        {"sliding_window": 5},
    ],
)
def test_logits_equal_transformers_qwen3_moe(changes: dict[str, Any]) -> None:
    """Catches a slip in the choice of experts, their weights, or the order of gate and value."""
    model = build(num_experts=4, **changes)
    assert_same_logits(model, qwen3_moe(model.config))


@pytest.mark.parametrize("num_dense_layers", [0, 1])
@pytest.mark.parametrize("num_shared_experts", [0, 1, 2])
def test_logits_equal_transformers_dots1(num_dense_layers: int, num_shared_experts: int) -> None:
    """Catches a bias that leaks into the weights, a lost factor, shared experts of wrong width."""
    model = build(
        num_experts=8,
        moe_intermediate_size=20,
        router_score="sigmoid",
        num_dense_layers=num_dense_layers,
        num_shared_experts=num_shared_experts,
        routed_scaling_factor=2.5,
        norm_topk_prob=num_shared_experts != 1,
        tie_embeddings=False,
    )
    assert_same_logits(model, dots1(model.config))


def test_logits_equal_with_experts_and_mixed_windows() -> None:
    """Catches windows that only the dense model knows."""
    model = build(num_experts=4, router_score="sigmoid", sliding_window=6, full_attention_every=2)
    assert set(model.config.layer_types) == {"sliding_attention", "full_attention"}
    assert_same_logits(model, dots1(model.config))


@pytest.mark.parametrize("window", [1, 4, 64, 100])
@pytest.mark.parametrize("every", [None, 2, 4])
def test_windows_equal_transformers(window: int, every: int | None) -> None:
    """Catches a window that is one token too wide, or in the wrong layers."""
    model = build(sliding_window=window, full_attention_every=every)
    assert_same_logits(model, qwen3(model.config))


@pytest.mark.parametrize(
    "scaling",
    [
        {"factor": 4.0, "original_context_length": 16},
        {"factor": 2.0, "original_context_length": 2048},
        {"factor": 8.0, "original_context_length": 16, "attention_factor": 1.5},
        {"factor": 4.0, "original_context_length": 4096, "beta_fast": 16.0, "beta_slow": 2.0},
    ],
)
def test_yarn_equals_transformers(scaling: dict[str, Any]) -> None:
    """Catches a ramp over the wrong pairs, or sines and cosines of the wrong size."""
    model = build(rope_scaling=scaling)
    assert_same_logits(model, qwen3(model.config))


def test_embeddings_with_windows_equal_transformers_without_causality() -> None:
    """Catches windows that look back only, where the exported embedding model looks both ways."""
    model = build(sliding_window=5, full_attention_every=2)
    theirs = qwen3(model.config, is_causal=False).eval()
    theirs.load_state_dict(model.state_dict(), strict=False)
    tokens = torch.randint(97, (3, 40))
    with torch.no_grad():
        hidden = theirs.model(tokens).last_hidden_state
        expected = torch.nn.functional.normalize(hidden.mean(dim=1), dim=-1)
        found = embed(model, tokens, torch.tensor([40, 40, 40]))
    assert (found - expected).abs().max() <= 1e-5
