"""RUN_DIR/logs/run.json -> a Trainer, ready to start or to go on.

    RUN_DIR/
      logs/run.json       in: what to train (TrainRun)
      logs/events.jsonl   out: what happened (training/events.py)
      steps/              out: resume checkpoints, gone when the run is done
      model.safetensors … out: the finished checkpoint; training.json is written last

Try: python -m etude_model.training RUN_DIR
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, SerializeAsAny, ValidationError, model_validator

from etude_model.config import (
    EtudeConfig,
    LoraTrainConfig,
    PretrainConfig,
    SemanticConfig,
    SftConfig,
    TrainConfig,
)
from etude_model.device import keep_freed_memory, pick_dtype
from etude_model.tokenizer import Tokenizer
from etude_model.training.distributed import join, parallelise
from etude_model.training.objectives import Materials
from etude_model.training.plan import fit
from etude_model.training.precision import prepare
from etude_model.training.stages import build_stage
from etude_model.training.trainer import Trainer
from storage.config import Config
from storage.errors import BadInput

RUN_FILE = Path("logs", "run.json")
EVENTS_FILE = Path("logs", "events.jsonl")
STAGE_CONFIGS: dict[str, type[TrainConfig]] = {
    "pretrain": PretrainConfig,
    "semantic": SemanticConfig,
    "sft": SftConfig,
    "lora": LoraTrainConfig,
}


class TrainRun(Config):
    """All that one training process needs to know."""

    stage: Literal["pretrain", "semantic", "sft", "lora"]
    """Which of the four stages to run."""
    model: EtudeConfig | None = None
    """The architecture of a new model; empty means what `train` names, for this tokenizer."""
    train: SerializeAsAny[TrainConfig]
    """The stage's own config section."""
    shards: tuple[str, ...] = Field(min_length=1)
    """Token shards: files or folders of parts."""
    pair_shards: tuple[str, ...] = ()
    """Pair shards of the semantic stage: files or folders of parts."""
    parent: str | None = None
    """The checkpoint folder to start from; none for pretraining."""
    tokenizer: str
    """The tokenizer.model file, or the folder it lies in."""
    parent_pid: int | None = None
    """The process that started this one; when it dies the run stops."""

    @model_validator(mode="before")
    @classmethod
    def _read_train_by_stage(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("train"), dict):
            kind = STAGE_CONFIGS.get(values.get("stage", ""))
            if kind is not None:
                return values | {"train": kind.model_validate(values["train"])}
        return values

    @model_validator(mode="after")
    def _check(self) -> TrainRun:
        expected = STAGE_CONFIGS[self.stage]
        if type(self.train) is not expected:
            raise ValueError(f"train={type(self.train).__name__}; give a {expected.__name__}")
        if self.stage != "pretrain" and self.parent is None:
            raise ValueError(f"stage={self.stage} has parent=null; give a checkpoint folder")
        if self.stage == "semantic" and not self.pair_shards:
            raise ValueError("stage=semantic has pair_shards empty; give pair shards")
        return self


def read_run(run_dir: Path) -> TrainRun:
    """Return the run that a directory describes."""
    path = run_dir / RUN_FILE
    try:
        return TrainRun.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error}); write the run's config there") from error
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise BadInput(f"{path}: {'; '.join(wrong)}") from error
    except json.JSONDecodeError as error:
        raise BadInput(f"{path} is not JSON ({error}); write it again") from error


def build_trainer(
    run: TrainRun, run_dir: Path, *, stop: Callable[[], bool] = lambda: False
) -> Trainer:
    """Return the trainer of a run; `stop` is asked between steps whether to leave."""
    _repeat_exactly(run.train.deterministic)
    world = join(run.train.device)
    torch.set_num_threads(run.train.threads or max(1, _num_cores() // world.size))
    keep_freed_memory()
    dtype = pick_dtype(run.train.precision, world.device)
    tokenizer = Tokenizer(Path(run.tokenizer))
    architecture = run.model
    if isinstance(run.train, PretrainConfig):
        architecture = architecture or run.train.build_model(tokenizer.vocab_size)
    materials = Materials(
        config=run.train,
        architecture=architecture,
        shards=run.shards,
        pair_shards=run.pair_shards,
        parent=Path(run.parent) if run.parent is not None else None,
        tokenizer=tokenizer,
        device=world.device,
        dtype=dtype,
        world=world,
    )
    if architecture is not None:  # refused before its weights fill the memory
        may_shard = world.size > 1 and run.train.parallel != "replicate"
        fit(architecture, materials, is_sharded=may_shard)
    stage = build_stage(run.stage, materials)
    prepare(stage.model, run.train, world.device, dtype)
    parallelise(stage.model, world, run.train.parallel)
    return Trainer(stage, run_dir=run_dir, stop=stop)


def _repeat_exactly(wanted: bool) -> None:
    """Choose kernels that add in one order always, or let torch choose the fastest.

    A CPU's do so anyway. On a GPU some operations have none and raise a RuntimeError that names
    them; cuBLAS needs its fixed workspace before it is first used.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: what this process may use, not what there is
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
