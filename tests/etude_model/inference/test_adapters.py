"""Several adapters in one batch: each row as if its adapter were the only one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from etude_model.config import EtudeConfig, LoraConfig
from etude_model.inference.adapters import Adapters
from etude_model.inference.generate import SamplingConfig, generate, stream
from etude_model.model.lora import add_lora, load_lora, lora_state_dict, merge_lora, save_lora
from etude_model.model.transformer import Etude
from storage.errors import BadInput

SHAPE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "context_length": 48,
    "initializer_range": 0.3,
}
MODELS = {
    "dense": EtudeConfig(**SHAPE),
    "sparse": EtudeConfig(
        **SHAPE,
        num_experts=4,
        num_shared_experts=1,
        moe_intermediate_size=16,
        router_score="sigmoid",
    ),
}
# Different ranks, targets and methods: what one adapter lacks must not leak from its neighbour.
CONFIGS = {
    "wide": LoraConfig(rank=5, alpha=9),
    "narrow": LoraConfig(rank=2, use_rslora=True, targets=("q_proj", "up_proj")),
    "dora": LoraConfig(rank=3, use_dora=True, targets=("v_proj", "layers.1.self_attn.o_proj")),
}
NAMES = ["narrow", None, "dora", "wide", "narrow"]
PROMPTS = [[5, 6], [7, 1, 9, 9, 3, 2, 8], [4, 4, 4], [60, 59, 58, 57, 56, 55], [5, 6]]
GREEDY = SamplingConfig(max_new_tokens=20, temperature=0, repetition_penalty=1.3)


def plain(kind: str) -> Etude:
    """Return the base model, the same each time."""
    torch.manual_seed(0)
    return Etude(MODELS[kind]).eval()


@pytest.fixture(scope="module", params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    """Dense or sparse."""
    return str(request.param)


@pytest.fixture(scope="module")
def folders(kind: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An adapter folder for each of CONFIGS."""
    home = tmp_path_factory.mktemp(kind)
    for number, (name, config) in enumerate(CONFIGS.items()):
        model = plain(kind)
        add_lora(model, config)
        torch.manual_seed(number + 1)
        with torch.no_grad():
            for key, weight in lora_state_dict(model).items():
                if "lora_B" in key:
                    weight.normal_(0, 0.3)
                elif "magnitude" in key:
                    weight *= torch.empty_like(weight).uniform_(0.3, 2)
        save_lora(model, home / name, config)
    return {name: home / name for name in CONFIGS}


@pytest.fixture(scope="module")
def alone(kind: str, folders: dict[str, Path]) -> dict[str | None, Etude]:
    """A merged model for each adapter, and the base under None."""
    models: dict[str | None, Etude] = {None: plain(kind)}
    for name, folder in folders.items():
        models[name] = plain(kind)
        load_lora(models[name], folder)
        merge_lora(models[name])
    return models


@pytest.fixture
def adapters(kind: str, folders: dict[str, Path]) -> Adapters:
    """All of them on one model."""
    adapters = Adapters(plain(kind))
    for name, folder in folders.items():
        adapters.load(name, folder)
    return adapters


def model_of(adapters: Adapters) -> Etude:
    """Return the model below."""
    assert isinstance(adapters.model, Etude)
    return adapters.model


@torch.no_grad()
def test_each_row_uses_its_own(adapters: Adapters, alone: dict[str | None, Etude]) -> None:
    """Catches rows that are mixed up, padding that leaks and scales of a neighbour."""
    tokens = torch.randint(0, 61, (5, 30), generator=torch.Generator().manual_seed(0))
    model = model_of(adapters)
    with adapters.rows(NAMES).applied():
        together = model.logits(model(tokens))
    for row, name in enumerate(NAMES):
        single = alone[name].logits(alone[name](tokens[row : row + 1]))[0]
        torch.testing.assert_close(together[row], single, atol=2e-5, rtol=1e-5)
    assert (together[0] - alone[None].logits(alone[None](tokens[:1]))[0]).abs().max() > 0.1
    assert torch.equal(model(tokens), alone[None](tokens))  # outside the block: the base, exactly


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_cached_generation_equals_each_alone(
    adapters: Adapters, alone: dict[str | None, Etude], temperature: float
) -> None:
    """Catches a cache or a row that goes on with another's adapter when a neighbour stops."""
    settings = GREEDY.model_copy(update={"temperature": temperature})
    stops = {3, 17, 40}
    found = generate(
        model_of(adapters), PROMPTS, settings, stop_ids=stops, adapters=adapters.rows(NAMES)
    )
    for prompt, name, completion in zip(PROMPTS, NAMES, found, strict=True):
        assert [completion] == generate(alone[name], [prompt], settings, stop_ids=stops)
    assert len({len(one.token_ids) for one in found}) > 1  # some rows stopped before others


def test_streams_with_different_adapters_do_not_meet(
    adapters: Adapters, alone: dict[str | None, Etude]
) -> None:
    """Catches an adapter that stays on between two tokens, where another stream's pass runs."""
    streams = {
        name: stream(model_of(adapters), [5, 6], GREEDY, {3}, adapters.rows([name]))
        for name in ("wide", None, "dora")
    }
    written: dict[str | None, list[int]] = {name: [] for name in streams}
    for _ in range(GREEDY.max_new_tokens):
        for name, one in streams.items():
            written[name] += [token for token in [next(one, None)] if token is not None]
    for name, tokens in written.items():
        assert tokens == list(stream(alone[name], [5, 6], GREEDY, {3}))
    assert len({tuple(tokens) for tokens in written.values()}) == 3


def test_threads_do_not_meet(adapters: Adapters, alone: dict[str | None, Etude]) -> None:
    """Catches a choice that is kept for the process: a server answers in several threads."""
    results: dict[str | None, list[int]] = {}

    def answer(name: str | None) -> None:
        rows = adapters.rows([name])
        found = generate(model_of(adapters), [[9, 8]], GREEDY, stop_ids=(), adapters=rows)
        results[name] = found[0].token_ids

    threads = [threading.Thread(target=answer, args=(name,)) for name in ("wide", None, "narrow")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, tokens in results.items():
        assert tokens == generate(alone[name], [[9, 8]], GREEDY, stop_ids=())[0].token_ids
    assert len(results) == 3


def test_swapping_spares_what_has_begun(
    adapters: Adapters, alone: dict[str | None, Etude], folders: dict[str, Path]
) -> None:
    """Catches a text that changes its adapter in the middle, and one that is still there after."""
    begun = stream(model_of(adapters), [5, 6], GREEDY, (), adapters.rows(["wide"]))
    first = next(begun)
    adapters.remove("narrow")
    adapters.load("wide", folders["dora"])
    assert [first, *begun] == list(stream(alone["wide"], [5, 6], GREEDY, ()))
    rows = adapters.rows(["wide", "dora", None])
    found = generate(model_of(adapters), [[5, 6]] * 3, GREEDY, stop_ids=(), adapters=rows)
    assert found[0] == found[1] == generate(alone["dora"], [[5, 6]], GREEDY, stop_ids=())[0]
    assert adapters.names == ["wide", "dora"]
    with pytest.raises(BadInput, match="no adapter is called 'narrow'; loaded are: wide, dora"):
        adapters.rows(["narrow"])
    with pytest.raises(BadInput, match="no adapter is called 'narrow'"):
        adapters.remove("narrow")


def test_what_does_not_fit_is_refused(
    adapters: Adapters, kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Catches an adapter of other weights, a wrong number of rows and a model that is no base."""
    torch.manual_seed(9)
    other = Etude(MODELS[kind])
    with pytest.raises(BadInput, match="was trained on base weights"):
        Adapters(other).load("wide", folders["wide"])
    model = model_of(adapters)
    with pytest.raises(BadInput, match="2 adapters for 1 prompts"):
        generate(model, [[5]], GREEDY, stop_ids=(), adapters=adapters.rows(["wide", None]))
    with (
        pytest.raises(ValueError, match="3 rows, but adapters were chosen for 2"),
        adapters.rows(["wide", None]).applied(),
    ):
        model(torch.zeros(3, 4, dtype=torch.int64))
    with pytest.raises(BadInput, match="has an adapter already"):
        Adapters(model)
    with pytest.raises(BadInput, match="holds no adapter"):
        adapters.load("nothing", tmp_path)
    assert adapters.names == list(CONFIGS)
