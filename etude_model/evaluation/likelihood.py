"""context and continuation -> how likely the model finds the one after the other.

Requests with the same context share its computation: it goes through the model once, and every
continuation goes on from its keys and values. Where the answers are single tokens (A, B, C, D),
that one pass is all there is.

    context         <s> q u e s t i o n :       once; its last place predicts every first token
    continuation 1                        A
    continuation 2                        B C   all but the last token go on, on the cache

B contexts · R requests · T tokens · N predicted tokens · D hidden_size · V vocab_size
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from etude_model.model.attention import KVCache
from etude_model.model.loss import CHUNK_LOGITS, CHUNK_LOGITS_ELSEWHERE
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from storage.errors import BadInput

Request = tuple[tuple[int, ...], tuple[int, ...]]
"""The ids of a context, with its <s>, and those of a continuation; neither is empty."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The natural logarithm of a continuation's probability; would greedy decoding write it?"""

    log_likelihood: float
    is_greedy: bool


def encode_request(tokenizer: Tokenizer, context: str, continuation: str) -> Request:
    """Return the ids of both, cut where lm-evaluation-harness cuts (lm_eval/api/model.py).

    The continuation's tokens are those that it has within the whole text; spaces at the end of the
    context go to it. It can come out empty, where its letters melt into the context's last token.
    """
    before = tokenizer.encode(context.rstrip())
    whole = tokenizer.encode(context + continuation)
    return (tokenizer.bos_id, *before), tuple(whole[len(before) :])


def num_read(request: Request) -> int:
    """Return how many tokens the model must read: all but the last one, which it predicts."""
    return len(request[0]) + len(request[1]) - 1


def cut_left(request: Request, context_length: int) -> Request:
    """Drop the context's first tokens, `<s>` too, until the model can read the rest.

    That is what lm-evaluation-harness does with a prompt that is too long.
    """
    too_many = max(0, num_read(request) - context_length)
    return request[0][too_many:], request[1]


@torch.inference_mode()
def log_likelihoods(
    model: Etude, requests: Sequence[Request], *, batch_size: int = 32
) -> list[Likelihood]:
    """Return one result per request, in their order; `batch_size` counts contexts.

    Neither batch size nor neighbours change a result (but for rounding). A request of more tokens
    than the model reads, and one with an empty part, are BadInput.
    """
    by_context: dict[tuple[int, ...], list[int]] = {}
    for number, (context, continuation) in enumerate(requests):
        if not context or not continuation:
            raise BadInput(f"request {number} has an empty part; leave it out")
        if num_read((context, continuation)) > model.config.context_length:
            raise BadInput(
                f"request {number} has {num_read((context, continuation))} tokens, the model reads "
                f"{model.config.context_length}; shorten its context with cut_left"
            )
        by_context.setdefault(context, []).append(number)
    results: dict[int, Likelihood] = {}
    contexts = sorted(by_context, key=len, reverse=True)
    for start in range(0, len(contexts), batch_size):
        batch = contexts[start : start + batch_size]
        numbers = [number for context in batch for number in by_context[context]]
        rows = [row for row, context in enumerate(batch) for _ in by_context[context]]
        scores = _score(model, batch, rows, [requests[number][1] for number in numbers])
        results |= dict(zip(numbers, scores, strict=True))
    return [results[number] for number in range(len(requests))]


def _score(
    model: Etude,
    contexts: Sequence[tuple[int, ...]],
    rows: Sequence[int],
    continuations: Sequence[tuple[int, ...]],
) -> list[Likelihood]:
    """Return the likelihood of each continuation after the context at its place in `rows`."""
    device = model.output_weight.device
    lengths_B = torch.tensor([len(context) for context in contexts], device=device)
    rows_R = torch.tensor(rows, device=device)
    longest = max(map(len, continuations))
    cache = KVCache(
        model.config,
        num_rows=len(contexts),
        capacity=int(lengths_B.max()) + longest - 1,
        device=device,
        dtype=model.output_weight.dtype,
    )
    hidden_BTD = model(_padded(contexts).to(device), cache=cache)
    hidden_RTD = hidden_BTD[rows_R, lengths_B[rows_R] - 1][:, None]
    if longest > 1:
        cache.keep(rows_R)
        read_RT = _padded([continuation[:-1] for continuation in continuations], longest - 1)
        positions_RT = lengths_B[rows_R, None] + torch.arange(longest - 1, device=device)
        after_RTD = model(read_RT.to(device), positions=positions_RT, cache=cache)
        hidden_RTD = torch.cat([hidden_RTD, after_RTD], dim=1)
    counts_R = torch.tensor([len(continuation) for continuation in continuations])
    is_real_RT = torch.arange(longest) < counts_R[:, None]
    targets_N = torch.tensor([id for continuation in continuations for id in continuation])
    log_p_N, is_best_N = _predict(model, hidden_RTD[is_real_RT.to(device)], targets_N.to(device))
    sizes = counts_R.tolist()
    return [
        Likelihood(float(log_p.sum()), bool(is_best.all()))
        for log_p, is_best in zip(log_p_N.split(sizes), is_best_N.split(sizes), strict=True)
    ]


def _predict(model: Etude, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return each target's log-probability and whether it is the likeliest, chunk by chunk."""
    limit = CHUNK_LOGITS.get(hidden_ND.device.type, CHUNK_LOGITS_ELSEWHERE)
    size = max(1, limit // model.config.vocab_size)
    log_p, is_best = [], []
    for hidden_CD, targets_C in zip(hidden_ND.split(size), targets_N.split(size), strict=True):
        log_p_CV = model.logits(hidden_CD).float().log_softmax(dim=-1)
        log_p.append(log_p_CV.gather(1, targets_C[:, None])[:, 0])
        is_best.append(log_p_CV.argmax(dim=-1) == targets_C)
    return torch.cat(log_p).cpu(), torch.cat(is_best).cpu()


def _padded(rows: Sequence[Sequence[int]], width: int | None = None) -> Tensor:
    """Return id rows side by side, int64, zeros after their ends."""
    width = max(map(len, rows)) if width is None else width
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
