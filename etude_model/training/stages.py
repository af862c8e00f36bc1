"""The four stages: each is data, a loss, the parameters it trains, and its evaluations.

    stage      data               loss                                      trains
    pretrain   text rows          next token                                all of a new model,
                                                                            or of the parent
    semantic   text rows, pairs   next token + contrastive_weight·InfoNCE   all of the parent
    sft        dialogue rows      next token of the assistant               all of the parent
    lora       dialogue rows      next token of the assistant               adapters beside it

The Trainer knows none of this: it asks for the losses of step n, and for figures. Batch n is a
function of the seed and n alone (data/order.py), so a stage has no state but its weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from etude_model.config import LoraTrainConfig, SemanticConfig
from etude_model.data.lm import TokenRows
from etude_model.data.sft import SftRows
from etude_model.inference.load import WEIGHTS, load_checkpoint
from etude_model.model.adapter import weights_digest
from etude_model.model.adapter_files import has_adapter
from etude_model.model.lora import add_lora, save_lora
from etude_model.model.quantize import quantize_base
from etude_model.model.transformer import Etude
from etude_model.training.checkpoint import write_tensors
from etude_model.training.objectives import Check, Figures, Materials, Part, Text
from etude_model.training.pair_objective import Pairs
from storage.errors import BadInput
from storage.files import replacing

Evaluations = Mapping[str, Figures]
"""What was measured, by the number of the step as text; "0" is the parent, or fresh weights."""


def less_bits(evaluations: Evaluations, step: str) -> float | None:
    """Return the score of text stages: the fewer bits per byte, the better; None without any."""
    bits = evaluations[step].get("bits_per_byte")
    return None if bits is None else -bits


@dataclass(frozen=True, slots=True)
class Stage:
    """What the Trainer asks of a stage.

    `losses(step, micro_batch_size)` and `evaluate(check, micro_batch_size)` compute so many rows
    at once; `rows` tells the data the stage was built on, for the record. `observe(evaluations)`
    hears all evaluations so far, after each one and after a resume; what a stage makes of them may
    depend on nothing else. `score(evaluations, step)` says how good the weights of an evaluated
    step are, higher being better, and is None where they must not be the result.
    """

    name: str
    model: Etude
    materials: Materials
    rows: dict[str, int]
    losses: Callable[[int, int], Iterator[Part]]
    evaluate: Callable[[Check, int], Figures]
    save_weights: Callable[[Path], None]
    observe: Callable[[Evaluations], None] = lambda evaluations: None
    score: Callable[[Evaluations, str], float | None] = less_bits


def build_stage(name: str, materials: Materials) -> Stage:
    """Return the stage called `name`; its model is on the device and knows what it trains."""
    return {"pretrain": pretrain, "semantic": semantic, "sft": sft, "lora": lora}[name](materials)


def pretrain(materials: Materials) -> Stage:
    """Train a new model on text, or the parent where there is one, whose shape then holds."""
    if materials.parent is not None:
        return _text_stage("pretrain", _parent_model(materials), materials, TokenRows)
    architecture, num_ids = materials.architecture, materials.tokenizer.vocab_size
    assert architecture is not None
    if architecture.vocab_size < num_ids:
        raise BadInput(
            f"model.vocab_size={architecture.vocab_size} is less than the tokenizer's {num_ids}; "
            f"set it to {num_ids}"
        )
    torch.manual_seed(materials.config.seed)
    model = Etude(architecture).to(materials.device)
    return _text_stage("pretrain", model, materials, TokenRows)


def semantic(materials: Materials) -> Stage:
    """Teach the parent to embed, while it goes on learning text so that it forgets none."""
    config = materials.config
    assert isinstance(config, SemanticConfig)
    model = _parent_model(materials)
    text, pairs = Text(materials, model, TokenRows), Pairs(materials, model)

    def losses(step: int, micro_batch_size: int) -> Iterator[Part]:
        yield from text.losses(step, micro_batch_size)
        yield from pairs.losses(step, micro_batch_size)

    def evaluate(check: Check, micro_batch_size: int) -> Figures:
        return text.evaluate(check, micro_batch_size) | pairs.evaluate(check)

    def is_forgetful(evaluations: Evaluations, step: str) -> bool:
        return _is_worse(evaluations, step, config.max_text_loss)

    def observe(evaluations: Evaluations) -> None:
        num_worse = sum(is_forgetful(evaluations, step) for step in evaluations)
        pairs.weight = config.contrastive_weight / 2**num_worse

    def score(evaluations: Evaluations, step: str) -> float | None:
        if is_forgetful(evaluations, step):
            return None
        return evaluations[step].get("recall@10", 0.0)

    rows = {"text": text.rows.num_rows, "pairs": pairs.rows.num_rows}
    save = _saver(model)
    return Stage("semantic", model, materials, rows, losses, evaluate, save, observe, score)


def _is_worse(evaluations: Evaluations, step: str, max_share: float | None) -> bool:
    """Return whether a step's bits per byte are more than a share above the parent's."""
    before, now = (evaluations.get(one, {}).get("bits_per_byte") for one in ("0", step))
    if max_share is None or before is None or now is None:
        return False
    return now > before * (1 + max_share)


def sft(materials: Materials) -> Stage:
    """Teach the parent to answer."""
    return _text_stage("sft", _parent_model(materials), materials, SftRows)


def lora(materials: Materials) -> Stage:
    """Teach the parent to answer by low-rank adapters; its own weights stay as they are."""
    parent, config = materials.parent, materials.config
    assert parent is not None and isinstance(config, LoraTrainConfig)
    if has_adapter(parent):
        raise BadInput(f"parent {parent} has an adapter already; start from its base or merge it")
    model = _parent_model(materials)
    base = weights_digest(model.state_dict())
    torch.manual_seed(config.seed)
    add_lora(model, config.lora)
    model.to(materials.device)
    if config.quantization == "nf4":
        quantize_base(model, materials.dtype)

    def save_weights(folder: Path) -> None:
        with replacing(folder / WEIGHTS) as beside:
            shutil.copyfile(parent / WEIGHTS, beside)
        save_lora(model, folder, config.lora, base=base)

    return replace(_text_stage("lora", model, materials, SftRows), save_weights=save_weights)


def _text_stage(
    name: str, model: Etude, materials: Materials, kind: Callable[[list[Path]], TokenRows]
) -> Stage:
    text = Text(materials, model, kind)
    rows = {"text": text.rows.num_rows}
    return Stage(name, model, materials, rows, text.losses, text.evaluate, _saver(model))


def _saver(model: Etude) -> Callable[[Path], None]:
    return lambda folder: write_tensors(folder / WEIGHTS, model.state_dict())


def _parent_model(materials: Materials) -> Etude:
    """Load the parent, an adapter of it merged, on the device and in float32."""
    assert materials.parent is not None
    parent = load_checkpoint(materials.parent, device=materials.device, merge=True)
    if parent.tokenizer.digest != materials.tokenizer.digest:
        raise BadInput(
            f"parent {materials.parent} has tokenizer {parent.tokenizer.digest}, the run has "
            f"{materials.tokenizer.digest}; give the parent's"
        )
    for parameter in parent.model.parameters():
        parameter.data = parameter.data.clone()  # aligned memory of our own, not the file's map
    return parent.model
