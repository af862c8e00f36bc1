"""RUN_DIR -> one process per GPU, by torchrun, and one exit code for all of them.

torchrun ends with 1 whatever its processes end with, so a process that ends otherwise than well
leaves code and reason in logs/exit-RANK.json, and this one passes them on. A chain of three, of
which each link stops when the one above it is gone:

    python -m etude_model.training RUN_DIR  ->  torchrun  ->  the ranks

Try: set num_processes in RUN_DIR/logs/run.json, then python -m etude_model.training RUN_DIR
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from etude_model.config import TrainConfig
from etude_model.training.signals import die_with_parent
from storage.files import read_json, write_json

EXIT_FILES = "logs/exit-*.json"
POLL_SECONDS = 0.1


def num_processes(config: TrainConfig) -> int:
    """Return how many processes the config asks for; 0 there means one per GPU."""
    if config.num_processes:
        return config.num_processes
    return max(1, torch.cuda.device_count()) if config.device in ("auto", "cuda") else 1


def launch(run_dir: Path, count: int, *, stop: Callable[[], bool]) -> tuple[int, str]:
    """Train with `count` processes of this machine; return the exit code and what there is to say.

    `stop` is asked all the time; the processes then get a SIGTERM each from torchrun, and half a
    minute to save and leave.
    """
    for former in run_dir.glob(EXIT_FILES):
        former.unlink()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), "-m", "etude_model.training", str(run_dir)]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))}
    torchrun = subprocess.Popen(
        command,
        env=threads | os.environ,
        close_fds=False,  # keep the lock that says this folder is in use
        preexec_fn=die_with_parent,
    )
    is_told = False
    while torchrun.poll() is None:
        if stop() and not is_told:
            torchrun.terminate()
            is_told = True
        time.sleep(POLL_SECONDS)
    if torchrun.returncode == 0:
        return 0, ""
    for path in sorted(run_dir.glob(EXIT_FILES)):
        end = read_json(path)
        return end["code"], end["message"]
    return 1, f"torchrun ended with {torchrun.returncode}; a process failed as said above"


def report_exit(run_dir: Path, code: int, message: str) -> None:
    """Leave for `launch` how this rank ended."""
    path = run_dir / EXIT_FILES.replace("*", os.environ["RANK"])
    write_json(path, {"code": code, "message": message})
