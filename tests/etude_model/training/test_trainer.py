"""The loop: accumulation, label shift, non-finite steps, events, samples."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from etude_model.model.transformer import Etude
from etude_model.training.objectives import Loss, Part
from etude_model.training.run import build_trainer, read_run
from etude_model.training.trainer import Diverged, Trainer
from storage.formats.shards import write_shard


def trainer_of(run_dir: Path) -> Trainer:
    """Return the trainer of a run directory."""
    return build_trainer(read_run(run_dir), run_dir)


def change_run(run_dir: Path, **changes) -> Path:
    """Replace fields of a run's logs/run.json."""
    path = run_dir / "logs" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return run_dir


def gradients(trainer: Trainer, step: int = 0) -> dict[str, torch.Tensor]:
    """Return the gradients of one step."""
    for part in trainer.stage.losses(step, trainer.now.micro_batch_size):
        part.loss(trainer.model, slice(None)).value.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in trainer.model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("stage", ("pretrain", "semantic", "sft"))
def test_accumulated_gradient_is_the_full_batch_gradient(stage, write_run, tmp_path):
    """Catches means of micro-batch means, wrong by tens of percent where rows differ in targets."""
    full = gradients(trainer_of(write_run(tmp_path / "full", stage)))
    parts = gradients(trainer_of(write_run(tmp_path / "parts", stage, micro_batch_size=2)))
    assert full.keys() == parts.keys()
    for name, gradient in full.items():
        assert torch.allclose(gradient, parts[name], atol=1e-6, rtol=0), name


def write_ramp(folder: Path, tokenizer, *, step: int = 1, format: str = "lm") -> None:
    """Write rows in which each token is the one before it plus `step`, from 40 starts."""
    starts = (20 if step > 0 else 35) + np.arange(64) % 40
    columns = {"tokens": (starts[:, None] + step * np.arange(16)[None, :]).astype(np.uint16)}
    if format == "sft":
        columns["mask"] = np.ones((64, 16), dtype=np.uint8)
    segments = pa.array([[16]] * 64, type=pa.list_(pa.int32()))
    for part in ("train-0", "validation-0"):
        (folder / part).mkdir(parents=True)
        write_shard(
            folder / part / "tokens.parquet",
            columns,
            pa.table({"language": ["en"] * 64, "segments": segments}),
            {"format": format, "context_length": 16, "tokenizer": tokenizer.digest},
        )


def test_copy_next_corpus_is_learned(write_run, tiny_tokenizer, tmp_path):
    """Catches labels shifted twice (learns t+2) or not at all (learns nothing but to copy)."""
    run_dir = write_run(
        tmp_path / "run", "pretrain", num_steps=150, batch_size=16, learning_rate=2e-2,
        evaluate_every=150, checkpoint_every=500,
    )  # fmt: skip
    write_ramp(tmp_path / "ramp", tiny_tokenizer)
    trainer = trainer_of(change_run(run_dir, shards=[str(tmp_path / "ramp")]))
    losses = [event["loss"] for event in trainer.events() if event["kind"] == "step"]
    assert losses[0] > 4
    assert losses[-1] < 0.01
    tokens = torch.arange(25, 35)[None]
    predicted = trainer.model.logits(trainer.model(tokens))[0].argmax(dim=-1)
    assert predicted.tolist() == list(range(26, 36))


def learn_one_batch(run_dir: Path) -> list[float]:
    """Train on batch 0 over and over and return the losses."""
    trainer = trainer_of(run_dir)
    losses = trainer.stage.losses
    trainer.stage = replace(trainer.stage, losses=lambda step, size: losses(0, size))
    return [event["loss"] for event in trainer.events() if event["kind"] == "step"]


@pytest.mark.parametrize("kind", ("dense", "moe"))
def test_one_batch_is_learned_by_heart(kind, write_run, write_moe_run, tmp_path):
    """Catches a fine-tuning that cannot lower its own loss."""
    knobs = {"batch_size": 4, "evaluate_every": 500, "num_steps": 120, "checkpoint_every": 500}
    write = write_run if kind == "dense" else write_moe_run
    losses = learn_one_batch(write(tmp_path / "sft", "sft", **knobs))
    assert losses[0] > 2
    assert losses[-1] < 0.05


def test_adapters_learn_one_batch_by_heart(write_run, tiny_tokenizer, tmp_path):
    """Catches adapters that are not trained, not added, or added with the wrong scale.

    The frozen base has learned to count down, the adapters must make it count up.
    """
    write_ramp(tmp_path / "down", tiny_tokenizer, step=-1)
    write_ramp(tmp_path / "up", tiny_tokenizer, format="sft")
    rare = {"evaluate_every": 500, "checkpoint_every": 500, "batch_size": 8, "num_steps": 80}
    base = write_run(tmp_path / "base", "pretrain", **rare, learning_rate=2e-2)
    list(trainer_of(change_run(base, shards=[str(tmp_path / "down")])).events())
    knobs = {"lora": {"rank": 16, "alpha": 32}, "learning_rate": 1e-2, "weight_decay": 0.0}
    run_dir = write_run(tmp_path / "lora", "lora", **rare, **knobs)
    change_run(run_dir, parent=str(base), shards=[str(tmp_path / "up")])
    losses = learn_one_batch(run_dir)
    assert losses[0] > 3
    assert losses[-1] < 0.05


def poisoned(trainer: Trainer, steps: set[int]) -> Trainer:
    """Make the losses of some steps NaN."""
    clean = trainer.stage.losses

    def loss_of(part: Part, model: Etude, rows: slice) -> Loss:
        loss = part.loss(model, rows)
        return replace(loss, value=loss.value * math.nan)

    def losses(step: int, size: int):
        for part in clean(step, size):
            yield replace(part, loss=partial(loss_of, part)) if step in steps else part

    trainer.stage = replace(trainer.stage, losses=losses)
    return trainer


def test_non_finite_step_is_skipped(write_run, tmp_path):
    """Catches NaN weights: the step leaves weights and moments alone, and training goes on."""
    trainer = poisoned(trainer_of(write_run(tmp_path / "run", "sft")), {4, 5, 8})
    before = None
    for event in trainer.events():
        if event["kind"] == "step" and event["step"] == 4:
            before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        if event["kind"] == "warning" and trainer.now.step == 6:
            after = trainer.model.state_dict()
            assert all(torch.equal(before[name], after[name]) for name in before)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    summary = json.loads((tmp_path / "run" / "training.json").read_text())
    assert (summary["skipped_steps"], summary["steps"]) == (3, 12)


def test_three_non_finite_steps_end_the_run(write_run, tmp_path):
    """Catches a diverged run that goes on for days, or that saves over its last good state."""
    run_dir = write_run(tmp_path / "run", "sft")
    trainer, seen = poisoned(trainer_of(run_dir), {4, 5, 6, 7}), []
    with pytest.raises(Diverged, match="learning_rate"):
        seen.extend(trainer.events())
    assert [event["kind"] for event in seen].count("warning") == 3
    assert not (run_dir / "training.json").exists()
    kept = sorted((run_dir / "steps").iterdir())
    assert [folder.name for folder in kept] == ["step_00000005", "step_00000006"]
    assert all(t.isfinite().all() for t in load_file(kept[-1] / "model.safetensors").values())


def test_three_in_a_row_means_since_the_start_of_the_row(write_run, tmp_path):
    """Catches a resume that forgets skipped steps, and a limit that cannot be set."""
    run_dir = write_run(tmp_path / "run", "sft", max_skipped_steps=2, checkpoint_every=1)
    with pytest.raises(Diverged, match=r"2 steps in a row .* step 6"):
        list(poisoned(trainer_of(run_dir), {4, 5}).events())
    with pytest.raises(Diverged):  # taken up after step 5, the first of the row
        list(poisoned(trainer_of(run_dir), {5}).events())
    change_run(run_dir)
    assert list(trainer_of(run_dir).events())[-1]["kind"] == "end"


def test_events_tell_the_whole_run(write_run, tmp_path):
    """Catches events that a tracker relies on and that are missing, early or misnamed."""
    run_dir = write_run(tmp_path / "run", "semantic")
    events = []
    for event in trainer_of(run_dir).events():
        events.append(event)
        if event["kind"] == "checkpoint":  # told only once it is there
            assert (run_dir / event["path"] / "manifest.json").exists()
    kinds = [event["kind"] for event in events]
    assert (kinds[0], kinds[-1]) == ("start", "end")
    assert [e["step"] for e in events if e["kind"] == "checkpoint"] == [3, 6, 9, 10]
    assert [e["step"] for e in events if e["kind"] == "evaluate"] == [0, 5, 10, 12]
    steps = [event for event in events if event["kind"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, 13))
    names = {"loss", "bits_per_byte", "learning_rate", "gradient_norm", "tokens"}
    assert all(names | {"tokens_per_second", "contrastive_loss"} <= event.keys() for event in steps)
    metrics = [event for event in events if event["kind"] == "evaluate"][-1]["metrics"]
    groups = ("", "/title-lead/en", "/title-lead/zh")
    names = {f"{name}{of}" for of in groups for name in ("recall@1", "recall@10", "mrr@10")}
    names |= {f"{baseline}/{name}" for baseline in ("bm25", "input_embeddings") for name in names}
    assert {"bits_per_byte", "bits_per_byte/en", "bits_per_byte/zh"} | names <= metrics.keys()
    summary = json.loads((run_dir / "training.json").read_text())
    assert summary["evaluations"]["after"] == metrics
    assert summary["evaluations"]["before"] == events[1]["metrics"]
    assert (summary["stage"], summary["steps"]) == ("semantic", 12)
    assert summary["tokens_seen"] == steps[-1]["tokens"]


def test_semantic_stage_learns_to_find(write_run, tmp_path):
    """Catches a contrastive loss that does not reach the weights: recall must rise."""
    run_dir = write_run(
        tmp_path / "run", "semantic", num_steps=80, pair_batch_size=24, contrastive_weight=1.0,
        evaluate_every=100, checkpoint_every=100, evaluation_pairs=48,
    )  # fmt: skip
    evaluations = [e["metrics"] for e in trainer_of(run_dir).events() if e["kind"] == "evaluate"]
    before, after = evaluations[0], evaluations[-1]
    assert after["mrr@10"] > before["mrr@10"] + 0.1
    assert after["bits_per_byte"] < 1.1 * before["bits_per_byte"]


def test_samples_and_evaluations_do_not_touch_the_weights(write_run, tmp_path):
    """Catches sampling that draws from the generator of dropout."""
    plain = write_run(tmp_path / "plain", "lora")
    chatty = write_run(tmp_path / "chatty", "lora", sample_prompts=["river", "河"], sample_every=4)
    list(trainer_of(plain).events())
    samples = [e for e in trainer_of(chatty).events() if e["kind"] == "sample"]
    assert [event["step"] for event in samples] == [4, 8, 12]
    assert [one["prompt"] for one in samples[0]["samples"]] == ["river", "河"]
    name = "adapter.safetensors"
    assert (plain / name).read_bytes() == (chatty / name).read_bytes()


def test_bfloat16_keeps_float32_weights(write_run, tmp_path):
    """Catches weights or checkpoints rounded to 16 bits."""
    run_dir = write_run(tmp_path / "run", "pretrain", num_steps=3, precision="bfloat16")
    start = next(iter(trainer_of(run_dir).events()))
    assert start["precision"] == "bfloat16"
    events = list(trainer_of(run_dir).events())
    assert all(math.isfinite(e["loss"]) for e in events if e["kind"] == "step")
    weights = load_file(run_dir / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert any(not torch.equal(t, t.bfloat16().float()) for t in weights.values())


def test_losses_of_a_step_add_up(write_run, tmp_path):
    """Catches a reported loss that is not the one the gradients are of."""
    run_dir = write_run(tmp_path / "run", "semantic", micro_batch_size=2)
    trainer = trainer_of(run_dir)
    parts = list(trainer.stage.losses(0, trainer.now.micro_batch_size))
    assert len(parts) == 5
    losses = [part.loss(trainer.model, slice(None)).value.item() for part in parts]
    first = next(event for event in trainer.events() if event["kind"] == "step")
    assert first["loss"] == pytest.approx(sum(losses), rel=1e-5)
