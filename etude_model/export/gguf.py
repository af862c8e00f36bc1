"""checkpoint -> model.gguf for llama.cpp and what is built on it (Ollama, LM Studio).

The file is written here, not by llama.cpp's converter, because the converter recognises tokenizers
by a list of hashes and refuses every other BPE. Ours needs no list: a sentencepiece vocabulary
travels as it is (`tokenizer.ggml.model=llama`: pieces, scores, types), and llama.cpp joins the same
pairs in the same order.

What llama.cpp cannot compute is refused by name. Two differences are bridged without changing a
number: its Dots1 wants as many key/value heads as query heads, so these rows are repeated, and a
shared expert, so a missing one is written as zeros.

    etude export CKPT OUT --format gguf --dtype q8_0
    llama-cli -m OUT/model.gguf
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude_model.byte_level import is_byte_level, merges_of, read_byte_level
from etude_model.config import EtudeConfig
from etude_model.export.architecture import family
from etude_model.export.card import CHAT_STAGES
from etude_model.export.folder import new_folder
from etude_model.export.sentencepiece_model import Piece, PieceType, read_bpe_pieces
from etude_model.export.tokenizer_json import CHAT_TEMPLATE
from etude_model.tokenizer import SPECIAL_TOKENS, Tokenizer
from storage.errors import BadInput

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from torch import Tensor

FILE = "model.gguf"
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "q8_0": "Q8_0"}
ARCHITECTURES = {"qwen3": "qwen3", "qwen3_moe": "qwen3moe", "dots1": "dots1"}
_BLOCK = 32  # numbers of a row that share a scale in q8_0
_KEPT_IN_HALF = ("token_embd.weight", "output.weight")

# How Qwen2 and Qwen3 cut a text into words before they join bytes.
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
    "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
}


def export_gguf(checkpoint: Path, out: Path, *, dtype: str = "float32") -> Path:
    """Write the checkpoint, an adapter merged, as `out`/model.gguf and return the folder.

    Norms and routers stay in float32 whatever the dtype. With q8_0, rows that no block fits are
    float16, and so are embeddings and output matrix: in a small model the likeliest token is often
    close to the next one, and a rounded output changes it as often as all the layers do together.
    An unknown dtype, a shape that llama.cpp cannot compute, a missing package gguf and an `out`
    that is not empty are BadInput.
    """
    if dtype not in DTYPES:
        raise BadInput(f"dtype={dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    try:
        from gguf import GGUFWriter
    except ImportError as error:
        raise BadInput("--format gguf needs the package gguf; pip install 'etude[gguf]'") from error
    from etude_model.inference.load import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    config = loaded.config
    _check(config)
    with new_folder(out) as folder:
        writer = GGUFWriter(folder / FILE, ARCHITECTURES[family(config)])
        _add_facts(writer, config, dtype)
        _add_vocabulary(writer, loaded.tokenizer.path, config.vocab_size)
        for name, weight in gguf_tensors(loaded.model.state_dict(), config):
            _add_tensor(writer, name, weight, dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        template = _OLLAMA_CHAT if loaded.stage in CHAT_STAGES else ""
        (folder / "Modelfile").write_text(f"FROM ./{FILE}\n{template}", encoding="utf-8")
    return out


def gguf_tensors(
    weights: dict[str, Tensor], config: EtudeConfig
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and float32 values as llama.cpp's loaders ask for them."""
    is_dots = family(config) == "dots1"
    for name, weight in weights.items():
        values = weight.detach().float().cpu().numpy()
        if name in _NAMES:
            yield _NAMES[name], values
            continue
        layer, _, part = name.removeprefix("model.layers.").partition(".")
        if part == "mlp.experts.gate_up_proj":
            gate, up = np.split(values, 2, axis=1)
            yield f"blk.{layer}.ffn_gate_exps.weight", gate
            yield f"blk.{layer}.ffn_up_exps.weight", up
            continue
        if is_dots and part in ("self_attn.k_proj.weight", "self_attn.v_proj.weight"):
            heads = values.reshape(config.num_kv_heads, config.head_dim, -1)
            heads = heads.repeat(config.num_heads // config.num_kv_heads, axis=0)
            values = heads.reshape(-1, values.shape[1])
        yield f"blk.{layer}.{_LAYER_NAMES[part]}", values
    if is_dots and config.tie_embeddings:
        yield "output.weight", weights["model.embed_tokens.weight"].float().cpu().numpy()
    if is_dots and not config.num_shared_experts:
        inner, width = config.expert_size, config.hidden_size
        for number in filter(config.is_sparse, range(config.num_layers)):
            yield f"blk.{number}.ffn_gate_shexp.weight", np.zeros((inner, width), np.float32)
            yield f"blk.{number}.ffn_up_shexp.weight", np.zeros((inner, width), np.float32)
            yield f"blk.{number}.ffn_down_shexp.weight", np.zeros((width, inner), np.float32)


def _check(config: EtudeConfig) -> None:
    """Refuse what llama.cpp's graphs of the three architectures leave out."""
    kind = family(config)
    if config.sliding_window is not None and config.sliding_window < config.context_length:
        raise BadInput(
            f"sliding_window={config.sliding_window} is not computed by llama.cpp's "
            f"{ARCHITECTURES[kind]}, which would see all {config.context_length} tokens; "
            "export with --format hf"
        )
    if kind == "qwen3_moe":
        for name, wanted in (("num_dense_layers", 0), ("norm_topk_prob", True)):
            if getattr(config, name) != wanted:
                raise BadInput(
                    f"{name}={getattr(config, name)} is not computed by llama.cpp's qwen3moe, only "
                    f"{wanted}; export with --format hf"
                )


def _add_facts(writer: GGUFWriter, config: EtudeConfig, dtype: str) -> None:
    from gguf import ExpertGatingFuncType, LlamaFileType, RopeScalingType

    file_types = {
        "float32": LlamaFileType.ALL_F32,
        "bfloat16": LlamaFileType.MOSTLY_BF16,
        "float16": LlamaFileType.MOSTLY_F16,
        "q8_0": LlamaFileType.MOSTLY_Q8_0,
    }
    is_dots = family(config) == "dots1"
    writer.add_name("Etude")
    writer.add_license("cc-by-sa-4.0")
    writer.add_file_type(file_types[dtype])
    writer.add_quantization_version(2)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_heads if is_dots else config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(scaling.original_context_length)
        writer.add_rope_scaling_yarn_beta_fast(scaling.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(scaling.beta_slow)
        if scaling.attention_factor is not None:
            # Theirs multiplies the paper's choice; yarn_attn_factor is overwritten by that choice.
            default = 0.1 * float(np.log(scaling.factor)) + 1.0
            writer.add_rope_scaling_attn_factors(scaling.attention_factor / default)
    if config.num_experts:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_token)
        writer.add_expert_feed_forward_length(config.expert_size)
    if is_dots:
        writer.add_expert_shared_count(max(1, config.num_shared_experts))
        writer.add_leading_dense_block_count(config.num_dense_layers)
        writer.add_expert_weights_scale(config.routed_scaling_factor)
        writer.add_expert_weights_norm(config.norm_topk_prob)
        writer.add_expert_gating_func(ExpertGatingFuncType.SIGMOID)


def _add_vocabulary(writer: GGUFWriter, path: Path, vocab_size: int) -> None:
    """Write the tokens; rows of the embeddings beyond them get names that no text gives."""
    pieces = _byte_level_pieces(writer, path) if is_byte_level(path) else _pieces(writer, path)
    pieces += [
        Piece(f"[PAD{number}]", -10000.0, PieceType.UNUSED)
        for number in range(len(pieces), vocab_size)
    ]
    writer.add_token_list([piece.text for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([int(piece.type) for piece in pieces])
    writer.add_bos_token_id(Tokenizer.bos_id)
    writer.add_eos_token_id(Tokenizer.eos_id)
    writer.add_eot_token_id(Tokenizer.im_end_id)
    writer.add_unk_token_id(Tokenizer.unk_id)
    writer.add_pad_token_id(Tokenizer.pad_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_remove_extra_whitespaces(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _pieces(writer: GGUFWriter, path: Path) -> list[Piece]:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    return read_bpe_pieces(path)


def _byte_level_pieces(writer: GGUFWriter, path: Path) -> list[Piece]:
    """Return the tokens of a byte-level BPE; only Qwen2's way to cut words has a name there."""
    values = read_byte_level(path)
    steps = values["pre_tokenizer"].get("pretokenizers", [])
    patterns = [step["pattern"].get("Regex") for step in steps if step["type"] == "Split"]
    if patterns != [_QWEN2_WORDS]:
        raise BadInput(
            f"{path} cuts words by {patterns}, which llama.cpp has no name for; only Qwen2's and "
            "Qwen3's tokenizers and our own can be written as GGUF: export with --format hf"
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_merges([" ".join(pair) for pair in merges_of(values)])
    return [
        Piece(token, 0.0, PieceType.CONTROL if id < len(SPECIAL_TOKENS) else PieceType.NORMAL)
        for token, id in sorted(values["model"]["vocab"].items(), key=lambda item: item[1])
    ]


def _add_tensor(writer: GGUFWriter, name: str, values: np.ndarray, dtype: str) -> None:
    from gguf import GGMLQuantizationType, quants

    kind = DTYPES[dtype]
    if values.ndim == 1 or "ffn_gate_inp" in name:
        kind = "F32"
    elif kind == "Q8_0" and (values.shape[-1] % _BLOCK or name in _KEPT_IN_HALF):
        kind = "F16"
    chosen: Any = GGMLQuantizationType[kind]
    stored = quants.quantize(np.ascontiguousarray(values), chosen)
    writer.add_tensor(name, stored, raw_dtype=chosen)


_OLLAMA_CHAT = '''\
TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
PARAMETER stop <|im_end|>
'''
