"""Bits per byte: nats of text targets over their UTF-8 bytes."""

import math

import numpy as np
import pytest
import torch

from etude_model.data.lm import IGNORED, TokenBatch
from etude_model.evaluation.bits_per_byte import bits_per_byte, text_batches
from etude_model.model.transformer import Etude
from etude_model.tokenizer import SPECIAL_TOKENS, Tokenizer


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


TEXTS = ["old bridge, north river", "北方的城市，有一座大桥🌊", "a城 b", "龘\nbridge\x00é"]


class ByteModel(torch.nn.Module):
    """Gives each token the probability of its bytes, one after the other, whatever came before.

    So it finds a text equally likely however a tokenizer cuts it, as few real models do.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        share = np.arange(1, 257) % 7 + 1.0
        self.log_p_byte = np.log(share / share.sum() / 4)  # room for merged tokens beside bytes
        pieces = [tokenizer.decode([id]).encode() for id in range(tokenizer.vocab_size)]
        for byte in range(256):
            pieces[byte_id(tokenizer, byte)] = bytes([byte])
        log_p = [self.log_p_byte[list(piece)].sum() if piece else -40.0 for piece in pieces]
        assert np.exp(log_p).sum() < 1
        rest = np.log(1 - np.exp(log_p[1:]).sum())  # on <unk>, so that all add up to 1
        self.log_p = torch.nn.Parameter(torch.tensor([rest, *log_p[1:]]))

    def forward(self, tokens_BT, segments_BT=None):
        """Return nothing of use: what came before does not matter."""
        return tokens_BT

    def loss(self, hidden, targets_BT):
        """Return summed cross entropy and count, as Etude does."""
        targets = targets_BT[targets_BT != IGNORED]
        logits = self.log_p.expand(len(targets), -1)
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), len(targets)


def byte_id(tokenizer: Tokenizer, byte: int) -> int:
    """Return the id of the token that stands for one byte."""
    return tokenizer._model.piece_to_id(f"<0x{byte:02X}>")


@pytest.mark.parametrize("text", TEXTS)
def test_invariant_to_the_tokenizer(text, tiny_tokenizer):
    """Catches a figure per token: merged pieces and single bytes must give the same bits."""
    model = ByteModel(tiny_tokenizer)
    merged = tiny_tokenizer.encode(text)
    single = [byte_id(tiny_tokenizer, byte) for byte in text.encode()]
    assert len(single) == len(text.encode()) and merged != single
    expected = -model.log_p_byte[list(text.encode())].sum() / math.log(2)
    for ids in (merged, single):
        batch = batch_of([1, *ids, 2], width=len(ids) + 8)
        found = bits_per_byte(
            model,
            [("xx", batch)],
            tiny_tokenizer.token_bytes,
            token_characters=tiny_tokenizer.token_characters,
        )
        assert found["bits_per_byte"] == pytest.approx(expected / len(text.encode()), rel=1e-5)
        assert found["bits_per_character/xx"] == pytest.approx(expected / len(text), rel=1e-5)


def test_characters_are_those_of_the_text(tiny_tokenizer):
    """Catches a character of three byte tokens that counts three times, and specials that count."""
    characters = tiny_tokenizer.token_characters
    for text in TEXTS:
        assert characters[tiny_tokenizer.encode(text)].sum() == len(text)
    assert not characters[: len(SPECIAL_TOKENS)].any()
    assert not tiny_tokenizer.token_bytes[: len(SPECIAL_TOKENS)].any()


@pytest.mark.parametrize("context_length", [4, 7, 32])
def test_windows_predict_each_token_once(context_length, model, tiny_tokenizer):
    """Catches a token lost or doubled at a window's edge, and a last window with little to read."""
    texts = [("zh", TEXTS[1]), ("en", TEXTS[0]), ("zh", ""), ("zh", TEXTS[2])]
    nats = {"zh": 0.0, "en": 0.0}
    for language, text in texts:
        ids = [1, *tiny_tokenizer.encode(text)]
        for start in range(1, len(ids), context_length):
            end = min(start + context_length, len(ids))
            window = torch.tensor([ids[max(0, end - 1 - context_length) : end]])
            with torch.no_grad():
                log_p = model.logits(model(window[:, :-1]))[0].log_softmax(dim=-1)
            own = log_p.gather(1, window[0, 1:, None])[start - end :]
            nats[language] -= float(own.sum())
    batches = list(text_batches(tiny_tokenizer, texts, context_length=context_length, batch_size=2))
    assert max(batch.tokens_BT.shape[1] for _, batch in batches) <= context_length
    found = bits_per_byte(model, batches, tiny_tokenizer.token_bytes)
    sizes = {"zh": len((TEXTS[1] + TEXTS[2]).encode()), "en": len(TEXTS[0].encode())}
    for language, size in sizes.items():
        expected = nats[language] / math.log(2) / size
        assert found[f"bits_per_byte/{language}"] == pytest.approx(expected, rel=1e-5)
