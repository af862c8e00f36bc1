"""What a CPU computes in another way than a GPU: norms and rotations in one step, attention.

A processor spends a chain of element-wise operations on reading and writing memory, and autograd
keeps what lies between them. Written as one step with its own gradient, a chain reads less, and
keeps its input only. On a GPU `torch.compile` fuses the plain operations, so they stay there.

    rms_norm      y = x r w                              r = 1 / sqrt(mean(x^2) + eps)
    norm_rotate   y = rotate(x r w) = (x a + swap(x) b) r    a = w cos, b = swap(w) (-sin, sin)

where swap exchanges the halves of a head. The tables a and b are small: the weight is multiplied
into them instead of into every token.

Preset nano, 4,096 tokens, one core, forward and backward: a norm 2.95 -> 1.31 ms, the queries' norm
and rotation 6.5 -> 2.6 in float32, 9.2 -> 3.4 in bfloat16.

B rows · T tokens · S keys · H heads · K head_dim · D numbers of a vector
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LONGEST_OWN = 512  # tokens; above, the probabilities would take more memory than they are worth
MOST_IN_FLOAT = 1 << 13  # numbers of a head; torch's kernel then trains faster in float32
BLOCK = 128  # queries at once: fewer compute less above the diagonal, but call more kernels


def is_fused(x: Tensor) -> bool:
    """Say whether the functions of this module are the faster way for `x`."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight over the last axis; computed in float32."""
    y: Tensor = _RMSNorm.apply(x, weight_D, eps)
    return y


def norm_rotate(x_BTHK: Tensor, weight_K: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """Return rms_norm turned by the angles of cos and sin [B or 1, T, 1, K/2], in float32."""
    y_BTHK: Tensor = _NormRotate.apply(x_BTHK, weight_K, eps, cos, sin)
    return y_BTHK


def joint_linear(x: Tensor, *linears: nn.Linear) -> Sequence[Tensor]:
    """Return what each linear makes of x; in training on a CPU as one product with all weights.

    Only plain ones without biases are joined, so an adapter beside one of them takes part.
    """
    is_plain = all(type(one) is nn.Linear and one.bias is None for one in linears)
    if not (is_plain and is_fused(x) and torch.is_grad_enabled()):
        return [one(x) for one in linears]
    joined = F.linear(x, torch.cat([one.weight for one in linears]))
    return joined.split([one.out_features for one in linears], dim=-1)


def attention(
    q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, mask: Tensor | None, *, is_causal: bool
) -> Tensor:
    """Return softmax(q k^T / sqrt(K) + mask) v [B, H, T, K] in the dtype of the values.

    A mask [B, 1, T, S] is added, and says itself that no query looks ahead if `is_causal`.

    Torch's kernel, but for training in half precision on a CPU: there its gradient takes longer
    than in float32, and on short causal rows `_CausalAttention` less (16 rows of 256 tokens, 4
    heads of 32, two cores: 16.1, 12.6 and 9.2 ms; 8 rows of 512, 8 heads of 64: 52, 70 and 44).
    Other short rows take the kernel in float32 (32 rows of 200 tokens in both directions, 4 heads
    of 32: 45 -> 28 ms; of 26 tokens, 6 heads of 64: 12 -> 4 ms; of 200 tokens both take 78 ms).
    """
    dtype, (num_tokens, width) = v_BGSK.dtype, q_BHTK.shape[2:]
    is_half = dtype in (torch.bfloat16, torch.float16)
    if is_half and is_fused(q_BHTK) and torch.is_grad_enabled():
        is_square = is_causal and num_tokens == k_BGSK.shape[2]
        if is_square and num_tokens <= LONGEST_OWN:
            own_BHTK: Tensor = _CausalAttention.apply(q_BHTK, k_BGSK, v_BGSK, mask)
            return own_BHTK
        if num_tokens * width <= MOST_IN_FLOAT:
            q_BHTK, k_BGSK, v_BGSK = q_BHTK.float(), k_BGSK.float(), v_BGSK.float()
            mask = None if mask is None else mask.float()
            with torch.autocast("cpu", enabled=False):
                wide_BHTK = _torch_attention(q_BHTK, k_BGSK, v_BGSK, mask, is_causal=is_causal)
            return wide_BHTK.to(dtype)
    q_BHTK, k_BGSK = q_BHTK.to(dtype), k_BGSK.to(dtype)
    return _torch_attention(q_BHTK, k_BGSK, v_BGSK, mask, is_causal=is_causal)


def _torch_attention(
    q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, mask: Tensor | None, *, is_causal: bool
) -> Tensor:
    return F.scaled_dot_product_attention(
        q_BHTK,
        k_BGSK,
        v_BGSK,
        attn_mask=mask,
        is_causal=is_causal and mask is None,
        enable_gqa=q_BHTK.shape[1] != k_BGSK.shape[1],
    )


def _inverse_size(x: Tensor, eps: float) -> Tensor:
    """Return 1 / sqrt(mean(x^2) + eps) over the last axis, which stays with size 1."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _norm_backward(grad: Tensor, x: Tensor, r: Tensor, weight_D: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and weight, given float32 ones."""
    x_hat = x * r
    flat = (grad * x_hat).flatten(0, -2)
    grad_weight = flat.sum(0)
    with torch.autocast("cpu", enabled=False):
        along = (flat @ weight_D).div_(-x.shape[-1]).view(r.shape)
    grad_x = (grad * weight_D).addcmul_(x_hat, along).mul_(r)
    return grad_x, grad_weight


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        wide = x.float()
        r = _inverse_size(wide, eps)
        ctx.save_for_backward(x, weight_D, r)
        return (wide * r).mul_(weight_D).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight_D, r = ctx.saved_tensors
        grad_x, grad_weight = _norm_backward(grad.float(), x.float(), r, weight_D.float())
        return grad_x.to(x.dtype), grad_weight.to(weight_D.dtype), None


class _NormRotate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BTHK: Tensor, weight_K: Tensor, eps: float, cos: Tensor, sin: Tensor
    ) -> Tensor:
        wide = x_BTHK.float()
        r = _inverse_size(wide, eps)
        ctx.save_for_backward(x_BTHK, weight_K, r, cos, sin)
        num_heads = x_BTHK.shape[2]
        same = _table(cos, cos, num_heads) * weight_K
        other = _table(-sin, sin, num_heads) * _swap(weight_K.float())
        return (wide * same).addcmul_(_swap(wide), other).mul_(r)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x_BTHK, weight_K, r, cos, sin = ctx.saved_tensors
        num_heads = x_BTHK.shape[2]
        # Turn back: the same angles, the other way round.
        turned = grad * _table(cos, cos, num_heads)
        turned.addcmul_(_swap(grad), _table(sin, -sin, num_heads))
        grad_x, grad_weight = _norm_backward(turned, x_BTHK.float(), r, weight_K.float())
        return grad_x.to(x_BTHK.dtype), grad_weight.to(weight_K.dtype), None, None, None


def _table(first: Tensor, second: Tensor, num_heads: int) -> Tensor:
    """Return both halves of a table side by side, [., T, H, K]: repeated, so that rows are long."""
    return torch.cat([first, second], dim=-1).expand(-1, -1, num_heads, -1).contiguous()


def _swap(x: Tensor) -> Tensor:
    """Exchange the halves of the last axis."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([second, first], dim=-1)


class _CausalAttention(torch.autograd.Function):
    """Causal attention over blocks of queries, each with the keys up to its own end.

    Scores and softmax are float32; probabilities are kept for the backward pass in the values'
    half precision, H T / 2 numbers a token, and all its products run in that. The query heads
    that share a key lie above each other, so that a block is one product (R = H / G of them).

        block 0   x                N = B G of these pictures
        block 1   x x
        block 2   x x x
    """

    @staticmethod
    def forward(
        ctx: Any, q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, mask: Tensor | None
    ) -> Tensor:
        num_rows, _, num_tokens, width = q_BHTK.shape
        groups, half = k_BGSK.shape[1], v_BGSK.dtype
        q_BGRTK = q_BHTK.float().unflatten(1, (groups, -1)) * width**-0.5
        k_NSK, v_NSK = k_BGSK.float().flatten(0, 1), v_BGSK.flatten(0, 1)
        out_BGRTK = _heads_last(q_BGRTK, half)
        size = min(BLOCK, num_tokens)
        if mask is None:
            later = torch.full((size, size), float("-inf")).triu_(1)
        kept = []
        with torch.autocast("cpu", enabled=False):
            for start in range(0, num_tokens, size):
                end = min(start + size, num_tokens)
                q_NCK = q_BGRTK[:, :, :, start:end].reshape(len(k_NSK), -1, width)
                scores_NCS = torch.bmm(q_NCK, k_NSK[:, :end].mT)
                if mask is None:  # the square on the diagonal is all that lies ahead
                    square = scores_NCS.unflatten(1, (-1, end - start))[..., start:]
                    square += later[: end - start, : end - start]
                else:
                    scores_BHCS = scores_NCS.view(num_rows, -1, end - start, end)
                    scores_BHCS += mask[:, :, start:end, :end]
                p_NCS = torch.softmax(scores_NCS, dim=-1).to(half)
                answer_NCK = torch.bmm(p_NCS, v_NSK[:, :end])
                out_BGRTK[:, :, :, start:end] = answer_NCK.view(
                    num_rows, groups, -1, end - start, width
                )
                kept += [p_NCS, q_NCK.to(half)]
        ctx.save_for_backward(k_NSK.to(half), v_NSK, *kept)
        ctx.dtypes = q_BHTK.dtype, k_BGSK.dtype
        return out_BGRTK.flatten(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHTK: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        k_NSK, v_NSK, *kept = ctx.saved_tensors
        width = grad_BHTK.shape[-1]
        groups = len(k_NSK) // len(grad_BHTK)
        grad_BGRTK = grad_BHTK.to(v_NSK.dtype).unflatten(1, (groups, -1))
        grad_q_BGRTK = _heads_last(grad_BGRTK, torch.float32)
        grad_k_NSK, grad_v_NSK = (torch.zeros(k_NSK.shape) for _ in "kv")
        start = 0
        with torch.autocast("cpu", enabled=False):
            for p_NCS, q_NCK in zip(kept[::2], kept[1::2], strict=True):
                end = p_NCS.shape[-1]
                grad_NCK = grad_BGRTK[:, :, :, start:end].reshape(q_NCK.shape)
                grad_v_NSK[:, :end] += torch.bmm(p_NCS.mT, grad_NCK)
                grad_p_NCS = torch.bmm(grad_NCK, v_NSK[:, :end].mT)
                # p (grad - sum(p grad)): the softmax's own backward kernel
                grad_s_NCS = torch._softmax_backward_data(grad_p_NCS, p_NCS, -1, p_NCS.dtype)
                grad_q_NCK = torch.bmm(grad_s_NCS, k_NSK[:, :end])
                grad_q_BGRTK[:, :, :, start:end] = grad_q_NCK.view(
                    *grad_q_BGRTK.shape[:3], end - start, width
                )
                grad_k_NSK[:, :end] += torch.bmm(grad_s_NCS.mT, q_NCK)
                start = end
        grad_q_BHTK = grad_q_BGRTK.mul_(width**-0.5).flatten(1, 2).to(ctx.dtypes[0])
        shape = (len(grad_BHTK), groups, -1, width)
        grad_k_BGSK = grad_k_NSK.view(shape).to(ctx.dtypes[1])
        return grad_q_BHTK, grad_k_BGSK, grad_v_NSK.view(shape).to(v_NSK.dtype), None


def _heads_last(like_BGRTK: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an empty tensor of that shape whose memory is ordered [B, T, G, R, K], as linears'."""
    rows, groups, heads, tokens, width = like_BGRTK.shape
    return torch.empty(rows, tokens, groups, heads, width, dtype=dtype).permute(0, 2, 3, 1, 4)
