"""Token ids -> unit vectors: every token sees the whole text, and their mean is the meaning.

Bidirectional attention and mean pooling over the real tokens, as in GritLM (Muennighoff et al.
2024, arXiv 2402.09906). The first `dims` numbers are an embedding too if the semantic stage trained
them so (Matryoshka, Kusupati et al. 2022, arXiv 2205.13147).

B rows · T tokens · D hidden_size or dims
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from etude_model.model.transformer import Etude
from storage.errors import BadInput


def embed(model: Etude, tokens_BT: Tensor, lengths_B: Tensor, dims: int | None = None) -> Tensor:
    """Return float32 unit vectors [B, D] of padded rows; differentiable.

    `lengths_B` says how many tokens of each row are real; those after them change nothing.
    """
    width = model.config.hidden_size
    if dims is not None and not 0 < dims <= width:
        raise BadInput(f"dims={dims} is outside 1 to hidden_size={width}; choose a smaller number")
    places_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    is_real_BT = places_T < lengths_B.to(tokens_BT.device)[:, None]
    segments_BT = torch.where(is_real_BT, 0, -1)
    hidden_BTD = model(tokens_BT, segments_BT=segments_BT, is_causal=False).float()
    mean_BD = (hidden_BTD * is_real_BT[:, :, None]).sum(dim=1) / is_real_BT.sum(dim=1)[:, None]
    return F.normalize(mean_BD[:, :dims], dim=-1)


@torch.inference_mode()
def embed_ids(
    model: Etude,
    rows: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
    dims: int | None = None,
) -> np.ndarray:
    """Return float32 unit vectors [len(rows), D] of ragged id rows, in their order.

    Rows of like length share a batch. A row must have 1 to context_length ids.
    """
    limit = model.config.context_length
    for number, row in enumerate(rows):
        if not 0 < len(row) <= limit:
            raise BadInput(
                f"row {number} has {len(row)} tokens, the model takes 1 to {limit}; "
                "drop empty texts and cut long ones"
            )
    device = model.output_weight.device
    vectors = np.zeros((len(rows), dims or model.config.hidden_size), dtype=np.float32)
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    for start in range(0, len(rows), batch_size):
        numbers = order[start : start + batch_size]
        lengths = [len(rows[number]) for number in numbers]
        tokens_BT = torch.zeros(len(numbers), max(lengths), dtype=torch.int64)
        for place, number in enumerate(numbers):
            tokens_BT[place, : lengths[place]] = torch.tensor(rows[number])
        found = embed(model, tokens_BT.to(device), torch.tensor(lengths), dims)
        vectors[numbers] = found.cpu().numpy()
    return vectors
