"""Tokens with numbers of experts -> copies in the order of experts, and sums back by token.

    token    0    1    2        places                      back by token
    expert  2,0  0,1  2,0   ->  expert 0: 0 1 2        ->   0: places 4, 0
                                expert 1: 1                 1: places 1, 3
                                expert 2: 0 2               2: places 5, 2

Both ways only read rows through a permutation, and each is the gradient of the other. Autograd
alone would add row after row to its place: slowly, and on a GPU in any order.

On a CPU in half precision a piece is filled up to whole blocks with copies of weight zero. oneDNN
compiles a kernel for each new shape and remembers 1,024 of them, 1 MB each: with pieces of any
length nano-moe made 7,660 tokens/s on one core and took 50 MB more with each step, with blocks of
128 it makes 8,720 (nano 10,650).

N tokens · K experts per token · M = N * K copies · P places · E experts
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 128


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Where the copies of tokens lie while the experts work on them.

    `copies_P` says which copy is at a place, `places_M` where a copy is, `ends_E` (int32) where
    the piece of an expert ends, `is_real_P` which places are no filling; None where none is.
    """

    copies_P: Tensor
    places_M: Tensor
    ends_E: Tensor
    is_real_P: Tensor | None = None

    def spread(self, x: Tensor, repeats: int) -> Tensor:
        """Return what is at each place [P, ...], if each row of x has so many copies."""
        at_places: Tensor = _Spread.apply(x, self.copies_P, self.places_M, repeats)
        return at_places

    def collect(self, y_P: Tensor, repeats: int) -> Tensor:
        """Return for each row the sum of its copies."""
        sums: Tensor = _Collect.apply(y_P, self.copies_P, self.places_M, repeats)
        return sums


def dispatch(experts_NK: Tensor, num_experts: int, block: int = 1) -> tuple[Dispatch, Tensor]:
    """Return the places of all copies, and how many each expert got (int32 [E]).

    A piece is filled up to a multiple of `block`; more than 1 asks the device how much that is.
    """
    sorted_M, order_M = experts_NK.flatten().sort(stable=True)
    numbers_E = torch.arange(num_experts, device=sorted_M.device)
    ends_E = torch.searchsorted(sorted_M, numbers_E, right=True, out_int32=True)
    counts_E = ends_E.diff(prepend=ends_E.new_zeros(1))
    ranks_M = torch.arange(len(order_M), device=order_M.device)
    places_M = torch.empty_like(order_M)
    if block == 1:
        places_M[order_M] = ranks_M
        return Dispatch(order_M, places_M, ends_E), counts_E
    sizes_E = (counts_E + block - 1) // block * block
    filled_ends_E = sizes_E.cumsum(0, dtype=torch.int32)
    moved_E = filled_ends_E - sizes_E - (ends_E - counts_E)
    ranks_M += moved_E[sorted_M]
    places_M[order_M] = ranks_M
    copies_P = order_M.new_zeros(int(filled_ends_E[-1]))
    copies_P[ranks_M] = order_M
    is_real_P = torch.zeros_like(copies_P, dtype=torch.bool)
    is_real_P[ranks_M] = True
    return Dispatch(copies_P, places_M, filled_ends_E, is_real_P), counts_E


def best_block(num_copies: int, num_experts: int, device: str, dtype: torch.dtype) -> int:
    """Return the block that suits a device; 1 where filling does not pay."""
    fills = device == "cpu" and dtype != torch.float32 and not torch.compiler.is_compiling()
    return BLOCK if fills and num_copies >= 8 * BLOCK * num_experts else 1


def _spread(x: Tensor, copies_P: Tensor, repeats: int) -> Tensor:
    return x[copies_P // repeats]


def _collect(y_P: Tensor, places_M: Tensor, repeats: int) -> Tensor:
    return y_P[places_M].unflatten(0, (-1, repeats)).sum(dim=1)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, copies_P: Tensor, places_M: Tensor, repeats: int) -> Tensor:
        ctx.save_for_backward(places_M)
        ctx.repeats = repeats
        return _spread(x, copies_P, repeats)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_P: Tensor) -> tuple[Tensor, None, None, None]:
        (places_M,) = ctx.saved_tensors
        return _collect(grad_P, places_M, ctx.repeats), None, None, None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_P: Tensor, copies_P: Tensor, places_M: Tensor, repeats: int) -> Tensor:
        ctx.save_for_backward(copies_P)
        ctx.repeats = repeats
        return _collect(y_P, places_M, repeats)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (copies_P,) = ctx.saved_tensors
        return _spread(grad, copies_P, ctx.repeats), None, None, None
