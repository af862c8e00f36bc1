"""A model's shape <-> config.json of transformers, for the three families that are ours too.

    experts   router    shared   family      transformers class
    none                         qwen3       Qwen3ForCausalLM
    some      softmax   none     qwen3_moe   Qwen3MoeForCausalLM
    some      sigmoid   any      dots1       Dots1ForCausalLM

A field that the other side would ignore in silence changes the numbers and loads all the same, so
each of them is either carried over or refused by name, in both directions. Defaults of absent
fields are those of the transformers classes (read in 5.23).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from etude_model.config import EtudeConfig
from etude_model.tokenizer import Tokenizer
from storage.errors import BadInput

CLASSES = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "dots1": "Dots1ForCausalLM",
}
MAX_VOCABULARY = 65536
_FULL, _SLIDING = "full_attention", "sliding_attention"
_REQUIRED = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "intermediate_size", "max_position_embeddings"),
)
# Fields with one value that we can compute; absent and null mean that value.
_FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "decoder_sparse_step": 1,
    "n_group": 1,
    "topk_group": 1,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
    "auto_map": None,
}


def family(config: EtudeConfig) -> str:
    """Return the model_type that a shape has in transformers; BadInput where it has none."""
    if not config.num_experts:
        return "qwen3"
    if config.router_score == "sigmoid":
        return "dots1"
    wrong = {
        "num_shared_experts": (config.num_shared_experts, 0),
        "routed_scaling_factor": (config.routed_scaling_factor, 1.0),
        "full_attention_every": (config.full_attention_every, None),
    }
    for name, (value, wanted) in wrong.items():
        if value != wanted:
            raise BadInput(
                f"router_score='softmax' with {name}={value} is in no model of transformers: "
                f"Qwen3-MoE has {name}={wanted}, and Dots1 wants router_score='sigmoid'"
            )
    return "qwen3_moe"


def model_config(
    config: EtudeConfig, *, dtype: str = "float32", is_causal: bool = True
) -> dict[str, Any]:
    """Return config.json, readable by transformers 4 and 5.

    `is_causal=False` makes every token see the whole text: an embedding model.
    """
    kind = family(config)
    rope = _rope_parameters(config)
    values: dict[str, Any] = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,  # this and rope_scaling: where transformers 4 looks
        "rope_scaling": rope if config.rope_scaling else None,
        "rms_norm_eps": config.rms_norm_eps,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tie_embeddings and kind != "dots1",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "sliding_window": config.sliding_window,
        "use_cache": True,
        "bos_token_id": Tokenizer.bos_id,
        "eos_token_id": Tokenizer.eos_id,
        "pad_token_id": Tokenizer.pad_id,
        "dtype": dtype,
        "torch_dtype": dtype,  # the same for transformers 4
    }
    if not is_causal:
        values["is_causal"] = False
    if kind != "qwen3_moe":  # which windows all layers or none
        values["layer_types"] = list(config.layer_types)
        values["max_window_layers"] = config.num_layers
    if kind != "dots1":
        values["use_sliding_window"] = config.sliding_window is not None
    return values | _expert_fields(config, kind)


def read_model_config(values: Mapping[str, Any], path: Path) -> EtudeConfig:
    """Return our shape of a config.json of Qwen3, Qwen3-MoE or Dots1.

    What we cannot compute, or would compute otherwise, is BadInput that names `path`, the field and
    its value.
    """
    kind = values.get("model_type")
    if kind not in CLASSES:
        raise BadInput(f"{path}: model_type={kind!r} is unknown here; use {', '.join(CLASSES)}")
    classes = values.get("architectures") or [CLASSES[kind]]
    if classes != [CLASSES[kind]]:
        raise BadInput(f"{path}: architectures={classes} is not the language model {CLASSES[kind]}")
    for name in _REQUIRED:
        if not isinstance(values.get(name), int):
            raise BadInput(f"{path}: {name}={values.get(name)!r} is not a whole number; set it")
    for name, wanted in _FIXED.items():
        if values.get(name) not in (None, wanted):
            raise BadInput(
                f"{path}: {name}={values[name]!r} cannot be computed here, only {wanted}"
            )
    if values["vocab_size"] > MAX_VOCABULARY:
        raise BadInput(
            f"{path}: vocab_size={values['vocab_size']} is more than {MAX_VOCABULARY}, the most "
            "ids that shards can hold; a model with a byte-level tokenizer.json is cut to fit"
        )
    head_dim = values.get("head_dim") or (
        128 if kind == "qwen3" else values["hidden_size"] // values["num_attention_heads"]
    )
    fields: dict[str, Any] = {
        "vocab_size": values["vocab_size"],
        "hidden_size": values["hidden_size"],
        "num_layers": values["num_hidden_layers"],
        "num_heads": values["num_attention_heads"],
        "num_kv_heads": values["num_key_value_heads"],
        "head_dim": head_dim,
        "intermediate_size": values["intermediate_size"],
        "context_length": values["max_position_embeddings"],
        "rms_norm_eps": values.get("rms_norm_eps", 1e-6),
        "tie_embeddings": bool(values.get("tie_word_embeddings", False)),
        "initializer_range": values.get("initializer_range", 0.02),
        **_read_rope(values, path),
        **_read_windows(values, kind, path),
        **_read_experts(values, kind, path),
    }
    try:
        return EtudeConfig(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        field = f"{where}={first['input']!r}: " if where else ""
        message = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{path}: {field}{message}") from error


def _expert_fields(config: EtudeConfig, kind: str) -> dict[str, Any]:
    routed = {
        "num_experts_per_tok": config.num_experts_per_token,
        "moe_intermediate_size": config.expert_size,
        "norm_topk_prob": config.norm_topk_prob,
    }
    if kind == "qwen3_moe":
        return routed | {
            "num_experts": config.num_experts,
            "decoder_sparse_step": 1,
            "mlp_only_layers": list(range(config.num_dense_layers)),
            "output_router_logits": False,
            "router_aux_loss_coef": config.router_aux_loss_weight,
        }
    if kind == "dots1":
        return routed | {
            "n_routed_experts": config.num_experts,
            "n_shared_experts": max(1, config.num_shared_experts),  # without: one of zeros
            "first_k_dense_replace": config.num_dense_layers,
            "routed_scaling_factor": config.routed_scaling_factor,
            "n_group": 1,
            "topk_group": 1,
        }
    return {}


def _read_experts(values: Mapping[str, Any], kind: str, path: Path) -> dict[str, Any]:
    if kind == "qwen3":
        return {}
    names = {
        "num_experts": "num_experts" if kind == "qwen3_moe" else "n_routed_experts",
        "num_experts_per_token": "num_experts_per_tok",
        "moe_intermediate_size": "moe_intermediate_size",
    }
    if kind == "qwen3_moe" and "num_experts" not in values:
        names["num_experts"] = "num_local_experts"  # what transformers 5 calls it
    for name in names.values():
        if not isinstance(values.get(name), int):
            raise BadInput(f"{path}: {name}={values.get(name)!r} is not a whole number; set it")
    fields = {ours: values[theirs] for ours, theirs in names.items()}
    fields["norm_topk_prob"] = bool(values.get("norm_topk_prob", False))
    if kind == "dots1":
        return fields | {
            "router_score": "sigmoid",
            "num_shared_experts": values.get("n_shared_experts") or 0,
            "num_dense_layers": values.get("first_k_dense_replace") or 0,
            "routed_scaling_factor": values.get("routed_scaling_factor", 1.0),
        }
    dense = values.get("mlp_only_layers") or []
    if sorted(dense) != list(range(len(dense))):
        raise BadInput(
            f"{path}: mlp_only_layers={dense} are not the first layers; only these can be dense"
        )
    return fields | {
        "num_dense_layers": len(dense),
        "router_aux_loss_weight": values.get("router_aux_loss_coef", 0.001),
    }


def _rope_parameters(config: EtudeConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": config.rope_theta}
    parameters = {
        "rope_type": "yarn",
        "rope_theta": config.rope_theta,
        "factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_context_length,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
    }
    if scaling.attention_factor is not None:  # absent means the same there as here
        parameters["attention_factor"] = scaling.attention_factor
    return parameters


def _read_rope(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    rope = dict(values.get("rope_scaling") or values.get("rope_parameters") or {})
    theta = rope.pop("rope_theta", None) or values.get("rope_theta") or 10000.0
    kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    rope.pop("type", None)
    if kind == "default":
        return {"rope_theta": theta}
    if kind != "yarn":
        raise BadInput(f"{path}: rope_type={kind!r} is unknown here; it can be default or yarn")
    known = {
        "factor": rope.pop("factor", None),
        "original_context_length": rope.pop("original_max_position_embeddings", None),
        "beta_fast": rope.pop("beta_fast", None),
        "beta_slow": rope.pop("beta_slow", None),
        "attention_factor": rope.pop("attention_factor", None),
    }
    if rope.pop("truncate", True) is not True:
        raise BadInput(f"{path}: truncate=False of YaRN cannot be computed here, only True")
    left = {name: value for name, value in rope.items() if value is not None}
    if left:
        name, value = next(iter(left.items()))
        raise BadInput(f"{path}: {name}={value!r} of YaRN is unknown here; leave it out")
    given = {name: value for name, value in known.items() if value is not None}
    return {"rope_theta": theta, "rope_scaling": given}


def _read_windows(values: Mapping[str, Any], kind: str, path: Path) -> dict[str, Any]:
    window = values.get("sliding_window")
    if kind != "dots1" and not values.get("use_sliding_window"):
        window = None
    count = values["num_hidden_layers"]
    types = values.get("layer_types")
    if types is None:
        first = 0 if kind == "qwen3_moe" else values.get("max_window_layers", 28)
        types = [_SLIDING if window and layer >= first else _FULL for layer in range(count)]
    if _SLIDING not in types:
        return {}
    every = types.index(_FULL) + 1 if _FULL in types else None
    expected = [
        _FULL if every and layer % every == 0 else _SLIDING for layer in range(1, count + 1)
    ]
    if list(types) != expected or not window:
        raise BadInput(
            f"{path}: layer_types={list(types)} with sliding_window={window} is not every n-th "
            "layer full and the others windowed; no other pattern can be computed here"
        )
    return {"sliding_window": window, "full_attention_every": every}
