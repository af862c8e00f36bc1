"""The LoRA stage with what LoraConfig can say: the adapter fits its base, and only that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from etude_model.inference.load import load_checkpoint
from etude_model.model.adapter import weights_digest
from etude_model.model.lora import base_state_dict, lora_state_dict
from etude_model.model.transformer import Etude
from etude_model.training.run import build_trainer, read_run
from etude_model.training.trainer import Stopped, Trainer
from storage.errors import BadInput

DORA: dict[str, Any] = {
    "rank": 2,
    "use_dora": True,
    "use_rslora": True,
    "rank_pattern": {"layers.1.mlp.up_proj": 3},
    "dropout": 0.1,
}


def train(run_dir: Path, *, stop_after: int | None = None) -> Trainer:
    """Train a run directory, or some steps of it, and return the trainer."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return stop_after is not None and asked > stop_after

    trainer = build_trainer(read_run(run_dir), run_dir, stop=stop)
    for _ in trainer.events():
        pass
    return trainer


@pytest.fixture
def sparse_parent(parent_checkpoint: Path, tmp_path: Path) -> Path:
    """A parent with experts, shared and routed, and a balancing bias that is not zero."""
    folder = tmp_path / "sparse"
    shutil.copytree(parent_checkpoint, folder, ignore=shutil.ignore_patterns("logs", "steps"))
    plain = load_checkpoint(parent_checkpoint).config
    sparse = {"num_experts": 4, "num_shared_experts": 1, "router_score": "sigmoid"}
    config = plain.model_copy(update=sparse | {"router_bias_update_rate": 0.1})
    torch.manual_seed(0)
    model = Etude(config)
    for layer in model.sparse_layers():
        layer.gate.e_score_correction_bias.uniform_(-0.1, 0.1)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(config.model_dump_json())
    return folder


def test_dora_resumes_to_the_bit_and_loads(write_run, parent_checkpoint, tmp_path) -> None:
    """Catches a magnitude that no checkpoint holds, and a base that the adapter does not name."""
    straight = write_run(tmp_path / "straight", "lora", num_steps=4, lora=DORA)
    broken = write_run(tmp_path / "broken", "lora", num_steps=4, lora=DORA)
    train(straight)
    with pytest.raises(Stopped):
        train(broken, stop_after=2)
    trainer = train(broken)
    adapter, again = (load_file(path / "adapter.safetensors") for path in (straight, broken))
    assert adapter.keys() == again.keys()
    assert all(torch.equal(adapter[name], again[name]) for name in adapter)
    assert sum("lora_magnitude_vector" in name for name in adapter) == 14
    values = json.loads((straight / "adapter.json").read_text())
    parent = load_checkpoint(parent_checkpoint).model
    assert values["base_weights"] == weights_digest(parent.state_dict())
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        trained = trainer.model.eval()(tokens)
        torch.testing.assert_close(
            load_checkpoint(broken).model(tokens), trained, atol=1e-5, rtol=0
        )
        assert (parent(tokens) - trained).abs().max() > 1e-3


def test_a_sparse_base_stays_as_it_was(write_run, sparse_parent, tmp_path) -> None:
    """Catches balancing biases that go on moving below an adapter that was trained on others."""
    run_dir = write_run(tmp_path / "run", "lora", num_steps=3)
    path = run_dir / "logs" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parent": str(sparse_parent)}))
    trainer = train(run_dir)
    digest = weights_digest(load_checkpoint(sparse_parent).model.state_dict())
    assert weights_digest(base_state_dict(trainer.model)) == digest
    assert any(weight.any() for name, weight in lora_state_dict(trainer.model).items())
    assert json.loads((run_dir / "adapter.json").read_text())["base_weights"] == digest
    load_checkpoint(run_dir)


def test_a_changed_base_is_refused(write_run, tmp_path) -> None:
    """Catches an adapter that is merged into weights that somebody put in the base's place."""
    run_dir = write_run(tmp_path / "run", "lora", num_steps=3)
    train(run_dir)
    weights = load_file(run_dir / "model.safetensors")
    weights["model.norm.weight"] += 1e-3
    save_file(weights, run_dir / "model.safetensors")
    with pytest.raises(BadInput, match=r"was trained on base weights \w+…, this model has \w+…"):
        load_checkpoint(run_dir)


def test_four_bits_on_a_cpu_are_refused(write_run, tmp_path) -> None:
    """Catches QLoRA that starts where it cannot run."""
    run_dir = write_run(tmp_path / "run", "lora", quantization="nf4", device="cpu")
    with pytest.raises(BadInput, match="quantization=nf4 needs a GPU"):
        train(run_dir)
