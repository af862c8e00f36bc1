"""query and positive vectors -> recall and mean reciprocal rank.

Each query is ranked against the positives of all pairs. Positives of the same article are no
wrong answers, so they leave the ranking (the query's own stays). Equal scores count against the
query: a model that maps everything to one point must not look perfect.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1024


def retrieval_metrics(
    queries_ND: Tensor, positives_ND: Tensor, articles_N: Tensor
) -> dict[str, float]:
    """Return recall@1, recall@10 and mrr@10 of unit vectors; row i of one belongs to row i."""
    ranks_N = positive_ranks(queries_ND, positives_ND, articles_N).double()
    reciprocal = torch.where(ranks_N <= 10, 1 / ranks_N, 0.0)
    return {
        "recall@1": (ranks_N <= 1).double().mean().item(),
        "recall@10": (ranks_N <= 10).double().mean().item(),
        "mrr@10": reciprocal.mean().item(),
    }


def positive_ranks(queries_ND: Tensor, positives_ND: Tensor, articles_N: Tensor) -> Tensor:
    """Return the rank, from 1, of each query's own positive, int64 [N]."""
    ranks = []
    for start in range(0, len(queries_ND), CHUNK):
        rows = torch.arange(start, min(start + CHUNK, len(queries_ND)), device=queries_ND.device)
        scores_CN = queries_ND[rows].float() @ positives_ND.float().T
        own_C1 = scores_CN.gather(1, rows[:, None])
        is_rival_CN = articles_N[rows, None] != articles_N[None, :]
        ranks.append(1 + ((scores_CN >= own_C1) & is_rival_CN).sum(dim=1))
    return torch.cat(ranks)
