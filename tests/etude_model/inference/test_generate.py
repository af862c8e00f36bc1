"""Generation against the naive loop without cache, and each row against itself alone."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import pytest
import torch

from etude_model.config import EtudeConfig
from etude_model.inference.generate import SamplingConfig, generate, stream
from etude_model.inference.sampling import gumbel_noise, next_tokens
from etude_model.model.transformer import Etude
from storage.errors import BadInput

NO_STOP: set[int] = set()
PROMPTS = [[5], [7, 1, 9, 9, 3, 2, 8], [4, 4, 4], [60, 59, 58, 57, 56, 55, 54, 53, 52, 51], [5, 6]]


@pytest.fixture(scope="module")
def model() -> Etude:
    """A small model with lively logits."""
    torch.manual_seed(0)
    model = Etude(
        EtudeConfig(
            vocab_size=61,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=8,
            intermediate_size=48,
            context_length=48,
        )
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return model.eval()


def naive(model: Etude, prompt: list[int], num_tokens: int) -> list[int]:
    """Continue greedily with a full forward pass per token."""
    ids = list(prompt)
    for _ in range(num_tokens):
        with torch.no_grad():
            ids.append(int(model.logits(model(torch.tensor([ids])))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_ragged_batch_equals_the_naive_loop(model: Etude) -> None:
    """Catches wrong positions, masks or slots for the shorter prompts of a batch."""
    sampling = SamplingConfig(max_new_tokens=20, temperature=0)
    found = generate(model, PROMPTS, sampling, stop_ids=NO_STOP)
    assert [one.token_ids for one in found] == [naive(model, prompt, 20) for prompt in PROMPTS]
    assert {one.finish_reason for one in found} == {"length"}


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(max_new_tokens=25, temperature=0),
        SamplingConfig(max_new_tokens=25, temperature=1.0, seed=3),
        SamplingConfig(max_new_tokens=25, top_k=9, top_p=0.9, repetition_penalty=1.3, seed=4),
    ],
    ids=["greedy", "plain", "all-knobs"],
)
def test_a_row_does_not_depend_on_its_neighbours(model: Etude, sampling: SamplingConfig) -> None:
    """Catches noise, penalties or cache slots shared between rows, also after some rows stop."""
    stops = {11, 23, 42, 50}
    alone = [generate(model, [prompt], sampling, stop_ids=stops)[0] for prompt in PROMPTS]
    assert generate(model, PROMPTS, sampling, stop_ids=stops) == alone
    assert generate(model, PROMPTS[::-1], sampling, stop_ids=stops) == alone[::-1]
    streamed = [list(stream(model, prompt, sampling, stops)) for prompt in PROMPTS]
    assert streamed == [one.token_ids for one in alone]


def test_stop_tokens_end_a_row_and_are_not_part_of_it(model: Etude) -> None:
    """Catches a stop token in the text, a row that goes on, and one that ends its neighbours."""
    sampling = SamplingConfig(max_new_tokens=20, temperature=0)
    free = [naive(model, prompt, 20) for prompt in PROMPTS]
    stop = free[1][4]
    found = generate(model, PROMPTS, sampling, stop_ids={stop})
    for one, ids in zip(found, free, strict=True):
        assert one.token_ids == list(itertools.takewhile(lambda token: token != stop, ids))
        assert one.finish_reason == ("stop" if stop in ids else "length")
    assert found[1].finish_reason == "stop"


def test_seeds_decide_and_nothing_else(model: Etude) -> None:
    """Catches a sample that depends on torch's global generator, or a seed without effect."""
    first = generate(model, PROMPTS, SamplingConfig(max_new_tokens=20, seed=1), stop_ids=NO_STOP)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = generate(model, PROMPTS, SamplingConfig(max_new_tokens=20, seed=1), stop_ids=NO_STOP)
    other = generate(model, PROMPTS, SamplingConfig(max_new_tokens=20, seed=2), stop_ids=NO_STOP)
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())
    same = [PROMPTS[1]] * 2
    one, two = generate(
        model, same, SamplingConfig(max_new_tokens=20), stop_ids=NO_STOP, seeds=[1, 2]
    )
    assert one == first[1] and two != one


def test_sampled_frequencies_follow_the_softmax() -> None:
    """Catches noise that is not Gumbel, or repeats: 20,000 draws must match the probabilities."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5]).expand(20_000, 5)
    sampling = SamplingConfig(temperature=0.7)
    seeds = torch.arange(20_000)
    drawn = next_tokens(
        logits, sampling, seen_BV=torch.zeros(20_000, 5, dtype=torch.bool), seeds_B=seeds, step=3
    )
    shares = torch.bincount(drawn, minlength=5) / 20_000
    torch.testing.assert_close(shares, (logits[0] / 0.7).softmax(-1), atol=0.012, rtol=0)
    noise = gumbel_noise(seeds[:100], 0, 1000)
    assert abs(noise.mean() - 0.5772) < 0.02 and abs(noise.std() - 1.2825) < 0.02
    later = gumbel_noise(seeds[:100], 1, 1000)
    assert len(torch.cat([noise, later]).unique()) == 2 * noise.numel()


def draw(logits: list[float], sampling: SamplingConfig, seen: Collection[int] = ()) -> set[int]:
    """Return all tokens that 3,000 draws give."""
    rows = torch.tensor(logits).expand(3000, -1)
    seen_BV = torch.zeros(rows.shape, dtype=torch.bool)
    seen_BV[:, list(seen)] = True
    drawn = next_tokens(rows, sampling, seen_BV=seen_BV, seeds_B=torch.arange(3000), step=0)
    return set(drawn.tolist())


def test_knobs_cut_what_they_should() -> None:
    """Catches a top-k, top-p or penalty that is off by one, inverted, or applied to all."""
    probabilities = torch.tensor([0.05, 0.5, 0.15, 0.3]).log().tolist()
    plain = {"temperature": 1.0}
    assert draw(probabilities, SamplingConfig(**plain)) == {0, 1, 2, 3}
    assert draw(probabilities, SamplingConfig(**plain, top_k=2)) == {1, 3}
    assert draw(probabilities, SamplingConfig(**plain, top_k=99)) == {0, 1, 2, 3}
    assert draw(probabilities, SamplingConfig(**plain, top_p=0.79)) == {1, 3}
    assert draw(probabilities, SamplingConfig(**plain, top_p=0.81)) == {1, 2, 3}
    assert draw(probabilities, SamplingConfig(**plain, top_p=1e-9)) == {1}
    greedy = {"temperature": 0, "repetition_penalty": 2.0}
    assert draw([3.0, 2.0, -1.0], SamplingConfig(**greedy), seen={0}) == {1}
    assert draw([-3.0, -2.0, -1.7], SamplingConfig(**greedy), seen={2}) == {1}


def test_the_penalty_spares_what_ends_a_row(model: Etude) -> None:
    """Catches answers that never end because their question ended with the same token."""
    pairs = itertools.product(range(61), repeat=2)
    asked = next([one, two] for one, two in pairs if naive(model, [one, two], 1)[0] == one)
    greedy = SamplingConfig(max_new_tokens=1, temperature=0, repetition_penalty=1e9)
    assert generate(model, [asked], greedy, stop_ids=NO_STOP)[0].token_ids != asked[:1]
    assert generate(model, [asked], greedy, stop_ids={asked[0]})[0].finish_reason == "stop"


def test_what_cannot_be_written_is_refused(model: Etude) -> None:
    """Catches silent truncation: prompt and room must fit, and the message has the numbers."""
    fits = SamplingConfig(max_new_tokens=40, temperature=0)
    assert len(generate(model, [[1] * 8], fits, stop_ids=NO_STOP)[0].token_ids) == 40
    with pytest.raises(BadInput, match=r"prompt 1 has 9 tokens .*=40.*context_length=48.*most 39"):
        generate(model, [[1], [1] * 9], fits, stop_ids=NO_STOP)
    with pytest.raises(BadInput, match="prompt 0 is empty"):
        generate(model, [[]], fits, stop_ids=NO_STOP)
    with pytest.raises(BadInput, match="outside 0 to 60"):
        generate(model, [[61]], fits, stop_ids=NO_STOP)
    with pytest.raises(BadInput, match="1 seeds for 2 prompts"):
        generate(model, [[1], [2]], fits, stop_ids=NO_STOP, seeds=[1])
    assert generate(model, [], fits, stop_ids=NO_STOP) == []


def test_generating_leaves_a_training_model_training(model: Etude) -> None:
    """Catches samples during training that switch dropout off, or break the next backward."""
    model.train()
    tokens = stream(model, [1], SamplingConfig(max_new_tokens=5), NO_STOP)
    next(tokens)
    del tokens
    assert model.training
    model.loss(model(torch.tensor([[1, 2]])), torch.tensor([[2, 3]]))[0].backward()
    model.zero_grad()
    model.eval()
