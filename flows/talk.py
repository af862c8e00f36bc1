"""A loaded checkpoint -> texts, dialogues, embeddings, for the commands that people type."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from storage.errors import BadInput

if TYPE_CHECKING:
    import numpy as np

    from etude_model.inference.generate import SamplingConfig
    from etude_model.inference.load import LoadedModel


def sampling(
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    repetition_penalty: float,
    seed: int,
) -> SamplingConfig:
    """Return the sampling settings that a command line gives; refuse impossible ones."""
    from etude_model.inference.generate import SamplingConfig

    try:
        return SamplingConfig(
            max_new_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInput(f"{first['loc'][0]}={first['input']!r}: {first['msg']}") from None


def continue_texts(
    loaded: LoadedModel, prompts: list[str], settings: SamplingConfig
) -> list[dict[str, Any]]:
    """Return what the model writes after each prompt, and why it stopped."""
    from etude_model.inference.generate import generate

    tokenizer = loaded.tokenizer
    ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
    stops = {tokenizer.eos_id, tokenizer.im_end_id}
    completions = generate(loaded.model, ids, settings, stop_ids=stops)
    return [
        {
            "prompt": prompt,
            "text": tokenizer.decode(completion.token_ids),
            "finish_reason": completion.finish_reason,
        }
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def dialogue(
    loaded: LoadedModel, settings: SamplingConfig, *, system: str, quiet: bool
) -> list[dict[str, str]]:
    """Answer line after line until an empty one; the oldest turns go when the context is full."""
    messages = [{"role": "system", "content": system}] if system else []
    is_terminal = sys.stdin.isatty()
    if is_terminal and not quiet:
        print("An empty line ends the conversation.")
    while True:
        try:
            line = input("> " if is_terminal and not quiet else "").strip()
        except EOFError:
            break
        if not line:
            break
        messages.append({"role": "user", "content": line})
        messages.append(
            {"role": "assistant", "content": _answer(loaded, messages, settings, quiet)}
        )
    return messages


def _answer(
    loaded: LoadedModel, messages: list[dict[str, str]], settings: SamplingConfig, quiet: bool
) -> str:
    from etude_model.inference.generate import stream
    from etude_model.inference.text import TextStream

    tokenizer = loaded.tokenizer
    context = loaded.config.context_length
    settings = settings.model_copy(
        update={"max_new_tokens": min(settings.max_new_tokens, context // 2)}
    )
    room = context - settings.max_new_tokens
    shown = list(messages)
    ids, _ = tokenizer.encode_dialogue(shown, add_generation_prompt=True)
    while len(ids) > room:
        oldest = next((i for i, m in enumerate(shown[:-1]) if m["role"] != "system"), None)
        if oldest is None:
            raise BadInput(f"that is {len(ids)} tokens, the model reads {room}; say it shorter")
        del shown[oldest : oldest + 2]
        ids, _ = tokenizer.encode_dialogue(shown, add_generation_prompt=True)
    stops = {tokenizer.eos_id, tokenizer.im_end_id}
    text, pieces = TextStream(tokenizer), []
    for token in stream(loaded.model, ids, settings, stop_ids=stops):
        pieces.append(text.push(token))
        if not quiet:
            print(pieces[-1], end="", flush=True)
    pieces.append(text.finish())
    if not quiet:
        print(pieces[-1], flush=True)
    return "".join(pieces).strip()


def embed_lines(loaded: LoadedModel, lines: list[str]) -> np.ndarray:
    """Return the unit vectors of texts, float32 [len(lines), hidden_size]; long ones are cut."""
    from etude_model.inference.embed import embed_ids

    if not lines:
        raise BadInput("no lines on standard input; give one text a line")
    tokenizer, limit = loaded.tokenizer, loaded.config.context_length
    return embed_ids(loaded.model, [tokenizer.encode_whole(line, limit) for line in lines])
