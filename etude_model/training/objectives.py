"""shards + model -> the losses of step n, and figures on held-out rows.

Two objectives make all four stages: `Text` (next token) and `Pairs` (contrastive). Each is a
function of the step and the weights; it keeps no state of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from etude_model.config import EtudeConfig, SemanticConfig, TrainConfig
from etude_model.data.lm import TokenRows, validation_batches
from etude_model.data.order import RowOrder
from etude_model.data.pairs import PairBatch, PairOrder, PairRows
from etude_model.data.rows import ShardRows, find_shards
from etude_model.evaluation.bits_per_byte import bits_per_byte
from etude_model.evaluation.retrieval import retrieval_metrics
from etude_model.inference.embed import embed
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from etude_model.training.contrastive import matryoshka_info_nce
from etude_model.training.precision import autocast
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


@dataclass(frozen=True, slots=True)
class Loss:
    """One backward pass of a step. The `value`s of a step add up to its loss.

    `nats` is the detached sum over next-token targets that stand for `num_bytes` bytes of text;
    `figures` are further detached scalars to report, which also add up.
    """

    value: Tensor
    num_tokens: int
    nats: Tensor | None = None
    num_bytes: int = 0
    figures: dict[str, Tensor] = field(default_factory=dict)


TOKENS, PAIRS = "tokens.parquet", "pairs.parquet"


class Text:
    """Next-token loss and bits per byte over token rows: the part all stages share."""

    def __init__(
        self, materials: Materials, model: Etude, kind: Callable[[list[Path]], TokenRows]
    ) -> None:
        self.materials, self.config, self.model = materials, materials.config, model
        self.rows = kind(find_shards(materials.shards, TOKENS, split="train"))
        self.held_out = kind(find_shards(materials.shards, TOKENS, split="validation"))
        _check_rows(self.rows, self.held_out, materials, "shards")
        if self.rows.context_length > model.config.context_length:
            raise BadInput(
                f"shards have context_length={self.rows.context_length}, the model "
                f"{model.config.context_length}; shard again with the model's context_length"
            )
        self.order = RowOrder(self.rows.num_rows, seed=self.config.seed)
        self.token_bytes = materials.tokenizer.token_bytes

    def losses(self, step: int) -> Iterator[Loss]:
        """Yield the micro-batches' shares of the mean over all targets of the batch.

        The divisor is the whole batch's number of targets, known before the first forward pass:
        a mean of micro-batch means would weigh a target by how many others its rows have.
        """
        size = self.config.batch_size
        batch = self.rows.batch(self.order.take(step * size, size))
        num_targets = max(1, batch.num_targets)
        for micro in batch.split(self.config.micro_batch_size or size):
            there = micro.to(self.materials.device)
            segments = there.segments_BT if self.config.document_mask else None
            with autocast(self.materials.device, self.materials.dtype):
                hidden_BTD = self.model(there.tokens_BT, segments_BT=segments)
                nats, _ = self.model.loss(hidden_BTD, there.targets_BT)
            num_bytes = micro.num_target_bytes(self.token_bytes)
            yield Loss(nats / num_targets, micro.num_tokens, nats.detach(), num_bytes)

    def evaluate(self, check: Check) -> Figures:
        """Return bits per byte of the held-out rows."""
        batches = validation_batches(
            self.held_out,
            num_rows=self.config.evaluation_rows,
            batch_size=self.config.micro_batch_size or self.config.batch_size,
        )
        return bits_per_byte(
            self.model,
            batches,
            self.token_bytes,
            dtype=self.materials.dtype,
            document_mask=self.config.document_mask,
            check=check,
        )


class Pairs:
    """InfoNCE and retrieval over (query, positive) pairs."""

    def __init__(self, materials: Materials, model: Etude) -> None:
        assert isinstance(materials.config, SemanticConfig)
        self.materials, self.config, self.model = materials, materials.config, model
        self.rows = PairRows(find_shards(materials.pair_shards, PAIRS, split="train"))
        self.held_out = PairRows(find_shards(materials.pair_shards, PAIRS, split="validation"))
        _check_rows(self.rows, self.held_out, materials, "pair_shards")
        self.order = PairOrder(
            self.rows.articles,
            self.rows.groups,
            batch_size=self.config.pair_batch_size,
            seed=self.config.seed,
        )

    def losses(self, step: int) -> Iterator[Loss]:
        """Yield the weighted contrastive loss of one batch of pairs, never split."""
        batch = self.rows.batch(self.order.batch(step))
        query_BD, positive_BD, articles_B = self._vectors(batch)
        loss = matryoshka_info_nce(
            query_BD,
            positive_BD,
            articles_B,
            temperature=self.config.temperature,
            dims=self.config.matryoshka_dims,
        )
        figures = {"contrastive_loss": loss.detach()}
        yield Loss(self.config.contrastive_weight * loss, batch.num_tokens, figures=figures)

    @torch.no_grad()
    def evaluate(self, check: Check) -> Figures:
        """Return recall and reciprocal rank over the held-out pairs, spread evenly."""
        num_rows = min(self.config.evaluation_pairs, self.held_out.num_rows)
        if num_rows == 0:
            return {}
        chosen = np.linspace(0, self.held_out.num_rows - 1, num_rows).astype(np.int64)
        size = self.config.pair_batch_size
        parts = []
        for start in range(0, num_rows, size):
            check()
            parts.append(self._vectors(self.held_out.batch(chosen[start : start + size])))
        return retrieval_metrics(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _vectors(self, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        there = batch.to(self.materials.device)
        with autocast(self.materials.device, self.materials.dtype):
            query_BD = embed(self.model, there.query_BT, there.query_lengths_B)
            positive_BD = embed(self.model, there.positive_BT, there.positive_lengths_B)
        return query_BD, positive_BD, there.articles_B


def _check_rows(rows: ShardRows, held_out: ShardRows, materials: Materials, name: str) -> None:
    if rows.num_rows == 0:
        raise BadInput(f"{name} hold no training rows; give a folder with train-* parts")
    for made_with in (rows.tokenizer_digest, held_out.tokenizer_digest):
        if made_with not in (None, materials.tokenizer.digest):
            raise BadInput(
                f"{name} were made with tokenizer {made_with}, the run has "
                f"{materials.tokenizer.digest}; shard again or give that tokenizer"
            )
