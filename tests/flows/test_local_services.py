"""`etude up` and `down` with the real Prefect server, worker and MLflow."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from flows import local


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[local.Service]]:
    """The services, freshly started on free ports in a home of their own; stopped at the end."""
    if (local.REPOSITORY / "prefect.toml").exists():
        pytest.skip("an `etude up` of this checkout is running; stop it with `etude down`")
    patch = pytest.MonkeyPatch()
    home = tmp_path_factory.mktemp("up") / "home"
    patch.setenv("ETUDE_HOME", str(home))
    patch.setenv("PREFECT_HOME", str(home / "prefect"))
    patch.delenv("PREFECT_API_URL", raising=False)
    # The scheduler looks every 60 seconds; a test need not wait for that.
    patch.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS", "2")
    yield local.up(prefect_port=free_port(), mlflow_port=free_port(), say=lambda line: None)
    local.down(say=lambda line: None)
    patch.undo()


def ask(up: list[local.Service], method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Ask the Prefect API of the services; a busy machine may leave a question unanswered once."""
    for last in (False, False, True):
        try:
            answer = httpx.request(
                method, f"{up[0].url}/api{path}", json=body, timeout=60, trust_env=False
            )
        except httpx.TransportError:
            if last:
                raise
        else:
            answer.raise_for_status()
            return answer.json()


def post(up: list[local.Service], path: str, body: dict[str, Any]) -> Any:
    """Ask for what a filter finds."""
    return ask(up, "POST", path, body)


@pytest.mark.slow
def test_a_cron_deployment_gets_scheduled_runs(up: list[local.Service]) -> None:
    """Catches the silent break of sqlalchemy 2.1: deployments deploy, and nothing is scheduled."""
    deadline = time.monotonic() + 60
    wanted = {"state": {"type": {"any_": ["SCHEDULED"]}}}
    runs: list[dict[str, Any]] = []
    while not runs and time.monotonic() < deadline:
        runs = post(up, "/flow_runs/filter", {"flow_runs": wanted})
        time.sleep(1)
    assert runs, "no run was scheduled within a minute: see the pins in pyproject.toml"
    times = [datetime.fromisoformat(run["expected_start_time"]) for run in runs]
    assert all(moment > datetime.now(UTC) for moment in times)
    assert {(moment.day, moment.hour) for moment in times} <= {(2, 3), (21, 3)}


@pytest.mark.slow
def test_all_deployments_and_one_automation_are_there(up: list[local.Service]) -> None:
    """Catches a deployment that was not registered, and an automation made twice."""
    deployments = post(up, "/deployments/filter", {})
    assert len(deployments) == 8
    assert {one["work_pool_name"] for one in deployments} == {local.POOL}
    names = [one["name"] for one in post(up, "/automations/filter", {})]
    assert sorted(names) == sorted([local.AUTOMATION, "etude-on-new-dump"])
    mlflow = next(service for service in up if service.name == "mlflow")
    assert httpx.get(mlflow.url, timeout=60, trust_env=False).status_code == 200


@pytest.mark.slow
def test_a_bad_setting_is_refused_when_the_run_is_created(up: list[local.Service]) -> None:
    """Catches a typo that would only show as a failed run in the morning."""
    deployments = post(up, "/deployments/filter", {})
    corpus = next(one for one in deployments if one["name"] == "corpus")
    for recipe in ({"base": "demo", "cleen": {}}, {"base": "demo", "sft": {"num_steps": -1}}):
        answer = httpx.post(
            f"{up[0].url}/api/deployments/{corpus['id']}/create_flow_run",
            json={"parameters": {"recipe": recipe}},
            timeout=60,
            trust_env=False,
        )
        assert answer.status_code == 409, answer.text


def prefect(up: list[local.Service], *arguments: str) -> str:
    """Run a `prefect` command against the services, as a user in the checkout would."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=local.REPOSITORY,
        capture_output=True,
        text=True,
        env=os.environ | {"PREFECT_API_URL": f"{up[0].url}/api"},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for(up: list[local.Service], run_id: str, state: str) -> dict[str, Any]:
    """Wait until a flow run is in a final state; it has to be `state`."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        run: dict[str, Any] = ask(up, "GET", f"/flow_runs/{run_id}")
        if run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            assert run["state"]["name"] == state, run["state"]
            return run
        time.sleep(1)
    raise AssertionError(f"run {run_id} did not end: {run['state']}")


@pytest.mark.slow
def test_a_failed_run_is_retried_from_the_stage_that_failed(
    up: list[local.Service], tmp_path: Path
) -> None:
    """Catches a deployment that cannot run on a worker, and a retry that starts over."""
    broken = tmp_path / "second.xml"
    broken.write_text("no XML yet")
    recipe = {
        "base": str(Path(__file__).with_name("tiny.yaml")),
        "fetch": [
            {"kind": "file", "wiki": "zhwiki", "path": "recipe:demo/zhwiki-demo.xml"},
            {"kind": "file", "wiki": "secondwiki", "path": str(broken)},
        ],
    }
    params = json.dumps({"recipe": recipe})
    prefect(up, "deployment", "run", "etude/end-to-end", "--params", params)
    (run,) = [
        one
        for one in post(up, "/flow_runs/filter", {"sort": "START_TIME_DESC"})
        if one["parameters"] == {"recipe": recipe}
    ]
    wait_for(up, run["id"], "Failed")
    shutil.copyfile(local.REPOSITORY / "flows/recipes/demo/zhwiki-demo.xml", broken)
    prefect(up, "flow-run", "retry", run["id"])
    time.sleep(2)
    assert wait_for(up, run["id"], "Completed")["run_count"] == 2
    tasks = post(up, "/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    states: dict[str, set[str]] = {}
    for one in tasks:
        states.setdefault(one["name"], set()).add(one["state"]["name"])
    assert "Reused" in states["fetch zhwiki"] and "Completed" in states["fetch secondwiki"]
    assert states["publish"] == {"Completed"}
    artifacts = post(up, "/artifacts/filter", {"limit": 200})
    keys = {one["key"] for one in artifacts}
    assert {"pretrain-progress", "pretrain-report", "pretrain-mlflow", "etude-mlflow"} <= keys


@pytest.mark.slow
def test_a_new_dump_starts_the_whole_way(up: list[local.Service], tmp_path: Path) -> None:
    """Catches a refresh whose event nobody hears, or that starts the whole way twice."""
    dump = tmp_path / "dump.xml"
    shutil.copyfile(local.REPOSITORY / "flows/recipes/demo/zhwiki-demo.xml", dump)
    recipe = {
        "base": str(Path(__file__).with_name("tiny.yaml")),
        "fetch": [{"kind": "file", "wiki": "freshwiki", "path": str(dump)}],
    }
    params = json.dumps({"recipe": recipe})

    def runs(flow: str) -> list[dict[str, Any]]:
        names = {"name": {"any_": [flow]}}
        found = post(up, "/flow_runs/filter", {"flows": names, "sort": "START_TIME_DESC"})
        return [one for one in found if "freshwiki" in json.dumps(one["parameters"])]

    for _ in range(2):  # the second look finds nothing new
        prefect(up, "deployment", "run", "refresh/refresh", "--params", params)
        newest = max(runs("refresh"), key=lambda one: str(one["created"]))
        wait_for(up, newest["id"], "Completed")
    deadline = time.monotonic() + 120
    while not runs("etude") and time.monotonic() < deadline:
        time.sleep(1)
    (started,) = runs("etude")
    assert started["parameters"]["recipe"]["pretrain"]["num_steps"] == 8
    wait_for(up, started["id"], "Completed")


@pytest.mark.slow
def test_down_stops_all_that_up_started(up: list[local.Service]) -> None:
    """Catches a server or worker that outlives `etude down`. Runs last: it ends the services."""
    families = [process for service in up for process in local._family(service)]
    assert len(families) >= 3
    stopped = local.down(say=lambda line: None)
    assert {service.name for service in stopped} == {"prefect server", "worker", "mlflow"}
    _, alive = psutil.wait_procs(families, timeout=60)
    assert not alive
    assert local.services() == []
    assert not Path(local.REPOSITORY / "prefect.toml").exists()


def test_down_leaves_the_settings_of_another_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a `down` in one home that hides the server of another from `prefect`."""
    monkeypatch.setattr(local, "REPOSITORY", tmp_path)
    for writer, other in (("one", "two"), ("two", "one")):
        monkeypatch.setenv("ETUDE_HOME", str(tmp_path / writer))
        local.write_prefect_toml("http://127.0.0.1:1/api")
        monkeypatch.setenv("ETUDE_HOME", str(tmp_path / other))
        local.down(say=lambda line: None)
        assert (tmp_path / "prefect.toml").exists()
        monkeypatch.setenv("ETUDE_HOME", str(tmp_path / writer))
        local.down(say=lambda line: None)
        assert not (tmp_path / "prefect.toml").exists()
