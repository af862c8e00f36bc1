"""model + prompts -> what it would write now, for people to read while it trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch

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
) -> list[dict[str, str]]:
    """Return [{"prompt", "text"}]: a continuation of each prompt, or an answer to it.

    A prompt keeps its last tokens, half the context at most; what is written stops at the context.
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
        {"prompt": prompt, "text": tokenizer.decode(one.token_ids)}
        for prompt, one in zip(prompts, written, strict=True)
    ]
