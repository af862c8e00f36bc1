"""PEFT's adapters and ours, both ways: same folder, same logits, and a refusal for the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Dots1Config, Dots1ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from etude_model.config import EtudeConfig, LoraConfig
from etude_model.model.adapter import Adapter, weights_digest
from etude_model.model.adapter_files import read_adapter
from etude_model.model.lora import add_lora, base_state_dict, load_lora, lora_state_dict
from etude_model.model.peft_format import write_peft
from etude_model.model.transformer import Etude
from storage.errors import BadInput

TOLERANCE = 1e-5
SHAPE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "context_length": 32,
    "initializer_range": 0.2,
    "num_layers": 2,
}
DENSE = EtudeConfig(**SHAPE)
SPARSE = EtudeConfig(
    **SHAPE,
    num_experts=4,
    num_shared_experts=1,
    moe_intermediate_size=16,
    num_dense_layers=1,
    router_score="sigmoid",
    tie_embeddings=False,
)
TOKENS = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(0))
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"targets": ("q_proj", "o_proj", "down_proj")},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "both": {"use_rslora": True, "use_dora": True, "targets": ("mlp.up_proj", "v_proj")},
    "patterns": {
        "use_rslora": True,
        "rank_pattern": {"q_proj": 2, "layers.1.self_attn.q_proj": 6},
        "alpha_pattern": {"layers.0.mlp.up_proj": 3.5},
    },
}


def our_model(config: EtudeConfig = DENSE) -> Etude:
    """Return the base model, the same each time."""
    torch.manual_seed(0)
    return Etude(config).eval()


def their_model(config: EtudeConfig = DENSE) -> Any:
    """Return the same weights in transformers."""
    values: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.context_length,
        "tie_word_embeddings": config.tie_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
    }
    model: Any
    if config.num_experts:
        experts = {
            "n_routed_experts": config.num_experts,
            "num_experts_per_tok": config.num_experts_per_token,
            "n_shared_experts": config.num_shared_experts,
            "moe_intermediate_size": config.expert_size,
            "first_k_dense_replace": config.num_dense_layers,
            "norm_topk_prob": True,
        }
        model = Dots1ForCausalLM(Dots1Config(**values | experts))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**values))
    missing, unexpected = model.load_state_dict(our_model(config).state_dict(), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model.eval()


@torch.no_grad()
def our_logits(model: Etude) -> torch.Tensor:
    """Return the logits of our model."""
    return model.logits(model(TOKENS))


@torch.no_grad()
def difference(theirs: Any, ours: Etude) -> float:
    """Return the largest difference of logits."""
    return float((theirs(TOKENS).logits - our_logits(ours)).abs().max())


def stir(tensors: dict[str, torch.Tensor]) -> None:
    """Make the tensors of a fresh adapter those of a trained one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in sorted(tensors.items()):
            noise = torch.rand(tensor.shape, generator=generator)
            if "lora_B" in name:
                tensor.copy_(0.3 * (noise - 0.5))
            elif "magnitude" in name:
                tensor.mul_(0.5 + noise)


def write_ours(folder: Path, lora: LoraConfig, config: EtudeConfig = DENSE) -> Etude:
    """Train a model with an adapter, so to say; write the adapter for PEFT; return the model."""
    model = our_model(config)
    base = weights_digest(model.state_dict())
    add_lora(model, lora)
    stir(lora_state_dict(model))
    folder.mkdir()
    adapter = Adapter(lora, lora_state_dict(model), base, "here")
    write_peft(adapter, folder, is_sparse=config.num_experts > 0)
    return model


def write_theirs(folder: Path, config: EtudeConfig = DENSE, **values: Any) -> Any:
    """Do the same with PEFT's own code."""
    values = {"r": 4, "lora_alpha": 12, "task_type": "CAUSAL_LM"} | values
    model = peft.get_peft_model(their_model(config), peft.LoraConfig(**values)).eval()
    stir({name: weight for name, weight in model.named_parameters() if weight.requires_grad})
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_ours(kind: str, tmp_path: Path) -> None:
    """Catches names, scales, lengths or patterns that mean something else there."""
    ours = write_ours(tmp_path / "ours", LoraConfig(rank=4, alpha=12, **KINDS[kind]))
    theirs = peft.PeftModel.from_pretrained(their_model(), tmp_path / "ours")
    assert difference(theirs, ours) <= TOLERANCE
    assert difference(their_model(), ours) > 0.1  # the adapter does something


def test_equal_adapters_give_equal_bytes(tmp_path: Path) -> None:
    """Catches a header in random order, by which the same release would be another one."""
    for name in range(10):
        write_ours(tmp_path / str(name), LoraConfig(rank=4))
    files = [tmp_path / str(name) / "adapter_model.safetensors" for name in range(10)]
    assert len({path.read_bytes() for path in files}) == 1
    assert read_adapter(tmp_path / "0").base == weights_digest(our_model().state_dict())


@pytest.mark.parametrize(
    "values",
    [
        {"target_modules": ["q_proj", "gate_proj"]},
        {"target_modules": ["v_proj", "nothing_here"], "use_rslora": True, "lora_alpha": 5},
        {"target_modules": "all-linear", "use_dora": True},
        {"target_modules": r".*\.(q|k)_proj", "use_rslora": True, "use_dora": True},
        {"target_modules": ["mlp.down_proj", "o_proj"], "layers_to_transform": [1]},
        {
            "target_modules": ["q_proj", "up_proj"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 6, "q_proj": 2},
            "alpha_pattern": {"^model.layers.1.mlp.up_proj": 3},
            "exclude_modules": ["model.layers.0.self_attn.q_proj"],
        },
    ],
    ids=["plain", "rslora", "dora", "regex", "layers", "patterns"],
)
def test_ours_reads_peft(values: dict[str, Any], tmp_path: Path) -> None:
    """Catches a linear that is left out or scaled differently, in each way PEFT can say it."""
    theirs = write_theirs(tmp_path, **values)
    ours = our_model()
    load_lora(ours, tmp_path)
    assert difference(theirs, ours) <= TOLERANCE
    assert difference(their_model(), ours) > 0.1


@pytest.mark.parametrize("use_dora", [False, True])
def test_gradients_equal(use_dora: bool, tmp_path: Path) -> None:
    """Catches DoRA's row lengths in the gradient, which the paper holds constant (4.3)."""
    values = {"target_modules": ["q_proj", "down_proj"], "use_dora": use_dora, "use_rslora": True}
    theirs = write_theirs(tmp_path, **values).train()
    ours = our_model()
    load_lora(ours, tmp_path)
    theirs(TOKENS).logits.logsumexp(-1).sum().backward()
    ours.logits(ours(TOKENS)).logsumexp(-1).sum().backward()
    expected = {name: one.grad for name, one in theirs.named_parameters() if one.requires_grad}
    found = {name: one.grad for name, one in ours.named_parameters() if one.requires_grad}
    assert len(found) == len(expected) == (12 if use_dora else 8)
    for name, gradient in found.items():
        kind, _, rest = name.rpartition("lora_")[2].partition(".")
        parts = [name.partition(".lora_")[0], f"lora_{kind}", "default", rest or "weight"]
        other = expected[f"base_model.model.{'.'.join(parts)}"]
        assert (gradient - other).norm() <= 1e-5 * other.norm(), name


@pytest.mark.parametrize("use_dora", [False, True])
def test_attention_of_a_sparse_model(use_dora: bool, tmp_path: Path) -> None:
    """Catches a layer with experts that throws the names of the others out of place."""
    lora = LoraConfig(rank=4, use_dora=use_dora, use_rslora=True, targets=("q_proj", "o_proj"))
    ours = write_ours(tmp_path / "ours", lora, SPARSE)
    theirs = peft.PeftModel.from_pretrained(their_model(SPARSE), tmp_path / "ours")
    assert difference(theirs, ours) <= TOLERANCE
    assert difference(their_model(SPARSE), ours) > 0.1
    theirs = write_theirs(tmp_path / "theirs", SPARSE, target_modules=["k_proj", "v_proj"])
    again = our_model(SPARSE)
    load_lora(again, tmp_path / "theirs")
    assert difference(theirs, again) <= TOLERANCE


def test_peft_takes_a_sparse_model_s_networks_for_experts(tmp_path: Path) -> None:
    """Catches an export that PEFT would load without a word and compute without the updates.

    peft 0.21 turns every target called up_proj into the routed experts of such a model. Should this
    test fail one day, `write_peft` can write these adapters.
    """
    config = SPARSE.model_dump()
    lora = LoraConfig(rank=4, targets=("gate_proj", "up_proj"))
    with pytest.raises(BadInput, match="takes gate_proj for routed experts"):
        write_ours(tmp_path / "refused", lora, SPARSE)
    theirs = peft.get_peft_model(
        their_model(SPARSE), peft.LoraConfig(r=4, target_modules=["gate_proj", "up_proj"])
    )
    adapted = {name for name, _ in theirs.named_parameters() if "lora_A" in name}
    assert config["num_shared_experts"] == 1
    assert adapted and all(".experts." in name for name in adapted)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind: str, tmp_path: Path) -> None:
    """Catches a config that comes back with another meaning, and a base that gets lost."""
    lora = LoraConfig(rank=4, alpha=12, dropout=0.25, **KINDS[kind])
    ours = write_ours(tmp_path / "ours", lora)
    adapter = read_adapter(tmp_path / "ours")
    assert adapter.base == weights_digest(base_state_dict(ours))
    assert adapter.config.dropout == 0.25 and set(adapter.config.targets) == set(lora.targets)
    again = our_model()
    load_lora(again, tmp_path / "ours")
    assert torch.equal(our_logits(again), our_logits(ours))
    other = Etude(DENSE)
    with pytest.raises(BadInput, match=r"was trained on base weights \w{16}…, this model has"):
        load_lora(other, tmp_path / "ours")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter folder that PEFT wrote."""
    write_theirs(tmp_path / "peft", target_modules=["q_proj", "up_proj"])
    return tmp_path / "peft"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters"),
        ({"next_years_method": {"x": 1}}, "next_years_method"),
        ({"r": "four"}, "r: Input should be a valid integer"),
        ({"r": 10**12}, f"rank 4 for .*, adapter_config.json says {10**12}"),
        ({"rank_pattern": {"(a+)+q_proj": 4}}, "regular expression, which we do not run"),
        ({"target_modules": ["up_proj"]}, "rank 4 for .*q_proj, adapter_config.json says none"),
        ({"lora_alpha": float("inf")}, "alpha: Input should be a finite number"),
        ({"lora_dropout": 1.5}, "dropout: Input should be less than 1"),
    ],
)
def test_what_we_lack_is_refused(folder: Path, changes: dict[str, Any], words: str) -> None:
    """Catches an adapter that loads and computes something else than it does in PEFT."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(BadInput, match=words):
        read_adapter(folder)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
        "base_model.model.model.layers.0.mlp.experts.0.up_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight",
    ],
)
def test_tensors_that_have_no_place_are_refused(folder: Path, name: str) -> None:
    """Catches parts of an adapter that are dropped in silence."""
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path) | {name: torch.zeros(4, 32)}, path)
    with pytest.raises(BadInput, match=name.split(".lora_")[0].rpartition(".")[2]):
        read_adapter(folder)


def test_pickles_and_halves_are_refused(folder: Path) -> None:
    """Catches a .bin that is opened, and an adapter of a smaller or larger model."""
    deeper = Etude(DENSE.model_copy(update={"num_layers": 3}))
    with pytest.raises(BadInput, match=r"layers\.2\.mlp\.up_proj\.lora_A\.weight is None"):
        load_lora(deeper, folder)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"adapter_model\.bin"):
        read_adapter(folder)
