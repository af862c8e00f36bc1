"""Pair shards + model -> the contrastive losses of step n, and how well pairs find each other."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from etude_model.config import SemanticConfig
from etude_model.data.pairs import PairBatch, PairOrder, PairRows, spread_over_groups
from etude_model.data.rows import find_shards
from etude_model.device import autocast
from etude_model.evaluation.bm25 import bm25_scores
from etude_model.evaluation.retrieval import (
    alignment_and_uniformity,
    positive_ranks,
    rank_metrics,
    ranks_of_scores,
)
from etude_model.inference.embed import embed
from etude_model.model.moe import without_counts
from etude_model.model.transformer import Etude
from etude_model.tokenizer import SPECIAL_TOKENS
from etude_model.training.contrastive import cached_losses, matryoshka_info_nce
from etude_model.training.objectives import Check, Figures, Loss, Materials, Part, check_rows

PAIRS = "pairs.parquet"


class Pairs:
    """InfoNCE and retrieval over (query, positive) pairs."""

    def __init__(self, materials: Materials, model: Etude) -> None:
        assert isinstance(materials.config, SemanticConfig)
        self.materials, self.config, self.model = materials, materials.config, model
        self.weight = materials.config.contrastive_weight
        self.rows = PairRows(find_shards(materials.pair_shards, PAIRS, split="train"))
        self.held_out = PairRows(find_shards(materials.pair_shards, PAIRS, split="validation"))
        check_rows(self.rows, self.held_out, materials, "pair_shards")
        check_bidirectional(model)
        self._bm25: Tensor | None = None
        self._most_rows = 1  # what micro_batch_size was before any out-of-memory halved it
        self.order = PairOrder(
            self.rows.articles,
            self.rows.groups,
            batch_size=self.config.pair_batch_size,
            seed=self.config.seed,
        )

    def losses(self, step: int, micro_batch_size: int) -> Iterator[Part]:
        """Yield the micro-batches' shares of the weighted contrastive loss of one batch of pairs.

        Fewer pairs are computed at once where out-of-memory has made micro_batch_size smaller.
        """
        config, world = self.config, self.materials.world
        indices = self.order.batch(step)
        self._most_rows = max(self._most_rows, micro_batch_size)
        at_once = max(1, config.pair_micro_batch_size * micro_batch_size // self._most_rows)
        micros = [
            self.rows.batch(indices[part]) for part in world.micro_batches(len(indices), at_once)
        ]
        losses = cached_losses(
            [partial(self._vectors, micro) for micro in micros],
            partial(self._loss, indices),
            world=world,
            num_rows=len(indices),
        )
        for micro, loss in zip(micros, losses, strict=True):
            figures = {"contrastive_loss": loss.detach()}
            share = Loss(self.weight * loss, micro.num_tokens, figures=figures)
            yield Part(1, partial(_given, share))

    def _loss(self, indices: np.ndarray, query_BD: Tensor, positive_BD: Tensor) -> Tensor:
        rows, device = self.rows, self.materials.device
        articles, found_on, groups = (
            torch.from_numpy(numbers[indices]).to(device)
            for numbers in (rows.articles, rows.query_articles, rows.groups)
        )
        return matryoshka_info_nce(
            query_BD,
            positive_BD,
            articles,
            temperature=self.config.pair_temperature,
            dims=self.config.matryoshka_dims,
            query_articles_B=found_on,
            groups_B=groups,
        )

    @torch.no_grad()
    def evaluate(self, check: Check) -> Figures:
        """Return how well held-out pairs find each other, beside two baselines.

        All figures also stand per source and language. The baselines see the same texts: BM25
        their words, `input_embeddings` the mean of their rows of the embedding matrix.
        """
        chosen = spread_over_groups(self.held_out.groups, self.config.evaluation_pairs)
        if not len(chosen):
            return {}
        size = min(self.config.pair_batch_size, self.config.pair_micro_batch_size)
        parts = []
        for start in range(0, len(chosen), size):
            check()
            batch = self.held_out.batch(chosen[start : start + size])
            parts.append((*self._vectors(batch), *self._mean_embeddings(batch)))
        queries, positives, mean_queries, mean_positives = (
            torch.cat(side) for side in zip(*parts, strict=True)
        )
        rows, device = self.held_out, queries.device
        articles = [
            torch.from_numpy(numbers[chosen]).to(device)
            for numbers in (rows.articles, rows.query_articles)
        ]
        metrics = partial(rank_metrics, groups_N=rows.groups[chosen], names=rows.group_names)
        figures = metrics(positive_ranks(queries, positives, *articles))
        figures |= alignment_and_uniformity(queries, positives)
        baselines = {
            "bm25": self._bm25_ranks(chosen),
            "input_embeddings": positive_ranks(mean_queries, mean_positives, *articles),
        }
        for baseline, ranks in baselines.items():
            figures |= {f"{baseline}/{name}": value for name, value in metrics(ranks).items()}
        return figures | {"contrastive_weight": self.weight}

    def _vectors(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        there = batch.to(self.materials.device)
        # Short texts read in both directions must not move the balance of experts.
        with without_counts(self.model), autocast(self.materials.device, self.materials.dtype):
            query_BD = embed(self.model, there.query_BT, there.query_lengths_B)
            positive_BD = embed(self.model, there.positive_BT, there.positive_lengths_B)
        return query_BD, positive_BD

    def _mean_embeddings(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        there = batch.to(self.materials.device)
        matrix_VD = self.model.model.embed_tokens.weight.float().clone()
        matrix_VD[: len(SPECIAL_TOKENS)] = 0  # padding is one of them
        sums = (matrix_VD[side].sum(dim=1) for side in (there.query_BT, there.positive_BT))
        query_BD, positive_BD = (F.normalize(side, dim=1) for side in sums)
        return query_BD, positive_BD

    def _bm25_ranks(self, chosen: np.ndarray) -> Tensor:
        """Return the ranks that BM25 gives, computed once: the texts stay the same."""
        if self._bm25 is None:
            decode, rows = self.materials.tokenizer.decode, self.held_out
            queries, positives = (
                [decode(ids) for ids in rows.column(side, chosen)] for side in ("query", "positive")
            )
            scores = torch.from_numpy(bm25_scores(queries, positives))
            articles = (rows.articles, rows.query_articles)
            numbers = (torch.from_numpy(which[chosen]) for which in articles)
            self._bm25 = ranks_of_scores(scores.__getitem__, *numbers)
        return self._bm25


def _given(loss: Loss, model: Etude, rows: slice) -> Loss:
    """Return a loss whose vectors are there already: each depends on all pairs of the batch."""
    return loss


@torch.no_grad()
def check_bidirectional(model: Etude) -> None:
    """Assert that an embedding's first token sees the last; a causal model embeds far worse.

    Others fell back to causal attention without a word (gritlm issues 41 and 74).
    """
    device = model.output_weight.device
    one_BT = torch.zeros(1, 2, dtype=torch.int64, device=device)
    other_BT = torch.tensor([[0, 1]], device=device)
    is_training = model.training
    model.eval()
    first, second = (
        model(tokens, segments_BT=torch.zeros_like(tokens), is_causal=False)[:, 0]
        for tokens in (one_BT, other_BT)
    )
    model.train(is_training)
    assert not torch.equal(first, second), "attention is causal: no token sees those after it"
