"""Windows, stretched RoPE and experts through cache, packing and causality; the varlen branch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from etude_model.architecture import EtudeConfig
from etude_model.model import attention, sight
from etude_model.model.attention import MultiHeadAttention, SingleHeadAttention
from etude_model.model.cache import KVCache
from etude_model.model.rope import rotate, rotations
from etude_model.model.sight import Sight, document_starts, has_varlen
from etude_model.model.transformer import Etude

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "context_length": 64,
}
YARN = {"rope_scaling": {"factor": 4.0, "original_context_length": 16}}
WINDOWS = {"sliding_window": 4, "full_attention_every": 3}
EXPERTS = {"num_experts": 4, "router_score": "sigmoid", "num_shared_experts": 1}
KINDS = {"yarn": YARN, "windows": WINDOWS, "experts": EXPERTS, "all": YARN | WINDOWS | EXPERTS}


def build(**changes: Any) -> Etude:
    """Return a small model whose weights are large enough to make mistakes visible."""
    torch.manual_seed(0)
    model = Etude(EtudeConfig(**SHAPE | changes))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_cache_equals_full_forward_for_every_prefix(kind: str) -> None:
    """Catches windows or positions that a cache counts otherwise than a whole row."""
    model = build(**KINDS[kind])
    tokens = torch.randint(97, (3, 24))
    for cuts in (range(25), (0, 5, 6, 17, 24)):
        cache = KVCache(model.config, num_rows=3, capacity=24)
        with torch.no_grad():
            parts = [model(tokens[:, a:b], cache=cache) for a, b in pairwise(cuts)]
            torch.testing.assert_close(torch.cat(parts, 1), model(tokens), atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_document_is_as_if_alone(kind: str) -> None:
    """Catches windows that reach into the neighbour, or a choice of experts by the batch."""
    model = build(**KINDS[kind])
    tokens = torch.randint(97, (1, 20))
    segments = torch.tensor([[0] * 7 + [1] * 13])
    with torch.no_grad():
        packed = model(tokens, segments_BT=segments)[:, 7:]
        torch.testing.assert_close(packed, model(tokens[:, 7:]), atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_causal", [True, False])
def test_tokens_see_what_the_layers_let_through(kind: str, is_causal: bool) -> None:
    """Catches a leak: compares who influences whom with the masks of all layers multiplied."""
    model = build(**KINDS[kind])
    tokens, places = torch.randint(97, (1, 14)), torch.arange(14)
    segments = torch.tensor([[0] * 11 + [1] * 3])
    distance = places[:, None] - places
    same = segments[0][:, None] == segments[0]
    reach = torch.eye(14)
    for layer_type in model.config.layer_types:
        window = 4 if layer_type == "sliding_attention" else 99
        near = (distance >= 0) & (distance < window) if is_causal else distance.abs() <= window
        reach = (near & same).float() @ reach
    embedded = model.model.embed_tokens(tokens).detach().requires_grad_()
    hook = model.model.embed_tokens.register_forward_hook(lambda *_: embedded)
    hidden = model(tokens, segments_BT=segments, is_causal=is_causal)[0]
    hook.remove()
    rows = [
        torch.autograd.grad(row.sum() + row[0], embedded, retain_graph=True)[0][0] for row in hidden
    ]
    seen = torch.stack(rows).abs().sum(-1) > 0
    assert torch.equal(seen, reach > 0)
    assert not seen[-1].all()


def test_one_head_is_the_textbook_formula() -> None:
    """Catches a fused kernel that is not softmax(q k / sqrt(K)) v, in one and in many heads."""
    config = EtudeConfig(**SHAPE | {"num_heads": 1, "num_kv_heads": 1})
    torch.manual_seed(0)
    many = MultiHeadAttention(config)
    one = SingleHeadAttention(config.hidden_size, config.head_dim)
    weights = {name: value for name, value in many.state_dict().items() if "o_proj" not in name}
    one.load_state_dict(weights)
    x_TD = torch.randn(9, 32)
    cos, sin = rotations(torch.arange(9)[None], head_dim=8, theta=10000.0)
    shared = Sight(cos, sin, None, is_causal=True)

    def turned(projected_TK: Tensor) -> Tensor:
        unit_TK = projected_TK / (projected_TK.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return rotate(unit_TK[None, :, None], cos, sin)[0, :, 0]

    q_TK, k_TK = turned(x_TD @ one.q_proj.weight.T), turned(x_TD @ one.k_proj.weight.T)
    rows = []
    for token in range(9):
        scores = torch.stack([q_TK[token] @ k_TK[past] for past in range(token + 1)]) / 8**0.5
        shares = scores.exp() / scores.exp().sum()
        values = (x_TD @ one.v_proj.weight.T)[: token + 1]
        rows.append((shares[:, None] * values).sum(dim=0))
    textbook = torch.stack(rows)
    torch.testing.assert_close(one(x_TD[None], shared)[0], textbook, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        many(x_TD[None], shared)[0], textbook @ many.o_proj.weight.T, atol=1e-5, rtol=1e-5
    )


def test_documents_start_where_numbers_change_and_rows_begin() -> None:
    """Catches documents that run on into the next row of the batch."""
    segments = torch.tensor([[0, 0, 1, 1, -1, -1], [-1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    starts = document_starts(segments, multiple=8)
    assert starts.dtype == torch.int32
    assert starts.tolist() == [0, 2, 4, 6, 7, 12, 18, 18]
    assert document_starts(segments, multiple=6).tolist() == [0, 2, 4, 6, 7, 12] + [18] * 6


def documents_one_by_one(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    ends: Tensor,
    longest: int,
    also: int,
    **how: Any,
) -> Tensor:
    """Do what torch's varlen_attn does, as its documentation says, without its kernel."""
    assert torch.equal(starts, ends)
    assert longest == also >= starts.diff().max()
    left, right = how["window_size"]
    pieces = []
    for start, end in pairwise(starts.tolist()):
        places = torch.arange(end - start)
        distance = places[:, None] - places
        mask = torch.ones_like(distance, dtype=torch.bool)
        mask &= distance <= left if left >= 0 else mask
        mask &= -distance <= right if right >= 0 else mask
        heads = [one[start:end].transpose(0, 1)[None] for one in (q, k, v)]
        if end > start:
            out = F.scaled_dot_product_attention(
                *heads, attn_mask=mask, enable_gqa=how.get("enable_gqa", False)
            )
            pieces.append(out[0].transpose(0, 1))
    return torch.cat(pieces)


def documents_without_groups(*tensors: Any, window_size: tuple[int, int]) -> Tensor:
    """Do the same with the arguments of torch 2.11, where each head brings its own keys."""
    return documents_one_by_one(*tensors, window_size=window_size)


@pytest.mark.parametrize("kernel", [documents_one_by_one, documents_without_groups])
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("changes", [{}, WINDOWS, {"num_kv_heads": 4}])
def test_the_varlen_branch_equals_the_mask(
    kernel: Callable[..., Tensor],
    is_causal: bool,
    changes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches wrong starts, windows, groups or shapes in the branch that only a GPU takes."""
    model = build(**changes)
    tokens = torch.randint(97, (3, 16))
    segments = torch.tensor([[0] * 5 + [1] * 9 + [-1] * 2, [0] * 16, [3] * 8 + [4] * 8])
    with torch.no_grad():
        masked = model(tokens, segments_BT=segments, is_causal=is_causal)
        monkeypatch.setattr(sight, "has_varlen", lambda *_: True)
        monkeypatch.setattr(attention, "varlen_attention", kernel)
        takes_groups = kernel is documents_one_by_one
        monkeypatch.setattr(attention, "varlen_takes_groups", takes_groups)
        packed = model(tokens, segments_BT=segments, is_causal=is_causal)
    torch.testing.assert_close(packed, masked, atol=3e-5, rtol=1e-5)


def test_the_varlen_kernel_is_for_half_precision_on_gpus() -> None:
    """Catches a CPU or float32 run sent to a kernel that does not exist there."""
    assert not has_varlen(torch.device("cpu"), torch.bfloat16)
    assert not has_varlen(torch.device("cuda"), torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.skipif(sight.varlen_attention is None, reason="this torch has no varlen with windows")
@pytest.mark.parametrize("changes", [{}, WINDOWS, EXPERTS])
def test_on_a_gpu_packed_rows_equal_masked_rows(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a varlen or grouped kernel that differs from the CPU's float32, with gradients."""
    model = build(**{"head_dim": 64, "hidden_size": 128, "intermediate_size": 384} | changes)
    tokens = torch.randint(97, (4, 64))
    segments = torch.arange(64).div(13, rounding_mode="floor").expand(4, -1).contiguous()
    expected = model(tokens, segments_BT=segments)
    expected.square().mean().backward()
    grads = [weight.grad for weight in model.parameters()]
    model.zero_grad()
    model.cuda()
    assert has_varlen(torch.device("cuda"), torch.bfloat16)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = model(tokens.cuda(), segments_BT=segments.cuda())
    found.square().mean().backward()
    assert (found.cpu() - expected).norm() < 0.03 * expected.norm()
    for weight, grad in zip(model.parameters(), grads, strict=True):
        assert weight.grad is not None and grad is not None
        assert (weight.grad.cpu() - grad).norm() < 0.1 * grad.norm() + 1e-6


def test_blocks_compile_into_one_graph() -> None:
    """Catches a graph break, or a graph per layer, that would undo the gain of compiling."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    torch.manual_seed(0)
    config = EtudeConfig(**SHAPE | EXPERTS | {"num_layers": 4, "num_dense_layers": 2})
    model, tokens = Etude(config).train(), torch.randint(97, (2, 16))
    counter = CompileCounter()
    losses = []
    for is_compiled in (False, True):
        if is_compiled:
            for layer in model.model.layers:
                layer.compile(backend=counter, fullgraph=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses.append(model.loss(model(tokens), tokens)[0])
    assert counter.frame_count == 2  # one for dense layers, one for those with experts
    assert torch.equal(*losses)
    counts = model.take_expert_counts()
    assert counts is not None
    assert counts.sum(dim=1).tolist() == [2 * 2 * 16 * 2] * 2
