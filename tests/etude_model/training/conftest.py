"""Runs of a tiny model with experts, for all that must hold with them as it does without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude_model.config import EtudeConfig

EXPERTS = {
    "num_experts": 4,
    "num_experts_per_token": 2,
    "num_shared_experts": 1,
    "moe_intermediate_size": 16,
    "num_dense_layers": 1,
    "router_score": "sigmoid",
    "router_bias_update_rate": 0.01,
    "router_z_loss_weight": 1e-3,
}


def change_run(run_dir: Path, **changes: Any) -> Path:
    """Replace fields of a run's logs/run.json; those of "train" one by one."""
    path = run_dir / "logs" / "run.json"
    run = json.loads(path.read_text())
    run["train"] |= changes.pop("train", {})
    path.write_text(json.dumps(run | changes))
    return run_dir


@pytest.fixture(scope="session")
def write_moe_run(
    write_run: Callable[..., Path],
    tiny_model_config: EtudeConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """A function like write_run, whose models have a layer of experts."""
    from etude_model.training.run import build_trainer, read_run

    model = EtudeConfig(**{**tiny_model_config.model_dump(), **EXPERTS}).model_dump(mode="json")
    parents: list[Path] = []

    def write(folder: Path, stage: str, **train: Any) -> Path:
        if stage == "pretrain":
            return change_run(write_run(folder, stage, **train), model=model)
        if not parents:
            parent = write(tmp_path_factory.mktemp("moe") / "run", "pretrain", num_steps=30)
            list(build_trainer(read_run(parent), parent).events())
            parents.append(parent)
        return change_run(write_run(folder, stage, **train), parent=str(parents[0]))

    return write
