"""A loaded checkpoint -> texts, dialogues, embeddings, for the commands that people type."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from storage.errors import BadInput

if TYPE_CHECKING:
    import numpy as np

    from etude_model.inference.adapters import AdapterRows
    from etude_model.inference.generate import SamplingConfig
    from etude_model.inference.load import LoadedModel

BASE = "base"  # among adapters: the model without any
SWITCH = "/adapter"


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
        option = str(first["loc"][0]).replace("max_new", "max").replace("_", "-")
        raise BadInput(f"--{option} {first['input']}: {first['msg']}") from None


def adapter_references(given: Sequence[str]) -> dict[str, str]:
    """Return name -> reference of adapters given as NAME=REF or REF; `base` refers to none."""
    references: dict[str, str] = {}
    for text in given:
        match = re.fullmatch(r"([\w-]+)=(.+)", text)
        name, reference = match.groups() if match else (Path(text).name, text)
        if name in references or (match and name == BASE):
            raise BadInput(
                f"--adapter {text}: the name {name} is taken; use --adapter OTHER={reference}"
            )
        references[name] = reference
    return references


def continue_texts(
    loaded: LoadedModel,
    prompts: list[str],
    settings: SamplingConfig,
    adapters: Sequence[str] = (),
    *,
    cut: bool = False,
) -> list[dict[str, Any]]:
    """Return what the model writes after each prompt, and why it stopped.

    With `adapters`, by name, each of them writes after each prompt, all in one batch. With `cut`
    it writes no more than the longest prompt leaves room for; else too much is BadInput.
    """
    from etude_model.inference.generate import generate

    tokenizer = loaded.tokenizer
    asked = [(prompt, name) for prompt in prompts for name in adapters or [BASE]]
    ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt, _ in asked]
    longest, context = max(map(len, ids)), loaded.config.context_length
    room = context - longest
    if room < 1:
        raise BadInput(f"a prompt has {longest} tokens, the model reads {context}; shorten it")
    if settings.max_new_tokens > room and not cut:
        raise BadInput(
            f"--max-tokens {settings.max_new_tokens} is more than the context of {context} tokens "
            f"leaves after a prompt of {longest}; give at most {room}, or shorten the prompt"
        )
    most = min(settings.max_new_tokens, room)
    settings = settings.model_copy(update={"max_new_tokens": most})
    stops = {tokenizer.eos_id, tokenizer.im_end_id}
    rows = _rows(loaded, [name for _, name in asked])
    completions = generate(loaded.model, ids, settings, stop_ids=stops, adapters=rows)
    return [
        {
            "prompt": prompt,
            **({"adapter": name} if adapters else {}),
            "text": tokenizer.decode(completion.token_ids),
            "finish_reason": completion.finish_reason,
        }
        for (prompt, name), completion in zip(asked, completions, strict=True)
    ]


def dialogue(
    loaded: LoadedModel,
    settings: SamplingConfig,
    *,
    system: str,
    quiet: bool,
    adapters: Sequence[str] = (),
) -> list[dict[str, str]]:
    """Answer line after line until an empty one; the oldest turns go when the context is full.

    The first of `adapters` answers until a line "/adapter NAME" calls another.
    """
    messages = [{"role": "system", "content": system}] if system else []
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    is_terminal = sys.stdin.isatty()
    adapter = adapters[0] if adapters else BASE
    if is_terminal and not quiet:
        print("An empty line ends the conversation.")
        if adapters:
            print(f"{SWITCH} NAME lets another answer: {', '.join(adapters)}")
    while True:
        try:
            line = input("> " if is_terminal and not quiet else "").strip()
        except EOFError:
            break
        if not line:
            break
        if adapters and line.partition(" ")[0] == SWITCH:
            adapter = _switched(loaded, line.removeprefix(SWITCH).strip(), adapter)
            continue
        messages.append({"role": "user", "content": line})
        answer = _answer(loaded, messages, settings, quiet, adapter)
        messages.append({"role": "assistant", "content": answer})
    return messages


def _answer(
    loaded: LoadedModel,
    messages: list[dict[str, str]],
    settings: SamplingConfig,
    quiet: bool,
    adapter: str,
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
    rows = _rows(loaded, [adapter])
    for token in stream(loaded.model, ids, settings, stop_ids=stops, adapters=rows):
        pieces.append(text.push(token))
        if not quiet:
            print(pieces[-1], end="", flush=True)
    pieces.append(text.finish())
    if not quiet:
        print(pieces[-1], flush=True)
    return "".join(pieces).strip()


def _switched(loaded: LoadedModel, name: str, before: str) -> str:
    """Return the name of the adapter that answers from now on; an unknown one changes nothing."""
    try:
        _rows(loaded, [name])
    except BadInput as error:
        print(error, file=sys.stderr)
        return before
    return name


def _rows(loaded: LoadedModel, names: list[str]) -> AdapterRows | None:
    """Return which adapter each row uses; None where none is loaded."""
    if loaded.adapters is None:
        return None
    return loaded.adapters.rows([None if name == BASE else name for name in names])


def decoded(name: str, given: Iterable[bytes]) -> list[str]:
    """Return what is given as texts; refuse the first that is not UTF-8, as `name` 1, 2 ..."""
    texts = []
    for number, raw in enumerate(given, start=1):
        try:
            texts.append(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise BadInput(f"{name} {number} is not UTF-8 ({error}); convert it first") from None
    return texts


def embed_lines(loaded: LoadedModel, lines: list[str]) -> np.ndarray:
    """Return the unit vectors of texts, float32 [len(lines), hidden_size]; long ones are cut."""
    from etude_model.inference.embed import embed_ids

    if not lines:
        raise BadInput("no lines on standard input; give one text a line")
    tokenizer, limit = loaded.tokenizer, loaded.config.context_length
    return embed_ids(loaded.model, [tokenizer.encode_whole(line, limit) for line in lines])
