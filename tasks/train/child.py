"""A training child process: started, followed event by event, and never left behind.

The child (`python -m etude_model.training RUN_DIR`) knows neither Prefect nor MLflow. It stays in
this process group (a cancel signals both), writes its output to a file (so that it cannot hold the
worker's pipe open), inherits the artifact's lock (so that nobody else writes while it still does)
and stops by itself when this process dies. One that is silent for too long has written where it
hangs into its log by the time it is stopped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from etude_model.training.events import read_events
from storage.errors import (
    EXIT_BAD_INPUT,
    EXIT_DIVERGED,
    EXIT_OUT_OF_MEMORY,
    EXIT_STOPPED,
    BadInput,
    ChildFailed,
    Stopped,
)
from storage.workspace import Workspace

ENDINGS = {
    EXIT_DIVERGED: "training diverged",
    EXIT_OUT_OF_MEMORY: "training has too little memory",
}
POLL_SECONDS = 0.2
STACK_SECONDS = 1.0  # for the child to write its stacks down
PATIENCE_SECONDS = 1800.0
SLOWER = 20  # times the longest silence so far is no alarm yet
GRACE_SECONDS = 25.0  # Prefect kills the group 30 seconds after a cancel


def follow(
    workspace: Workspace, *, patience_seconds: float = PATIENCE_SECONDS
) -> Generator[dict[str, Any], None, None]:
    """Run the training described by `logs/run.json`; yield its events as they come.

    Yields the events of earlier, interrupted attempts first. Raises BadInput, Stopped or
    ChildFailed as the child's exit code says, and ChildFailed when no event has come for
    `patience_seconds` and for much longer than before. Close it: that stops a child that still
    runs.
    """
    output = workspace.logs / "train.log"
    events = workspace.logs / "events.jsonl"
    with output.open("ab") as file:
        child = subprocess.Popen(
            command(workspace.path),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=[workspace.lock_fd] if workspace.lock_fd is not None else [],
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    offset, heard, longest = 0, time.monotonic(), 0.0
    try:
        while True:
            ended = child.poll() is not None  # asked before reading: no last event is missed
            before = offset
            for offset, event in read_events(events, offset=offset):  # noqa: B007, B020
                yield event
            if ended:
                break
            silence = time.monotonic() - heard
            if offset > before:
                heard, longest = time.monotonic(), max(longest, silence)
            elif silence > max(patience_seconds, SLOWER * longest):
                _write_stacks(child)
                raise ChildFailed(
                    f"training said nothing for {silence:.0f} s and was stopped; where it hung is "
                    f"in {output}; if it was only slow, raise heartbeat_minutes"
                )
            time.sleep(POLL_SECONDS)
    finally:
        if child.poll() is None:
            _stop(child)
    _check(child.returncode, output)


def command(run_dir: Path) -> list[str]:
    """Return the command line that trains the run of a directory."""
    return [sys.executable, "-m", "etude_model.training", str(run_dir)]


def _write_stacks(child: subprocess.Popen[bytes]) -> None:
    """Let the child, and the ranks it may have started, write the stacks of their threads."""
    with suppress(psutil.Error):
        process = psutil.Process(child.pid)
        for one in (process, *process.children(recursive=True)):
            words = one.cmdline()  # torchrun would die of the signal
            if "etude_model.training" in words and "torch.distributed.run" not in words:
                one.send_signal(signal.SIGUSR1)
    time.sleep(STACK_SECONDS)


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
    if code == EXIT_BAD_INPUT:
        raise BadInput(last)
    if code == EXIT_STOPPED:
        raise Stopped(last)
    how = ENDINGS.get(code, "training ended")
    raise ChildFailed(f"{how} (exit code {code}): {last} (all of it: {output})")
