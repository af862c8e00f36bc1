"""Embeddings: unit length, blind to padding and neighbours, whole-text attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from etude_model.config import EtudeConfig
from etude_model.inference.embed import embed, embed_ids
from etude_model.model.transformer import Etude
from storage.errors import BadInput

CONFIG = EtudeConfig(
    vocab_size=61,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    context_length=24,
)
ROWS = [[5, 6, 7], [9], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [7, 6, 5]]


@pytest.fixture(scope="module")
def model() -> Etude:
    """A fresh small model."""
    torch.manual_seed(0)
    return Etude(CONFIG).eval()


def test_padding_and_neighbours_change_nothing(model: Etude) -> None:
    """Catches padding in the mean or in the attention, and vectors in the wrong order."""
    together = embed_ids(model, ROWS, batch_size=3)
    alone = np.concatenate([embed_ids(model, [row]) for row in ROWS])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    assert together.dtype == np.float32
    padded = torch.tensor([[5, 6, 7, 60, 33]])
    found = embed(model, padded, torch.tensor([3]))
    np.testing.assert_allclose(found.detach()[0], together[0], atol=1e-6)


def test_it_is_the_mean_over_the_whole_text(model: Etude) -> None:
    """Catches causal attention or last-token pooling, against the formula written out."""
    with torch.no_grad():
        hidden = model(torch.tensor([ROWS[2]]), is_causal=False)[0].mean(0)
        for dims in (None, 8):
            expected = hidden[:dims] / hidden[:dims].norm()
            found = embed(model, torch.tensor([ROWS[2]]), torch.tensor([10]), dims)[0]
            torch.testing.assert_close(found, expected)


def test_it_can_be_trained(model: Etude) -> None:
    """Catches a detached embedding: the semantic stage needs its gradient."""
    embed(model, torch.tensor([ROWS[0]]), torch.tensor([3]))[0, 0].backward()
    gradient = model.get_parameter("model.layers.0.self_attn.q_proj.weight").grad
    assert gradient is not None and gradient.any()
    model.zero_grad()


def test_texts_that_do_not_fit_are_refused(model: Etude) -> None:
    """Catches silent truncation, division by zero for empty rows, and prefixes that are not."""
    with pytest.raises(BadInput, match="row 1 has 25 tokens, the model takes 1 to 24"):
        embed_ids(model, [[1], [1] * 25])
    with pytest.raises(BadInput, match="row 0 has 0 tokens"):
        embed_ids(model, [[]])
    with pytest.raises(BadInput, match="dims=33 is outside 1 to hidden_size=32"):
        embed_ids(model, [[1]], dims=33)
