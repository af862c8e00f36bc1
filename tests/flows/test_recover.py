"""`etude recover` with a real Prefect API and a process that died within its run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DIE = """
import os, sys
from tasks import tracking
with tracking.flow_run(sys.argv[1], "died", {}, {}):
    os._exit(9)
"""


def test_only_the_runs_of_dead_processes_are_ended(home: Path, prefect_api: None) -> None:
    """Catches a crashed run that stays Running and cannot be retried, and a live one ended."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL
    from prefect.states import Running

    from tasks import tracking

    @flow
    def nothing() -> None:
        """Only its runs are made, by hand."""

    environment = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value())}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )

    (home / "store" / "pages" / "abc.partial").mkdir(parents=True)
    with get_client(sync_client=True) as client:
        died, alive = (client.create_flow_run(nothing, state=Running()).id for _ in range(2))
        with tracking.flow_run(str(alive), "alive", {}, {}):
            assert python("-c", DIE, str(died)).returncode == 9
            done = python("-m", "flows.cli", "recover", "--delete-partials", "--json")
            assert done.returncode == 0, done.stderr
        states = [client.read_flow_run(run).state for run in (died, alive)]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["flow_runs"] == [str(died)] and len(answer["mlflow_runs"]) == 1
    assert answer["partials"] == ["pages/abc.partial"]
    assert [state.name for state in states if state] == ["Crashed", "Running"]
