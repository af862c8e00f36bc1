"""tokenizer.model -> ids and back: text never becomes a special token, masks are ours.

The special tokens are control symbols of the sentencepiece model: no text can produce them, so a
page or a user that writes `<|im_end|>` gets ordinary pieces. A dialogue is therefore put together
from ids, turn by turn, and the mask of what is to be learned is built in the same breath:

    <s> <|im_start|> user \\n  Hi  <|im_end|> \\n <|im_start|> assistant \\n  Hello  <|im_end|> \\n
     0        0        0   0   0        0      0        0          0      0     1        1      0

The answer's `<|im_end|>` is learned too, or the model would never stop.

Try: python -m pytest tests/etude_model/test_tokenizer.py -q
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from etude_model.byte_level import ByteLevelModel, is_byte_level
from storage.artifact import sha256_file
from storage.errors import BadInput

FILE_NAME = "tokenizer.model"
UNK, BOS, EOS, PAD, IM_START, IM_END = "<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (
    *(UNK, BOS, EOS, PAD, IM_START, IM_END),
    *(f"<|reserved_{number}|>" for number in range(10)),
)
"""The special tokens in order of their ids, 0 to 15. Never reordered."""
ROLES = ("system", "user", "assistant")
SPACE = "\u2581"  # sentencepiece's sign for a space; a literal one in a text comes back as a space


class Tokenizer:
    """A sentencepiece model, or a byte-level BPE, whose first ids are `SPECIAL_TOKENS`."""

    unk_id, bos_id, eos_id, pad_id, im_start_id, im_end_id = range(6)

    def __init__(self, path: Path | str) -> None:
        """Load `path`, a .model file or the folder it lies in; refuse one that is not ours."""
        path = Path(path)
        self.path = path / FILE_NAME if path.is_dir() else path
        if not self.path.is_file():
            raise BadInput(
                f"no tokenizer at {self.path}; give the folder of one, or train it first"
            )
        self._model = _open(self.path)
        self.vocab_size: int = self._model.get_piece_size()
        _check_special_tokens(self._model, self.path)

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of the model file: shards and checkpoints name it."""
        return sha256_file(self.path)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Return how many UTF-8 bytes each id stands for, int32 [vocab_size]; specials 0."""
        ids = range(self.vocab_size)
        return np.array([len(self._text_of(id)) for id in ids], dtype=np.int32)

    @cached_property
    def token_characters(self) -> np.ndarray:
        """Return how many characters each id stands for, int32 [vocab_size]; specials 0.

        The bytes that spell out one character count 1 (its first byte) and 0 (the others).
        """
        ids = range(self.vocab_size)
        return np.array([self._num_characters(id) for id in ids], dtype=np.int32)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; never a special token, whatever the text says."""
        return self._model.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; special tokens are skipped, broken UTF-8 becomes U+FFFD."""
        return self._model.decode([int(id) for id in ids if id >= len(SPECIAL_TOKENS)])

    def encode_whole(self, text: str, max_tokens: int | None = None) -> list[int]:
        """Return `<s>` text `</s>`: a passage, or what is embedded; cut to fit `max_tokens`."""
        ids = self.encode(text)
        if max_tokens is not None:
            ids = ids[: max_tokens - 2]
        return [self.bos_id, *ids, self.eos_id]

    def encode_dialogue(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False
    ) -> tuple[list[int], list[int]]:
        """Return the ids of a dialogue in ChatML and a mask: 1 = a token to be learned.

        Messages are {"role", "content"} with the roles system, user and assistant; an answer of
        "weight" 0 is not learned. With `add_generation_prompt` the ids end where the assistant's
        next answer begins.
        """
        ids, mask = [self.bos_id], [0]
        for message in messages:
            role, content = message["role"], self.encode(message["content"])
            header, learned = self._header(role), int(is_learned(message))
            ids += [*header, *content, self.im_end_id, *self._newline]
            mask += [0] * len(header) + [learned] * (len(content) + 1) + [0] * len(self._newline)
        if add_generation_prompt:
            header = self._header("assistant")
            ids += header
            mask += [0] * len(header)
        num_answers = sum(map(is_learned, messages))
        num_ends = sum(
            learned and id == self.im_end_id for id, learned in zip(ids, mask, strict=True)
        )
        assert num_ends == num_answers, "every answer's <|im_end|> must be learned, and no other"
        return ids, mask

    def _header(self, role: str) -> list[int]:
        if role not in ROLES:
            raise BadInput(f"role {role!r} is unknown; the roles are {', '.join(ROLES)}")
        return [self.im_start_id, *self.encode(role), *self._newline]

    @cached_property
    def _newline(self) -> list[int]:
        return self.encode("\n")

    def _num_characters(self, id: int) -> int:
        if isinstance(self._model, ByteLevelModel):
            return sum(not 0x80 <= byte < 0xC0 for byte in self._text_of(id))
        if id >= len(SPECIAL_TOKENS) and self._model.is_byte(id):
            byte = int(self._model.id_to_piece(id)[1:-1], 16)  # <0xE6>
            return int(not 0x80 <= byte < 0xC0)  # UTF-8's continuation bytes
        return len(self._text_of(id).decode())

    def _text_of(self, id: int) -> bytes:
        if id < len(SPECIAL_TOKENS):
            return b""
        if isinstance(self._model, ByteLevelModel):
            return self._model.id_to_bytes(id)
        if self._model.is_byte(id):
            return b"?"
        return self._model.id_to_piece(id).replace(SPACE, " ").encode()


def is_learned(message: Mapping[str, Any]) -> bool:
    """Return whether a message is to be learned: an answer, unless its "weight" is 0."""
    return message["role"] == "assistant" and message.get("weight") != 0


def _open(path: Path) -> sentencepiece.SentencePieceProcessor | ByteLevelModel:
    """Open a sentencepiece model, or the JSON of a byte-level BPE."""
    if is_byte_level(path):
        return ByteLevelModel(path, len(SPECIAL_TOKENS))
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(path.read_bytes())
    except RuntimeError as error:
        raise BadInput(f"{path} is not a sentencepiece model; train it again") from error
    return model


def _check_special_tokens(
    model: sentencepiece.SentencePieceProcessor | ByteLevelModel, path: Path
) -> None:
    """Refuse a model that has other tokens where the shards expect the special ones."""
    for id, token in enumerate(SPECIAL_TOKENS):
        found = model.id_to_piece(id) if id < model.get_piece_size() else None
        control = found is not None and (model.is_control(id) or model.is_unknown(id))
        if found != token or not control:
            raise BadInput(
                f"{path}: id {id} is {found!r}, not the special token {token!r}; "
                "use a tokenizer trained by the stage train_tokenizer"
            )
