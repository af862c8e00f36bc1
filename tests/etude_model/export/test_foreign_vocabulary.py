"""A Qwen3 with its own byte-level tokenizer comes in, is cut to fit, and goes out again."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from etude_model.export.gguf import export_gguf
from etude_model.export.huggingface import export_huggingface
from etude_model.export.import_huggingface import import_huggingface
from etude_model.inference.load import load_checkpoint
from etude_model.tokenizer import SPECIAL_TOKENS, Tokenizer
from storage.errors import BadInput

WORDS = [
    "river",
    "mountains",
    " the ",
    " bridge",
    "北京",
    "大学",
    "是",
    "1843",
    "\n",
    "é",
    "\U0001f600",
]
OTHERS = ["unheard", "陌生", "٣", "naïve", "=>", "\t"]
QWEN_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NUM_BYTES = 256


def texts(words: list[str], count: int = 200) -> list[str]:
    """Return random mixtures of words."""
    draw = random.Random(3)
    return ["".join(draw.choices(words, k=draw.randint(1, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 as its makers publish it: byte-level BPE, specials after it, padded rows."""
    folder = tmp_path_factory.mktemp("qwen3")
    tokenizer = FastTokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*texts(WORDS), *texts(OTHERS)], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in QWEN_SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size() + 9,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=80,
        max_position_embeddings=64,
        initializer_range=0.15,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cut(foreign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a checkpoint of ours, with the ids that some texts need and a few more."""
    out = tmp_path_factory.mktemp("cut") / "checkpoint"
    return import_huggingface(foreign, out, texts=texts(WORDS), vocab_size=390)


def old_ids(foreign: Path, checkpoint: Path) -> dict[int, int]:
    """Return the foreign id of each of our ordinary ids."""
    old = json.loads((foreign / "tokenizer.json").read_text())["model"]["vocab"]
    new = json.loads((checkpoint / "tokenizer.model").read_text())["model"]["vocab"]
    return {id: old[token] for token, id in new.items() if id >= len(SPECIAL_TOKENS)}


def test_ids_of_the_texts_are_the_same_tokens(foreign: Path, cut: Path) -> None:
    """Catches a kept token whose parts are gone, and merges in another order."""
    ours = Tokenizer(cut)
    theirs = FastTokenizer.from_file(str(foreign / "tokenizer.json"))
    back = old_ids(foreign, cut)
    assert ours.vocab_size <= 390 < theirs.get_vocab_size()
    for text in texts(WORDS):
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert [back[id] for id in ours.encode(text)] == expected
    lengths = [len(ours.encode(text)) for text in texts(OTHERS)]
    originals = [len(theirs.encode(text).ids) for text in texts(OTHERS)]
    assert sum(lengths) > sum(originals), "the cut must cost something, or nothing was cut"


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(), st.sampled_from([*SPECIAL_TOKENS, *QWEN_SPECIALS])))
def test_any_text_comes_back_and_is_never_special(cut: Path, text: str) -> None:
    """Catches a byte without an id, a spoofed end of turn, and wrong byte or character counts."""
    tokenizer = opened(cut)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert min(ids, default=16) >= len(SPECIAL_TOKENS)
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())
    assert tokenizer.token_characters[ids].sum() == len(text)


_OPENED: dict[Path, Tokenizer] = {}


def opened(folder: Path) -> Tokenizer:
    """Return the folder's tokenizer, opened once."""
    return _OPENED.setdefault(folder, Tokenizer(folder))


@torch.no_grad()
def test_the_model_is_the_same_on_what_was_kept(foreign: Path, cut: Path) -> None:
    """Catches rows that went to other tokens: the model would speak in scrambled words."""
    loaded, theirs = load_checkpoint(cut), AutoModelForCausalLM.from_pretrained(foreign)
    back = old_ids(foreign, cut)
    ids = loaded.tokenizer.encode("".join(texts(WORDS, 4)))[:60]
    ours = loaded.model.logits(loaded.model(torch.tensor([ids])))[0, :, len(SPECIAL_TOKENS) :]
    wanted = theirs(torch.tensor([[back[id] for id in ids]])).logits[0]
    columns = [back[id] for id in range(len(SPECIAL_TOKENS), loaded.tokenizer.vocab_size)]
    assert (ours - wanted[:, columns]).abs().max() < 1e-5 * wanted.std()
    # The chat tokens are the foreign ones, what has no counterpart is the mean.
    rows = loaded.model.model.embed_tokens.weight
    old = theirs.model.embed_tokens.weight
    tokenizer = FastTokenizer.from_file(str(foreign / "tokenizer.json"))
    for token, name in [("<|im_end|>",) * 2, ("</s>", "<|endoftext|>"), ("<s>", "<|endoftext|>")]:
        row = rows[SPECIAL_TOKENS.index(token)]
        assert torch.equal(row, old[tokenizer.token_to_id(name)])
    torch.testing.assert_close(rows[0], old.mean(dim=0))


def test_out_and_back(cut: Path, tmp_path: Path) -> None:
    """Catches an export that needs sentencepiece, and a template of other ids than the training."""
    out = export_huggingface(cut, tmp_path / "out")
    assert not (out / "tokenizer.model").exists()
    ours, theirs = Tokenizer(cut), AutoTokenizer.from_pretrained(out)
    for text in [*texts(WORDS, 50), *texts(OTHERS, 50)]:
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
    messages = [
        {"role": "user", "content": "北京 the river"},
        {"role": "assistant", "content": "é"},
    ]
    rendered = theirs.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert rendered == ours.encode_dialogue(messages)[0]
    again = import_huggingface(out, tmp_path / "again")
    assert (again / "tokenizer.model").read_bytes() == (cut / "tokenizer.model").read_bytes()
    assert (again / "model.safetensors").read_bytes() == (cut / "model.safetensors").read_bytes()


def test_without_texts_the_earliest_tokens_are_kept(foreign: Path, tmp_path: Path) -> None:
    """Catches a cut that keeps rare tokens and loses those that everything is made of."""
    small = import_huggingface(foreign, tmp_path / "small", vocab_size=300)
    kept = sorted(old_ids(foreign, small).values())
    assert kept == list(range(300 - len(SPECIAL_TOKENS)))
    whole = load_checkpoint(import_huggingface(foreign, tmp_path / "whole"))
    assert whole.tokenizer.vocab_size == 400 + len(SPECIAL_TOKENS)
    with pytest.raises(BadInput, match="vocab_size=100"):
        import_huggingface(foreign, tmp_path / "none", vocab_size=100)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"type": "Unigram"}}, "model.type is 'Unigram'"),
        ({"model": {"type": "BPE", "ignore_merges": True}}, "ignore_merges is True"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizer is 'Lowercase'"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "ByteLevel steps is 0"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "add_prefix_space"),
    ],
)
def test_other_kinds_of_tokenizers_are_refused(
    foreign: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    """Catches a tokenizer that is cut as if it were a byte-level BPE."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((foreign / name).read_bytes())
    values = json.loads((foreign / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(values | change))
    with pytest.raises(BadInput, match=words):
        import_huggingface(tmp_path, tmp_path / "out")


def test_llama_cpp_speaks_it_too(cut: Path, tmp_path: Path) -> None:
    """Catches a vocabulary that llama.cpp cuts into other words or joins in another order."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    out, kind = export_gguf(cut, tmp_path / "gguf"), llama_cpp.GGML_TYPE_F32
    path, options = str(out / "model.gguf"), {"verbose": False, "n_threads": 1, "n_ctx": 64}
    llama = llama_cpp.Llama(path, logits_all=True, type_k=kind, type_v=kind, **options)
    loaded = load_checkpoint(cut)
    for text in [*texts(WORDS), *texts(OTHERS)]:
        ids = llama.tokenize(text.encode(), add_bos=False, special=False)
        assert ids == loaded.tokenizer.encode(text), text
    ids = loaded.tokenizer.encode("".join(texts(WORDS, 4)))[:60]
    llama.eval(ids)
    with torch.no_grad():
        ours = loaded.model.logits(loaded.model(torch.tensor([ids])))[0].numpy()
    assert np.abs(np.array(llama.scores[: len(ids)]) - ours).max() < 1e-4 * ours.std()


def test_shards_and_masks_are_made_with_it(cut: Path, tmp_path: Path) -> None:
    """Catches code of the stages that takes every tokenizer.model for sentencepiece."""
    from etude_model.inference.text import TextStream
    from tasks.train_tokenizer.train import check_round_trip

    tokenizer = opened(cut)
    rows = [
        {"text": text, "language": "en", "wiki": "enwiki", "page_id": number, "index": 0}
        for number, text in enumerate([*texts(OTHERS), "a\u2581b e\u0301"])
    ]
    assert check_round_trip(tokenizer, rows)
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "北京"}]
    ids, mask = tokenizer.encode_dialogue(messages)
    learned = [id for id, one in zip(ids, mask, strict=True) if one]
    assert learned == [*tokenizer.encode("北京"), tokenizer.im_end_id]
    stream, text = TextStream(tokenizer), "".join(texts(OTHERS, 20))
    assert "".join(map(stream.push, tokenizer.encode(text))) + stream.finish() == text
