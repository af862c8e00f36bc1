"""The embeddings folder, opened by sentence-transformers and by transformers, against `embed`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

from etude_model.config import EtudeConfig
from etude_model.export.embeddings import export_embeddings
from etude_model.inference.embed import embed_ids
from etude_model.inference.load import load_checkpoint
from etude_model.model.lora import base_state_dict
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from storage.errors import BadInput
from storage.files import write_json

TEXTS = ["old bridge", "河", "城市北方人民历史。", "river mountain city old bridge north " * 8, "x"]
SHAPES: dict[str, dict[str, Any]] = {
    "dense": {},
    "experts": {
        **{"num_experts": 4, "moe_intermediate_size": 24, "num_shared_experts": 1},
        **{"router_score": "sigmoid", "tie_embeddings": False},
    },
}


@pytest.fixture(params=SHAPES)
def checkpoint(request: pytest.FixtureRequest, tiny_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A checkpoint with random weights and a context that the longest text overflows."""
    torch.manual_seed(1)
    config = EtudeConfig(
        vocab_size=tiny_tokenizer.vocab_size,
        hidden_size=48,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=80,
        context_length=32,
        initializer_range=0.15,
        **SHAPES[request.param],
    )
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    weights = base_state_dict(Etude(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config.model_dump(mode="json"))
    (folder / "tokenizer.model").write_bytes(tiny_tokenizer.path.read_bytes())
    write_json(folder / "training.json", {"stage": "semantic", "steps": 1, "tokens_seen": 2})
    return folder


def ours(checkpoint: Path) -> np.ndarray:
    """Return our own vectors of the texts, as `etude embed` gives them."""
    loaded = load_checkpoint(checkpoint)
    limit = loaded.config.context_length
    return embed_ids(loaded.model, [loaded.tokenizer.encode_whole(text, limit) for text in TEXTS])


def test_transformers_and_a_mean_by_hand_give_our_vectors(checkpoint: Path, tmp_path: Path) -> None:
    """Catches a causal mask, a missing `</s>`, padding that is pooled: all give other vectors."""
    out = export_embeddings(checkpoint, tmp_path / "out")
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModel.from_pretrained(out)
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None]
    mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
    theirs = torch.nn.functional.normalize(mean, dim=-1).numpy()
    np.testing.assert_allclose(theirs, ours(checkpoint), atol=1e-5)
    pooling = json.loads((out / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] and pooling["word_embedding_dimension"] == 48


def test_sentence_transformers_gives_our_vectors(checkpoint: Path, tmp_path: Path) -> None:
    """Catches module files that sentence-transformers reads otherwise than they are meant."""
    reason = "sentence-transformers is not installed"
    module = pytest.importorskip("sentence_transformers", reason=reason)
    out = export_embeddings(checkpoint, tmp_path / "out")
    theirs = module.SentenceTransformer(str(out), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(theirs, ours(checkpoint), atol=1e-5)


def test_an_unknown_dtype_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """Catches a folder of weights that nothing loads."""
    with pytest.raises(BadInput, match="dtype='q8_0'"):
        export_embeddings(checkpoint, tmp_path / "out", dtype="q8_0")
