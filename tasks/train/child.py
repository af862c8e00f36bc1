"""A training child process: started, followed event by event, and never left behind.

The child (`python -m etude_model.training RUN_DIR`) knows neither Prefect nor MLflow. It stays in
this process group (a cancel signals both), writes its output to a file (so that it cannot hold the
worker's pipe open), inherits the artifact's lock (so that nobody else writes while it still does)
and stops by itself when this process dies.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from etude_model.training.events import read_events
from storage.errors import EXIT_STOPPED, BadInput, ChildFailed, Stopped
from storage.workspace import Workspace

EXIT_BAD_CONFIG = 78
POLL_SECONDS = 0.2
GRACE_SECONDS = 25.0  # Prefect kills the group 30 seconds after a cancel


def follow(workspace: Workspace) -> Generator[dict[str, Any], None, None]:
    """Run the training described by `logs/run.json`; yield its events as they come.

    Yields the events of earlier, interrupted attempts first. Raises BadInput, Stopped or
    ChildFailed as the child's exit code says. Close it: that stops a child that still runs.
    """
    output = workspace.logs / "train.log"
    events = workspace.logs / "events.jsonl"
    with output.open("ab") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "etude_model.training", str(workspace.path)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=[workspace.lock_fd] if workspace.lock_fd is not None else [],
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    offset = 0
    try:
        while True:
            ended = child.poll() is not None  # asked before reading: no last event is missed
            for offset, event in read_events(events, offset=offset):  # noqa: B007, B020
                yield event
            if ended:
                break
            time.sleep(POLL_SECONDS)
    finally:
        if child.poll() is None:
            _stop(child)
    _check(child.returncode, output)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ask the child to checkpoint and leave; kill it when it does not."""
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _check(code: int, output: Path) -> None:
    if code == 0:
        return
    lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1] if lines else "no output"
    if code == EXIT_BAD_CONFIG:
        raise BadInput(last)
    if code == EXIT_STOPPED:
        raise Stopped(last)
    raise ChildFailed(f"training ended with exit code {code}: {last} (all of it: {output})")
