"""Lines of text -> a sentencepiece BPE model that gives every text back exactly.

Settings and why: byte fallback (no text is unknown), identity normalisation and no dummy prefix
(decode(encode(x)) == x), one token per digit, newline as a symbol of its own (sentencepiece splits
its input files at newlines, so it would never learn one; we feed an iterator and give it the
symbol), special tokens as control symbols with the ids of `etude_model.tokenizer`. One thread and
a sample in the order of the corpus make the same model from the same text.
"""

from __future__ import annotations

import heapq
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sentencepiece

from etude_model.tokenizer import BOS, EOS, PAD, SPACE, SPECIAL_TOKENS, UNK, Tokenizer
from storage.errors import BadInput
from storage.hashing import stable_hash

MAX_LINE_BYTES = 1 << 16
_TOO_SMALL = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")
_TOO_LARGE = re.compile(r"too high \(\d+\)\. Please set it to a value <= (\d+)")


def language_budgets(
    num_bytes: Mapping[str, int], *, max_sample_bytes: int, alpha: float
) -> dict[str, float]:
    """Return the share of each language's text to take, 0 to 1.

    The sample is divided by size ** alpha; what a small language leaves of its portion stays
    unused rather than be filled with more of a large one.
    """
    weights = {language: size**alpha for language, size in sorted(num_bytes.items()) if size}
    total = sum(weights.values())
    return {
        language: min(1.0, max_sample_bytes * weight / total / num_bytes[language])
        for language, weight in weights.items()
    }


def is_sampled(row: Mapping[str, Any], shares: Mapping[str, float]) -> bool:
    """Tell whether a passage is in the sample: by a hash of its id, so by nothing else."""
    return _passage_hash(row, "sample") < shares[row["language"]] * 2**64


def train_model(
    texts: Iterable[str], *, vocab_size: int, character_coverage: float, field: str
) -> bytes:
    """Return the trained model; refuse a vocabulary that the text cannot fill or that is too small.

    `field` is the name of the config field, for the error.
    """
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=writer,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=MAX_LINE_BYTES,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            unk_piece=UNK,
            bos_piece=BOS,
            eos_piece=EOS,
            pad_piece=PAD,
            control_symbols=list(SPECIAL_TOKENS[4:]),
            user_defined_symbols=["\n"],
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise _explained(str(error), vocab_size, field) from error
    return writer.getvalue()


@dataclass(slots=True)
class Fertility:
    """How many bytes and characters a language's tokens stand for on average."""

    num_bytes: int = 0
    num_chars: int = 0
    num_tokens: int = 0


def check_round_trip(
    tokenizer: Tokenizer, rows: Iterable[Mapping[str, Any]], *, num_passages: int = 1000
) -> dict[str, float]:
    """Return bytes and characters per token by language; a text not given back is a bug of ours.

    `num_passages` rows of the smallest hash are tried. A literal U+2581 becomes a space: that is
    the one character sentencepiece cannot tell from its own sign.
    """
    chosen = heapq.nsmallest(num_passages, rows, key=lambda row: _passage_hash(row, "check"))
    languages: dict[str, Fertility] = {}
    for language, text in ((row["language"], row["text"]) for row in chosen):
        ids = tokenizer.encode(text)
        back = tokenizer.decode(ids).replace(SPACE, " ")
        assert back == text.replace(SPACE, " "), f"not given back: {text[:200]!r}"
        own = languages.setdefault(language, Fertility())
        own.num_bytes += len(text.encode())
        own.num_chars += len(text)
        own.num_tokens += len(ids)
    metrics: dict[str, float] = {}
    for language, own in sorted(languages.items()):
        metrics[f"bytes_per_token/{language}"] = own.num_bytes / max(own.num_tokens, 1)
        metrics[f"chars_per_token/{language}"] = own.num_chars / max(own.num_tokens, 1)
    return metrics


def _passage_hash(row: Mapping[str, Any], use: str) -> int:
    return stable_hash(f"{use}:{row['wiki']}:{row['page_id']}:{row['index']}")


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Yield the lines of the texts, none too long for the trainer (it would skip it silently)."""
    step = MAX_LINE_BYTES // 4  # a character has at most four bytes
    for text in texts:
        for line in text.split("\n"):
            yield from (line[start : start + step] for start in range(0, len(line), step))


def _explained(error: str, vocab_size: int, field: str) -> BadInput:
    """Say what the trainer's message means for the config."""
    if match := _TOO_LARGE.search(error):
        return BadInput(
            f"{field}={vocab_size}, the text supports at most {match[1]}; "
            f"set {field}={match[1]} or add text"
        )
    if match := _TOO_SMALL.search(error):
        return BadInput(
            f"{field}={vocab_size} is too small for the characters of the text; set "
            f"{field}={match[1]} or more, or lower train_tokenizer.character_coverage"
        )
    return BadInput(f"no tokenizer can be trained on this text ({error}); add text")
