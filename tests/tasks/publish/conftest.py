"""Checkpoints, reports and one real MLflow database for the room `publish`."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from etude_model.config import EtudeConfig, LoraConfig
from etude_model.model.lora import add_lora, base_state_dict, save_lora
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from storage.artifact import ArtifactRef
from storage.files import write_json
from tasks.train_tokenizer.train import train_model


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer of a few hundred ids."""
    folder = tmp_path_factory.mktemp("publish-tokenizer")
    draw = random.Random(0)
    words = ["river", "bridge", "old", "city", "古城", "大桥"]
    texts = [" ".join(draw.choices(words, k=6)) for _ in range(200)]
    model = train_model(texts, vocab_size=310, character_coverage=1.0, field="vocab_size")
    (folder / "tokenizer.model").write_bytes(model)
    return Tokenizer(folder)


@pytest.fixture
def make_checkpoint(small_tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., ArtifactRef]:
    """Return a function (seed, adapter, shape) -> checkpoint with random weights."""

    def make(seed: int = 0, *, adapter: bool = False, **shape: Any) -> ArtifactRef:
        folder = tmp_path / f"checkpoint-{seed}-{adapter}"
        folder.mkdir()
        torch.manual_seed(seed)
        config = EtudeConfig(
            vocab_size=small_tokenizer.vocab_size,
            hidden_size=32,
            num_layers=1,
            num_heads=2,
            num_kv_heads=1,
            head_dim=16,
            intermediate_size=32,
            context_length=64,
            initializer_range=0.3,
            **shape,
        )
        model = Etude(config)
        stage = "lora" if adapter else "sft"
        if adapter:
            lora = LoraConfig(rank=2)
            add_lora(model, lora)
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    if "lora_B" in name:
                        weight.normal_(0, 0.3)
            save_lora(model, folder, lora)
        save_file(base_state_dict(model), folder / "model.safetensors", metadata={"format": "pt"})
        write_json(folder / "config.json", config.model_dump(mode="json"))
        shutil.copyfile(small_tokenizer.path, folder / "tokenizer.model")
        training: dict[str, Any] = {"stage": stage, "steps": 3, "tokens_seen": 9}
        write_json(folder / "training.json", training | {"evaluations": {}})
        return ArtifactRef("checkpoint", f"key-{seed}", f"digest-{seed}-{adapter}", folder)

    return make


@pytest.fixture
def make_report(tmp_path: Path) -> Callable[..., ArtifactRef]:
    """Return a function (checkpoint, figures) -> report."""
    made = 0

    def make(
        checkpoint: ArtifactRef, metrics: dict[str, float], evaluated_on: str = "data"
    ) -> ArtifactRef:
        nonlocal made
        made += 1
        folder = tmp_path / f"report-{made}"
        folder.mkdir()
        entry = {"name": "sft", "stage": "sft", "digest": checkpoint.digest, "metrics": metrics}
        entry |= {"training": {"stage": "sft", "steps": 3}, "num_parameters": 1}
        values = {"format": 1, "evaluated_on": evaluated_on, "checkpoints": [entry]}
        write_json(folder / "report.json", values)
        (folder / "report.md").write_text("# Evaluation\n")
        return ArtifactRef("report", f"r{made}", f"report-digest-{made}", folder)

    return make


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An initialised SQLite database: 2 to 4 seconds, so once for all tests."""
    from tasks.environment import defaults

    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in defaults(folder).items():
            patch.setenv(name, value)
        from mlflow import MlflowClient

        uri = f"sqlite:///{folder / 'mlflow.db'}"
        client = MlflowClient(tracking_uri=uri)
        client.create_experiment("publish", artifact_location=(folder / "artifacts").as_uri())
    return uri


@pytest.fixture
def run_id(mlflow_uri: str, home: Path) -> str:
    """A new MLflow run to register from."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_uri)
    experiment = client.get_experiment_by_name("publish")
    return str(client.create_run(experiment.experiment_id).info.run_id)
