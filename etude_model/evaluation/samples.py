"""model + prompts -> what it would write now, for people to read while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from etude_model.evaluation.repetition import NGRAM, repeated_share
from etude_model.inference.generate import SamplingConfig, generate
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer


@torch.no_grad()
def sample_texts(
    model: Etude,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    as_dialogue: bool,
    sampling: SamplingConfig,
) -> list[dict[str, Any]]:
    """Return [{"prompt", "text", "finish_reason", "repetition"}]: a continuation of each prompt.

    As a dialogue it is an answer; "repetition" is the share of 4-grams that stood before. A prompt
    keeps its last tokens, half the context at most; what is written stops at the context.
    """
    if as_dialogue:
        turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
        ids = [tokenizer.encode_dialogue(turn, add_generation_prompt=True)[0] for turn in turns]
    else:
        ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
    context_length = model.config.context_length
    ids = [one[-(context_length // 2) :] for one in ids]
    room = context_length - max(map(len, ids), default=0)
    sampling = sampling.model_copy(update={"max_new_tokens": min(room, sampling.max_new_tokens)})
    stops = {tokenizer.eos_id, tokenizer.im_end_id}
    written = generate(model, ids, sampling, stop_ids=stops)
    return [
        {
            "prompt": prompt,
            "text": tokenizer.decode(one.token_ids),
            "finish_reason": one.finish_reason,
            "repetition": round(repeated_share(one.token_ids, NGRAM), 4),
        }
        for prompt, one in zip(prompts, written, strict=True)
    ]
