"""stage -> events and a checkpoint folder: the one training loop.

`Trainer.events()` does the work and yields what happened; it neither prints nor logs. Per step:

    losses of step n -> backward, one micro-batch after the other -> clip -> finite? -> optimiser
                     -> routers' balancing -> evaluate, sample, save where they are due

A resume is exact to the bit, for all that a step depends on is its number and what a checkpoint
holds: the batch and the learning rate are functions of the step, and torch's generator (dropout)
is seeded anew by each step, so that neither a restart, an evaluation nor a sample can shift it.
With another micro_batch_size the sums are taken in another order, and weights agree to about 1e-6
(not under dropout, whose masks follow the micro-batches). All this holds for one machine and one
number of threads on a CPU; a GPU's kernels may add in another order from run to run, unless the
config says `deterministic`.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from etude_model.evaluation.bits_per_byte import to_bits
from etude_model.evaluation.samples import sample_texts
from etude_model.inference.generate import SamplingConfig
from etude_model.training.checkpoint import (
    STEPS,
    CheckpointWriter,
    load_checkpoint_state,
    take_snapshot,
    trainable,
)
from etude_model.training.distributed import full, is_sharded, whole
from etude_model.training.meter import Meter, expert_load
from etude_model.training.micro_batch import (
    OutOfMemory,
    accumulate,
    smaller_micro_batch,
)
from etude_model.training.optimizer import build_optimizer, learning_rate
from etude_model.training.plan import identity, make_plan
from etude_model.training.precision import forget_compiled, uncompiled
from etude_model.training.progress import Progress
from etude_model.training.replicas import Replicas
from etude_model.training.result import FINISHED, choose_weights, write_result
from etude_model.training.stages import Stage
from etude_model.training.trace import Trace
from storage.errors import Stopped

Event = dict[str, Any]


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
        self.plan, self.world = make_plan(stage), stage.materials.world
        rate = {"learning_rate": self.plan.learning_rate}
        self.config = stage.materials.config.model_copy(update=rate)
        self.model.activation_checkpointing = self.config.activation_checkpointing
        self.parameters = list(trainable(self.model).values())
        self.trains_routers = any(n.endswith("mlp.gate.weight") for n in trainable(self.model))
        self.optimizer = build_optimizer(self.model, self.config)
        self.replicas = Replicas(self.model, self.plan.num_replicas)
        self.now = Progress(self.world.from_main(self.plan.micro_batch_size))
        self.meter = Meter(self.plan, self.config.num_steps, self.materials.device)
        self.writer = CheckpointWriter(run_dir, keep=self.config.keep_checkpoints)
        self.saved_at = time.monotonic()
        # Then ranks wait for each other inside a step, and none may begin it again by itself.
        self.meets_in_step = stage.name == "semantic" or any(map(is_sharded, self.parameters))

    def events(self) -> Iterator[Event]:
        """Train to the end, yielding events; raise Stopped or Diverged where it ends sooner."""
        if (self.run_dir / FINISHED).exists():
            yield self._finish()
            return
        yield from self._resume()
        yield self._start()
        try:
            num_traced = self.config.profile_steps * self.world.is_main
            with Trace(self.run_dir / "logs", num_traced) as trace:
                yield from self._evaluate_if_due()
                while self.now.step < self.config.num_steps:
                    yield from self._train_step()
                    trace.step()
                    yield from self._evaluate_if_due()
                    yield from self._sample_if_due()
                    yield from self._save_if_due()
                    self._check_stop()
            yield from self._saved(wait=True)
        except _StopAsked:
            yield from self._save()
            yield from self._saved(wait=True)
            yield {"kind": "stopped", "step": self.now.step}
            self.world.wait()  # torchrun ends all soon after the first has left
            raise Stopped(f"stopped at step {self.now.step}; run it again to go on") from None
        finally:
            self.writer.close()
            self.replicas.close()
        self.world.wait()  # until rank 0 has written the best checkpoint
        chosen = choose_weights(self.stage, self.now, self.run_dir)
        with whole(self.model):
            if self.world.is_main:
                write_result(self.stage, self.now, self.run_dir, weights_of_step=chosen)
        self.world.wait()
        yield self._finish()

    # One step

    def _train_step(self) -> Iterator[Event]:
        started = time.perf_counter()
        rate = learning_rate(self.now.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        event, num_tokens = yield from self._backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        event["gradient_norm"] = full(norm).item()
        is_finite = math.isfinite(event["loss"]) and math.isfinite(event["gradient_norm"])
        if is_finite:
            self.optimizer.step()
        event |= self._balance_experts(is_finite)
        self.optimizer.zero_grad(set_to_none=True)
        self.now.step += 1
        self.now.num_tokens += num_tokens
        if not is_finite:
            yield from self._skipped(event)
            return
        self.now.num_skipped = 0
        event |= {"learning_rate": rate, "tokens": self.now.num_tokens}
        event |= self.meter.figures(self.now.step, num_tokens, time.perf_counter() - started)
        yield event

    def _backward(self) -> Generator[Event, None, tuple[Event, int]]:
        """Leave the step's gradients in the parameters, with half the rows at once if need be."""
        while True:
            torch.manual_seed(step_seed(self.config.seed, self.now.step, self.world.rank))
            self.model.train()
            parts = self.stage.losses(self.now.step, self.now.micro_batch_size)
            figures = accumulate(parts, self.replicas)
            if figures is None and self.world.size > 1 and self.meets_in_step:
                raise OutOfMemory(
                    f"{self.materials.device} has too little memory for micro_batch_size="
                    f"{self.now.micro_batch_size} (step {self.now.step + 1}); set it to half"
                )
            if not self.world.any(figures is None):
                break
            self.optimizer.zero_grad(set_to_none=True)
            self.model.take_expert_counts()
            if self.materials.device.type == "cuda":
                torch.cuda.empty_cache()
            forget_compiled(self.model)
            yield self._halve()
        assert figures is not None
        self.world.sum_gradients(self.parameters)
        totals = self.world.add_up(figures)
        nats, num_bytes = totals.pop("nats"), totals.pop("bytes")
        num_tokens = int(totals.pop("tokens"))
        event: Event = {"kind": "step", "step": self.now.step + 1} | totals
        # With the nats of special tokens, so a little above an evaluation's figure.
        event["bits_per_byte"] = to_bits(nats, int(num_bytes))
        return event, num_tokens

    def _halve(self) -> Event:
        size = self.now.micro_batch_size
        smaller = smaller_micro_batch(size, self.plan.num_rows)
        if smaller is None:
            raise OutOfMemory(
                f"{self.materials.device} has too little memory for one sequence (step "
                f"{self.now.step + 1}); set activation_checkpointing or take a smaller model"
            )
        self.now.micro_batch_size = smaller
        found = f"out of memory at step {self.now.step + 1} with micro_batch_size={size}"
        return {"kind": "warning", "message": f"{found}; going on with {smaller}"}

    def _balance_experts(self, is_finite: bool) -> dict[str, float]:
        counts_LE = self.model.take_expert_counts()
        if counts_LE is None:
            return {}
        counts_LE = self.world.sum(counts_LE)
        if is_finite and self.trains_routers:
            self.model.update_router_bias(counts_LE)
        return expert_load(counts_LE)

    def _skipped(self, event: Event) -> Iterator[Event]:
        now = self.now
        now.num_skipped += 1
        now.num_skipped_in_all += 1
        found = f"loss={event['loss']} gradient_norm={event['gradient_norm']}"
        yield {"kind": "warning", "message": f"step {now.step} skipped: {found}"}
        if now.num_skipped == self.config.max_skipped_steps:
            raise Diverged(
                f"{now.num_skipped} steps in a row were not finite, up to step {now.step}; "
                f"lower learning_rate={self.config.peak_learning_rate} or gradient_clip"
            )

    # Now and then

    def _evaluate_if_due(self) -> Iterator[Event]:
        name, every = str(self.now.step), self.config.evaluate_every
        is_due = self.now.step % every == 0 or self.now.step == self.config.num_steps
        if is_due and name not in self.now.evaluations:
            self.model.eval()
            with whole(self.model), uncompiled(self.model):
                figures = self.stage.evaluate(self._check_stop, self.now.micro_batch_size)
            self.now.evaluations[name] = figures = self.world.from_main(figures)
            self.stage.observe(self.now.evaluations)
            yield {"kind": "evaluate", "step": self.now.step, "metrics": figures}

    def _sample_if_due(self) -> Iterator[Event]:
        every, prompts = self.config.sample_every, self.config.sample_prompts
        if not prompts or self.now.step % every:
            return
        self.model.eval()
        with whole(self.model), uncompiled(self.model):
            samples = sample_texts(
                self.model,
                self.materials.tokenizer,
                prompts,
                as_dialogue=self.stage.name in ("sft", "lora"),
                sampling=SamplingConfig(max_new_tokens=64, seed=self.config.seed),
            )
        yield {"kind": "sample", "step": self.now.step, "samples": samples}

    def _save_if_due(self) -> Iterator[Event]:
        yield from self._saved()
        if self.now.step == self.config.num_steps:
            return
        minutes = (time.monotonic() - self.saved_at) / 60
        is_late = self.world.any(minutes >= (self.config.checkpoint_minutes or math.inf))
        is_best = self.now.best(self.stage.score) == self.now.step
        if is_late or is_best or self.now.step % self.config.checkpoint_every == 0:
            yield from self._save()

    def _check_stop(self) -> None:
        if self.world.any(self.stop()):
            raise _StopAsked

    # Start, save, end

    def _start(self) -> Event:
        return {
            "kind": "start",
            "step": self.now.step,
            "num_steps": self.config.num_steps,
            "device": str(self.materials.device),
            "precision": str(self.materials.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "processes": self.world.size,
            **self.plan.to_json(),
            "micro_batch_size": self.now.micro_batch_size,
        }

    def _resume(self) -> Iterator[Event]:
        warnings: list[str] = []
        state = load_checkpoint_state(
            self.run_dir,
            self.model,
            self.optimizer,
            identity=identity(self.stage),
            warn=warnings.append,
        )
        yield from ({"kind": "warning", "message": message} for message in warnings)
        if state is not None:
            self.now = Progress(**state["progress"])
            if self.config.micro_batch_size:  # else the one found then: sums stay in their order
                self.now.micro_batch_size = self.config.micro_batch_size
            self.stage.observe(self.now.evaluations)

    def _save(self) -> Iterator[Event]:
        """Copy the state and let it be written; tell of the checkpoint before, which is durable."""
        yield from self._saved(wait=True)
        now = self.now
        state = {"step": now.step, "identity": identity(self.stage), "progress": now.to_json()}
        snapshot = take_snapshot(self.model, self.optimizer, state, self.world)
        if self.world.is_main:
            self.writer.start(snapshot, best=now.best(self.stage.score))
        self.saved_at = time.monotonic()

    def _saved(self, *, wait: bool = False) -> Iterator[Event]:
        folder = self.writer.finished(wait=wait)
        if folder is not None:
            path, step = str(folder.relative_to(self.run_dir)), int(folder.name.rpartition("_")[2])
            yield {"kind": "checkpoint", "step": step, "path": path}

    def _finish(self) -> Event:
        if self.world.is_main:
            shutil.rmtree(self.run_dir / STEPS, ignore_errors=True)
        return {"kind": "end", "step": self.config.num_steps}


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Return the seed of torch's generator at a step; each rank has its own dropout."""
    name = f"{seed}:{step}:{rank}" if rank else f"{seed}:{step}"
    digest = hashlib.blake2b(name.encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
