"""The whole way, as a user runs it: dump to release, again, changed, damaged, killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = str(Path(__file__).with_name("tiny.yaml"))
ORDER = (
    "fetch", "extract", "clean", "dedup", "cut", "pair", "format_sft", "format_sft",
    "train_tokenizer", "shard-lm", "shard-pairs", "shard-sft", "shard-sft", "pretrain", "semantic",
    "sft", "lora", "evaluate", "publish",
)  # fmt: skip


def etude(home: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in a home; Prefect's database is the home's own."""
    environment = os.environ | {"ETUDE_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        cwd=REPOSITORY,
        env=environment,
        timeout=500,
    )


def run(home: Path, *overrides: str) -> list[dict[str, Any]]:
    """Run the tiny way; return what each stage did."""
    done = etude(home, "run", TINY, *overrides, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    stages: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])["stages"]
    return stages


def ran(stages: list[dict[str, Any]]) -> list[str]:
    """Return the names of the stages that were not reused."""
    return [stage["stage"] for stage in stages if not stage["reused"]]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A home in which the tiny way was run once, and what its stages did."""
    home = tmp_path_factory.mktemp("way") / "home"
    return home, run(home)


@pytest.fixture
def copy(first: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> Path:
    """A copy of that home, to be changed."""
    home = tmp_path / "home"
    shutil.copytree(first[0], home)
    return home


def test_every_stage_runs_in_order_and_adds_up(first: tuple[Path, list[dict[str, Any]]]) -> None:
    """Catches a stage left out, run twice, or a ledger with a hole in it."""
    stages = first[1]
    assert tuple(stage["stage"] for stage in stages) == ORDER
    assert ran(stages) == list(ORDER)
    for stage in stages:
        counts = stage["counts"]
        assert counts["seen"] == counts["kept"] + sum(counts["dropped"].values())


def test_a_second_run_in_another_place_reuses_everything(copy: Path) -> None:
    """Catches a key that sees a path, a time or a process; the home was moved on purpose."""
    assert ran(run(copy)) == []


@pytest.mark.slow
def test_a_changed_setting_reruns_its_stage_and_what_depends_on_it(copy: Path) -> None:
    """Catches reuse of a stale artifact below a change, and work done again above it."""
    assert ran(run(copy, "clean.min_chars_cjk=570"))[0] == "clean"
    again = run(copy, "clean.min_chars_cjk=570", "lora.num_steps=7")
    assert ran(again) == ["lora", "evaluate", "publish"]


def test_a_deleted_shard_is_rebuilt_and_nothing_else(
    first: tuple[Path, list[dict[str, Any]]], copy: Path
) -> None:
    """Catches a dead path handed out as reused, and a rebuild of its whole neighbourhood."""
    shards = next(stage for stage in first[1] if stage["stage"] == "shard-lm")
    folder = copy / "store" / "shards" / shards["key"]
    victims = sorted(folder.glob("train-*/tokens.parquet"))
    others = {path: path.stat().st_ino for path in folder.glob("validation-*/tokens.parquet")}
    before = victims[0].read_bytes()
    victims[0].unlink()
    stages = run(copy)
    assert ran(stages) == ["shard-lm"]
    assert victims[0].read_bytes() == before
    assert others == {path: path.stat().st_ino for path in others}, "an unhurt shard was rewritten"


def test_mlflow_has_one_parent_and_a_child_per_stage(
    first: tuple[Path, list[dict[str, Any]]],
) -> None:
    """Catches a run page without children, curves, inputs, pictures, manifest or model."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{first[0] / 'mlflow' / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "etude"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [one for one in runs if "prefect.flow_run_id" in one.data.tags]
    children = {one.data.tags["mlflow.runName"]: one for one in runs if one is not parent}
    assert len(children) == len(ORDER)
    assert all(one.info.status == "FINISHED" for one in runs)
    assert all(
        one.data.tags["mlflow.parentRunId"] == parent.info.run_id for one in children.values()
    )
    assert parent.data.params["pretrain.num_steps"] == "8"
    pretrain = children["pretrain"]
    steps = [m.step for m in client.get_metric_history(pretrain.info.run_id, "train/loss")]
    assert steps == list(range(1, 9))
    assert {one.dataset.name.split(":")[0] for one in pretrain.inputs.dataset_inputs} == {
        "shards",
        "tokenizer",
    }
    files = {file.path for file in client.list_artifacts(pretrain.info.run_id)}
    assert {"manifest.json", "curves.png", "events.jsonl"} <= files
    clean = next(one for name, one in children.items() if name.startswith("clean"))
    assert "document_length.png" in {f.path for f in client.list_artifacts(clean.info.run_id)}
    note = client.get_run(parent.info.run_id).data.tags["mlflow.note.content"]
    assert all(f"[{name}]" in note for name in children)
    assert (
        parent.data.metrics.items()
        >= {
            name: value
            for name, value in children["evaluate"].data.metrics.items()
            if not name.startswith("ledger/")
        }.items()
    )
    version = client.get_model_version_by_alias("etude", "champion")
    assert version.run_id == children["publish"].info.run_id


def test_people_can_talk_to_what_was_made(copy: Path, tmp_path: Path) -> None:
    """Catches a command that fails on a real checkpoint of the store."""
    checkpoint = "checkpoint:latest"
    text = etude(copy, "generate", checkpoint, "水是", "--max-tokens", "4", "--json")
    assert len(json.loads(text.stdout.splitlines()[-1])["completions"]) == 1, text.stderr
    talk = etude(copy, "chat", checkpoint, "--json", "--max-tokens", "8", stdin="你是谁？\n再见\n")
    messages = json.loads(talk.stdout.splitlines()[-1])["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    vectors = etude(copy, "embed", checkpoint, "--json", stdin="水\n火\n")
    assert len(json.loads(vectors.stdout.splitlines()[-1])["embeddings"]) == 2
    out = tmp_path / "hf"
    assert etude(copy, "export", checkpoint, str(out), "--format", "hf").returncode == 0
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {
        path.name for path in out.iterdir()
    }
    again = etude(copy, "export", checkpoint, str(out), "--format", "hf")
    assert again.returncode == 2 and "Traceback" not in again.stderr


def test_the_claims_of_a_demo_are_judged(first: tuple[Path, list[dict[str, Any]]]) -> None:
    """Catches a claim that is always true: a model of six steps is exact, and answers nothing."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "demo_claims.py"), "--home", first[0]],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 1, done.stderr
    claims = json.loads(done.stdout.strip().splitlines()[-1])["claims"]
    holds = {one["claim"]: one["holds"] for one in claims}
    assert len(holds) == 10 and holds["pretrain: bits per byte falls"]
    exact = [name for name in holds if "logits" in name or "merged" in name or "cache" in name]
    assert len(exact) == 4 and all(holds[name] for name in exact)
    assert not holds["sft: at least 90% of answers end"]


LOOKING = (
    "ls",
    "show documents:latest",
    "show documents:latest --ledger Aristotle",
    "show release:latest --lineage",
    "status",
)


@pytest.mark.parametrize("line", LOOKING)
def test_people_can_look_at_what_was_made(
    line: str, first: tuple[Path, list[dict[str, Any]]]
) -> None:
    """Catches a README command that fails on a real store."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert f"etude {line}" in readme
    done = etude(first[0], *line.split())
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_keeps_a_checkpoint_and_leaves_nobody(copy: Path, number: signal.Signals) -> None:
    """Catches a stop that loses the training, ends with another code, or orphans a process."""
    environment = os.environ | {"ETUDE_HOME": str(copy), "PREFECT_HOME": str(copy / "prefect")}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", TINY, "pretrain.num_steps=100000"],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(copy.glob("store/checkpoint/*.partial/steps/step_*/manifest.json")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.2)
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors[-3000:]
    assert "run the same command again to go on" in errors.strip().splitlines()[-1]
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    (steps,) = copy.glob("store/checkpoint/*.partial/steps")
    assert list(steps.glob("step_*/manifest.json"))


@pytest.mark.slow
def test_kill_9_at_any_moment_changes_no_byte(tmp_path: Path) -> None:
    """Catches a half artifact taken for whole, an inexact resume, and a curve with a step twice.

    Runs the script that also does this for the whole demo, on the tiny way.
    """
    script = str(REPOSITORY / "benchmarks" / "kill_and_resume.py")
    done = subprocess.run(
        [sys.executable, script, "--recipe", TINY, "--kills", "3", "--keep", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["different_files"] == [] and result["doubled_steps"] == []
    assert result["equal_files"] == 7  # four models, an adapter, and both exports
