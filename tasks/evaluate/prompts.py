"""held-out shards -> prompts by language: beginnings of texts, dialogues up to an answer.

The prompts come from the data itself, so every language of a corpus has some, and they stay the
same for as long as the validation split does.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from etude_model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from etude_model.data.lm import TokenRows
    from etude_model.data.sft import SftRows

Prompts = dict[str, list[list[int]]]


def dialogue_text(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Return "role: content" lines of a dialogue's ids, the header of the answer left out."""
    starts = [at for at, id in enumerate(ids) if id == tokenizer.im_start_id]
    turns = []
    for start, end in pairwise(starts):
        role, _, content = tokenizer.decode(ids[start:end]).partition("\n")
        turns.append(f"{role}: {content.removesuffix(chr(10))}")
    return "\n".join(turns)


def whole_characters(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Return the ids without byte tokens at either end that are only a part of a character."""
    start, end = 0, len(ids)
    while start < end - 1 and tokenizer.decode(ids[start:end]).startswith("\ufffd"):
        start += 1
    while end > start + 1 and tokenizer.decode(ids[start:end]).endswith("\ufffd"):
        end -= 1
    return ids[start:end]


def text_prompts(rows: TokenRows, count: int, num_tokens: int) -> Prompts:
    """Return for each language the first tokens of `count` documents, one a row, spread out.

    A row's first piece may be the middle of a long text; that is a prompt like any other.
    """
    prompts: Prompts = {}
    for language in sorted(set(rows.languages)):
        own = np.flatnonzero(rows.languages == language)
        chosen = own[np.unique(np.linspace(0, len(own) - 1, min(count, len(own))).astype(int))]
        if len(chosen):
            tokens = rows.column("tokens", chosen)
            first = (rows.segments(chosen) == 0).sum(axis=1)
            prompts[language] = [
                row[: min(num_tokens, max(1, length // 2))].tolist()
                for row, length in zip(tokens, first, strict=True)
            ]
    return prompts


def questions(rows: SftRows, count: int) -> Prompts:
    """Return for each language dialogues up to their first answer, `count` in all."""
    languages = sorted(set(rows.languages))
    prompts: Prompts = {}
    for number, language in enumerate(languages):
        share = count // len(languages)
        share += number < count % len(languages)
        own = np.flatnonzero(rows.languages == language)
        found = [prompt for index in own for prompt in _first_turns(rows, int(index))]
        unique = list({tuple(prompt): prompt for prompt in found}.values())
        chosen = np.unique(np.linspace(0, len(unique) - 1, min(share, len(unique))).astype(int))
        prompts[language] = [unique[place] for place in chosen]
    return {language: some for language, some in prompts.items() if some}


def _first_turns(rows: SftRows, index: int) -> list[list[int]]:
    """Return of each dialogue of a row the ids before the first one that is to be learned."""
    one = np.array([index])
    tokens, segments, mask = rows.column("tokens", one), rows.segments(one), rows.trained(one)
    prompts = []
    for piece in range(int(segments.max()) + 1):
        places = np.flatnonzero(segments[0] == piece)
        learned = np.flatnonzero(mask[0, places])
        if len(learned) and learned[0]:
            prompts.append(tokens[0, places[: learned[0]]].tolist())
    return prompts
