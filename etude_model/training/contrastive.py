"""query and positive vectors -> InfoNCE in both directions, exact for any micro-batch.

Every other positive of the batch is a negative of a query, and every other query one of a
positive (van den Oord et al. 2018, with in-batch negatives as in Karpukhin et al. 2020). What is
about the same article is left out of each other's negatives. Matryoshka (Kusupati et al. 2022,
arXiv 2205.13147): the same loss on prefixes of the vectors, so that they may be cut short later.

GradCache (Gao et al. 2021, arXiv 2101.06983) makes a batch larger than memory holds, although
each pair's loss needs all other pairs: first all vectors without a graph, then the loss and its
gradient with respect to the vectors, then each micro-batch once more with a graph, which is
handed that gradient. The sums are those of the whole batch at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from etude_model.training.distributed import World

Vectors = tuple[Tensor, Tensor]
"""Vectors of queries and of positives, [B, D] each."""


def info_nce(
    query_BD: Tensor,
    positive_BD: Tensor,
    articles_B: Tensor,
    *,
    temperature: float,
    query_articles_B: Tensor | None = None,
    groups_B: Tensor | None = None,
) -> Tensor:
    """Return the mean symmetric loss of unit vectors whose rows belong together.

    `articles_B` numbers what the positives are about; `query_articles_B` where the queries were
    found, if that is elsewhere (the page with a link). Neither makes a fair negative. Nor does a
    pair of another of `groups_B`, which is told apart by its manner or script.
    """
    scores_BB = query_BD.float() @ positive_BD.float().T / temperature
    unfair_BB = articles_B[:, None] == articles_B[None, :]
    if query_articles_B is not None:
        unfair_BB = unfair_BB | (query_articles_B[:, None] == articles_B[None, :])
    if groups_B is not None:
        unfair_BB = unfair_BB | (groups_B[:, None] != groups_B[None, :])
    own_BB = torch.eye(len(articles_B), dtype=torch.bool, device=articles_B.device)
    scores_BB = scores_BB.masked_fill(unfair_BB & ~own_BB, float("-inf"))
    own_B = torch.arange(len(articles_B), device=articles_B.device)
    return (F.cross_entropy(scores_BB, own_B) + F.cross_entropy(scores_BB.T, own_B)) / 2


def matryoshka_info_nce(
    query_BD: Tensor,
    positive_BD: Tensor,
    articles_B: Tensor,
    *,
    temperature: float,
    dims: Sequence[int] = (),
    query_articles_B: Tensor | None = None,
    groups_B: Tensor | None = None,
) -> Tensor:
    """Return the mean of `info_nce` over the full vectors and their prefixes of `dims` length."""
    width = query_BD.shape[1]
    losses = [
        info_nce(
            F.normalize(query_BD[:, :size], dim=1),
            F.normalize(positive_BD[:, :size], dim=1),
            articles_B,
            temperature=temperature,
            query_articles_B=query_articles_B,
            groups_B=groups_B,
        )
        for size in sorted({min(size, width) for size in (width, *dims)})
    ]
    return torch.stack(losses).mean()


def cached_losses(
    encoders: Sequence[Callable[[], Vectors]],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    *,
    num_rows: int,
    world: World = World(),  # noqa: B008 - frozen
) -> Iterator[Tensor]:
    """Yield one scalar per encoder; their sum has the value and the gradients of the whole loss.

    `encoders[i]()` computes the vectors of micro-batch i of this rank's share, `loss_of` the loss
    of all `num_rows` vectors; the sum goes over all ranks. Each scalar must be backpropagated
    before the next is asked for. With one encoder nothing is computed twice.
    """
    if len(encoders) == 1:
        sides = [world.gather(side, num_rows) for side in encoders[0]()]
        yield loss_of(*sides) / world.size
        return
    with torch.no_grad():
        parts = [encode() for encode in encoders]
        own = (torch.cat(side) for side in zip(*parts, strict=True))
        leaves = [world.gather(side, num_rows).requires_grad_() for side in own]
    loss = loss_of(*leaves)
    gradients = torch.autograd.grad(loss, leaves)
    start = world.share(num_rows).start
    for encode in encoders:
        vectors = encode()
        stop = start + len(vectors[0])
        value = loss.detach() * ((stop - start) / num_rows)
        for vector_BD, gradient_BD in zip(vectors, gradients, strict=True):
            # Adds nothing to the value: only the gradient passes.
            value = value + ((vector_BD - vector_BD.detach()) * gradient_BD[start:stop]).sum()
        yield value
        start = stop
