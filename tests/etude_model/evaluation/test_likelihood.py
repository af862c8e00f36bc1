"""Log-likelihoods with shared contexts and a cache, against one plain forward per request."""

from __future__ import annotations

import random

import pytest
import torch

from etude_model.config import EtudeConfig
from etude_model.evaluation.likelihood import (
    Request,
    cut_left,
    encode_request,
    log_likelihoods,
    num_read,
)
from etude_model.inference.generate import SamplingConfig, generate
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from storage.errors import BadInput


@pytest.fixture(scope="module")
def model(tiny_model_config: EtudeConfig) -> Etude:
    """A model of a context of 32, with weights large enough to prefer some tokens."""
    torch.manual_seed(0)
    return Etude(tiny_model_config.model_copy(update={"initializer_range": 0.2})).eval()


def requests(seed: int) -> list[Request]:
    """Return ragged requests, several of a context, some of a single token, some that fill it."""
    draw = random.Random(seed)
    contexts = [tuple(draw.choices(range(300), k=draw.randint(1, 20))) for _ in range(7)]
    sizes = [1, 1, 1, 1, 2, 5, 12]
    found = [
        (context, tuple(draw.choices(range(300), k=draw.choice(sizes))))
        for context in contexts
        for _ in range(4)
    ]
    found.append((contexts[0], tuple(range(33 - len(contexts[0])))))  # reads all 32 places
    draw.shuffle(found)
    return found


@torch.no_grad()
def slow(model: Etude, request: Request) -> tuple[float, bool]:
    """Return the same by one forward over context and continuation, as the definition says."""
    context, continuation = request
    ids = torch.tensor([[*context, *continuation]])
    log_p = model.logits(model(ids[:, :-1]))[0].log_softmax(dim=-1)[len(context) - 1 :]
    own = log_p.gather(1, torch.tensor(continuation)[:, None])
    return float(own.sum()), log_p.argmax(dim=-1).tolist() == list(continuation)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_equals_one_forward_per_request(model: Etude, batch_size: int) -> None:
    """Catches padding that is seen, a continuation after another's context, an off-by-one."""
    asked = requests(seed=1)
    found = log_likelihoods(model, asked, batch_size=batch_size)
    expected = [slow(model, one) for one in asked]
    assert [one.log_likelihood for one in found] == pytest.approx(
        [nats for nats, _ in expected], rel=1e-5, abs=1e-4
    )
    assert [one.is_greedy for one in found] == [is_greedy for _, is_greedy in expected]


def test_chunks_of_logits_change_nothing(model: Etude, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches tokens that fall between two chunks of the output matrix."""
    whole = log_likelihoods(model, requests(seed=2))
    limits = {"cpu": 7 * model.config.vocab_size}
    monkeypatch.setattr("etude_model.evaluation.likelihood.CHUNK_LOGITS", limits)
    chunked = log_likelihoods(model, requests(seed=2))
    for one, other in zip(whole, chunked, strict=True):
        assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-5)


def test_what_greedy_decoding_writes_is_greedy(model: Etude) -> None:
    """Catches a flag that looks at the first token only: the last one is then exchanged."""
    prompt = [1, 40, 50]
    sampling = SamplingConfig(max_new_tokens=5, temperature=0.0, repetition_penalty=1.0)
    written = generate(model, [prompt], sampling, stop_ids=[])[0].token_ids
    other = [*written[:-1], (written[-1] + 1) % model.config.vocab_size]
    asked = [(tuple(prompt), tuple(written)), (tuple(prompt), tuple(other))]
    assert [one.is_greedy for one in log_likelihoods(model, asked)] == [True, False]


def test_bad_requests_are_refused(model: Etude) -> None:
    """Catches a context that is cut in silence, and an empty continuation of likelihood 1."""
    too_long = (tuple(range(30)), (1, 2, 3, 4))
    with pytest.raises(BadInput, match="request 0 has 33 tokens, the model reads 32"):
        log_likelihoods(model, [too_long])
    with pytest.raises(BadInput, match="request 1 has an empty part"):
        log_likelihoods(model, [((1,), (2,)), ((1,), ())])
    assert log_likelihoods(model, []) == []
    cut = cut_left(too_long, 32)
    assert cut == (tuple(range(1, 30)), (1, 2, 3, 4)) and num_read(cut) == 32
    assert cut_left(cut, 32) == cut


@pytest.mark.parametrize("context", ["old bridge", "答案：", "river  ", ""])
def test_cut_between_context_and_continuation(context: str, tiny_tokenizer: Tokenizer) -> None:
    """Catches a continuation encoded by itself: its tokens are those within the whole text."""
    for continuation in (" A", " city river", "河山"):
        (first, *before), after = encode_request(tiny_tokenizer, context, continuation)
        assert first == tiny_tokenizer.bos_id
        assert before == tiny_tokenizer.encode(context.rstrip())
        assert tiny_tokenizer.decode([*before, *after]) == context + continuation
        assert list(after) == tiny_tokenizer.encode(context + continuation)[len(before) :]
