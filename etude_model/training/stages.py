"""The four stages: each is data, a loss, the parameters it trains, and its evaluations.

    stage      data               loss                                      trains
    pretrain   text rows          next token                                all of a new model
    semantic   text rows, pairs   next token + contrastive_weight·InfoNCE   all of the parent
    sft        dialogue rows      next token of the assistant               all of the parent
    lora       dialogue rows      next token of the assistant               adapters beside it

The Trainer knows none of this: it asks for the losses of step n, and for figures. Batch n is a
function of the seed and n alone (data/order.py), so a stage has no state but its weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from etude_model.config import LoraTrainConfig
from etude_model.data.lm import TokenRows
from etude_model.data.sft import SftRows
from etude_model.inference.load import ADAPTER, WEIGHTS, load_checkpoint
from etude_model.model.lora import add_lora, save_lora
from etude_model.model.transformer import Etude
from etude_model.training.checkpoint import write_tensors
from etude_model.training.objectives import Check, Figures, Loss, Materials, Pairs, Text
from storage.errors import BadInput
from storage.files import replacing


@dataclass(frozen=True, slots=True)
class Stage:
    """What the Trainer asks of a stage. `rows` tells the data it was built on, for the record."""

    name: str
    model: Etude
    materials: Materials
    rows: dict[str, int]
    losses: Callable[[int], Iterator[Loss]]
    evaluate: Callable[[Check], Figures]
    save_weights: Callable[[Path], None]


def build_stage(name: str, materials: Materials) -> Stage:
    """Return the stage called `name`; its model is on the device and knows what it trains."""
    return {"pretrain": pretrain, "semantic": semantic, "sft": sft, "lora": lora}[name](materials)


def pretrain(materials: Materials) -> Stage:
    """Train a new model on text."""
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
    model = _parent_model(materials)
    text, pairs = Text(materials, model, TokenRows), Pairs(materials, model)

    def losses(step: int) -> Iterator[Loss]:
        yield from text.losses(step)
        yield from pairs.losses(step)

    def evaluate(check: Check) -> Figures:
        return text.evaluate(check) | pairs.evaluate(check)

    rows = {"text": text.rows.num_rows, "pairs": pairs.rows.num_rows}
    save = _saver(model)
    return Stage("semantic", model, materials, rows, losses, evaluate, save)


def sft(materials: Materials) -> Stage:
    """Teach the parent to answer."""
    return _text_stage("sft", _parent_model(materials), materials, SftRows)


def lora(materials: Materials) -> Stage:
    """Teach the parent to answer by low-rank adapters; its own weights stay as they are."""
    parent, config = materials.parent, materials.config
    assert parent is not None and isinstance(config, LoraTrainConfig)
    if (parent / ADAPTER).exists():
        raise BadInput(f"parent {parent} has an adapter already; start from its base or merge it")
    model = _parent_model(materials)
    torch.manual_seed(config.seed)
    add_lora(model, config.lora)
    model.to(materials.device)

    def save_weights(folder: Path) -> None:
        with replacing(folder / WEIGHTS) as beside:
            shutil.copyfile(parent / WEIGHTS, beside)
        save_lora(model, folder, config.lora)

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
            f"parent {materials.parent} has another tokenizer than the run; give the parent's"
        )
    for parameter in parent.model.parameters():
        parameter.data = parameter.data.clone()  # aligned memory of our own, not the file's map
    return parent.model
