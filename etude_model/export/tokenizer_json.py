"""tokenizer.model -> tokenizer.json, tokenizer_config.json: same ids in transformers.

Sentencepiece's BPE joins, wherever two neighbours together are a piece, the pair whose piece has
the highest score. The fast tokenizers want the pairs themselves, in order, so every way to cut a
piece in two becomes a merge, and the pieces' scores give the order:

    piece  "▁the" -3      merges  ▁ the,  ▁t he,  ▁th e       (where both halves are pieces)
           "ing"  -7              i ng,  in g

Two differences remain, and neither touches text as our own programs encode it:

* `<|im_end|>` typed by a user is ordinary text to us. transformers looks for special tokens in
  the text itself and makes it one (it has to: its chat template is text). Servers that take
  untrusted text should encode contents with `split_special_tokens=True`, or use `etude serve`.
* For ids that no text gives (half a character among the byte tokens) we decode what is whole and
  transformers replaces the whole run of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etude_model.byte_level import is_byte_level, read_byte_level
from etude_model.export.sentencepiece_model import Piece, PieceType, read_bpe_pieces
from etude_model.tokenizer import BOS, EOS, PAD, SPACE, UNK

SPECIAL = (PieceType.UNKNOWN, PieceType.CONTROL)

# The rendering of `Tokenizer.encode_dialogue`: <s>, then the turns.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tokenizer_json(path: Path) -> dict[str, Any]:
    """Return tokenizer.json of a tokenizer.model: a sentencepiece model, or a byte-level BPE as is.

    A call with `add_special_tokens=True` puts `<s>` in front, as every training text has it.
    """
    if is_byte_level(path):
        return read_byte_level(path)
    pieces = read_bpe_pieces(path)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(pieces),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "post_processor": _bos_in_front(pieces),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": UNK,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece.text: id for id, piece in enumerate(pieces)},
            "merges": [list(pair) for pair in merges(pieces)],
        },
    }


def tokenizer_config(path: Path, *, context_length: int) -> dict[str, Any]:
    """Return tokenizer_config.json: which token is which, and the ChatML template."""
    added = tokenizer_json(path)["added_tokens"] if is_byte_level(path) else None
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNK,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(token["id"]): {name: value for name, value in token.items() if name != "id"}
            for token in added or _added_tokens(read_bpe_pieces(path))
        },
        "chat_template": CHAT_TEMPLATE,
    }


def merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Return the pairs to join, the most urgent first.

    Of one piece's several cuts sentencepiece joins whichever stands leftmost in the text, and a
    list has to name one first: the shorter left half. They can compete only where a piece
    overlaps itself ("aaa" in a run of a's cut unevenly).
    """
    scores = {piece.text: piece.score for piece in pieces if piece.type == PieceType.NORMAL}
    pairs = [
        (-score, text[:cut], text[cut:])
        for text, score in scores.items()
        for cut in range(1, len(text))
        if text[:cut] in scores and text[cut:] in scores
    ]
    pairs.sort(key=lambda pair: (pair[0], pair[1] + pair[2], len(pair[1])))
    return [(left, right) for _, left, right in pairs]


def _added_tokens(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    """Return what is cut out of a text before any merging: special and user-defined pieces."""
    return [
        {
            "id": id,
            "content": piece.text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": piece.type in SPECIAL,
        }
        for id, piece in enumerate(pieces)
        if piece.type in (*SPECIAL, PieceType.USER_DEFINED)
    ]


def _bos_in_front(pieces: Sequence[Piece]) -> dict[str, Any]:
    bos = {"SpecialToken": {"id": BOS, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    id = next(number for number, piece in enumerate(pieces) if piece.text == BOS)
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, second],
        "special_tokens": {BOS: {"id": BOS, "ids": [id], "tokens": [BOS]}},
    }
