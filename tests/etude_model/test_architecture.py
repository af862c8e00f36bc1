"""Shapes: presets, depths, overrides, and impossible models refused in words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from etude_model.architecture import PRESETS, EtudeConfig, preset
from etude_model.config import PretrainConfig


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_experts": 4, "num_experts_per_token": 5}, "num_experts_per_token=5 is more than"),
        ({"num_shared_experts": 1}, "num_shared_experts=1 but num_experts=0"),
        ({"moe_intermediate_size": 64}, "set num_experts or leave moe_intermediate_size out"),
        ({"num_experts": 4, "num_dense_layers": 4}, "num_dense_layers=4 leaves no layer"),
        ({"num_experts": 8, "num_experts_per_token": 5}, "cannot be shared out among the 5"),
        ({"full_attention_every": 2}, "set sliding_window or leave both empty"),
        (
            {"rope_scaling": {"factor": 2, "original_context_length": 9, "beta_fast": 0.5}},
            "beta_slow=1.0 is not below beta_fast=0.5",
        ),
        ({"rope_scaling": {"factor": 1, "original_context_length": 9}}, "greater than 1"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "'yarn'"),
        ({"router_score": "top"}, "'softmax' or 'sigmoid'"),
    ],
)
def test_impossible_shapes_are_refused_with_the_fix(changes: dict[str, Any], words: str) -> None:
    """Catches a shape that fails deep in torch, or a knob that is silently ignored."""
    with pytest.raises(ValueError, match=words):
        preset("nano", **changes)


@pytest.mark.parametrize("name", ["d0", "d", "dx", "d-3", "d1.5", "nano-MoE", "12"])
def test_unknown_presets_name_the_known_ones(name: str) -> None:
    """Catches a typo that becomes a model of some other size."""
    with pytest.raises(ValueError, match=r"choose one of nano, .*small-moe, or a depth as d12"):
        preset(name)


@given(st.integers(1, 64))
def test_every_depth_is_a_model_that_loads_everywhere(depth: int) -> None:
    """Catches a rule that gives heads that do not divide, or sizes that GGUF cannot block."""
    config = preset(f"d{depth}")
    assert (config.num_layers, config.hidden_size) == (depth, 64 * depth)
    assert config.head_dim in (64, 128)
    assert config.num_heads == 2 * config.num_kv_heads
    assert abs(config.num_heads * config.head_dim - config.hidden_size) <= config.head_dim
    assert config.intermediate_size % 256 == 0
    assert 8 / 3 <= config.intermediate_size / config.hidden_size < 8 / 3 + 256 / config.hidden_size
    assert config.vocab_size % 128 == 0
    deeper = preset(f"d{depth + 1}")
    assert deeper.num_parameters > config.num_parameters
    assert deeper.context_length >= config.context_length


def test_depth_8_is_mini_and_sizes_are_as_announced() -> None:
    """Catches a rule or a table that drifts from the sizes that the documents name."""
    assert preset("d8") == preset("mini")
    millions = {
        name: (config.num_parameters / 1e6, config.num_active_parameters / 1e6)
        for name, config in ((name, preset(name)) for name in PRESETS)
    }
    expected = {
        "nano": (1.3, 1.3),
        "micro": (10.5, 10.5),
        "mini": (33.6, 33.6),
        "small": (101, 101),
        "medium": (336, 336),
        "large": (1118, 1118),
        "nano-moe": (1.7, 1.3),
        "small-moe": (511, 101),
    }
    assert millions == {name: pytest.approx(sizes, rel=0.02) for name, sizes in expected.items()}


def test_layers_are_windowed_but_every_nth() -> None:
    """Catches a pattern that starts at the wrong end, or windows without a window."""
    full, windowed = "full_attention", "sliding_attention"
    assert preset("nano").layer_types == (full,) * 4
    assert preset("nano", sliding_window=8).layer_types == (windowed,) * 4
    assert preset("micro", sliding_window=8, full_attention_every=3).layer_types == (
        *(windowed, windowed, full, windowed, windowed, full, windowed, windowed),
    )


def test_overrides_reach_the_model_and_its_file() -> None:
    """Catches a field that the form shows and the model does not get, or that JSON loses."""
    changes = {
        "rope_scaling": {"factor": 4.0, "original_context_length": 256},
        "context_length": 1024,
        "sliding_window": 128,
        "full_attention_every": 4,
        "num_experts": 8,
        "num_experts_per_token": 3,
        "num_shared_experts": 0,
        "moe_intermediate_size": 64,
        "num_dense_layers": 1,
        "router_score": "softmax",
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.5,
        "router_bias_update_rate": 0.01,
        "router_aux_loss_weight": 0.01,
        "router_z_loss_weight": 0.001,
    }
    train = PretrainConfig.model_validate({"preset": "nano-moe", "model": changes})
    config = train.build_model(vocab_size=512)
    dumped = config.model_dump(exclude_defaults=True)
    assert {name: dumped.get(name, getattr(config, name)) for name in changes} == changes
    assert EtudeConfig.model_validate_json(config.model_dump_json()) == config


def test_a_config_from_before_the_experts_is_still_a_dense_model() -> None:
    """Catches a new field without a default: old checkpoints could not be opened."""
    names = {"vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim"}
    old = preset("nano").model_dump(include=names | {"intermediate_size", "context_length"})
    config = EtudeConfig.model_validate(old)
    assert config == preset("nano")
    assert not any(config.is_sparse(layer) for layer in range(config.num_layers))
    with pytest.raises(ValidationError, match="Extra inputs"):
        EtudeConfig.model_validate(old | {"shared_experts_number": 2})
