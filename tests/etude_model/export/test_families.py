"""The three families against transformers: out, and in again, with the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from etude_model.config import EtudeConfig
from etude_model.export.architecture import CLASSES, family, model_config, read_model_config
from etude_model.export.huggingface import export_huggingface
from etude_model.export.import_huggingface import import_huggingface
from etude_model.inference.load import load_checkpoint
from etude_model.model.lora import base_state_dict
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from storage.errors import BadInput
from storage.files import write_json

CONTEXT = 64
LENGTHS = (1, 37, CONTEXT)
TOLERANCE = 1e-5
EXPERTS = {"num_experts": 6, "num_experts_per_token": 2, "moe_intermediate_size": 20}
SIGMOID = EXPERTS | {"router_score": "sigmoid"}
YARN = {"factor": 4.0, "original_context_length": 16}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3-mqa-untied": {"num_kv_heads": 1, "tie_embeddings": False},
    "qwen3-windows": {"sliding_window": 9, "full_attention_every": 3},
    "qwen3-yarn": {"rope_scaling": YARN},
    "qwen3_moe": EXPERTS,
    "qwen3_moe-windows-dense": EXPERTS | {"sliding_window": 9, "num_dense_layers": 1},
    "qwen3_moe-not-normed": EXPERTS | {"norm_topk_prob": False, "tie_embeddings": False},
    "dots1": SIGMOID | {"num_shared_experts": 1},
    "dots1-scaled-untied": SIGMOID
    | {"num_shared_experts": 2, "routed_scaling_factor": 2.5, "tie_embeddings": False},
    "dots1-none-shared": SIGMOID | {"norm_topk_prob": False, "rope_scaling": YARN},
    "dots1-windows-dense": SIGMOID
    | {
        "num_shared_experts": 1,
        "num_dense_layers": 1,
        "sliding_window": 9,
        "full_attention_every": 2,
    },
}


def shape(vocab_size: int, **changes: Any) -> EtudeConfig:
    """Return a model of four layers with no default value that could hide a mix-up."""
    values: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 48,
        "num_layers": 4,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "intermediate_size": 80,
        "context_length": CONTEXT,
        "rope_theta": 5000.0,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.1,
    }
    return EtudeConfig(**values | changes)


def build(config: EtudeConfig) -> Etude:
    """Return a model with random weights; norms and balancing biases too, whose start hides all."""
    torch.manual_seed(1)
    model = Etude(config).eval()
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            if name.endswith("e_score_correction_bias"):
                weight.normal_(0, 0.3)
            elif weight.dim() == 1:
                weight.uniform_(0.5, 1.5)
    return model


def save(model: Etude, folder: Path, tokenizer: Tokenizer) -> Path:
    """Write a checkpoint folder as training does."""
    folder.mkdir()
    save_file(base_state_dict(model), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", model.config.model_dump(mode="json"))
    (folder / "tokenizer.model").write_bytes(tokenizer.path.read_bytes())
    write_json(folder / "training.json", {"stage": "pretrain", "steps": 1, "tokens_seen": 2})
    return folder


@torch.no_grad()
def assert_same_logits(ours: Etude, theirs: Any) -> None:
    """Compare the logits of both at several lengths, relative to their spread."""
    generator = torch.Generator().manual_seed(0)
    for length in LENGTHS:
        tokens_BT = torch.randint(0, ours.config.vocab_size, (2, length), generator=generator)
        mine, other = ours.logits(ours(tokens_BT)), theirs(tokens_BT).logits
        largest = float((mine - other).abs().max() / mine.std())
        print(f"length {length}: largest difference {largest:.1e} of the spread")
        assert largest < TOLERANCE


@pytest.mark.parametrize("name", SHAPES)
def test_out_and_back(name: str, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Catches any field or weight that is lost, renamed or reordered on the way out or in."""
    model = build(shape(tiny_tokenizer.vocab_size, **SHAPES[name]))
    checkpoint = save(model, tmp_path / "ours", tiny_tokenizer)
    exported = export_huggingface(checkpoint, tmp_path / "theirs")
    theirs, report = AutoModelForCausalLM.from_pretrained(exported, output_loading_info=True)
    assert type(theirs).__name__ == CLASSES[name.partition("-")[0]]
    assert not any(report.values()), report
    assert_same_logits(model, theirs)
    again = load_checkpoint(import_huggingface(exported, tmp_path / "back"))
    assert again.model.state_dict().keys() == model.state_dict().keys()
    for key, weight in model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], weight), key
    assert again.stage == "import" and again.tokenizer.digest == tiny_tokenizer.digest
    assert again.config == model.config


@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe", "dots1-windows-dense"])
def test_what_transformers_wrote_comes_in(
    name: str, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Catches a reader that knows our own export only: other fields, other order, several files."""
    model = build(shape(tiny_tokenizer.vocab_size, **SHAPES[name]))
    exported = export_huggingface(save(model, tmp_path / "ours", tiny_tokenizer), tmp_path / "hf")
    theirs = AutoModelForCausalLM.from_pretrained(exported)
    foreign = tmp_path / "foreign"
    theirs.save_pretrained(foreign, max_shard_size="60kB")
    assert len(list(foreign.glob("model-*.safetensors"))) > 1
    (foreign / "tokenizer.model").write_bytes(tiny_tokenizer.path.read_bytes())
    ours = load_checkpoint(import_huggingface(foreign, tmp_path / "in")).model
    assert_same_logits(ours, theirs)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("num_shared_experts", {"num_shared_experts": 1}),
        ("routed_scaling_factor", {"routed_scaling_factor": 2.0}),
        ("full_attention_every", {"sliding_window": 9, "full_attention_every": 2}),
    ],
)
def test_a_shape_without_a_class_is_refused(name: str, values: dict[str, Any]) -> None:
    """Catches an export that loads and leaves out a part of the model."""
    with pytest.raises(BadInput, match=rf"softmax.*{name}={values[name]}"):
        family(shape(330, **EXPERTS | values))


def foreign_config(**changes: Any) -> dict[str, Any]:
    """Return a config.json of Qwen3, Qwen3-MoE or Dots1 as its makers published it, and changes."""
    published: dict[str, dict[str, Any]] = {
        "qwen3": {"tie_word_embeddings": True, "max_window_layers": 28, "rope_theta": 1000000},
        "qwen3_moe": {
            **{"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 20},
            **{"mlp_only_layers": [], "decoder_sparse_step": 1, "norm_topk_prob": True},
        },
        "dots1": {
            **{"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 20},
            **{"n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
            **{"routed_scaling_factor": 2.5, "norm_topk_prob": True, "sliding_window": None},
        },
    }
    kind = changes.get("model_type", "qwen3")
    return {
        "architectures": [CLASSES.get(kind, "OtherForCausalLM")],
        "model_type": kind,
        "vocab_size": 320,
        "hidden_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 80,
        "max_position_embeddings": 64,
        "hidden_act": "silu",
        **published.get(kind, {}),
        **changes,
    }


def test_published_configs_are_read() -> None:
    """Catches a default that differs from transformers' (head_dim, ties, the RoPE base)."""
    where = Path("config.json")
    dense = read_model_config(foreign_config(), where)
    assert (dense.head_dim, dense.rope_theta, dense.tie_embeddings) == (128, 1e6, True)
    moe = read_model_config(foreign_config(model_type="qwen3_moe"), where)
    assert (moe.head_dim, moe.num_experts, moe.router_score) == (12, 8, "softmax")
    assert (moe.tie_embeddings, moe.rope_theta) == (False, 10000.0)
    dots = read_model_config(foreign_config(model_type="dots1"), where)
    assert (dots.num_shared_experts, dots.num_dense_layers) == (2, 1)
    assert (dots.routed_scaling_factor, dots.router_score) == (2.5, "sigmoid")
    yarn = {"type": "yarn", "factor": 4, "original_max_position_embeddings": 32}
    scaled = read_model_config(foreign_config(rope_scaling=yarn), where).rope_scaling
    assert scaled is not None and (scaled.factor, scaled.original_context_length) == (4, 32)


LINEAR = {"rope_type": "linear", "factor": 2.0}
SCALED = {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}
SHAPELESS = {"rope_type": "yarn", "original_max_position_embeddings": 32}
WINDOWS = ["full_attention", "sliding_attention"] * 2


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"model_type": "llama"}, "model_type='llama'"),
        ({"architectures": ["Qwen3Model"]}, "architectures=['Qwen3Model']"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"vocab_size": 151936}, "vocab_size=151936 is more than 65536"),
        ({"hidden_size": None}, "hidden_size=None"),
        (
            {"num_key_value_heads": 3},
            "config.json: num_heads=4 is not a multiple of num_kv_heads=3",
        ),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map={'AutoModel': 'evil.Model'}"),
        ({"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4}"),
        ({"rope_scaling": LINEAR}, "rope_type='linear'"),
        ({"rope_parameters": SCALED}, "mscale=0.7"),
        ({"rope_parameters": SHAPELESS}, "rope_scaling.factor"),
        ({"layer_types": WINDOWS, "sliding_window": 8}, f"layer_types={WINDOWS}"),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 2}, "decoder_sparse_step=2"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [2]}, "mlp_only_layers=[2]"),
        ({"model_type": "dots1", "n_group": 4}, "n_group=4"),
        ({"model_type": "dots1", "n_routed_experts": None}, "n_routed_experts=None"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    """Catches a model that comes over without a word and answers differently."""
    values = foreign_config(**{"use_sliding_window": True} | wrong)
    with pytest.raises(BadInput, match=r"config\.json: ") as error:
        read_model_config(values, Path("config.json"))
    assert named in str(error.value)


def test_our_config_is_read_as_it_was_written() -> None:
    """Catches fields of an export that its own reader takes for something else."""
    for name, values in SHAPES.items():
        config = shape(330, **values)
        back = read_model_config(model_config(config), Path(name))
        lost = {"tie_embeddings", "num_shared_experts"} if name.startswith("dots1") else set()
        assert back.model_dump(exclude=lost) == config.model_dump(exclude=lost)


Damage = Callable[[Path], None]


def _break_expert(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.experts.3.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")


def _break_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(47)
    save_file(weights, folder / "model.safetensors")


def _shrink_vocabulary(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text()) | {"vocab_size": 40}
    write_json(folder / "config.json", values)


def _add_evil_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    write_json(folder / "model.safetensors.index.json", index)


def _empty_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_json(folder / "model.safetensors.index.json", {"weight_map": []})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_empty_index, r"index.json names no files in weight_map"),
        (_break_expert, r"lack model.layers.1.mlp.experts.3.up_proj.weight"),
        (_break_shape, r"model.norm.weight is \(47,\), config.json asks for \(48,\)"),
        (_shrink_vocabulary, r"has \d+ ids, .*vocab_size=40"),
        (_add_evil_index, r"elsewhere.safetensors.*outside"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(
    damage: Damage, words: str, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Catches weights that are read from elsewhere, or filled in with fresh ones."""
    model = build(shape(tiny_tokenizer.vocab_size, **SHAPES["qwen3_moe"]))
    exported = export_huggingface(save(model, tmp_path / "ours", tiny_tokenizer), tmp_path / "hf")
    damage(exported)
    with pytest.raises(BadInput, match=words):
        import_huggingface(exported, tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_the_balancing_bias_stays_float32(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Catches a bias whose small steps bfloat16 rounds away, and a dtype that is not told."""
    model = build(shape(tiny_tokenizer.vocab_size, **SHAPES["dots1"]))
    checkpoint = save(model, tmp_path / "ours", tiny_tokenizer)
    out = export_huggingface(checkpoint, tmp_path / "out", dtype="bfloat16")
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    stored = load_file(out / "model.safetensors")
    assert {w.dtype for name, w in stored.items() if "bias" not in name} == {torch.bfloat16}
    theirs = AutoModelForCausalLM.from_pretrained(out)
    assert theirs.dtype == torch.bfloat16
    assert torch.equal(theirs.state_dict()[bias], model.state_dict()[bias])
