"""PEFT's adapter folder <-> an Adapter of ours; what we could not compute alike is refused.

    adapter_config.json          r, lora_alpha, target_modules, use_rslora, use_dora …
    adapter_model.safetensors    `base_model.model.` + our names

The tensors say which linears are adapted and how wide; PEFT's patterns only have to agree. So its
regular expressions need not be run, and a folder means here what it means there. Field names are
those of peft 0.21 (src/peft/tuners/lora/config.py, github.com/huggingface/peft).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from etude_model.checkpoint_folder import checked_files, read_json_object
from etude_model.config import LoraConfig
from etude_model.lora_config import Number, ends_with
from etude_model.model.adapter import BASE, Adapter, first_error, read_tensors
from storage.errors import BadInput
from storage.files import write_json

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
_TENSOR = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector)")
_LITERAL = re.compile(r"\^?[\w.]+\$?", re.ASCII)

# Said for the record, of training only, or visible in the tensors; any other field that is set
# changes the model in a way that we do not have.
_WITHOUT_EFFECT = {
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "runtime_config", "megatron_core", "qalora_group_size", "layers_pattern"),
    *("exclude_modules", "ensure_weight_tying", "eva_config"),
}
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # the others change the base weight


class _PeftConfig(BaseModel):
    """The fields of adapter_config.json that we can represent; the rest is in `model_extra`."""

    model_config = ConfigDict(extra="allow")

    peft_type: str = "LORA"
    r: int = Field(default=8, ge=1)
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    target_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    rank_pattern: dict[str, int] = Field(default={})
    alpha_pattern: dict[str, float] = Field(default={})
    bias: str = "none"
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str = True


def write_peft(adapter: Adapter, folder: Path, *, is_sparse: bool) -> None:
    """Write the adapter's two files for PEFT into `folder`; equal adapters give equal bytes.

    The base's digest goes along in the header of the weights. `is_sparse` says whether the base
    has routed experts.
    """
    if problem := peft_problem(adapter.config, is_sparse=is_sparse):
        raise BadInput(problem)
    tensors = {PREFIX + name: tensor for name, tensor in adapter.tensors.items()}
    # One key only: safetensors writes several in an order that changes from call to call.
    metadata = {BASE: adapter.base} if adapter.base else {"format": "pt"}
    save_file(tensors, folder / PEFT_WEIGHTS, metadata=metadata)
    write_json(folder / PEFT_CONFIG, peft_config(adapter.config))


def peft_problem(lora: LoraConfig, *, is_sparse: bool) -> str | None:
    """Return why PEFT would not compute what we do, or None.

    On a model with routed experts peft 0.21 adapts those, and nothing else, wherever a target ends
    with the name of a feed-forward matrix (utils/transformers_weight_conversion.py).
    """
    for target in lora.targets if is_sparse else ():
        name = target.rpartition(".")[2]
        if name in FEED_FORWARD:
            return (
                f"targets has {target!r}, and on a model with experts PEFT takes {name} for routed "
                "experts; export with format hf, which merges the adapter, or train it on q_proj, "
                "k_proj, v_proj and o_proj alone"
            )
    return None


def peft_config(lora: LoraConfig) -> dict[str, Any]:
    """Return adapter_config.json; of its patterns PEFT takes the first that fits, so by length."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": lora.rank,
        "lora_alpha": _whole(lora.alpha),
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.targets),
        "rank_pattern": _longest_first(lora.rank_pattern),
        "alpha_pattern": {n: _whole(a) for n, a in _longest_first(lora.alpha_pattern).items()},
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "modules_to_save": None,
        "inference_mode": True,
    }


def read_peft(folder: Path) -> Adapter:
    """Read a folder that PEFT wrote; pickles, other methods and changed bases are BadInput."""
    files = checked_files(folder, (PEFT_CONFIG, PEFT_WEIGHTS))
    path = files[PEFT_CONFIG]
    try:
        config = _PeftConfig.model_validate(read_json_object(path))
    except ValidationError as error:
        raise BadInput(f"{path}: {first_error(error)}") from error
    _refuse_what_we_lack(config, path)
    tensors = read_tensors(files[PEFT_WEIGHTS])
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    with safe_open(files[PEFT_WEIGHTS], "pt") as file:
        base = (file.metadata() or {}).get(BASE)
    try:
        lora = _our_config(config, tensors, path)
    except ValidationError as error:
        raise BadInput(f"{path}: {first_error(error)}") from error
    return Adapter(lora, tensors, base, str(folder))


def _refuse_what_we_lack(config: _PeftConfig, path: Path) -> None:
    extra = {
        name: value
        for name, value in (config.model_extra or {}).items()
        if value and name not in _WITHOUT_EFFECT
    }
    if config.peft_type != "LORA":
        extra["peft_type"] = config.peft_type
    if config.bias != "none":
        extra["bias"] = config.bias
    if config.init_lora_weights not in _PLAIN_STARTS:
        extra["init_lora_weights"] = config.init_lora_weights
    if extra:
        name, value = min(extra.items())
        raise BadInput(
            f"{path}: {name}={value!r} is more than low-rank updates of linears; merge the adapter "
            "with PEFT (merge_and_unload) and import the merged model"
        )


def _our_config(config: _PeftConfig, tensors: Mapping[str, Tensor], path: Path) -> LoraConfig:
    """Return the LoraConfig that means the same for the linears that have tensors."""
    ranks: dict[str, int] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None or ".experts." in name:
            raise BadInput(
                f"{path.with_name(PEFT_WEIGHTS)} has {name}, which is no update of a plain linear "
                "(embeddings, biases and routed experts take none); merge it with PEFT "
                "(merge_and_unload) and import the merged model"
            )
        if match[2] == "lora_A.weight":
            ranks[match[1]] = len(tensor)
    for module, rank in ranks.items():
        promised = _first_fitting(config.rank_pattern, module, config.r, path)
        if rank != promised or not _is_named(config, module):
            raise BadInput(
                f"{path.with_name(PEFT_WEIGHTS)} has rank {rank} for {module}, {PEFT_CONFIG} says "
                f"{promised if _is_named(config, module) else 'none'}; copy both files again"
            )
    alphas = {
        module: _first_fitting(config.alpha_pattern, module, config.lora_alpha, path)
        for module in ranks
    }
    return LoraConfig(
        rank=config.r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        targets=_targets(config, sorted(ranks)),
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        rank_pattern={module: rank for module, rank in ranks.items() if rank != config.r},
        alpha_pattern={m: alpha for m, alpha in alphas.items() if alpha != config.lora_alpha},
    )


def _is_named(config: _PeftConfig, module: str) -> bool:
    """Say whether PEFT adapts this linear; a regular expression is believed, not run."""
    layers = config.layers_to_transform
    if layers is not None:
        number = re.search(r"\.(\d+)\.", module)
        wanted = layers if isinstance(layers, list) else [layers]
        if wanted and (number is None or int(number[1]) not in wanted):
            return False
    targets = config.target_modules
    return not isinstance(targets, list) or any(ends_with(module, one) for one in targets)


def _targets(config: _PeftConfig, modules: list[str]) -> tuple[str, ...]:
    """Return PEFT's own list where it needs no further rule, else every linear by its name."""
    listed = config.target_modules
    excluded = (config.model_extra or {}).get("exclude_modules")
    if isinstance(listed, list) and config.layers_to_transform is None and not excluded:
        return tuple(one for one in sorted(set(listed)) if any(ends_with(m, one) for m in modules))
    return tuple(modules)


def _first_fitting(
    patterns: Mapping[str, Number], module: str, default: Number, path: Path
) -> Number:
    """Return what PEFT finds for a linear: the first pattern that fits an ending of its name."""
    for pattern, value in patterns.items():
        if not _LITERAL.fullmatch(pattern):
            raise BadInput(
                f"{path}: the pattern {pattern!r} is a regular expression, which we do not run on "
                "a stranger's word; write the names of the linears out"
            )
        name = pattern.strip("^$")
        if module == name or (pattern[0] != "^" and ends_with(module, name)):
            return value
    return default


def _longest_first(patterns: Mapping[str, Number]) -> dict[str, Number]:
    return {name: patterns[name] for name in sorted(patterns, key=len, reverse=True)}


def _whole(number: float) -> float | int:
    return int(number) if float(number).is_integer() else number
