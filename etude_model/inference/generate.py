"""Prompts as ids -> continuations as ids, many at a time, each as if it were alone.

Prompts of different lengths stand left-aligned in one batch; each row writes its next token at its
own position of the cache, and sees no slot beyond that. What lies there from the padding of a
longer neighbour is overwritten before it can be seen:

    row 0   a b c d | e f          prompt of 4, then e at slot 4
    row 1   a b - - |              prompt of 2, then its first own token at slot 2, over the -

Try: etude generate CKPT "Once upon a time"
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from etude_model.inference.adapters import AdapterRows
from etude_model.inference.sampling import SamplingConfig, next_tokens
from etude_model.model.attention import KVCache
from etude_model.model.transformer import Etude
from storage.errors import BadInput

__all__ = ["Completion", "SamplingConfig", "generate", "stream"]


@dataclass(frozen=True, slots=True)
class Completion:
    """What was written after one prompt; the stop token is not part of it."""

    token_ids: list[int]
    finish_reason: Literal["stop", "length"]


def generate(
    model: Etude,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    *,
    stop_ids: Collection[int],
    seeds: Sequence[int] | None = None,
    adapters: AdapterRows | None = None,
) -> list[Completion]:
    """Return one completion per prompt; it does not depend on the other prompts.

    A row's noise comes from its seed (`sampling.seed` for all if `seeds` is not given) and its
    prompt. `adapters` says which adapter each prompt uses. A prompt that leaves no room for
    max_new_tokens in the context is BadInput.
    """
    if seeds is not None and len(seeds) != len(prompts):
        raise BadInput(f"{len(seeds)} seeds for {len(prompts)} prompts; give one seed per prompt")
    written: list[list[int]] = [[] for _ in prompts]
    has_stopped = [False] * len(prompts)
    for row, token in _decode(model, prompts, sampling, set(stop_ids), seeds, adapters):
        if token is None:
            has_stopped[row] = True
        else:
            written[row].append(token)
    return [
        Completion(ids, "stop" if stopped else "length")
        for ids, stopped in zip(written, has_stopped, strict=True)
    ]


def stream(
    model: Etude,
    prompt: Sequence[int],
    sampling: SamplingConfig,
    stop_ids: Collection[int],
    adapters: AdapterRows | None = None,
) -> Iterator[int]:
    """Yield the ids that `generate` would return, each as soon as it is known."""
    for _, token in _decode(model, [prompt], sampling, set(stop_ids), None, adapters):
        if token is not None:
            yield token


def _decode(
    model: Etude,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    stop_ids: set[int],
    seeds: Sequence[int] | None,
    adapters: AdapterRows | None,
) -> Iterator[tuple[int, int | None]]:
    """Yield (row, token) as they come, and (row, None) where a row stops by itself."""
    for number, prompt in enumerate(prompts):
        _check(number, prompt, sampling, model)
    if adapters is not None and len(adapters) != len(prompts):
        raise BadInput(f"{len(adapters)} adapters for {len(prompts)} prompts; give one per prompt")
    if not prompts:
        return
    was_training = model.training
    model.eval()
    try:
        seeds = seeds or [sampling.seed] * len(prompts)
        batch = _Batch(model, prompts, sampling, seeds, stop_ids, adapters)
        for _ in range(sampling.max_new_tokens):
            tokens = batch.step()
            rows = batch.rows
            has_stopped = [token in stop_ids for token in tokens]
            if any(has_stopped):  # before the yields: the caller may never come back
                batch.keep([not stopped for stopped in has_stopped])
            for row, token, stopped in zip(rows, tokens, has_stopped, strict=True):
                yield row, None if stopped else token
            if not batch.rows:
                return
    finally:
        model.train(was_training)


def _check(number: int, prompt: Sequence[int], sampling: SamplingConfig, model: Etude) -> None:
    limit, vocab_size = model.config.context_length, model.config.vocab_size
    if not prompt:
        raise BadInput(f"prompt {number} is empty; give at least one token, such as <s>")
    if len(prompt) + sampling.max_new_tokens > limit:
        raise BadInput(
            f"prompt {number} has {len(prompt)} tokens and max_new_tokens="
            f"{sampling.max_new_tokens}, together more than context_length={limit}; "
            f"shorten the prompt or set max_new_tokens to at most {max(0, limit - len(prompt))}"
        )
    if not all(0 <= token < vocab_size for token in prompt):
        raise BadInput(
            f"prompt {number} has an id outside 0 to {vocab_size - 1}; "
            "encode it with the tokenizer of this checkpoint"
        )


class _Batch:
    """The rows that are still writing: cache, lengths, last logits, noise."""

    @torch.inference_mode()
    def __init__(
        self,
        model: Etude,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        seeds: Sequence[int],
        stop_ids: Collection[int],
        adapters: AdapterRows | None,
    ) -> None:
        device = model.output_weight.device
        lengths = [len(prompt) for prompt in prompts]
        self.model, self.sampling, self.adapters = model, sampling, adapters
        self.rows, self.num_written = list(range(len(prompts))), 0
        self.lengths_B = torch.tensor(lengths, device=device)
        self.seeds_B = torch.tensor(
            [_row_seed(seed, prompt) for seed, prompt in zip(seeds, prompts, strict=True)],
            device=device,
        )
        tokens_BT = torch.zeros(len(prompts), max(lengths), dtype=torch.int64)
        self.seen_BV = torch.zeros(len(prompts), model.config.vocab_size, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            tokens_BT[row, : len(prompt)] = torch.tensor(prompt)
            self.seen_BV[row, torch.tensor(prompt)] = True
        # A question ends with the token that shall end its answer: that one may always come again.
        self.seen_BV[:, [token for token in stop_ids if token < model.config.vocab_size]] = False
        self.seen_BV = self.seen_BV.to(device)
        self.cache = KVCache(
            model.config,
            num_rows=len(prompts),
            capacity=max(lengths) + sampling.max_new_tokens,
            device=device,
            dtype=model.output_weight.dtype,
        )
        hidden_BTD = self._hidden(tokens_BT.to(device), None)
        last_BD = hidden_BTD[torch.arange(len(prompts), device=device), self.lengths_B - 1]
        self.logits_BV = model.logits(last_BD)
        self.last_B: Tensor | None = None

    @torch.inference_mode()
    def step(self) -> list[int]:
        """Write one token in every row and return them in the order of `rows`."""
        if self.last_B is not None:
            hidden_B1D = self._hidden(self.last_B[:, None], self.lengths_B[:, None])
            self.logits_BV = self.model.logits(hidden_B1D[:, 0])
            self.lengths_B = self.lengths_B + 1
        self.last_B = next_tokens(
            self.logits_BV,
            self.sampling,
            seen_BV=self.seen_BV,
            seeds_B=self.seeds_B,
            step=self.num_written,
        )
        self.seen_BV.scatter_(1, self.last_B[:, None], True)
        self.num_written += 1
        return self.last_B.tolist()

    @torch.inference_mode()
    def keep(self, is_kept: list[bool]) -> None:
        """Go on with some of the rows only."""
        assert self.last_B is not None
        self.rows = [row for row, kept in zip(self.rows, is_kept, strict=True) if kept]
        places = [place for place, kept in enumerate(is_kept) if kept]
        kept_B = torch.tensor(places, dtype=torch.int64, device=self.lengths_B.device)
        self.cache.keep(kept_B)
        self.lengths_B, self.seeds_B = self.lengths_B[kept_B], self.seeds_B[kept_B]
        self.last_B, self.seen_BV = self.last_B[kept_B], self.seen_BV[kept_B]
        self.adapters = self.adapters.keep(kept_B) if self.adapters is not None else None

    def _hidden(self, tokens_BT: Tensor, positions_BT: Tensor | None) -> Tensor:
        """Return the hidden states of new tokens; each row's adapter is on for this pass only."""
        with self.adapters.applied() if self.adapters is not None else nullcontext():
            hidden_BTD: Tensor = self.model(tokens_BT, positions=positions_BT, cache=self.cache)
        return hidden_BTD


def _row_seed(seed: int, prompt: Sequence[int]) -> int:
    """Mix seed and prompt, so that rows of one batch do not share their noise."""
    text = f"{seed}:{','.join(map(str, prompt))}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)
