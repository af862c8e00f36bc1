"""Weights in memory <-> weights on disk: experts are one tensor here and many files' keys there.

All names are transformers' own, so a dense model's weights are a copy. Experts are held in memory
as transformers holds them, three-dimensional for grouped products, and written one by one, which
is what transformers itself writes and what vLLM and llama.cpp's converter read:

    mlp.experts.gate_up_proj [E, 2F, D]  <->  mlp.experts.{0…}.gate_proj.weight [F, D]
                                              mlp.experts.{0…}.up_proj.weight   [F, D]
    mlp.experts.down_proj    [E, D, F]   <->  mlp.experts.{0…}.down_proj.weight [D, F]
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from etude_model.config import EtudeConfig
from etude_model.export.architecture import family
from storage.errors import BadInput

EMBEDDINGS, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
BALANCING_BIAS = "mlp.gate.e_score_correction_bias"  # float32 always: its steps are small


def to_huggingface(weights: Mapping[str, Tensor], config: EtudeConfig) -> dict[str, Tensor]:
    """Return the tensors of an export.

    A Dots1 gets its output matrix written out even if it is tied, and a shared expert of zeros if
    it has none: every published Dots1 has both, and not every program can do without.
    """
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        stem, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            for number, (gate, up) in enumerate(expert.chunk(2) for expert in weight):
                found[f"{stem}.{number}.gate_proj.weight"] = gate
                found[f"{stem}.{number}.up_proj.weight"] = up
        elif last == "down_proj":
            for number, down in enumerate(weight):
                found[f"{stem}.{number}.down_proj.weight"] = down
        else:
            found[name] = weight
    if family(config) == "dots1":
        if config.tie_embeddings:
            found[OUTPUT] = found[EMBEDDINGS].clone()  # a file holds no tensor under two names
        if not config.num_shared_experts:
            for name, (rows, columns) in _shared_experts(config).items():
                found[name] = found[EMBEDDINGS].new_zeros(rows, columns)
    return found


def from_huggingface(
    weights: Mapping[str, Tensor], config: EtudeConfig
) -> tuple[dict[str, Tensor], EtudeConfig]:
    """Return our tensors and the shape, without what `to_huggingface` adds to a Dots1.

    A missing expert is BadInput; names and shapes of the rest are checked by who loads them.
    """
    found = dict(weights)
    shared = [name for name in _shared_experts(config) if name in found]
    if shared and not any(found[name].any() for name in shared):
        for name in shared:
            del found[name]
        config = config.model_copy(update={"num_shared_experts": 0})
    for layer in range(config.num_layers):
        if config.is_sparse(layer):
            stem = f"model.layers.{layer}.mlp.experts"
            gate, up, down = (
                [_take(found, f"{stem}.{n}.{part}.weight") for n in range(config.num_experts)]
                for part in ("gate_proj", "up_proj", "down_proj")
            )
            pairs = zip(gate, up, strict=True)
            found[f"{stem}.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in pairs])
            found[f"{stem}.down_proj"] = torch.stack(down)
    output = found.get(OUTPUT)
    if output is not None and _is_tied(output, found.get(EMBEDDINGS), config):
        del found[OUTPUT]
        config = config.model_copy(update={"tie_embeddings": True})
    return found, config


def _shared_experts(config: EtudeConfig) -> dict[str, tuple[int, int]]:
    """Return names and shapes of a Dots1's shared experts, one of them where there is none."""
    inner, width = config.expert_size * max(1, config.num_shared_experts), config.hidden_size
    shapes = {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
    return {
        f"model.layers.{layer}.mlp.shared_experts.{part}.weight": shape
        for layer in range(config.num_layers)
        if config.is_sparse(layer)
        for part, shape in shapes.items()
    }


def _is_tied(output: Tensor, embeddings: Tensor | None, config: EtudeConfig) -> bool:
    """Tell whether the output matrix is the embeddings: declared so, or written out by a Dots1."""
    if config.tie_embeddings:
        return True
    return family(config) == "dots1" and embeddings is not None and torch.equal(output, embeddings)


def _take(weights: dict[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise BadInput(f"the weights lack {name}; get all of the model's safetensors files")
    return weights.pop(name)
