"""Dialogues -> SFT rows: whole dialogues, a mask of what is to be learned, no answer ever cut.

A dialogue longer than a row loses its oldest turns (a question and its answer each), never the
system message or the last turn. If the last turn alone is too long, the dialogue is dropped: half
an answer teaches to stop anywhere, an answer without its question teaches to guess. So is one in
which nothing is left to be learned, all answers that stay having the weight 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from etude_model.tokenizer import SPACE, SPECIAL_TOKENS, Tokenizer, is_learned
from storage.artifact import Counts
from storage.errors import BadInput
from storage.formats.schemas import LEDGER
from storage.formats.table import write_table
from tasks.shard.rows import Piece, token_dtype, write_rows
from tasks.shard.windows import Window

Messages = Sequence[Mapping[str, Any]]


def fit_dialogue(
    messages: Messages, tokenizer: Tokenizer, width: int
) -> tuple[list[int], list[int], list[float]] | str:
    """Return ids and mask of at most `width` tokens and the weight of each answer to be learned.

    Or the reason why that cannot be.
    """
    has_system = messages[0]["role"] == "system"
    system, turns = list(messages[:has_system]), list(messages[has_system:])
    while True:
        ids, mask = tokenizer.encode_dialogue([*system, *turns])
        if len(ids) <= width:
            learned = [turn for turn in turns if is_learned(turn)]
            if not learned:
                return "nothing_to_learn"
            check_mask(ids, mask, turns, tokenizer)
            weights = (turn.get("weight") for turn in learned)
            return ids, mask, [1.0 if weight is None else float(weight) for weight in weights]
        if len(turns) <= 2:
            answer = tokenizer.encode_dialogue(turns[-1:])[0]
            return "answer_too_long" if len(answer) > width else "question_too_long"
        turns = turns[2:]


def check_mask(
    ids: Sequence[int], mask: Sequence[int], turns: Messages, tokenizer: Tokenizer
) -> None:
    """Assert that exactly the answers are learned: decoded, the masked tokens are their texts."""
    answers: list[list[int]] = [[]]
    for id in (id for id, learned in zip(ids, mask, strict=True) if learned):
        if id == tokenizer.im_end_id:
            answers.append([])
        else:
            answers[-1].append(id)
    num_special = sum(id < len(SPECIAL_TOKENS) for answer in answers for id in answer)
    found = [tokenizer.decode(answer) for answer in answers[:-1]]
    expected = [turn["content"].replace(SPACE, " ") for turn in turns if is_learned(turn)]
    is_right = expected and found == expected and not answers[-1] and not num_special
    assert is_right, f"mask is wrong: {found} is learned instead of {expected}"


def write_sft_shard(
    window: Window, directory: Path, tokenizer: Tokenizer, *, context_length: int
) -> Counts:
    """Encode a window's dialogues and write them as one shard, and the ledger of the dropped."""
    dtype = token_dtype(tokenizer.vocab_size)
    pieces, dropped = [], []
    seen = shortened = 0
    for row in window.rows():
        seen += 1
        fitted = fit_dialogue(row["messages"], tokenizer, context_length)
        if isinstance(fitted, str):
            dropped.append(
                {"id": row["id"], "title": row["source"], "reason": fitted, "detail": None}
            )
            continue
        ids, mask, weights = fitted
        shortened += ids != tokenizer.encode_dialogue(row["messages"])[0]
        parts = np.array(ids, dtype), np.array(mask, np.uint8), tuple(weights)
        pieces.append(Piece(row["language"], *parts))
    num_rows, metrics = write_rows(directory, pieces, tokenizer, width=context_length, format="sft")
    write_table(directory / "ledger.parquet", dropped, LEDGER)
    reasons = Counter(row["reason"] for row in dropped)
    metrics["shortened_dialogues"] = shortened
    return Counts(seen, len(pieces), reasons, num_rows, metrics)


def refuse_if_nothing_fits(counts: Counts, context_length: int) -> None:
    """Tell the user when no dialogue at all fits into a row."""
    if counts.seen and not counts.kept:
        raise BadInput(
            f"shard.context_length={context_length} is too short for all of the {counts.seen} "
            f"dialogues ({dict(counts.dropped)}); raise shard.context_length or shorten the answers"
        )
