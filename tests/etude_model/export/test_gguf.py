"""GGUF files, read back by gguf's own reader and run by llama.cpp where that is installed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.torch import save_file

from etude_model.config import EtudeConfig
from etude_model.export.gguf import export_gguf
from etude_model.export.tokenizer_json import CHAT_TEMPLATE
from etude_model.model.lora import base_state_dict
from etude_model.model.transformer import Etude
from etude_model.tokenizer import SPECIAL_TOKENS, Tokenizer
from storage.errors import BadInput
from storage.files import write_json

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")

CONTEXT = 64
EXPERTS = {"num_experts": 6, "num_experts_per_token": 2, "moe_intermediate_size": 32}
SIGMOID = EXPERTS | {"router_score": "sigmoid"}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3-yarn-untied": {
        "tie_embeddings": False,
        "rope_scaling": {"factor": 4.0, "original_context_length": 16, "attention_factor": 1.3},
    },
    "qwen3moe": EXPERTS,
    "dots1": SIGMOID
    | {"num_shared_experts": 2, "num_dense_layers": 1, "routed_scaling_factor": 2.5},
    "dots1-none-shared": SIGMOID | {"norm_topk_prob": False, "tie_embeddings": False},
}
FRAGMENTS = [
    *("the river ", "The Rivers", " of  the\t", "北京是", "中华人民共和国", "，", "。", "《论语》"),
    *("1984", "3.14", "１２", "\n", "\n\n", "    ", "def f(x):\n    return x[0]\n", "aaaaaaa"),
    *("\U0001f600", "\U0001f468\u200d\U0001f469", "é", "e\u0301", "𠮷", "<0x41>", "<s", "\u3000"),
    *(
        "ana banana",
        "العربية",
        "हिन्दी",
        "\x7f",
        "http://a.b/c?d=e&f",
        "-" * 9,
        "哈哈哈哈",
        "\u00a0",
    ),
]


def texts(count: int) -> list[str]:
    """Return random mixtures of the fragments, Chinese and English among them."""
    draw = random.Random(5)
    return ["".join(draw.choices(FRAGMENTS, k=draw.randint(1, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer of 900 ids with the settings of the stage train_tokenizer."""
    folder = tmp_path_factory.mktemp("gguf-tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("".join(texts(800)).split("\n")),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        allow_whitespace_only_pieces=True,
        character_coverage=0.99,
        pad_id=3,
        control_symbols=list(SPECIAL_TOKENS[4:]),
        user_defined_symbols=["\n"],
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return Tokenizer(folder / "tokenizer.model")


def checkpoint(folder: Path, tokenizer: Tokenizer, **changes: Any) -> tuple[Path, Etude]:
    """Write a checkpoint with random weights, norms and balancing biases too."""
    values: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size + 7,  # padded, as for GPUs
        "hidden_size": 64,
        "num_layers": 3,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "intermediate_size": 96,
        "context_length": CONTEXT,
        "rope_theta": 5000.0,
        "initializer_range": 0.15,
    }
    torch.manual_seed(1)
    model = Etude(EtudeConfig(**values | changes)).eval()
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            if name.endswith("e_score_correction_bias"):
                weight.normal_(0, 0.3)
            elif weight.dim() == 1:
                weight.uniform_(0.5, 1.5)
    folder.mkdir()
    save_file(base_state_dict(model), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", model.config.model_dump(mode="json"))
    (folder / "tokenizer.model").write_bytes(tokenizer.path.read_bytes())
    write_json(folder / "training.json", {"stage": "sft", "steps": 1, "tokens_seen": 2})
    return folder, model


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the facts and the tensors of a file, as gguf's reader sees them."""
    reader = gguf.GGUFReader(folder / "model.gguf")
    facts = {name: field.contents() for name, field in reader.fields.items()}
    return facts, {tensor.name: tensor for tensor in reader.tensors}


def values(tensor: Any) -> np.ndarray:
    """Return a tensor's numbers, whatever they are stored as."""
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


@pytest.mark.parametrize("name", SHAPES)
def test_facts_and_weights_are_read_back(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Catches a fact that llama.cpp looks for elsewhere, and experts in another order."""
    folder, model = checkpoint(tmp_path / "ours", tokenizer, **SHAPES[name])
    facts, tensors = read(export_gguf(folder, tmp_path / "gguf"))
    config, architecture = model.config, name.partition("-")[0]
    assert facts["general.architecture"] == architecture
    expected = {
        "context_length": CONTEXT,
        "embedding_length": 64,
        "block_count": 3,
        "attention.head_count": 4,
        "attention.head_count_kv": 4 if architecture == "dots1" else 2,
        "attention.key_length": 16,
        "feed_forward_length": 96,
        "rope.freq_base": 5000.0,
        **({"expert_count": 6, "expert_used_count": 2} if config.num_experts else {}),
        **({"expert_weights_scale": config.routed_scaling_factor} if "dots1" in name else {}),
    }
    assert {key: facts[f"{architecture}.{key}"] for key in expected} == expected
    weights = model.state_dict()
    np.testing.assert_array_equal(
        values(tensors["token_embd.weight"]), weights["model.embed_tokens.weight"]
    )
    if config.num_experts:
        experts = weights["model.layers.2.mlp.experts.gate_up_proj"]
        np.testing.assert_array_equal(
            values(tensors["blk.2.ffn_gate_exps.weight"]), experts[:, :32]
        )
        np.testing.assert_array_equal(values(tensors["blk.2.ffn_up_exps.weight"]), experts[:, 32:])
    assert ("output.weight" in tensors) == (not config.tie_embeddings or architecture == "dots1")


def test_the_vocabulary_travels_as_it_is(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Catches a lost score or type, a space put in front, an answer without its end token."""
    folder, _ = checkpoint(tmp_path / "ours", tokenizer)
    out = export_gguf(folder, tmp_path / "gguf")
    assert "PARAMETER stop <|im_end|>" in (out / "Modelfile").read_text()
    facts, _ = read(out)
    told = {
        key.removeprefix("tokenizer."): value
        for key, value in facts.items()
        if key.startswith("tokenizer.") and not isinstance(value, list)
    }
    assert told == {
        "ggml.model": "llama",
        "ggml.pre": "default",
        "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2,
        "ggml.eot_token_id": 5,
        "ggml.unknown_token_id": 0,
        "ggml.padding_token_id": 3,
        "ggml.add_bos_token": True,
        "ggml.add_eos_token": False,
        "ggml.add_space_prefix": False,
        "ggml.remove_extra_whitespaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    size = model.get_piece_size()
    assert facts["tokenizer.ggml.tokens"][:size] == [model.id_to_piece(id) for id in range(size)]
    assert facts["tokenizer.ggml.tokens"][size:] == [f"[PAD{id}]" for id in range(size, size + 7)]
    scores = facts["tokenizer.ggml.scores"]
    assert scores[:size] == pytest.approx([model.get_score(id) for id in range(size)])
    types = facts["tokenizer.ggml.token_type"]
    assert types[:6] == [2, 3, 3, 3, 3, 3] and types[-1] == 5
    assert types[model.piece_to_id("\n")] == 4 and types[model.piece_to_id("<0x0A>")] == 6


@pytest.mark.parametrize(
    ("dtype", "kind", "error"),
    [("bfloat16", "BF16", 4e-3), ("float16", "F16", 5e-4), ("q8_0", "Q8_0", 8e-3)],
)
def test_smaller_numbers(
    dtype: str, kind: str, error: float, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Catches a wrong block layout, and a router or norm that loses its precision."""
    folder, model = checkpoint(tmp_path / "ours", tokenizer, **SHAPES["dots1"])
    facts, tensors = read(export_gguf(folder, tmp_path / "gguf", dtype=dtype))
    assert facts["general.file_type"] == gguf.LlamaFileType[f"MOSTLY_{kind}"]
    queries = tensors["blk.0.attn_q.weight"]
    assert queries.tensor_type.name == kind
    original = model.state_dict()["model.layers.0.self_attn.q_proj.weight"].numpy()
    assert np.abs(values(queries) - original).max() < error * np.abs(original).max()
    for name in ("token_embd.weight", "output.weight"):  # what chooses a token
        assert tensors[name].tensor_type.name == ("F16" if kind == "Q8_0" else kind)
    for name in ("output_norm.weight", "blk.1.ffn_gate_inp.weight", "blk.1.exp_probs_b.bias"):
        assert tensors[name].tensor_type.name == "F32"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sliding_window": 8}, "sliding_window=8"),
        (EXPERTS | {"norm_topk_prob": False}, "norm_topk_prob=False"),
        (EXPERTS | {"num_dense_layers": 1}, "num_dense_layers=1"),
    ],
)
def test_what_llama_cpp_leaves_out_is_refused(
    changes: dict[str, Any], words: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Catches a file that loads and answers differently."""
    folder, _ = checkpoint(tmp_path / "ours", tokenizer, **changes)
    with pytest.raises(BadInput, match=words):
        export_gguf(folder, tmp_path / "gguf")
    with pytest.raises(BadInput, match="dtype='q4_0'"):
        export_gguf(folder, tmp_path / "gguf", dtype="q4_0")
    assert not (tmp_path / "gguf").exists()


def open_in_llama_cpp(folder: Path) -> Any:
    """Open a file with llama.cpp; its cache of keys and values is float32 as ours is."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    path = str(folder / "model.gguf")
    float32 = llama_cpp.GGML_TYPE_F32
    return llama_cpp.Llama(
        *(path,), n_ctx=CONTEXT, logits_all=True, verbose=False, n_threads=1,
        type_k=float32, type_v=float32,
    )  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_llama_cpp_computes_the_same(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Catches a tensor or fact that is there and means something else to llama.cpp."""
    folder, model = checkpoint(tmp_path / "ours", tokenizer, **SHAPES[name])
    llama = open_in_llama_cpp(export_gguf(folder, tmp_path / "gguf"))
    ids = torch.randint(16, tokenizer.vocab_size, (1, CONTEXT))
    llama.eval(ids[0].tolist())
    theirs = np.array(llama.scores[:CONTEXT])
    with torch.no_grad():
        ours = model.logits(model(ids))[0].numpy()
    assert np.abs(theirs - ours).max() < 1e-4 * ours.std()
    assert (theirs.argmax(-1) == ours.argmax(-1)).mean() >= 0.99


def test_llama_cpp_tokenises_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Catches another order of merges, a space in front, a lost byte: a thousand zh/en mixtures."""
    folder, _ = checkpoint(tmp_path / "ours", tokenizer)
    llama = open_in_llama_cpp(export_gguf(folder, tmp_path / "gguf"))
    for text in texts(1000):
        ids = llama.tokenize(text.encode(), add_bos=False, special=False)
        assert ids == tokenizer.encode(text), text
    assert (llama.token_bos(), llama.token_eos()) == (tokenizer.bos_id, tokenizer.eos_id)
