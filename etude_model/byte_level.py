"""A byte-level BPE as tokenizer.model: what a model that began as a Qwen3 speaks.

Such a tokenizer is the JSON that the `tokenizers` package reads, with our special tokens as its
first ids (export/vocabulary.py makes it so). Everything of it that could turn text into a special
token is left out when it is opened, as everywhere in this house. Tokens are spelled in an alphabet
of 256 signs, one for each byte, so a token's length is its number of bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.errors import BadInput


def _alphabet() -> dict[str, int]:
    """Return the byte of each sign: itself where it can be printed, else from U+0100 on (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    signs = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    return dict(zip(signs, printable + others, strict=True))


_BYTES = _alphabet()


class ByteLevelModel:
    """Does what `Tokenizer` asks of a sentencepiece model, for a byte-level BPE."""

    def __init__(self, path: Path, num_special: int) -> None:
        """Open the JSON in `path`, whose first `num_special` ids are special tokens."""
        values = read_byte_level(path)
        self._model = open_byte_level(values)
        self._num_special = num_special
        vocabulary: dict[str, int] = values["model"]["vocab"]
        self._pieces = sorted(vocabulary, key=vocabulary.__getitem__)
        if [vocabulary[piece] for piece in self._pieces] != list(range(len(vocabulary))):
            raise BadInput(f"{path}: its ids are not 0 to {len(vocabulary) - 1}; import it again")

    def get_piece_size(self) -> int:
        """Return the number of ids."""
        return len(self._pieces)

    def id_to_piece(self, id: int) -> str:
        """Return an id's spelling: a sign for each byte, or a special token's name."""
        return self._pieces[id]

    def id_to_bytes(self, id: int) -> bytes:
        """Return the bytes that an id stands for."""
        return bytes(_BYTES[sign] for sign in self._pieces[id])

    def is_control(self, id: int) -> bool:
        """Tell whether no text gives this id."""
        return id < self._num_special

    def is_unknown(self, id: int) -> bool:
        """Tell whether the id stands for what has no id: never, for every byte has one."""
        return False

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return list(self._model.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; broken UTF-8 becomes U+FFFD."""
        return str(self._model.decode(list(ids), skip_special_tokens=False))


def is_byte_level(path: Path) -> bool:
    """Tell a tokenizer's JSON from a sentencepiece model, whatever the file is called."""
    with path.open("rb") as file:
        return file.read(1) == b"{"


def open_byte_level(values: Mapping[str, Any]) -> Any:
    """Return a `tokenizers.Tokenizer` of the JSON that makes no special token of any text."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise BadInput(
            "a byte-level BPE needs the package tokenizers; pip install 'etude[bpe]'"
        ) from error
    return Tokenizer.from_str(json.dumps({**values, "added_tokens": [], "post_processor": None}))


def read_byte_level(path: Path) -> dict[str, Any]:
    """Return the JSON of a byte-level BPE; BadInput names what is another kind of tokenizer."""
    try:
        values = json.loads(path.read_bytes())
        model, before = values["model"], values["pre_tokenizer"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is no tokenizer ({error!r}); give a tokenizer.json") from error
    steps = before.get("pretokenizers", [before]) if isinstance(before, dict) else []
    byte_level = [step for step in steps if step.get("type") == "ByteLevel"]
    found = {
        "model.type": (model.get("type"), "BPE"),
        "model.ignore_merges": (bool(model.get("ignore_merges")), False),
        "the number of ByteLevel steps": (len(byte_level), 1),
        "normalizer": ((values.get("normalizer") or {"type": "NFC"}).get("type"), "NFC"),
        "add_prefix_space": (any(step.get("add_prefix_space") for step in byte_level), False),
    }
    for name, (value, wanted) in found.items():
        if value != wanted:
            raise BadInput(
                f"{path}: {name} is {value!r}, not {wanted!r}; only a byte-level BPE as Qwen3's "
                "and our own sentencepiece models are read"
            )
    return dict(values)


def merges_of(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the pairs that a byte-level BPE joins, the most urgent first."""
    pairs = (
        pair.split(" ") if isinstance(pair, str) else pair for pair in values["model"]["merges"]
    )
    return [(left, right) for left, right in pairs]
