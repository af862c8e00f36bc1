"""Bits per byte: nats of text targets over their UTF-8 bytes."""

import math

import numpy as np
import pytest
import torch

from etude_model.data.lm import IGNORED, TokenBatch
from etude_model.evaluation.bits_per_byte import bits_per_byte
from etude_model.model.transformer import Etude


def batch_of(ids: list[int], width: int = 32) -> TokenBatch:
    """Return one row of one piece."""
    pad = width - len(ids)
    tokens = torch.tensor([ids + [3] * pad])
    targets = torch.tensor([ids[1:] + [IGNORED] * (pad + 1)])
    return TokenBatch(tokens, targets, torch.tensor([[0] * len(ids) + [-1] * pad]))


@pytest.fixture(scope="module")
def model(tiny_model_config) -> Etude:
    """A model with random weights."""
    torch.manual_seed(0)
    return Etude(tiny_model_config).eval()


@pytest.mark.parametrize("text", ["city river", "北方的城市🌊", "a城"])
def test_bytes_are_those_of_the_text(text, model, tiny_tokenizer):
    """Catches characters counted for bytes: zh is three bytes a character, byte pieces one each."""
    ids = [tiny_tokenizer.bos_id, *tiny_tokenizer.encode(text), tiny_tokenizer.eos_id]
    batch = batch_of(ids)
    token_bytes = tiny_tokenizer.token_bytes
    assert batch.num_target_bytes(token_bytes) == len(text.encode())
    figures = bits_per_byte(model, [("xx", batch)], token_bytes)
    with torch.no_grad():
        logits = model.logits(model(batch.tokens_BT))[0].log_softmax(dim=-1)
    text_targets = range(1, len(ids) - 1)  # the end token stands for no text
    nats = -sum(float(logits[i - 1, ids[i]]) for i in text_targets)
    expected = nats / math.log(2) / len(text.encode())
    assert figures == {"bits_per_byte": pytest.approx(expected, rel=1e-5)} | {
        "bits_per_byte/xx": pytest.approx(expected, rel=1e-5)
    }


def test_overall_is_weighted_by_bytes_not_by_batches(model, tiny_tokenizer):
    """Catches a mean of means, in which a short batch counts as much as a long one."""
    texts = {"en": "old bridge near city", "zh": "河"}
    batches = [
        (language, batch_of([1, *tiny_tokenizer.encode(text), 2]))
        for language, text in texts.items()
    ]
    figures = bits_per_byte(model, batches, tiny_tokenizer.token_bytes)
    sizes = {language: len(text.encode()) for language, text in texts.items()}
    expected = sum(figures[f"bits_per_byte/{name}"] * size for name, size in sizes.items())
    assert figures["bits_per_byte"] == pytest.approx(expected / sum(sizes.values()))


def test_padding_and_untrained_targets_do_not_count(model, tiny_tokenizer):
    """Catches questions of a dialogue counted in the figure of its answers."""
    ids = [1, *tiny_tokenizer.encode("city river"), 2]
    whole, cut = batch_of(ids), batch_of(ids)
    cut.targets_BT[0, : len(ids) // 2] = IGNORED
    token_bytes = tiny_tokenizer.token_bytes
    assert 0 < cut.num_target_bytes(token_bytes) < whole.num_target_bytes(token_bytes)
    assert bits_per_byte(model, [("en", batch_of([1, 2]))], token_bytes) == {}
    assert bits_per_byte(model, [], np.array(token_bytes)) == {}


def test_evaluation_can_be_left(model, tiny_tokenizer):
    """Catches a stop request that waits for a long evaluation to end."""

    def leave() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bits_per_byte(
            model, [("en", batch_of([1, 20, 2]))], tiny_tokenizer.token_bytes, check=leave
        )
