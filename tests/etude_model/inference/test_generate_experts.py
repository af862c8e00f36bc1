"""Generation and embeddings of models with experts, windows and stretched RoPE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from etude_model.architecture import EtudeConfig
from etude_model.inference.embed import embed_ids
from etude_model.inference.generate import SamplingConfig, generate
from etude_model.inference.load import load_model
from etude_model.model.transformer import Etude

PROMPTS = [[5], [7, 1, 9, 9, 3, 2, 8], [4, 4, 4], [60, 59, 58, 57, 56, 55, 54, 53, 52, 51], [5, 6]]
KINDS: dict[str, dict[str, Any]] = {
    "softmax": {"num_experts": 4, "num_dense_layers": 1},
    "sigmoid": {"num_experts": 4, "router_score": "sigmoid", "num_shared_experts": 1},
    "windows": {"sliding_window": 5, "full_attention_every": 2},
    "yarn": {"rope_scaling": {"factor": 4.0, "original_context_length": 12}},
}
KINDS["all"] = KINDS["sigmoid"] | KINDS["windows"] | KINDS["yarn"]


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Etude:
    """A small model with lively logits, and a bias where it has one."""
    torch.manual_seed(0)
    model = Etude(
        EtudeConfig(
            vocab_size=61,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=8,
            intermediate_size=48,
            context_length=48,
            **KINDS[request.param],
        )
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    model.update_router_bias(torch.tensor([[9, 0, 3, 3]] * len(model.sparse_layers())))
    return model.eval()


def test_a_ragged_batch_equals_each_row_without_a_cache(model: Etude) -> None:
    """Catches experts that depend on the batch, and windows that count slots of other rows."""
    sampling = SamplingConfig(max_new_tokens=20, temperature=0)
    for prompt, found in zip(
        PROMPTS, generate(model, PROMPTS, sampling, stop_ids=set()), strict=True
    ):
        ids = list(prompt)
        for _ in range(20):
            with torch.no_grad():
                ids.append(int(model.logits(model(torch.tensor([ids])))[0, -1].argmax()))
        assert found.token_ids == ids[len(prompt) :]


def test_embeddings_do_not_depend_on_the_batch(model: Etude) -> None:
    """Catches padding that moves the vector of a shorter row."""
    together = embed_ids(model, PROMPTS)
    alone = np.concatenate([embed_ids(model, [row]) for row in PROMPTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_saved_model_is_the_same_after_loading(model: Etude, tmp_path: Path) -> None:
    """Catches a balancing bias that is not saved, or counters that are."""
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(model.config.model_dump_json())
    loaded = load_model(tmp_path).eval()
    tokens = torch.tensor([PROMPTS[3]])
    with torch.no_grad():
        assert torch.equal(loaded(tokens), model(tokens))
    loaded.train()(tokens)
    assert all(layer.expert_counts.device.type == "cpu" for layer in loaded.sparse_layers())
    counts = loaded.take_expert_counts()
    assert counts is None or int(counts.sum()) > 0
