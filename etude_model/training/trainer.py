"""stage -> events and a checkpoint folder: the one training loop.

`Trainer.events()` does the work and yields what happened; it neither prints nor logs. Per step:

    losses of step n -> backward, one micro-batch after the other -> clip -> finite? -> AdamW

A resume is exact to the bit, for all that a step depends on is its number and what a checkpoint
holds: the batch and the learning rate are functions of the step, and torch's generator (dropout)
is seeded anew by each step, so that neither a restart, an evaluation nor a sample can shift it.
With another micro_batch_size the sums are taken in another order, and weights agree to about 1e-6
(not under dropout, whose masks follow the micro-batches). All this holds for one machine and one
number of threads on a CPU; a GPU's kernels may add in another order from run to run.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from etude_model.evaluation.bits_per_byte import to_bits
from etude_model.evaluation.samples import sample_texts
from etude_model.inference.generate import SamplingConfig
from etude_model.training.checkpoint import (
    STEPS,
    keep_last,
    load_checkpoint_state,
    save_checkpoint,
    trainable,
)
from etude_model.training.optimizer import build_optimizer, learning_rate
from etude_model.training.stages import Stage
from storage.artifact import canonical_json
from storage.errors import Stopped
from storage.files import replacing, write_json

Event = dict[str, Any]
FINISHED = "training.json"
MAX_SKIPPED = 3


class Diverged(RuntimeError):
    """The loss stayed non-finite; the last checkpoint is from before (exit code 70)."""


class _StopAsked(Exception):
    """Leave the loop at the next whole state; carries nothing."""


class Trainer:
    """Trains one stage in one run directory, from its start or from its newest checkpoint."""

    def __init__(
        self, stage: Stage, *, run_dir: Path, stop: Callable[[], bool] = lambda: False
    ) -> None:
        self.stage, self.run_dir, self.stop = stage, run_dir, stop
        self.model, self.materials = stage.model, stage.materials
        self.config = stage.materials.config
        self.parameters = list(trainable(self.model).values())
        self.optimizer = build_optimizer(self.model, self.config)
        self.step = 0
        self.num_tokens = 0
        self.num_skipped = 0
        self.evaluations: dict[str, dict[str, float]] = {}

    def events(self) -> Iterator[Event]:
        """Train to the end, yielding events; raise Stopped or Diverged where it ends sooner."""
        if (self.run_dir / FINISHED).exists():
            yield self._finish()
            return
        yield from self._resume()
        yield self._start()
        try:
            yield from self._evaluate_if_due()
            while self.step < self.config.num_steps:
                yield from self._train_step()
                yield from self._evaluate_if_due()
                yield from self._sample_if_due()
                yield from self._save_if_due()
                self._check_stop()
        except _StopAsked:
            yield self._save()
            yield {"kind": "stopped", "step": self.step}
            raise Stopped(f"stopped at step {self.step}; run it again to go on") from None
        self._write_folder()
        yield self._finish()

    # One step

    def _train_step(self) -> Iterator[Event]:
        started = time.perf_counter()
        rate = learning_rate(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(step_seed(self.config.seed, self.step))
        self.model.train()
        event, num_tokens = self._backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        event["gradient_norm"] = norm.item()
        is_finite = math.isfinite(event["loss"]) and math.isfinite(event["gradient_norm"])
        if is_finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.num_tokens += num_tokens
        self.num_skipped = 0 if is_finite else self.num_skipped + 1
        if not is_finite:
            found = f"loss={event['loss']} gradient_norm={event['gradient_norm']}"
            yield {"kind": "warning", "message": f"step {self.step} skipped: {found}"}
            if self.num_skipped == MAX_SKIPPED:
                raise Diverged(
                    f"{MAX_SKIPPED} steps in a row were not finite, up to step {self.step}; "
                    f"lower learning_rate={self.config.learning_rate} or gradient_clip"
                )
            return
        event["learning_rate"] = rate
        event["tokens"] = self.num_tokens
        event["tokens_per_second"] = num_tokens / (time.perf_counter() - started)
        yield event

    def _backward(self) -> tuple[Event, int]:
        """Add up the gradients of the step's losses; read their values only at the end."""
        sums: dict[str, torch.Tensor] = {}
        nats, num_bytes, num_tokens = torch.zeros(()), 0, 0
        for loss in self.stage.losses(self.step):
            loss.value.backward()
            for name, value in {"loss": loss.value.detach(), **loss.figures}.items():
                sums[name] = sums.get(name, 0) + value
            if loss.nats is not None:
                nats = nats.to(loss.nats.device) + loss.nats
            num_bytes, num_tokens = num_bytes + loss.num_bytes, num_tokens + loss.num_tokens
        event: Event = {"kind": "step", "step": self.step + 1}
        event |= {name: value.item() for name, value in sums.items()}
        # With the nats of special tokens, so a little above an evaluation's figure.
        event["bits_per_byte"] = to_bits(nats.item(), num_bytes)
        return event, num_tokens

    # What happens now and then

    def _evaluate_if_due(self) -> Iterator[Event]:
        name, every = str(self.step), self.config.evaluate_every
        is_due = self.step % every == 0 or self.step == self.config.num_steps
        if is_due and name not in self.evaluations:
            self.model.eval()
            self.evaluations[name] = self.stage.evaluate(self._check_stop)
            yield {"kind": "evaluate", "step": self.step, "metrics": self.evaluations[name]}

    def _sample_if_due(self) -> Iterator[Event]:
        every, prompts = self.config.sample_every, self.config.sample_prompts
        if not prompts or self.step % every:
            return
        self.model.eval()
        samples = sample_texts(
            self.model,
            self.materials.tokenizer,
            prompts,
            as_dialogue=self.stage.name in ("sft", "lora"),
            sampling=SamplingConfig(max_new_tokens=64, seed=self.config.seed),
        )
        yield {"kind": "sample", "step": self.step, "samples": samples}

    def _save_if_due(self) -> Iterator[Event]:
        if self.step % self.config.checkpoint_every == 0 and self.step < self.config.num_steps:
            yield self._save()

    def _check_stop(self) -> None:
        if self.stop():
            raise _StopAsked

    # Start, save, end

    def _start(self) -> Event:
        return {
            "kind": "start",
            "step": self.step,
            "num_steps": self.config.num_steps,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "trainable_parameters": sum(parameter.numel() for parameter in self.parameters),
            "device": str(self.materials.device),
            "precision": str(self.materials.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }

    def _resume(self) -> Iterator[Event]:
        warnings: list[str] = []
        state = load_checkpoint_state(
            self.run_dir,
            self.model,
            self.optimizer,
            identity=self._identity(),
            warn=warnings.append,
        )
        yield from ({"kind": "warning", "message": message} for message in warnings)
        if state is not None:
            self.step, self.num_tokens = state["step"], state["num_tokens"]
            self.num_skipped, self.evaluations = state["num_skipped"], state["evaluations"]

    def _save(self) -> Event:
        state = {
            "step": self.step,
            "num_tokens": self.num_tokens,
            "num_skipped": self.num_skipped,
            "evaluations": self.evaluations,
            "identity": self._identity(),
        }
        folder = save_checkpoint(self.run_dir, self.model, self.optimizer, state)
        keep_last(self.run_dir, self.config.keep_checkpoints)
        path = str(folder.relative_to(self.run_dir))
        return {"kind": "checkpoint", "step": self.step, "path": path}

    def _identity(self) -> str:
        """Return a digest of what must be the same for a checkpoint to be gone on with."""
        identity = {
            "stage": self.stage.name,
            "model": self.model.config.model_dump(mode="json"),
            "train": self.config.key_dict(),
            "rows": self.stage.rows,
            "tokenizer": self.materials.tokenizer.digest,
        }
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()

    def _write_folder(self) -> None:
        """Write the finished checkpoint; training.json comes last and means that it is whole."""
        self.stage.save_weights(self.run_dir)
        write_json(self.run_dir / "config.json", self.model.config.model_dump(mode="json"))
        with replacing(self.run_dir / "tokenizer.model") as beside:
            shutil.copyfile(self.materials.tokenizer.path, beside)
        summary = {
            "stage": self.stage.name,
            "steps": self.config.num_steps,
            "tokens_seen": self.num_tokens,
            "evaluations": {
                "before": self.evaluations.get("0", {}),
                "after": self.evaluations.get(str(self.config.num_steps), {}),
            },
        }
        write_json(self.run_dir / FINISHED, summary)

    def _finish(self) -> Event:
        shutil.rmtree(self.run_dir / STEPS, ignore_errors=True)
        return {"kind": "end", "step": self.config.num_steps}


def step_seed(seed: int, step: int) -> int:
    """Return the seed of torch's generator at a step."""
    digest = hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
