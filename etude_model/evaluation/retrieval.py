"""query and positive vectors -> recall and mean reciprocal rank, over all and per group.

Each query is ranked against the positives of all pairs. Positives of the same article are no
wrong answers, so they leave the ranking (the query's own stays). Equal scores count against the
query: a model that maps everything to one point must not look perfect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

CHUNK = 1024
CUTS = (1, 5, 10)


def retrieval_metrics(
    queries_ND: Tensor, positives_ND: Tensor, articles_N: Tensor
) -> dict[str, float]:
    """Return recall@1, 5 and 10 and mrr@10 of unit vectors; row i of one belongs to row i."""
    return rank_metrics(positive_ranks(queries_ND, positives_ND, articles_N))


def rank_metrics(
    ranks_N: Tensor, groups_N: np.ndarray | None = None, names: Sequence[str] = ()
) -> dict[str, float]:
    """Return recall@1, recall@5, recall@10 and mrr@10, and the same with "/<name>" per group.

    `ranks_N` counts from 1, `groups_N` holds places in `names`; a group without a pair is left out.
    """
    ranks = ranks_N.cpu().double()
    figures = {f"recall@{cut}": (ranks <= cut).double().mean().item() for cut in CUTS}
    figures["mrr@10"] = torch.where(ranks <= 10, 1 / ranks, 0.0).mean().item()
    for number, name in enumerate(names):
        own = ranks[torch.from_numpy(groups_N == number)]
        if len(own):
            figures |= {f"{key}/{name}": value for key, value in rank_metrics(own).items()}
    return figures


def positive_ranks(
    queries_ND: Tensor,
    positives_ND: Tensor,
    articles_N: Tensor,
    query_articles_N: Tensor | None = None,
) -> Tensor:
    """Return the rank, from 1, of each query's own positive, int64 [N].

    With `query_articles_N`, the positives of the article that a query was found in leave its
    ranking too.
    """

    def scores(rows: Tensor) -> Tensor:
        return queries_ND[rows].float() @ positives_ND.float().T

    return ranks_of_scores(scores, articles_N, query_articles_N)


def ranks_of_scores(
    scores: Callable[[Tensor], Tensor], articles_N: Tensor, query_articles_N: Tensor | None = None
) -> Tensor:
    """Return the rank of each query's own positive where `scores(rows)` gives [rows, N]."""
    ranks = []
    for start in range(0, len(articles_N), CHUNK):
        rows = torch.arange(start, min(start + CHUNK, len(articles_N)), device=articles_N.device)
        scores_CN = scores(rows)
        own_C1 = scores_CN.gather(1, rows[:, None])
        is_rival_CN = articles_N[rows, None] != articles_N[None, :]
        if query_articles_N is not None:
            is_rival_CN &= query_articles_N[rows, None] != articles_N[None, :]
        ranks.append(1 + ((scores_CN >= own_C1) & is_rival_CN).sum(dim=1))
    return torch.cat(ranks)


def alignment_and_uniformity(queries_ND: Tensor, positives_ND: Tensor) -> dict[str, float]:
    """Return how near pairs are, and how evenly positives fill the sphere; lower is better both.

    Wang and Isola 2020, arXiv 2005.10242, with their alpha = 2 and t = 2.
    """
    apart = (queries_ND.float() - positives_ND.float()).square().sum(dim=1)
    squared = torch.pdist(positives_ND.float()).square()
    uniformity = squared.mul(-2).exp().mean().log().item() if len(squared) else 0.0
    return {"alignment": apart.mean().item(), "uniformity": uniformity}
