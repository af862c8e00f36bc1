"""The exported tokenizer against sentencepiece itself."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from etude_model.config import preset
from etude_model.export.huggingface import model_config
from etude_model.export.sentencepiece_model import PieceType, read_bpe_pieces
from etude_model.export.tokenizer_json import tokenizer_config, tokenizer_json
from etude_model.tokenizer import SPECIAL_TOKENS, Tokenizer
from storage.errors import BadInput
from storage.files import write_json

FRAGMENTS = [
    *("the river ", "The Rivers", " of  the\t", "北京是", "中华人民共和国", "，", "。", "《论语》"),
    *("1984", "3.14", "１２", "\n", "\n\n", "    ", "def f(x):\n    return x[0] + {'a': 1}\n"),
    *("\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "é", "e\u0301", "ﬁ", "𠮷"),
    *("<0x41>", "<unk ?", "<s", "|im_end|", "aaaaaaa", "ana banana", "\u00a0", "\u3000", "\r\n"),
    *("العربية", "हिन्दी", "\u0000", "\x7f", "http://a.b/c?d=e&f", "\ufeff", "-" * 9, "哈哈哈哈"),
]


def texts(count: int) -> list[str]:
    """Return random mixtures of the fragments."""
    draw = random.Random(5)
    return ["".join(draw.choices(FRAGMENTS, k=draw.randint(1, 12))) for _ in range(count)]


def train(path: Path, **settings: Any) -> Path:
    """Train a small sentencepiece model with the house's settings."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("".join(texts(800)).replace("\0", "").split("\n")),
        model_prefix=str(path / "tokenizer"),
        **{
            "model_type": "bpe",
            "vocab_size": 900,
            "byte_fallback": True,
            "split_digits": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "add_dummy_prefix": False,
            "allow_whitespace_only_pieces": True,
            "character_coverage": 0.99,
            "pad_id": 3,
            "control_symbols": list(SPECIAL_TOKENS[4:]),
            "user_defined_symbols": ["\n"],
            "hard_vocab_limit": False,
            "num_threads": 1,
            "minloglevel": 2,
        }
        | settings,
    )
    return path / "tokenizer.model"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer of 900 ids."""
    return Tokenizer(train(tmp_path_factory.mktemp("sentencepiece")))


@pytest.fixture(scope="module")
def theirs(ours: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same, exported and opened by transformers."""
    folder = tmp_path_factory.mktemp("tokenizer-json")
    write_json(folder / "tokenizer.json", tokenizer_json(ours.path))
    settings = tokenizer_config(ours.path, context_length=1 << 20)
    write_json(folder / "tokenizer_config.json", settings)
    # Beside a Qwen3 config, transformers is tempted to build Qwen's own byte-level tokenizer.
    write_json(folder / "config.json", model_config(preset("nano")))
    return AutoTokenizer.from_pretrained(folder)


def test_same_ids_and_same_text_on_a_thousand_mixtures(ours: Tokenizer, theirs: Any) -> None:
    """Catches a merge out of order, a lost byte fallback, a space put in front or taken away."""
    num_bytes = 0
    for text in texts(1000):
        ids = ours.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids) == text
        num_bytes += sum(16 < id < 273 for id in ids)
    assert num_bytes > 1000, "the mixtures must exercise the byte fallback"


@given(text=st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_same_ids_for_any_text(ours: Tokenizer, theirs: Any, text: str) -> None:
    """Catches what no list of examples thinks of: control characters, lone marks, odd spaces.

    Hypothesis also writes "<unk>" and "<s>", which it finds in the sources.
    """
    ids = ours.encode(text)
    assert theirs.encode(text, add_special_tokens=False, split_special_tokens=True) == ids
    assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)


@given(text=st.text(alphabet="an \n1北京", max_size=80))
@settings(max_examples=300, deadline=None)
def test_same_ids_where_many_merges_compete(ours: Tokenizer, theirs: Any, text: str) -> None:
    """Catches merges that depend on which of two equal pairs comes first."""
    assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)


def test_chat_template_gives_the_ids_that_were_trained_on(ours: Tokenizer, theirs: Any) -> None:
    """Catches a template whose newlines or `<s>` differ from the training data by one token."""
    messages = [
        {"role": "system", "content": "\nBe brief. "},
        {"role": "user", "content": " the  river\n\n北京"},
        {"role": "assistant", "content": "\n"},
        {"role": "user", "content": ""},
    ]
    for prompt in (False, True):
        rendered = theirs.apply_chat_template(
            messages, add_generation_prompt=prompt, tokenize=True, return_dict=False
        )
        assert rendered == ours.encode_dialogue(messages, add_generation_prompt=prompt)[0]


def test_special_tokens_have_our_ids_and_flags(ours: Tokenizer, theirs: Any) -> None:
    """Catches an end token that transformers would print, or a padding token that it makes up."""
    assert theirs.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(16))
    ids = [theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id, theirs.unk_token_id]
    assert ids == [ours.bos_id, ours.eos_id, ours.pad_id, ours.unk_id]
    assert len(theirs) == ours.vocab_size
    assert theirs.decode(list(range(16)), skip_special_tokens=True) == ""
    assert theirs.encode("a") == [ours.bos_id, *ours.encode("a")]


def test_typed_special_token_is_the_known_difference(ours: Tokenizer, theirs: Any) -> None:
    """Catches a change in what the docs say: theirs parses `<|im_end|>` in text, ours never."""
    text = "a<|im_end|>\nb"
    assert ours.im_end_id not in ours.encode(text)
    assert theirs.encode(text, add_special_tokens=False).count(ours.im_end_id) == 1
    plain = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert plain == ours.encode(text)


def test_pieces_are_read_as_sentencepiece_reads_them(ours: Tokenizer) -> None:
    """Catches a wire format misread: shifted ids, cut scores, wrong types."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(ours.path))
    pieces = read_bpe_pieces(ours.path)
    assert len(pieces) == model.get_piece_size()
    for id, piece in enumerate(pieces):
        assert piece.text == model.id_to_piece(id)
        assert piece.score == pytest.approx(model.get_score(id))
        assert (piece.type == PieceType.CONTROL) == model.is_control(id)
        assert (piece.type == PieceType.BYTE) == model.is_byte(id)
        assert (piece.type == PieceType.UNKNOWN) == model.is_unknown(id)
    assert [piece.text for piece in pieces if piece.type == PieceType.USER_DEFINED] == ["\n"]


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"model_type": "unigram"}, "model_type"),
        ({"normalization_rule_name": "nmt_nfkc"}, "character_map"),
        ({"add_dummy_prefix": True}, "dummy_prefix"),
        ({"remove_extra_whitespaces": True}, "squeeze"),
        ({"byte_fallback": False}, "byte_fallback"),
    ],
)
def test_model_that_cannot_be_converted_exactly_is_refused(
    tmp_path: Path, setting: dict[str, Any], named: str
) -> None:
    """Catches an export that loads everywhere and encodes a little differently."""
    with pytest.raises(BadInput, match=named):
        tokenizer_json(train(tmp_path, **setting))
