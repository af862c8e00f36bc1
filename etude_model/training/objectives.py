"""shards + model -> the losses of step n, and figures on held-out rows.

Two objectives make all four stages: `Text` (next token) and `Pairs` (contrastive, in
pair_objective.py). Each is a function of the step and the weights; it keeps no state of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from etude_model.config import EtudeConfig, TrainConfig
from etude_model.data.lm import IGNORED, TokenBatch, TokenRows, validation_batches
from etude_model.data.mixture import MixtureOrder
from etude_model.data.order import RowOrder
from etude_model.data.rows import ShardRows, find_shards
from etude_model.device import autocast
from etude_model.evaluation.bits_per_byte import bits_per_byte
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from etude_model.training.distributed import World
from storage.errors import BadInput

Check = Callable[[], None]
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Materials:
    """What a stage is built from."""

    config: TrainConfig
    architecture: EtudeConfig | None
    shards: tuple[str, ...]
    pair_shards: tuple[str, ...]
    parent: Path | None
    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype
    world: World = field(default_factory=World)


@dataclass(frozen=True, slots=True)
class Loss:
    """What one backward pass of a step starts from. The `value`s of a step add up to its loss.

    `nats` is the detached sum over next-token targets that stand for `num_bytes` bytes of text;
    `figures` are further detached scalars to report, which also add up.
    """

    value: Tensor
    num_tokens: int
    nats: Tensor | None = None
    num_bytes: int = 0
    figures: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a step that are computed at once.

    `loss(model, rows)` is the share of a slice of them, by the model or a replica of it: those of
    all slices add up. One row cannot be shared out, and is for the model itself.
    """

    num_rows: int
    loss: Callable[[Etude, slice], Loss]


TOKENS = "tokens.parquet"


class Text:
    """Next-token loss and bits per byte over token rows: the part all stages share."""

    def __init__(
        self, materials: Materials, model: Etude, kind: Callable[[list[Path]], TokenRows]
    ) -> None:
        self.materials, self.config, self.model = materials, materials.config, model
        self.rows = kind(find_shards(materials.shards, TOKENS, split="train"))
        self.held_out = kind(find_shards(materials.shards, TOKENS, split="validation"))
        check_rows(self.rows, self.held_out, materials, "shards")
        if self.rows.context_length > model.config.context_length:
            raise BadInput(
                f"shards have context_length={self.rows.context_length}, the model "
                f"{model.config.context_length}; shard again with the model's context_length"
            )
        self.order = _row_order(self.rows, self.config)
        self.token_bytes = materials.tokenizer.token_bytes

    def losses(self, step: int, micro_batch_size: int) -> Iterator[Part]:
        """Yield the micro-batches' shares of the mean over all targets of the batch.

        The divisor is what the whole batch's targets weigh, known before the first forward pass:
        a mean of micro-batch means would weigh a target by how many others its rows have.
        """
        size, world = self.config.batch_size, self.materials.world
        indices = self.order.take(step * size, size)
        share = world.share(size)
        own = self.rows.batch(indices[share])
        total_weight = world.total(own.total_weight) or 1.0
        for part in world.micro_batches(size, micro_batch_size):
            micro = own[part.start - share.start : part.stop - share.start]
            yield Part(len(micro.tokens_BT), partial(self._loss, micro, total_weight))

    def _loss(self, batch: TokenBatch, total_weight: float, model: Etude, rows: slice) -> Loss:
        some = batch[rows]
        there = some.to(self.materials.device)
        segments = there.segments_BT if self.config.document_mask else None
        with autocast(self.materials.device, self.materials.dtype):
            hidden_BTD = model(there.tokens_BT, segments_BT=segments)
            weighted, nats = summed_nats(model, hidden_BTD, there)
        value = weighted / total_weight
        router_loss = model.router_loss()
        if router_loss is not None:
            value = value + router_loss * (len(some.tokens_BT) / self.config.batch_size)
        num_bytes = some.num_target_bytes(self.token_bytes)
        return Loss(value, some.num_tokens, nats.detach(), num_bytes)

    def evaluate(self, check: Check, micro_batch_size: int) -> Figures:
        """Return bits per byte of the held-out rows."""
        batches = validation_batches(
            self.held_out,
            num_rows=self.config.evaluation_rows,
            batch_size=micro_batch_size,
        )
        return bits_per_byte(
            self.model,
            batches,
            self.token_bytes,
            dtype=self.materials.dtype,
            document_mask=self.config.document_mask,
            check=check,
        )


def summed_nats(model: Etude, hidden_BTD: Tensor, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Return the nats of the batch's targets, summed with their weights and without."""
    if batch.weights_BT is None or not batch.num_targets:
        nats, _ = model.loss(hidden_BTD, batch.targets_BT)
        return nats, nats
    # One loss per weight that occurs: together they look at each target once.
    weighted = nats = hidden_BTD.new_zeros((), dtype=torch.float32)
    for weight in batch.weights_BT[batch.targets_BT != IGNORED].unique().tolist():
        chosen_BT = (batch.targets_BT != IGNORED) & (batch.weights_BT == weight)
        some, _ = model.loss(hidden_BTD[chosen_BT][None], batch.targets_BT[chosen_BT][None])
        weighted, nats = weighted + weight * some, nats + some
    return weighted, nats


def _row_order(rows: TokenRows, config: TrainConfig) -> RowOrder | MixtureOrder:
    if config.mixture_alpha == 1:
        return RowOrder(rows.num_rows, seed=config.seed)
    return MixtureOrder(rows.languages, rows.lengths, alpha=config.mixture_alpha, seed=config.seed)


def check_rows(rows: ShardRows, held_out: ShardRows, materials: Materials, name: str) -> None:
    """Refuse an objective without training rows, or with those of another tokenizer."""
    if rows.num_rows == 0:
        raise BadInput(f"{name} hold no training rows; give a folder with train-* parts")
    for made_with in (rows.tokenizer_digest, held_out.tokenizer_digest):
        if made_with not in (None, materials.tokenizer.digest):
            raise BadInput(
                f"{name} were made with tokenizer {made_with}, the run has "
                f"{materials.tokenizer.digest}; shard again or give that tokenizer"
            )
