"""query and positive vectors -> InfoNCE in both directions.

Every other positive of the batch is a negative of a query, and every other query one of a
positive (van den Oord et al. 2018, with in-batch negatives as in Karpukhin et al. 2020). Pairs of
one article are left out of each other's negatives. Matryoshka (Kusupati et al. 2022): the same
loss on prefixes of the vectors, so that they may be cut short later.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(
    query_BD: Tensor, positive_BD: Tensor, articles_B: Tensor, *, temperature: float
) -> Tensor:
    """Return the mean symmetric loss of unit vectors whose rows belong together."""
    scores_BB = query_BD.float() @ positive_BD.float().T / temperature
    same_article_BB = articles_B[:, None] == articles_B[None, :]
    own_BB = torch.eye(len(articles_B), dtype=torch.bool, device=articles_B.device)
    scores_BB = scores_BB.masked_fill(same_article_BB & ~own_BB, float("-inf"))
    own_B = torch.arange(len(articles_B), device=articles_B.device)
    return (F.cross_entropy(scores_BB, own_B) + F.cross_entropy(scores_BB.T, own_B)) / 2


def matryoshka_info_nce(
    query_BD: Tensor,
    positive_BD: Tensor,
    articles_B: Tensor,
    *,
    temperature: float,
    dims: Sequence[int] = (),
) -> Tensor:
    """Return the mean of `info_nce` over the full vectors and their prefixes of `dims` length."""
    width = query_BD.shape[1]
    losses = [
        info_nce(
            F.normalize(query_BD[:, :size], dim=1),
            F.normalize(positive_BD[:, :size], dim=1),
            articles_B,
            temperature=temperature,
        )
        for size in sorted({min(size, width) for size in (width, *dims)})
    ]
    return torch.stack(losses).mean()
