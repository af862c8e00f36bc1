"""The model against transformers' Qwen3, against itself through the cache, and its causality."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from etude_model.config import PRESETS, EtudeConfig, LoraConfig, PretrainConfig, TrainConfig, preset
from etude_model.model.attention import KVCache, MultiHeadAttention, Sight, SingleHeadAttention
from etude_model.model.rope import rotate, rotations
from etude_model.model.sight import additive
from etude_model.model.transformer import Etude, RMSNorm

SHAPE = EtudeConfig(
    vocab_size=97,
    hidden_size=48,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=80,
    context_length=64,
)


def build(seed: int = 0, **changes: object) -> Etude:
    """Return a small model whose weights are large enough to make mistakes visible."""
    torch.manual_seed(seed)
    model = Etude(EtudeConfig(**{**SHAPE.model_dump(), **changes}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return model.eval()


def qwen3(config: EtudeConfig) -> Qwen3ForCausalLM:
    """Return transformers' model of the same shape."""
    same = config.model_dump(
        include={
            "vocab_size",
            "hidden_size",
            "head_dim",
            "intermediate_size",
            "rms_norm_eps",
        }
    )
    return Qwen3ForCausalLM(
        Qwen3Config(
            **same,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            max_position_embeddings=config.context_length,
            tie_word_embeddings=config.tie_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        )
    ).eval()


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_logits_equal_transformers_qwen3(is_tied: bool, num_kv_heads: int) -> None:
    """Catches any slip in norms, RoPE layout, head order, gate order, names or tying."""
    model = build(num_kv_heads=num_kv_heads, tie_embeddings=is_tied)
    theirs = qwen3(model.config)
    missing, unexpected = theirs.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected
    assert missing == (["lm_head.weight"] if is_tied else [])
    theirs.tie_weights()
    for num_tokens in (1, 37, model.config.context_length):
        tokens = torch.randint(97, (2, num_tokens))
        with torch.no_grad():
            ours = model.logits(model(tokens))
            assert ours.dtype == torch.float32
            assert (ours - theirs(tokens).logits).abs().max() <= 1e-5


def test_a_fresh_qwen3_has_the_same_parameters() -> None:
    """Catches a name that differs, in the direction from transformers to us."""
    model = build(tie_embeddings=False)
    names = {name: weight.shape for name, weight in qwen3(model.config).state_dict().items()}
    assert names == {name: weight.shape for name, weight in model.state_dict().items()}


def heads_one_by_one(attention: MultiHeadAttention, x: torch.Tensor, sight: Sight) -> torch.Tensor:
    """Compute a multi-head attention with one SingleHeadAttention per query head."""
    size, share = attention.head_dim, attention.num_heads // attention.num_kv_heads
    outputs = []
    for head in range(attention.num_heads):
        single = SingleHeadAttention(x.shape[-1], size)
        queries = slice(head * size, (head + 1) * size)
        keys = slice(head // share * size, (head // share + 1) * size)
        single.load_state_dict(
            {
                "q_proj.weight": attention.q_proj.weight[queries],
                "k_proj.weight": attention.k_proj.weight[keys],
                "v_proj.weight": attention.v_proj.weight[keys],
                "q_norm.weight": attention.q_norm.weight,
                "k_norm.weight": attention.k_norm.weight,
            }
        )
        outputs.append(single(x, sight))
    return attention.o_proj(torch.cat(outputs, dim=-1))


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("kind", ["causal", "all", "documents"])
def test_single_head_equals_one_head_of_many(num_kv_heads: int, kind: str) -> None:
    """Catches a fused attention that is not the formula, or serves a head with wrong keys."""
    attention = build(num_kv_heads=num_kv_heads).get_submodule("model.layers.0.self_attn")
    assert isinstance(attention, MultiHeadAttention)
    cos, sin = rotations(torch.arange(11)[None], head_dim=16, theta=10000.0)
    segments = torch.tensor([[0] * 4 + [1] * 5 + [-1] * 2])
    mask = additive((segments[:, :, None] == segments[:, None, :])[:, None].tril(), torch.float32)
    sight = Sight(cos, sin, mask if kind == "documents" else None, is_causal=kind == "causal")
    x = torch.randn(1, 11, 48)
    with torch.no_grad():
        expected = heads_one_by_one(attention, x, sight)
        torch.testing.assert_close(attention(x, sight), expected, atol=1e-5, rtol=1e-5)


def influence(model: Etude, **how: object) -> torch.Tensor:
    """Return bool [T, T]: whether output row t has a gradient with respect to input token s."""
    tokens = torch.randint(97, (1, 12))
    embedded = model.model.embed_tokens(tokens).detach().requires_grad_()
    hook = model.model.embed_tokens.register_forward_hook(lambda *_: embedded)
    hidden = model(tokens, **how)[0]
    hook.remove()
    rows = [
        torch.autograd.grad(row.sum() + row[0], embedded, retain_graph=True)[0][0] for row in hidden
    ]
    return torch.stack(rows).abs().sum(-1) > 0


def test_no_token_sees_a_later_one() -> None:
    """Catches a mask that leaks the answer, or one that hides the past."""
    assert torch.equal(influence(build()), torch.ones(12, 12, dtype=torch.bool).tril())


def test_without_causality_every_token_sees_every_other() -> None:
    """Catches embeddings that are silently causal."""
    assert influence(build(), is_causal=False).all()


@pytest.mark.parametrize("is_causal", [True, False])
def test_documents_do_not_see_each_other(is_causal: bool) -> None:
    """Catches a packed row whose documents leak into each other or into padding."""
    segments = torch.tensor([[0] * 5 + [1] * 4 + [-1] * 3])
    same = segments[0][:, None] == segments[0][None]
    seen = influence(build(), segments_BT=segments, is_causal=is_causal)
    assert torch.equal(seen, same.tril() if is_causal else same)


def test_a_packed_document_is_as_if_alone() -> None:
    """Catches positions or masks that make a document depend on where it was packed."""
    model = build()
    tokens = torch.randint(97, (1, 20))
    segments = torch.tensor([[0] * 7 + [1] * 13])
    with torch.no_grad():
        packed = model(tokens, segments_BT=segments)[:, 7:]
        torch.testing.assert_close(packed, model(tokens[:, 7:]), atol=2e-5, rtol=1e-5)


def test_cache_equals_full_forward_for_every_prefix() -> None:
    """Catches wrong positions or masks in decoding: token by token, and in uneven chunks."""
    model = build()
    tokens = torch.randint(97, (3, 24))
    for cuts in (range(25), (0, 5, 6, 17, 24)):
        cache = KVCache(model.config, num_rows=3, capacity=24)
        with torch.no_grad():
            parts = [model(tokens[:, a:b], cache=cache) for a, b in pairwise(cuts)]
            torch.testing.assert_close(torch.cat(parts, 1), model(tokens), atol=2e-5, rtol=1e-5)


def test_cache_refuses_what_it_cannot_hold() -> None:
    """Catches a write beyond the cache's end, and masks that a cache does not know."""
    model = build()
    cache = KVCache(model.config, num_rows=1, capacity=4)
    with pytest.raises(ValueError, match="beyond the cache's 4"):
        model(torch.zeros(1, 5, dtype=torch.int64), cache=cache)
    with pytest.raises(ValueError, match="give no segments_BT"):
        model(torch.zeros(1, 2, dtype=torch.int64), is_causal=False, cache=cache)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_rope_knows_distance_only(query_at: int, key_at: int, shift: int) -> None:
    """Catches angles that do not add up: q.k must not change when both move together."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16)

    def score(query: int, key: int) -> torch.Tensor:
        angles = rotations(torch.tensor([[query], [key]]), head_dim=16, theta=10000.0)
        (cos_q, cos_k), (sin_q, sin_k) = angles[0], angles[1]
        return (rotate(q, cos_q[None], sin_q[None]) * rotate(k, cos_k[None], sin_k[None])).sum()

    expected = score(query_at, key_at)
    torch.testing.assert_close(score(query_at + shift, key_at + shift), expected, atol=2e-3, rtol=0)


def test_autocast_keeps_the_stream_and_trains() -> None:
    """Catches a residual stream that falls to bfloat16, and gradients in the wrong dtype."""
    model = build().train()
    tokens = torch.randint(97, (2, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model(tokens)
        nats, count = model.loss(hidden, tokens)
    full, _ = model.loss(model(tokens), tokens)
    assert hidden.dtype == nats.dtype == torch.float32
    assert count == 32
    assert abs(nats - full) / full < 0.02
    assert RMSNorm(8)(torch.randn(2, 8).bfloat16()).dtype == torch.bfloat16
    nats.backward()
    assert all(
        weight.grad is not None and weight.grad.dtype == torch.float32
        for weight in model.parameters()
    )


@pytest.mark.parametrize("name", ["nano", "micro"])
@pytest.mark.parametrize("is_tied", [True, False])
def test_num_parameters_is_exact(name: str, is_tied: bool) -> None:
    """Catches a formula that forgets a norm or counts a tied matrix twice."""
    config = preset(name, tie_embeddings=is_tied)
    with torch.device("meta"):
        model = Etude(config)
    assert config.num_parameters == sum(weight.numel() for weight in model.parameters())


def test_impossible_configs_are_refused_with_the_fix() -> None:
    """Catches a shape or schedule that would fail much later with an unreadable message."""
    with pytest.raises(ValueError, match="num_heads=5 is not a multiple of num_kv_heads=2"):
        preset("nano", num_heads=5)
    with pytest.raises(ValueError, match="head_dim=33 is odd"):
        preset("nano", head_dim=33)
    with pytest.raises(ValueError, match="choose one of nano"):
        PretrainConfig(preset="nanno")
    with pytest.raises(ValueError, match="num_heads=5"):
        PretrainConfig.model_validate({"model": {"num_heads": 5}})
    with pytest.raises(ValueError, match="warmup_steps=9 is more than num_steps=8"):
        TrainConfig(num_steps=8, warmup_steps=9)
    with pytest.raises(ValueError, match="micro_batch_size"):
        TrainConfig(batch_size=8, micro_batch_size=3)
    with pytest.raises(ValueError, match="targets"):
        LoraConfig(targets=("query",))
    for name in PRESETS:
        PretrainConfig(preset=name).build_model(vocab_size=512)
