"""a foreign byte-level BPE -> one of ours: our special tokens first, and no more ids than we hold.

Shards hold ids in 16 bits, and a small model can ill afford 151,936 embeddings of which its texts
use a few thousand. So only some tokens are kept: the most frequent in given texts, or simply the
earliest. With a token go the two it is joined from, and theirs, down to single bytes:

    Ġriver  <-  Ġri + ver  <-  Ġr + i, v + er  <-  …

A token arises from one join only, so what was kept is joined exactly as before: texts whose tokens
are all kept get the very same tokens, and all others get shorter ones that the model knows too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude_model.byte_level import merges_of, open_byte_level, read_byte_level
from etude_model.export.weights import EMBEDDINGS, OUTPUT
from etude_model.tokenizer import BOS, EOS, IM_END, IM_START, SPECIAL_TOKENS
from storage.errors import BadInput

# What our special tokens are called elsewhere, in order of preference. The rest start as the mean.
_ELSEWHERE = {
    BOS: (BOS, "<|endoftext|>"),
    EOS: (EOS, "<|endoftext|>"),
    IM_START: (IM_START,),
    IM_END: (IM_END,),
}
_NUM_BYTES = 256


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer of ours, and for each of its ids the old id, or None where there was none."""

    tokenizer: dict[str, Any]
    old_ids: tuple[int | None, ...]

    def take_rows(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights with embeddings and output rows in the new order.

        A new id starts as the mean of all old rows, whose logit is an average one: it neither
        appears by itself nor has to be unlearned.
        """
        found, largest = dict(weights), max(id for id in self.old_ids if id is not None)
        for name in (EMBEDDINGS, OUTPUT):
            if name in found:
                old = found[name].float()
                if largest >= len(old):
                    raise BadInput(
                        f"the tokenizer has an id {largest}, {name} only {len(old)} rows; put the "
                        "tokenizer there that the model was trained with"
                    )
                mean = old.mean(dim=0)
                rows = [mean if id is None else old[id] for id in self.old_ids]
                found[name] = torch.stack(rows)
        return found


def adopt(path: Path, *, texts: Iterable[str] = (), max_size: int) -> Vocabulary:
    """Return the tokenizer.json in `path` as one of ours, with at most `max_size` ids.

    One that is ours already stays as it is.
    """
    source = read_byte_level(path)
    old_ids: dict[str, int] = source["model"]["vocab"]
    added = {token["content"]: token["id"] for token in source.get("added_tokens") or ()}
    if all(old_ids.get(token) == id for id, token in enumerate(SPECIAL_TOKENS)):
        return Vocabulary(source, tuple(range(len(old_ids))))
    if max_size < len(SPECIAL_TOKENS) + _NUM_BYTES:
        least = len(SPECIAL_TOKENS) + _NUM_BYTES
        raise BadInput(f"vocab_size={max_size} has no room for bytes; give at least {least}")
    plain = {token: id for token, id in old_ids.items() if token not in added}
    merges = merges_of(source)
    room = max_size - len(SPECIAL_TOKENS)
    kept = _closed_under_parts(plain, merges, _count(source, texts), room)
    tokens = [*SPECIAL_TOKENS, *sorted(kept, key=plain.__getitem__)]
    ids = {token: id for id, token in enumerate(tokens)}
    rows = [
        next((added[name] for name in _ELSEWHERE.get(token, ()) if name in added), None)
        for token in SPECIAL_TOKENS
    ]
    tokenizer = _tokenizer(source, ids, [pair for pair in merges if "".join(pair) in kept])
    return Vocabulary(tokenizer, (*rows, *(plain[token] for token in tokens[len(rows) :])))


def _closed_under_parts(
    tokens: Mapping[str, int], merges: list[tuple[str, str]], counts: Counter[str], room: int
) -> set[str]:
    """Return at most `room` tokens: all bytes, then the most frequent (else earliest) and parts."""
    parts: dict[str, tuple[str, str]] = {}
    for left, right in merges:
        if parts.setdefault(left + right, (left, right)) != (left, right):
            raise BadInput(
                f"the token {left + right!r} is joined in two ways; this is no plain BPE"
            )
    kept = {token for token in tokens if token not in parts}
    for token in sorted(parts, key=lambda token: (-counts[token], tokens[token])):
        family, waiting = set[str](), [token]
        while waiting:
            one = waiting.pop()
            if one not in kept and one not in family:
                family.add(one)
                waiting += parts[one]
        if len(kept) + len(family) <= room:
            kept |= family
    return kept


def _count(source: Mapping[str, Any], texts: Iterable[str]) -> Counter[str]:
    """Return how often each token stands in the texts."""
    counts: Counter[str] = Counter()
    model = open_byte_level(source)
    for text in texts:
        counts.update(model.encode(text, add_special_tokens=False).tokens)
    return counts


def _tokenizer(
    source: Mapping[str, Any], ids: dict[str, int], merges: list[tuple[str, str]]
) -> dict[str, Any]:
    bos = {"SpecialToken": {"id": BOS, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                **{"id": id, "content": token, "single_word": False, "lstrip": False},
                **{"rstrip": False, "normalized": False, "special": True},
            }
            for id, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": None,  # a text comes back as it was, and llama.cpp has no NFC either
        "pre_tokenizer": source["pre_tokenizer"],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, first],
            "pair": [bos, first, second],
            "special_tokens": {BOS: {"id": BOS, "ids": [ids[BOS]], "tokens": [BOS]}},
        },
        "decoder": source["decoder"],
        "model": {
            **{"type": "BPE", "dropout": None, "unk_token": None},
            **{"continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False},
            **{"byte_fallback": False, "ignore_merges": False},
            "vocab": ids,
            "merges": [list(pair) for pair in merges],
        },
    }
