"""The losses of a step: the same however rows are split, padded and packed; and what they teach."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from etude_model.config import EtudeConfig
from etude_model.data.lm import IGNORED, TokenBatch, next_token_targets
from etude_model.data.mixture import MixtureOrder
from etude_model.data.order import RowOrder
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from etude_model.training.objectives import summed_nats
from etude_model.training.run import build_trainer, read_run
from storage.artifact import sha256_file
from storage.errors import Stopped
from storage.formats.shards import write_shard

WriteRun = Callable[..., Path]


def packed(pieces: list[list[int]], width: int, weights: list[float] | None = None) -> TokenBatch:
    """Return one row of pieces and padding; each piece's targets have its weight."""
    tokens, segments = np.full((2, 1, width), [[[3]], [[-1]]])
    of_targets = np.ones((1, width), dtype=np.float32)
    start = 0
    for number, piece in enumerate(pieces):
        stop = start + len(piece)
        tokens[0, start:stop], segments[0, start:stop] = piece, number
        of_targets[0, start:stop] = weights[number] if weights else 1
        start = stop
    targets = next_token_targets(tokens, segments)
    parts = map(torch.from_numpy, (tokens, targets, segments))
    return TokenBatch(*parts, torch.from_numpy(of_targets) if weights else None)


def gradient(model: Etude, batch: TokenBatch) -> tuple[float, torch.Tensor]:
    """Return the weighted nats of a batch and the gradient of the embeddings."""
    model.zero_grad()
    weighted, _ = summed_nats(model, model(batch.tokens_BT, segments_BT=batch.segments_BT), batch)
    weighted.backward()
    return weighted.item(), model.model.embed_tokens.weight.grad.clone()


@pytest.mark.parametrize("weights", (None, [1.0, 0.5, 2.0]))
def test_loss_does_not_know_padding_or_packing(tiny_model_config: EtudeConfig, weights) -> None:
    """Catches padding that is learned, documents that see each other, weights that wander."""
    torch.manual_seed(0)
    model = Etude(tiny_model_config)
    generator = torch.Generator().manual_seed(1)
    pieces = [torch.randint(16, 300, (n,), generator=generator).tolist() for n in (5, 9, 7)]
    expected, expected_gradient = gradient(model, packed(pieces, 32, weights))
    order = [2, 0, 1]
    moved = [weights[number] for number in order] if weights else None
    layouts = [packed(pieces, 21, weights), packed([pieces[number] for number in order], 32, moved)]
    for batch in layouts:
        assert batch.total_weight == packed(pieces, 32, weights).total_weight
        nats, own_gradient = gradient(model, batch)
        assert nats == pytest.approx(expected, rel=1e-5)
        assert torch.allclose(own_gradient, expected_gradient, atol=1e-4)
    alone = [packed([p], 32, [w]) for p, w in zip(pieces, weights or [1.0] * 3, strict=True)]
    assert sum(gradient(model, batch)[0] for batch in alone) == pytest.approx(expected, rel=1e-5)
    plain = [gradient(model, packed([piece], 32))[0] for piece in pieces]
    by_hand = sum(nats * weight for nats, weight in zip(plain, weights or [1] * 3, strict=True))
    assert by_hand == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stage", ("sft", "semantic"))
def test_a_step_does_not_know_its_micro_batches(
    write_run: WriteRun, tmp_path: Path, stage: str
) -> None:
    """Catches means of means, and pairs contrasted only within their micro-batch."""
    results = []
    knobs = {"pair_micro_batch_size": 8} if stage == "semantic" else {}
    trainer = build_trainer(*_run(write_run(tmp_path / "run", stage, **knobs)))
    for rows in (8, 4, 2, 1):
        trainer.model.zero_grad()
        total, num_tokens = 0.0, 0
        for part in trainer.stage.losses(3, rows):
            loss = part.loss(trainer.model, slice(None))
            loss.value.backward()
            total, num_tokens = total + loss.value.item(), num_tokens + loss.num_tokens
        gradients = [weight.grad.clone() for weight in trainer.parameters]
        results.append((total, num_tokens, gradients))
    for total, num_tokens, gradients in results[1:]:
        assert num_tokens == results[0][1]
        assert total == pytest.approx(results[0][0], rel=1e-5)
        for one, other in zip(gradients, results[0][2], strict=True):
            assert torch.allclose(one, other, atol=1e-6, rtol=1e-3)


def test_the_next_token_is_learned(write_run: WriteRun, tmp_path: Path, tiny_tokenizer) -> None:
    """Catches labels shifted twice: each token says what comes next, but never what comes after."""
    generator = np.random.default_rng(0)
    # Pairs (a, f(a)), each a drawn anew: what follows f(a) is left to chance, so two ahead of a
    # nothing can be known.
    first = generator.integers(20, 60, size=(64, 16))
    tokens = np.stack([first, first + 100], axis=2).reshape(64, 32)
    for part in ("train-00000", "validation-00000"):
        (tmp_path / "shards" / part).mkdir(parents=True)
        write_shard(
            tmp_path / "shards" / part / "tokens.parquet",
            {"tokens": tokens.astype(np.uint16)},
            pa.table({"language": ["en"] * 64, "segments": pa.array([[32]] * 64)}),
            {"format": "lm", "context_length": 32, "tokenizer": tiny_tokenizer.digest},
        )
    run_dir = write_run(
        tmp_path / "run", "pretrain", num_steps=80, batch_size=16, learning_rate=0.02
    )
    _change(run_dir, shards=[str(tmp_path / "shards")])
    trainer = build_trainer(*_run(run_dir))
    assert [event["kind"] for event in trainer.events()][-1] == "end"
    ids = torch.from_numpy(tokens)
    with torch.no_grad():
        logits = trainer.model.logits(trainer.model(ids))
    # Every other token is fixed by the one before it; the oracle does its own shift.
    assert F.cross_entropy(logits[:, 0::2].flatten(0, 1), ids[:, 1::2].flatten()) < 0.01


def test_mixture_in_a_run(write_run: WriteRun, tmp_path: Path) -> None:
    """Catches a mixture that changes today's order, or that nobody asks for rows."""
    plain = build_trainer(*_run(write_run(tmp_path / "plain", "pretrain")))
    mixed = build_trainer(*_run(write_run(tmp_path / "mixed", "pretrain", mixture_alpha=0.0)))
    orders = [_text_of(trainer.stage.losses).order for trainer in (plain, mixed)]
    assert isinstance(orders[0], RowOrder) and isinstance(orders[1], MixtureOrder)
    assert orders[1].names.tolist() == ["en", "zh"]
    assert orders[1].places.tolist() == pytest.approx([512, 512], abs=8)  # rows differ in tokens
    part = next(mixed.stage.losses(0, 8))
    assert part.loss(mixed.model, slice(None)).num_tokens > 0


def test_pretraining_goes_on_from_a_parent(
    write_run: WriteRun, tmp_path: Path, parent_checkpoint: Path
) -> None:
    """Catches fresh weights in place of the parent's."""
    run_dir = write_run(tmp_path / "run", "pretrain")
    _change(run_dir, parent=str(parent_checkpoint), model=None)
    model = build_trainer(*_run(run_dir)).model
    weights = load_file(parent_checkpoint / "model.safetensors")
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_the_guard_of_the_semantic_stage(write_run: WriteRun, tmp_path: Path) -> None:
    """Catches a guard with a memory of its own, and weights kept that forget the text."""
    knobs = {"contrastive_weight": 0.4, "max_text_loss": 0.01}
    trainer = build_trainer(*_run(write_run(tmp_path / "run", "semantic", **knobs)))
    stage = trainer.stage
    seen: dict[str, Any] = {"0": {"bits_per_byte": 2.0, "recall@10": 0.1}}

    def contrast() -> float:
        *_, part = stage.losses(0, 8)
        loss = part.loss(stage.model, slice(None))
        return loss.value.item() / loss.figures["contrastive_loss"].item()

    assert contrast() == pytest.approx(0.4)
    seen["5"] = {"bits_per_byte": 2.019, "recall@10": 0.2}
    stage.observe(seen)
    assert contrast() == pytest.approx(0.4) and stage.score(seen, "5") == 0.2
    seen["10"] = {"bits_per_byte": 2.021, "recall@10": 0.3}
    for _ in range(2):  # twice: after a resume the same is seen again
        stage.observe(seen)
    assert contrast() == pytest.approx(0.2) and stage.score(seen, "10") is None
    seen["15"] = {"bits_per_byte": 2.5, "recall@10": 0.3}
    stage.observe(seen)
    assert contrast() == pytest.approx(0.1)


def test_the_guard_stays_exact_under_resume(write_run: WriteRun, tmp_path: Path) -> None:
    """Catches a weight that a resume forgets to halve, or halves once more."""
    knobs = {"contrastive_weight": 3.0, "max_text_loss": 1e-9, "learning_rate": 0.03}
    digests = []
    for name, stops in (("straight", ()), ("resumed", (6, 10))):
        run_dir = write_run(tmp_path / name, "semantic", **knobs)
        for stop in stops:
            trainer = build_trainer(*_run(run_dir))
            trainer.stop = lambda trainer=trainer, stop=stop: trainer.now.step >= stop
            with pytest.raises(Stopped):
                list(trainer.events())
        events = list(build_trainer(*_run(run_dir)).events())
        evaluated = [event for event in events if event["kind"] == "evaluate"][-1]
        assert evaluated["metrics"]["contrastive_weight"] <= 1.5
        digests.append(sha256_file(run_dir / "model.safetensors"))
    assert digests[0] == digests[1]


def test_two_thousand_topics_are_told_apart(
    write_run: WriteRun, tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    """Catches an objective that looks right and teaches nothing, or that costs the language.

    A topic is two of 64 signs. A query names it in signs of one script, its text in those of
    another, between words that mean nothing. One topic in five is never trained on.
    """
    generator = np.random.default_rng(0)
    topics = generator.permutation(list(combinations(range(64), 2)))
    assert len(topics) == 2016
    fillers = generator.integers(200, 230, size=(len(topics), 2))
    query = np.full((len(topics), 4), [1, 0, 0, 2])
    query[:, 1:3] = generator.permuted(topics, axis=1) + 16
    positive = np.full((len(topics), 6), [1, 0, 0, 0, 0, 2])
    positive[:, 1:5:2], positive[:, 2:5:2] = fillers, topics + 100
    for part, rows in (("train-00000", slice(1616)), ("validation-00000", slice(1616, None))):
        (tmp_path / "pairs" / part).mkdir(parents=True)
        names = [f"topic:{number}" for number in range(len(topics))][rows]
        columns = {
            "query": query[rows].astype(np.uint16),
            "positive": positive[rows].astype(np.uint16),
        }
        write_shard(
            tmp_path / "pairs" / part / "pairs.parquet",
            columns,
            pa.table(
                {"article": names, **{of: ["x"] * len(names) for of in ("source", "language")}}
            ),
            {"format": "pairs", "tokenizer": tiny_tokenizer.digest, "pad_id": 3},
        )
    knobs = {"num_steps": 150, "evaluate_every": 150, "batch_size": 4, "learning_rate": 0.02}
    knobs |= {"pair_batch_size": 128, "pair_micro_batch_size": 128, "contrastive_weight": 1.0}
    run_dir = write_run(tmp_path / "run", "semantic", **knobs, evaluation_pairs=400)
    _change(run_dir, pair_shards=[str(tmp_path / "pairs")])
    events = list(build_trainer(*_run(run_dir)).events())
    before, after = (event["metrics"] for event in events if event["kind"] == "evaluate")
    assert before["recall@1"] < 0.05 and after["recall@1"] > 0.8
    assert after["bits_per_byte"] < 1.02 * before["bits_per_byte"]
    assert after["bm25/recall@1"] < 0.05 and after["alignment"] < before["alignment"] + 1


def _run(run_dir: Path) -> tuple[Any, Path]:
    return read_run(run_dir), run_dir


def _change(run_dir: Path, **values: Any) -> None:
    path = run_dir / "logs" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _text_of(losses: Any) -> Any:
    return losses.__self__


def test_ignored_is_what_the_loss_ignores() -> None:
    """Catches a target that means padding in one module and a token in another."""
    assert packed([[20, 21]], 4).targets_BT.tolist() == [[21, IGNORED, IGNORED, IGNORED]]
