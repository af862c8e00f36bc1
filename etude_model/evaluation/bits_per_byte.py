"""model + validation rows -> bits per byte, over all text and per language.

Bits per byte compares models with different tokenizers, which a loss per token cannot: the nats
of all targets, in bits, over the UTF-8 bytes those targets stand for. Special tokens stand for no
text, so they count on neither side. A Chinese character is three bytes, hence a zh figure is to
be read beside other zh figures, or per character.

    etude evaluate CKPT --text book.txt
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from etude_model.data.lm import IGNORED, TokenBatch
from etude_model.device import autocast
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer


def _go_on() -> None:
    """Do nothing: the check of an evaluation that nobody stops."""


@torch.no_grad()
def bits_per_byte(
    model: Etude,
    batches: Iterable[tuple[str, TokenBatch]],
    token_bytes: np.ndarray,
    *,
    token_characters: np.ndarray | None = None,
    dtype: torch.dtype = torch.float32,
    document_mask: bool = True,
    check: Callable[[], None] = _go_on,
) -> dict[str, float]:
    """Return {"bits_per_byte", "bits_per_byte/en", ...} over (language, batch) pairs.

    With `token_characters` there is "bits_per_character" of each language too, but not of all:
    a mean over scripts says nothing. `check` is called before each batch and may raise, so that a
    long evaluation can be left. A language without a single text target is left out.
    """
    device = next(model.parameters()).device
    nats: dict[str, float] = defaultdict(float)
    num_bytes: dict[str, int] = defaultdict(int)
    num_characters: dict[str, int] = defaultdict(int)
    for language, batch in batches:
        check()
        batch = without_specials(batch, token_bytes)
        num_bytes[language] += batch.num_target_bytes(token_bytes)
        if token_characters is not None:
            num_characters[language] += batch.num_target_bytes(token_characters)
        there = batch.to(device)
        with autocast(device, dtype):
            hidden_BTD = model(
                there.tokens_BT, segments_BT=there.segments_BT if document_mask else None
            )
            total, _ = model.loss(hidden_BTD, there.targets_BT)
        nats[language] += float(total)
    figures = {}
    if sum(num_bytes.values()):
        figures["bits_per_byte"] = to_bits(sum(nats.values()), sum(num_bytes.values()))
    for language in sorted(nats):
        if num_bytes[language]:
            figures[f"bits_per_byte/{language}"] = to_bits(nats[language], num_bytes[language])
        if num_characters[language]:
            bits = to_bits(nats[language], num_characters[language])
            figures[f"bits_per_character/{language}"] = bits
    return figures


def to_bits(nats: float, num_bytes: int) -> float:
    """Return nats over bytes as bits per byte; NaN where there are no bytes."""
    return nats / math.log(2) / num_bytes if num_bytes else math.nan


def without_specials(batch: TokenBatch, token_bytes: np.ndarray) -> TokenBatch:
    """Return the batch with targets that stand for no text ignored."""
    targets = batch.targets_BT
    is_text = torch.from_numpy(token_bytes > 0)[targets.clamp(min=0)]
    return TokenBatch(batch.tokens_BT, targets.where(is_text, IGNORED), batch.segments_BT)


def text_batches(
    tokenizer: Tokenizer,
    texts: Iterable[tuple[str, str]],
    *,
    context_length: int,
    batch_size: int = 32,
) -> Iterator[tuple[str, TokenBatch]]:
    """Yield (language, batch) for `bits_per_byte` of whole (language, text) pairs, long ones too.

    A text longer than the context is read in windows, each token predicted once: a window begins
    where the one before it ended, but the last one reaches back as far as it can. The figures are
    those of lm-evaluation-harness's `loglikelihood_rolling` with add_bos_token=False; without that
    it predicts the `<s>` too, which is no text.

        text      a b c d e f g         with a context of 3
        windows   a b c|d e f|- - g     g is predicted from d e f
    """
    rows: dict[str, list[tuple[list[int], list[int]]]] = defaultdict(list)
    for language, text in texts:
        ids = tokenizer.encode(text)
        read = [tokenizer.bos_id, *ids]
        for start in range(0, len(ids), context_length):
            end = min(start + context_length, len(ids))
            begin = max(0, end - context_length)
            targets = [IGNORED] * (start - begin) + ids[start:end]
            rows[language].append((read[begin:end], targets))
            if len(rows[language]) == batch_size:
                yield language, _batch(rows.pop(language))
    for language, rest in rows.items():
        yield language, _batch(rest)


def _batch(rows: list[tuple[list[int], list[int]]]) -> TokenBatch:
    """Return (tokens, targets) of unlike lengths as a batch of one document a row."""
    width = max(len(tokens) for tokens, _ in rows)
    columns = [
        (tokens + [0] * pad, targets + [IGNORED] * pad, [0] * len(tokens) + [-1] * pad)
        for tokens, targets in rows
        for pad in [width - len(tokens)]
    ]
    return TokenBatch(*(torch.tensor(column) for column in zip(*columns, strict=True)))
