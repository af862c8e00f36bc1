"""Low-rank updates: harmless at first, exact when merged, and readable by PEFT."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from etude_model.config import EtudeConfig, LoraConfig
from etude_model.model.lora import (
    LoraLinear,
    add_lora,
    base_state_dict,
    load_lora,
    lora_state_dict,
    merge_lora,
    remove_lora,
    save_lora,
    unmerge_lora,
)
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
    context_length=32,
)
TOKENS = torch.arange(40).reshape(2, 20) % 61


def model_with(config: LoraConfig, *, is_trained: bool = True) -> Etude:
    """Return a model with updates; trained ones have a B that is not zero."""
    torch.manual_seed(0)
    model = Etude(CONFIG)
    add_lora(model, config)
    if is_trained:
        with torch.no_grad():
            for name, weight in lora_state_dict(model).items():
                weight.normal_(0, 0.2) if "lora_B" in name else None
    return model.eval()


def test_fresh_updates_change_nothing() -> None:
    """Catches a B that does not start at zero, or a base weight that got lost."""
    torch.manual_seed(0)
    plain = Etude(CONFIG).eval()
    with torch.no_grad():
        assert torch.equal(plain(TOKENS), model_with(LoraConfig(), is_trained=False)(TOKENS))


def test_only_the_updates_train() -> None:
    """Catches a base that moves: after some steps it must be bit for bit the same."""
    model = model_with(LoraConfig(rank=4, dropout=0.1), is_trained=False).train()
    base = {name: weight.clone() for name, weight in base_state_dict(model).items()}
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == set(lora_state_dict(model))
    assert len(trained) == 2 * 7 * CONFIG.num_layers
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        nats, count = model.loss(model(TOKENS[:, :-1]), TOKENS[:, 1:])
        (nats / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(nats.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(weight, base[name]) for name, weight in base_state_dict(model).items())


def test_merge_and_unmerge_are_exact() -> None:
    """Catches a wrong scale, a double merge and an unmerge that drifts."""
    model = model_with(LoraConfig(rank=4, alpha=12))
    base = {name: weight.clone() for name, weight in base_state_dict(model).items()}
    with torch.no_grad():
        beside = model(TOKENS)
        merge_lora(model)
        merge_lora(model)
        torch.testing.assert_close(model(TOKENS), beside, atol=1e-5, rtol=1e-5)
        unmerge_lora(model)
        torch.testing.assert_close(model(TOKENS), beside, atol=1e-5, rtol=1e-5)
    for name, weight in base_state_dict(model).items():
        assert (weight - base[name]).abs().max() <= 1e-6


def test_removing_a_merged_update_leaves_a_plain_model() -> None:
    """Catches a merged checkpoint that still carries lora_ tensors or frozen weights."""
    model = model_with(LoraConfig())
    with torch.no_grad():
        beside = model(TOKENS)
        merge_lora(model)
        remove_lora(model)
        torch.testing.assert_close(model(TOKENS), beside, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, LoraLinear) for module in model.modules())
    assert model.state_dict().keys() == Etude(CONFIG).state_dict().keys()
    assert all(weight.requires_grad for weight in model.parameters())


def test_save_and_load(tmp_path: Path) -> None:
    """Catches an adapter file that does not bring back the same model, or takes any other."""
    config = LoraConfig(rank=3, alpha=9, targets=("q_proj", "down_proj"))
    model = model_with(config)
    save_lora(model, tmp_path, config)
    torch.manual_seed(0)
    again = Etude(CONFIG).eval()
    assert load_lora(again, tmp_path) == config
    with torch.no_grad():
        assert torch.equal(again(TOKENS), model(TOKENS))
    with pytest.raises(BadInput, match="updates already"):
        load_lora(again, tmp_path)
    other = Etude(CONFIG.model_copy(update={"num_layers": 1}))
    with pytest.raises(BadInput, match=r"layers\.1\..* the model needs None"):
        load_lora(other, tmp_path)
    assert not lora_state_dict(other)
    with pytest.raises(BadInput, match="no adapter"):
        load_lora(other, tmp_path / "nowhere")


def test_peft_reads_our_adapter(tmp_path: Path) -> None:
    """Catches names, scale or layout that differ from PEFT's: same adapter, same logits there."""
    config = LoraConfig(rank=4, alpha=12)
    model = model_with(config)
    theirs = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=61,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=48,
            max_position_embeddings=32,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": CONFIG.rope_theta},
        )
    ).eval()
    theirs.load_state_dict(base_state_dict(model), strict=False)
    theirs.tie_weights()
    tensors = {f"base_model.model.{name}": w for name, w in lora_state_dict(model).items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "target_modules": list(config.targets),
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(described))
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path)
    with torch.no_grad():
        ours = model.logits(model(TOKENS))
        assert (adapted(TOKENS).logits - ours).abs().max() <= 1e-5
