"""Streamed text is the decoded text, however the ids cut its characters."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from etude_model.inference.text import REPLACEMENT, TextStream
from etude_model.tokenizer import SPECIAL_TOKENS, Tokenizer

LETTERS = st.sampled_from("river old 北京的山水 \n😀👩\u200d🚀éß漢𠮷한")
SETTINGS = settings(deadline=None, max_examples=200)


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """Return what the stream gives for each id, and at the end."""
    stream = TextStream(tokenizer)
    return [*(stream.push(id) for id in ids), stream.finish()]


@SETTINGS
@given(st.text(LETTERS) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁")))
def test_text_comes_through_whole(tiny_tokenizer: Tokenizer, text: str) -> None:
    """Catches half characters on the screen: no piece may hold a replacement sign of its own."""
    found = pieces(tiny_tokenizer, tiny_tokenizer.encode(text))
    assert "".join(found) == tiny_tokenizer.decode(tiny_tokenizer.encode(text))
    if "\0" not in text:
        assert "".join(found) == text
    if REPLACEMENT not in text:
        assert REPLACEMENT not in "".join(found)


@SETTINGS
@given(st.data())
def test_broken_ids_give_what_decode_gives(tiny_tokenizer: Tokenizer, data: st.DataObject) -> None:
    """Catches text that is lost or held for ever where a model writes bytes that are no text."""
    ids = data.draw(st.lists(st.integers(0, tiny_tokenizer.vocab_size - 1), max_size=20))
    kept = [id for id in ids if id >= len(SPECIAL_TOKENS)]
    assert "".join(pieces(tiny_tokenizer, kept)) == tiny_tokenizer.decode(kept)
    stream = TextStream(tiny_tokenizer)
    for id in ids:
        stream.push(id)
        assert len(stream._held) < 4


def test_plain_pieces_are_not_held_back(tiny_tokenizer: Tokenizer) -> None:
    """Catches a stream that shows everything only at the end."""
    ids = tiny_tokenizer.encode("old river")
    assert pieces(tiny_tokenizer, ids) == [*(tiny_tokenizer.decode([id]) for id in ids), ""]
