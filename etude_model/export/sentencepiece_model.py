"""tokenizer.model -> its pieces and settings, read from the protobuf wire format itself.

The sentencepiece package tells pieces and scores but not whether a model is BPE, what its
normaliser does or which pieces are user-defined, and all three decide whether a conversion is
exact. The few fields are read here, so that an export needs no protobuf package. Field numbers are
those of sentencepiece_model.proto (Apache-2.0, github.com/google/sentencepiece).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from storage.errors import BadInput

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Of the settings: what the .proto says where a field is absent, and what an exact export needs.
# model_type 2 is BPE; of the normaliser's character map the length counts.
_NAMES = ("model_type", "byte_fallback", "character_map", "dummy_prefix", "squeeze", "escape")
_DEFAULTS = dict(zip(_NAMES, (1, 0, 0, 1, 1, 1), strict=True))
_WANTED = dict(zip(_NAMES, (2, 1, 0, 0, 0, 1), strict=True))
_TRAINER = {3: "model_type", 35: "byte_fallback"}
_NORMALIZER = {2: "character_map", 3: "dummy_prefix", 4: "squeeze", 5: "escape"}


class PieceType(IntEnum):
    """What a piece is; the numbers are the file's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """One id of the vocabulary; of two possible pieces the one with the higher score is made."""

    text: str
    score: float
    type: PieceType


def read_bpe_pieces(path: Path) -> list[Piece]:
    """Return the pieces in order of their ids.

    Refuses a model whose encoding is more than BPE over the text as it stands (unigram, a
    normaliser, a dummy prefix, no byte fallback): its conversion would not be exact.
    """
    pieces: list[Piece] = []
    settings = dict(_DEFAULTS)
    for number, value in _fields(path.read_bytes()):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value))
        elif number == 2 and isinstance(value, bytes):
            _update(settings, value, _TRAINER)
        elif number == 3 and isinstance(value, bytes):
            _update(settings, value, _NORMALIZER)
    for name, wanted in _WANTED.items():
        if settings[name] != wanted:
            raise BadInput(
                f"{path} cannot be exported exactly: its {name} is {settings[name]}, not {wanted}; "
                "use a tokenizer of the stage train_tokenizer"
            )
    return pieces


def _update(settings: dict[str, int], message: bytes, names: dict[int, str]) -> None:
    """Take over fields of a message; of a text only its length counts."""
    for number, value in _fields(message):
        if number in names:
            settings[names[number]] = len(value) if isinstance(value, bytes) else value


def _piece(message: bytes) -> Piece:
    fields = dict(_fields(message))
    text, bits, type = fields.get(1, b""), fields.get(2, 0), fields.get(3, PieceType.NORMAL)
    assert isinstance(text, bytes) and isinstance(bits, int) and isinstance(type, int)
    (score,) = struct.unpack("<f", bits.to_bytes(4, "little"))
    return Piece(text.decode(), score, PieceType(type))


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value): bytes for texts and messages, the raw integer for all else."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        else:
            size = {_FIXED32: 4, _FIXED64: 8}[wire]
        data = message[at : at + size]
        at += size
        yield number, data if wire == _BYTES else int.from_bytes(data, "little")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place, seven bits a byte, and the place after it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
