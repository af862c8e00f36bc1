"""A real MLflow registry on SQLite: versions, the champion, and the model that comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude_model.export.huggingface import export_huggingface
from etude_model.inference.generate import SamplingConfig, generate
from etude_model.inference.load import load_checkpoint
from storage.artifact import ArtifactRef
from storage.workspace import Workspace
from tasks import tracking
from tasks.publish.config import PublishConfig
from tasks.publish.registry import ALIAS, register_release
from tasks.publish.registry import _checkpoint as lay_out
from tasks.publish.release import write_release
from tasks.publish.task import publish

Make = Callable[..., ArtifactRef]
Publish = Callable[..., dict[str, Any]]


@pytest.fixture
def register(
    make_checkpoint: Make, make_report: Make, mlflow_uri: str, run_id: str, tmp_path: Path
) -> Publish:
    """Return a function that releases a checkpoint with figures and registers it.

    Equal arguments give an equal release, as a rerun of the stage would.
    """
    checkpoints: dict[int, ArtifactRef] = {}
    made = 0

    def do(
        name: str,
        seed: int,
        metrics: dict[str, float],
        *,
        evaluated_on: str = "data",
        **config: Any,
    ) -> dict[str, Any]:
        nonlocal made
        made += 1
        if seed not in checkpoints:
            checkpoints[seed] = make_checkpoint(seed)
        checkpoint = checkpoints[seed]
        report = make_report(checkpoint, metrics, evaluated_on)
        out = tmp_path / f"release-{made}"
        write_release(
            checkpoint.path,
            report.path,
            out,
            checkpoint_digest=checkpoint.digest,
            config=PublishConfig(model_name=name, **config),
        )
        return register_release(
            out,
            json.loads((report.path / "report.json").read_text()),
            model_name=name,
            run_id=run_id,
            tracking_uri=mlflow_uri,
        )

    return do


def champion(uri: str, name: str) -> int:
    """Return the version that the alias names."""
    from mlflow import MlflowClient

    version = MlflowClient(tracking_uri=uri).get_model_version_by_alias(name, ALIAS)
    return int(version.version)


def num_versions(uri: str, name: str) -> int:
    """Return how many versions there are."""
    from mlflow import MlflowClient

    return len(MlflowClient(tracking_uri=uri).search_model_versions(f"name='{name}'"))


def test_champion_moves_only_when_better(register: Publish, mlflow_uri: str) -> None:
    """Catches a gate that takes the newest, or compares in the wrong direction."""
    first = register("gate", 1, {"sft_bits_per_byte": 2.0})
    assert first["version"] == 1 and first["champion"] and "first" in first["why"]
    worse = register("gate", 2, {"sft_bits_per_byte": 2.5})
    assert worse["version"] == 2 and not worse["champion"] and champion(mlflow_uri, "gate") == 1
    assert "2.5000 is no better than 2.0000 of version 1" in worse["why"]
    equal = register("gate", 3, {"sft_bits_per_byte": 2.0})
    assert not equal["champion"] and champion(mlflow_uri, "gate") == 1
    better = register("gate", 4, {"sft_bits_per_byte": 1.5}, evaluated_on="other")
    assert better["champion"] and champion(mlflow_uri, "gate") == 4
    assert "other held-out data" in better["why"]


def test_higher_can_be_better(register: Publish, mlflow_uri: str) -> None:
    """Catches a direction that is fixed: recall grows when a model improves."""
    config = {"metric": "recall@10", "lower_is_better": False}
    register("higher", 1, {"recall@10": 0.4}, **config)
    assert not register("higher", 2, {"recall@10": 0.3}, **config)["champion"]
    assert register("higher", 3, {"recall@10": 0.5}, **config)["champion"]


def test_same_release_makes_one_version(register: Publish, mlflow_uri: str) -> None:
    """Catches a rerun that doubles the version, or takes the alias back to it."""
    register("rerun", 1, {"sft_bits_per_byte": 2.0})
    again = register("rerun", 1, {"sft_bits_per_byte": 2.0})
    assert again["version"] == 1 and again["champion"] and "already" in again["why"]
    register("rerun", 2, {"sft_bits_per_byte": 1.0})
    late = register("rerun", 1, {"sft_bits_per_byte": 2.0})
    assert late["version"] == 1 and not late["champion"]
    assert champion(mlflow_uri, "rerun") == 2 and num_versions(mlflow_uri, "rerun") == 2


def test_missing_figures(register: Publish, mlflow_uri: str) -> None:
    """Catches a model without the deciding figure that wins, or one that can never be beaten."""
    assert register("missing", 1, {})["champion"]
    unknown = register("missing", 2, {"bits_per_byte": 1.0})
    assert not unknown["champion"] and "no sft_bits_per_byte" in unknown["why"]
    assert register("missing", 3, {"sft_bits_per_byte": 3.0})["champion"]
    other = register("missing", 4, {"bits_per_byte": 1.0}, metric="bits_per_byte")
    assert not other["champion"] and "by hand" in other["why"]
    assert champion(mlflow_uri, "missing") == 3


def test_stage_registers_within_a_tracked_run(
    make_checkpoint: Make,
    make_report: Make,
    mlflow_uri: str,
    home: Path,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a stage that exports but forgets the registry, or registers what nobody asked for."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    checkpoint = make_checkpoint(1)
    report = make_report(checkpoint, {"sft_bits_per_byte": 2.0})
    inputs = {"checkpoint": checkpoint, "report": report}
    for name, registers in (("staged", True), ("unwanted", False)):
        config = PublishConfig(model_name=name, register_model=registers)
        with tracking.stage_run("publish", "", name, config.key_dict(), inputs):
            publish.run(**inputs, config=config, workspace=workspace)
        assert num_versions(mlflow_uri, name) == int(registers)
    verdict = json.loads((workspace.logs / "registry.json").read_text())
    assert verdict["version"] == 1 and verdict["champion"]


def test_experts_come_back_from_a_release(make_checkpoint: Make, tmp_path: Path) -> None:
    """Catches weights as others read them, one by one, where our model wants them stacked."""
    experts = {"num_experts": 4, "router_score": "sigmoid", "moe_intermediate_size": 16}
    checkpoint = make_checkpoint(3, **experts).path
    export_huggingface(checkpoint, tmp_path / "release" / "huggingface")
    facts = {"training": json.loads((checkpoint / "training.json").read_text())}
    back = load_checkpoint(lay_out(tmp_path / "release", facts, tmp_path / "back"))
    weights = load_checkpoint(checkpoint).model.state_dict()
    assert back.stage == "sft" and back.model.state_dict().keys() == weights.keys()
    assert all(torch.equal(back.model.state_dict()[name], weights[name]) for name in weights)


def test_pyfunc_comes_back_and_writes(
    register: Publish, make_checkpoint: Make, mlflow_uri: str, tmp_path: Path
) -> None:
    """Catches a version that cannot be loaded elsewhere, holds a pickle, or writes other texts.

    It is loaded by a fresh process that stands in an empty folder, with pickles forbidden.
    """
    register("served", 7, {"sft_bits_per_byte": 2.0, "recall@10": 0.5})
    question = [{"role": "user", "content": "old bridge"}]
    script = f"""
import json, mlflow, os, pathlib, sys
mlflow.set_tracking_uri({mlflow_uri!r})
model = mlflow.pyfunc.load_model("models:/served@champion")
params = {{"max_new_tokens": 8, "temperature": 0.0}}
texts = model.predict(["the river", {question!r}], params=params)
import pandas
table = model.predict(pandas.DataFrame({{"prompt": ["the river"]}}), params=params)
long = model.predict(["the river"], params={{"max_new_tokens": 500}})
import etude_model
print(json.dumps([texts, table, len(long), etude_model.__file__, sys.path[:1]]))
"""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    texts, table, num_long, package, _ = json.loads(done.stdout.strip().split("\n")[-1])
    assert num_long == 1 and table == texts[:1]
    assert "code" in Path(package).parts, "the version must bring its own reader"

    loaded = load_checkpoint(make_checkpoint(70).path.with_name("checkpoint-7-False"))
    tokenizer = loaded.tokenizer
    prompts = [
        [tokenizer.bos_id, *tokenizer.encode("the river")],
        tokenizer.encode_dialogue(question, add_generation_prompt=True)[0],
    ]
    greedy = SamplingConfig(max_new_tokens=8, temperature=0)
    written = generate(loaded.model, prompts, greedy, stop_ids={2, 5})
    assert texts == [tokenizer.decode(one.token_ids) for one in written]

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_uri)
    version = client.get_model_version_by_alias("served", ALIAS)
    stored = Path(version.source.removeprefix("file://"))
    names = {path.name for path in stored.rglob("*") if path.is_file()}
    assert {"model.safetensors", "pyfunc_model.py", "tokenizer.model", "MLmodel"} < names
    assert not [name for name in names if Path(name).suffix in (".pkl", ".pickle", ".pyc")]
    assert version.tags["etude.metric_value"] == "2.0"
    experiment = client.get_run(version.run_id).info.experiment_id
    (model,) = client.search_logged_models([experiment], "name = 'served'")
    assert {metric.key: metric.value for metric in model.metrics}["release/recall_at_10"] == 0.5
