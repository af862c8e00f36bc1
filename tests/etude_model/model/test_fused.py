"""The CPU's own chains against the plain operations, values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude_model.model.fused import attention, is_fused, joint_linear, norm_rotate, rms_norm
from etude_model.model.rope import rotate, rotations


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Return torch's norm, in float32."""
    return F.rms_norm(x.float(), weight.shape, weight, 1e-6)


def gradients(y: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Return y and the gradients of its inputs for one and the same random gradient of y."""
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return [y.detach(), *torch.autograd.grad(y, inputs, grad.to(y.dtype))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_equals_torch(dtype: torch.dtype) -> None:
    """Catches a gradient that forgets that the size depends on x."""
    torch.manual_seed(0)
    x = (3 * torch.randn(4, 7, 24)).to(dtype).requires_grad_()
    weight = (torch.rand(24) + 0.5).requires_grad_()
    found = gradients(rms_norm(x, weight, 1e-6), x, weight)
    expected = gradients(plain_norm(x, weight).to(dtype), x, weight)
    tolerance = {} if dtype == torch.float32 else {"rtol": 0.01, "atol": 0.02}
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("num_rows", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_and_rotation_equal_one_after_the_other(num_rows: int, dtype: torch.dtype) -> None:
    """Catches a weight on the wrong half, angles turned the wrong way back, positions by row."""
    torch.manual_seed(0)
    x = torch.randn(3, 5, 2, 8).to(dtype).requires_grad_()
    weight = (torch.rand(8) + 0.5).requires_grad_()
    positions = torch.randint(90, (num_rows, 5))
    cos, sin = rotations(positions, head_dim=8, theta=100.0)
    found = gradients(norm_rotate(x, weight, 1e-6, cos, sin), x, weight)
    expected = gradients(rotate(plain_norm(x, weight), cos, sin), x, weight)
    tolerance = {} if dtype == torch.float32 else {"rtol": 0.01, "atol": 0.02}
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("shape", [(2, 4, 4, 140, 16), (2, 4, 2, 128, 32), (1, 6, 1, 1, 8)])
def test_half_precision_attention_is_no_worse_than_torch(shape: tuple[int, ...]) -> None:
    """Catches a wrong mask in a block, heads in the wrong group, a lost last block."""
    rows, heads, groups, tokens, width = shape
    torch.manual_seed(0)
    q = torch.randn(rows, tokens, heads, width).transpose(1, 2).requires_grad_()
    k = torch.randn(rows, tokens, groups, width).transpose(1, 2).requires_grad_()
    v = torch.randn(rows, tokens, groups, width).transpose(1, 2).bfloat16().requires_grad_()
    own = attention(q, k, v, None, is_causal=True)
    options = {"is_causal": True, "enable_gqa": True}
    exact = F.scaled_dot_product_attention(q, k, v.float(), **options)
    torchs = F.scaled_dot_product_attention(q.bfloat16(), k.bfloat16(), v, **options)
    expected = gradients(exact, q, k, v)
    for one, other, true in zip(
        gradients(own, q, k, v), gradients(torchs, q, k, v), expected, strict=True
    ):
        size = true.float().norm() + 1e-3
        ours, theirs = ((x.float() - true.float()).norm() / size for x in (one, other))
        assert ours < max(1.2 * theirs, 1e-3) and ours < 0.01


@pytest.mark.parametrize("tokens", (60, 300))
def test_half_precision_attention_sees_its_document_only(tokens: int) -> None:
    """Catches a mask of another block or of another row, and keys ahead."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, heads, tokens, 16, requires_grad=True) for heads in (4, 2, 2))
    segments = torch.randint(2, (3, tokens)).cumsum(dim=1) // 20
    seen = (segments[:, :, None] == segments[:, None, :]).tril()[:, None]
    mask = torch.zeros(seen.shape).masked_fill(~seen, float("-inf")).bfloat16()
    own = attention(q, k, v.bfloat16(), mask, is_causal=True)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
    for one, true in zip(gradients(own, q, k, v), gradients(expected, q, k, v), strict=True):
        assert (one.float() - true).norm() < 0.01 * true.norm()
    moved = k.detach().clone()
    moved[0, :, segments[0] == 1] *= 2  # a second document concerns no other
    own = own.detach()
    changed = attention(q, moved, v.bfloat16(), mask, is_causal=True).detach() != own
    assert changed[0, :, segments[0] == 1].any() and not changed[1:].any()
    assert not changed[0, :, segments[0] != 1].any()


@pytest.mark.parametrize("tokens", (60, 300))
def test_half_precision_attention_in_both_directions(tokens: int) -> None:
    """Catches the causal kernel where all see all, and padding that is seen."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, heads, tokens, 32, requires_grad=True) for heads in (4, 2, 2))
    lengths = torch.tensor([5, 40, tokens])[:, None, None, None]
    seen = (torch.arange(tokens) < lengths).expand(-1, -1, tokens, -1)
    mask = torch.zeros(seen.shape).masked_fill(~seen, float("-inf")).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        own = attention(q, k, v.bfloat16(), mask, is_causal=False)
    assert own.dtype == torch.bfloat16
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
    size = 0.003 if tokens == 60 else 0.01  # in float32 inside, or in bfloat16
    for one, true in zip(gradients(own, q, k, v), gradients(expected, q, k, v), strict=True):
        assert (one.float() - true).norm() < size * true.norm()


def test_attention_falls_back_to_torch() -> None:
    """Catches the own kernel where it does not hold: float32, all seeing all, with a mask too."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 6, 8, requires_grad=True) for _ in "qkv")
    mask = torch.zeros(1, 1, 6, 6).masked_fill(torch.ones(6, 6).triu(2).bool(), float("-inf"))
    for dtype in (torch.float32, torch.bfloat16):
        q_, k_, v_ = (x.to(dtype) for x in (q, k, v))
        own = mask.to(dtype)
        for added, is_causal in ((own, True), (own, False), (None, False)):
            with torch.set_grad_enabled(dtype == torch.float32):
                found = attention(q_, k_, v_, added, is_causal=is_causal)
                expected = F.scaled_dot_product_attention(q_, k_, v_, attn_mask=added)
            assert torch.equal(found, expected)
    causal = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.equal(attention(q, k, v, None, is_causal=True), causal)


def test_joint_linear_is_each_linear() -> None:
    """Catches weights in another order, and an adapter that is passed over."""
    torch.manual_seed(0)
    linears = [nn.Linear(8, width, bias=False) for width in (6, 4, 2)]
    x = torch.randn(2, 3, 8, requires_grad=True)
    weights = [one.weight for one in linears]
    own = torch.cat([*joint_linear(x, *linears)], dim=-1)
    expected = torch.cat([one(x) for one in linears], dim=-1)
    pairs = zip(gradients(own, x, *weights), gradients(expected, x, *weights), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other)
    seen: list[int] = []

    class Adapted(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            seen.append(len(input))
            return super().forward(input)

    joint_linear(x, linears[0], Adapted(8, 4, bias=False))
    with torch.no_grad():
        joint_linear(x, *linears)
    assert seen == [2]


def test_only_a_cpu_that_does_not_compile_is_fused() -> None:
    """Catches graph breaks in compiled blocks, and slow chains on a GPU."""
    assert is_fused(torch.zeros(1))
    assert not is_fused(torch.zeros(1, device="meta"))
