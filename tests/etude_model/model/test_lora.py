"""Low-rank updates: harmless at first, alone in being trained, exact when merged, and refused
where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from etude_model.config import EtudeConfig, LoraConfig, preset
from etude_model.model.adapter import weights_digest
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
PATTERNS = {"rank_pattern": {"q_proj": 2, "layers.1.self_attn.q_proj": 6}, "alpha_pattern": {}}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "both": {"use_rslora": True, "use_dora": True, "alpha_pattern": {"mlp.up_proj": 3.0}},
    "patterns": PATTERNS,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def lora_config(kind: str, **changes: Any) -> LoraConfig:
    """Return a config of one of the KINDS."""
    return LoraConfig(**{"rank": 4, "alpha": 12.0} | KINDS[kind] | changes)


def model_with(
    config: LoraConfig, *, is_trained: bool = True, model_config: EtudeConfig = CONFIG
) -> Etude:
    """Return a model with updates; trained ones have a B that is not zero."""
    torch.manual_seed(0)
    model = Etude(model_config)
    add_lora(model, config)
    if is_trained:
        with torch.no_grad():
            for name, weight in lora_state_dict(model).items():
                if "lora_B" in name:
                    weight.normal_(0, 0.2)
                elif "magnitude" in name:
                    weight *= torch.empty_like(weight).uniform_(0.5, 1.5)
    return model.eval()


def train(model: Etude, num_steps: int = 5) -> list[float]:
    """Take some steps on one batch and return its losses."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(num_steps):
        nats, count = model.loss(model(TOKENS[:, :-1]), TOKENS[:, 1:])
        (nats / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(nats.item())
    return losses


@every_kind
def test_fresh_updates_change_nothing(kind: str) -> None:
    """Catches a B that does not start at zero, lengths that are not the rows', a lost weight."""
    torch.manual_seed(0)
    plain = Etude(CONFIG).eval()
    with torch.no_grad():
        fresh = model_with(lora_config(kind), is_trained=False)(TOKENS)
        torch.testing.assert_close(fresh, plain(TOKENS), atol=1e-6, rtol=1e-6)
        assert kind not in ("plain", "rslora", "patterns") or torch.equal(fresh, plain(TOKENS))


@every_kind
def test_only_the_updates_train(kind: str) -> None:
    """Catches a base that moves: after some steps it must be bit for bit the same."""
    model = model_with(lora_config(kind, dropout=0.1), is_trained=False).train()
    base = {name: weight.clone() for name, weight in base_state_dict(model).items()}
    fresh = {name: weight.clone() for name, weight in lora_state_dict(model).items()}
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == fresh.keys()
    assert len(trained) == (3 if "dora" in kind or kind == "both" else 2) * 7 * CONFIG.num_layers
    losses = train(model)
    assert losses[-1] < losses[0]
    assert all(torch.equal(weight, base[name]) for name, weight in base_state_dict(model).items())
    assert not any(torch.equal(w, fresh[name]) for name, w in lora_state_dict(model).items())


@pytest.mark.parametrize("tie", [True, False])
def test_embeddings_and_output_are_never_adapted(tie: bool) -> None:
    """Catches an update of a tied matrix, which would change the embeddings with the logits."""
    config = CONFIG.model_copy(update={"tie_embeddings": tie})
    model = model_with(LoraConfig(), model_config=config)
    assert not any("embed" in name or "lm_head" in name for name in lora_state_dict(model))
    before = model.output_weight
    digest = weights_digest({"output": before})
    merge_lora(model)
    remove_lora(model)
    assert model.output_weight is before and weights_digest({"output": before}) == digest
    assert (model.output_weight is model.model.embed_tokens.weight) is tie
    for name in ("embed_tokens", "lm_head", "mlp.experts.gate_up_proj", "mlp.gate", "q_proj.*"):
        with pytest.raises(ValueError, match="no linear of a block"):
            LoraConfig(targets=(name,))


@every_kind
def test_merge_and_unmerge_are_exact(kind: str) -> None:
    """Catches a wrong scale or length, a double merge and an unmerge that drifts."""
    model = model_with(lora_config(kind))
    base = {name: weight.clone() for name, weight in base_state_dict(model).items()}
    with torch.no_grad():
        beside = model(TOKENS)
        merge_lora(model)
        merge_lora(model)
        torch.testing.assert_close(model(TOKENS), beside, atol=1e-5, rtol=1e-5)
        merged = base_state_dict(model)
        assert all((merged[n] - base[n]).abs().max() > 1e-3 for n in base if "q_proj" in n)
        unmerge_lora(model)
        assert torch.equal(model(TOKENS), beside)
    for name, weight in base_state_dict(model).items():
        assert torch.equal(weight, base[name])


@every_kind
def test_removing_a_merged_update_leaves_a_plain_model(kind: str) -> None:
    """Catches a merged checkpoint that still carries lora_ tensors or frozen weights."""
    model = model_with(lora_config(kind))
    with torch.no_grad():
        beside = model(TOKENS)
        merge_lora(model)
        remove_lora(model)
        torch.testing.assert_close(model(TOKENS), beside, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, LoraLinear) for module in model.modules())
    assert model.state_dict().keys() == Etude(CONFIG).state_dict().keys()
    assert all(weight.requires_grad for weight in model.parameters())


def test_patterns_and_endings_choose_linears() -> None:
    """Catches a pattern that is shadowed by a shorter one, and endings that match half a word."""
    config = LoraConfig(
        rank=4, targets=("self_attn.q_proj", "layers.1.mlp.up_proj"), **PATTERNS, use_rslora=True
    )
    model = model_with(config)
    ranks = {n: tuple(w.shape) for n, w in lora_state_dict(model).items() if "lora_A" in n}
    assert ranks == {
        "model.layers.0.self_attn.q_proj.lora_A.weight": (2, 32),
        "model.layers.1.self_attn.q_proj.lora_A.weight": (6, 32),
        "model.layers.1.mlp.up_proj.lora_A.weight": (4, 32),
    }
    scales = [one.scale for one in model.modules() if isinstance(one, LoraLinear)]
    assert scales == pytest.approx([16 / 2**0.5, 16 / 6**0.5, 16 / 4**0.5])
    assert not LoraConfig(targets=("experts.up_proj",)).is_target("mlp.shared_experts.up_proj")
    with pytest.raises(BadInput, match=r"'layers\.2\.mlp\.up_proj', but no linear"):
        add_lora(Etude(CONFIG), LoraConfig(targets=("q_proj", "layers.2.mlp.up_proj")))


def test_a_sparse_model_adapts_attention_and_shared_experts() -> None:
    """Catches updates on routers, a routed expert that trains, and a bias that still balances."""
    config = preset("nano-moe", vocab_size=61, num_layers=2, num_dense_layers=1)
    model = model_with(LoraConfig(rank=2), is_trained=False, model_config=config).train()
    base = weights_digest(base_state_dict(model))
    places = {name.split(".lora_")[0].split(".", 3)[3] for name in lora_state_dict(model)}
    shared = {f"mlp.shared_experts.{name}_proj" for name in ("gate", "up", "down")}
    dense = {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    attention = {f"self_attn.{name}_proj" for name in "qkvo"}
    assert places == shared | dense | attention
    losses = train(model)
    counts = model.take_expert_counts()
    assert counts is not None and losses[-1] < losses[0]
    assert weights_digest(base_state_dict(model)) == base


@every_kind
def test_save_and_load(kind: str, tmp_path: Path) -> None:
    """Catches an adapter file that does not bring back the same model."""
    config = lora_config(kind)
    model = model_with(config)
    save_lora(model, tmp_path, config)
    torch.manual_seed(0)
    again = Etude(CONFIG).eval()
    assert load_lora(again, tmp_path) == config
    with torch.no_grad():
        assert torch.equal(again(TOKENS), model(TOKENS))
    with pytest.raises(BadInput, match="updates already"):
        load_lora(again, tmp_path)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    """Catches an adapter that is put on weights or shapes it was not trained on."""
    config = LoraConfig(rank=3, targets=("q_proj", "down_proj"))
    model = model_with(config)
    save_lora(model, tmp_path, config)
    torch.manual_seed(1)
    other = Etude(CONFIG)
    ours = weights_digest(base_state_dict(model))[:16]
    theirs = weights_digest(other.state_dict())[:16]
    with pytest.raises(BadInput, match=f"base weights {ours}…, this model has {theirs}…"):
        load_lora(other, tmp_path)
    small = Etude(CONFIG.model_copy(update={"num_layers": 1}))
    with pytest.raises(BadInput, match=r"layers\.1\..* the model needs None"):
        load_lora(small, tmp_path)
    assert not lora_state_dict(other) and not lora_state_dict(small)


def test_an_adapter_of_before_still_loads(tmp_path: Path) -> None:
    """Catches a reader that asks old adapters for what they could not know."""
    model = model_with(LoraConfig(rank=2))
    save_lora(model, tmp_path, LoraConfig(rank=2))
    names = ["rank", "alpha", "dropout", "targets"]
    values = json.loads((tmp_path / "adapter.json").read_text())
    (tmp_path / "adapter.json").write_text(json.dumps({name: values[name] for name in names}))
    torch.manual_seed(0)
    again = Etude(CONFIG).eval()
    assert load_lora(again, tmp_path) == LoraConfig(rank=2)
    assert torch.equal(again(TOKENS), model(TOKENS))


def test_hostile_adapters_are_refused_with_words(tmp_path: Path) -> None:
    """Catches pickles, links, rubbish, numbers that are none and ranks that fill the memory."""
    config = LoraConfig(rank=2, targets=("q_proj",))
    model = model_with(config)
    good, bad = tmp_path / "good", tmp_path / "bad"
    save_lora(model, good, config)

    def expect(words: str) -> None:
        plain = Etude(CONFIG)
        with pytest.raises(BadInput, match=words):
            load_lora(plain, bad)
        assert not lora_state_dict(plain)

    expect("holds no adapter")
    save_lora(model, bad, config)
    torch.save({}, bad / "adapter.safetensors")
    expect("pickle")
    (bad / "adapter.safetensors").unlink()
    (bad / "adapter.safetensors").symlink_to(good / "adapter.safetensors")
    expect("link to .*good.*outside")
    (bad / "adapter.safetensors").unlink()
    (bad / "adapter.safetensors").write_bytes(b"rubbish")
    expect("cannot be read")
    tensors = load_file(good / "adapter.safetensors")
    name = "model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file(tensors | {name: tensors[name] * float("nan")}, bad / "adapter.safetensors")
    expect("else than finite numbers")
    save_file(tensors | {name: tensors[name].int()}, bad / "adapter.safetensors")
    expect("else than finite numbers")
    save_file(tensors, bad / "adapter.safetensors")
    values = json.loads((good / "adapter.json").read_text())
    (bad / "adapter.json").write_text(json.dumps(values | {"rank": 10**12}))
    expect(r"q_proj.lora_A.weight is \(2, 32\), the model needs \(1000000000000, 32\)")
    (bad / "adapter.json").write_text(json.dumps(values | {"colour": "red"}))
    expect("colour: Extra inputs")
    (bad / "adapter.json").write_text("[]")
    expect("holds a list")
