"""Parts built side by side: whole, in order, and no process left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.artifact import Counts
from storage.errors import BadInput, ChildFailed
from storage.workspace import Workspace
from tasks.parallel import Workers, build_parts, usable_cores

HEAVY = ("prefect", "polars", "mlflow", "torch", "typer", "pandas", "matplotlib", "pytest")
WORK = '''
import json, os, signal, sys, time
from pathlib import Path
from storage.artifact import Counts
from storage.errors import BadInput

def double(job, folder, tell):
    (folder / "out.txt").write_text(str(job * 2))
    (folder / "pid.txt").write_text(str(os.getpid()))
    tell(0.5)
    return Counts(job, job - 1, {"odd": 1})

def die_once(job, folder, tell):
    """Kill this worker the first time it meets an even job."""
    mark, number = job
    if number % 2 == 0 and not Path(f"{mark}-{number}").exists():
        Path(f"{mark}-{number}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return double(number, folder, tell)

def die_always(job, folder, tell):
    if job == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return double(job, folder, tell)

def refuse(job, folder, tell):
    if job == 3:
        raise BadInput(f"job {job} is bad; give another")
    time.sleep(60)

def sleep(job, folder, tell):
    Path(job).with_name(f"{Path(job).name}.{os.getpid()}").touch()
    time.sleep(60)

def modules(job, folder, tell):
    (folder / "modules.json").write_text(json.dumps(sorted(sys.modules)))
    return Counts(1, 1)
'''
RUN = """
import signal, sys
from pathlib import Path
import parallel_work
from storage.errors import Stopped
from storage.workspace import Workspace
from tasks.parallel import build_parts

def stop(*_):
    raise Stopped("stopped")

signal.signal(signal.SIGTERM, stop)
if __name__ == "__main__":
    try:
        folder = Path(sys.argv[1])
        build_parts(Workspace(folder / "w"), parallel_work.sleep,
                    {str(n): str(folder / f"at-{n}") for n in range(4)}, 2)
    except (KeyboardInterrupt, Stopped):
        sys.exit(75)
"""
HEAVY_MAIN = """
import sys
from pathlib import Path
import prefect, polars
import parallel_work
from storage.workspace import Workspace
from tasks.parallel import build_parts

if __name__ == "__main__":
    jobs = {f"part-{number:05d}": number for number in (1, 2)}
    build_parts(Workspace(Path(sys.argv[1], "w")), parallel_work.modules, jobs, 2)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], object]]:
    """Functions in a module that a worker can import by name."""
    import importlib

    (tmp_path / "parallel_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("parallel_work")
    yield lambda name: getattr(module, name)
    del sys.modules["parallel_work"]


def jobs(count: int) -> dict[str, int]:
    """Jobs 1, 2, 3 …, each a part."""
    return {f"part-{number:05d}": number for number in range(1, count + 1)}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_parts_are_whole_in_order_and_told(
    workers: int, tmp_path: Path, work: Callable[[str], object]
) -> None:
    """Catches ledgers out of order, temporary folders left, a bar that runs back or stops short."""
    told: list[tuple[float, float | None]] = []
    workspace = Workspace(
        tmp_path / "w", progress=lambda done, total, unit: told.append((done, total))
    )
    sizes = {name: 10.0 * number for name, number in jobs(7).items()}
    counts = build_parts(workspace, work("double"), jobs(7), workers, sizes=sizes, unit="bytes")
    assert [one.seen for one in counts] == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(path.name for path in workspace.path.iterdir()) == list(jobs(7))
    for name, number in jobs(7).items():
        assert (workspace.path / name / "out.txt").read_text() == str(number * 2)
    pids = {(path).read_text() for path in workspace.path.glob("*/pid.txt")}
    assert (str(os.getpid()) in pids) == (workers == 1)
    assert told[-1] == (280.0, 280.0)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_parts_that_are_there_are_not_built(tmp_path: Path, work: Callable[[str], object]) -> None:
    """Catches a retry that starts from the beginning, or forgets the old parts' ledgers."""
    workspace = Workspace(tmp_path / "w")
    first = build_parts(workspace, work("double"), jobs(3), 2)
    before = (workspace.path / "part-00002" / "part.json").stat().st_mtime_ns
    again = build_parts(workspace, work("double"), jobs(5), 2)
    assert (workspace.path / "part-00002" / "part.json").stat().st_mtime_ns == before
    assert again[:3] == first and len(again) == 5


def test_one_worker_and_two_write_the_same(
    tmp_path: Path,
    work: Callable[[str], object],
) -> None:
    """Catches digests of a part that miss a file because it came from a worker."""
    for workers in (1, 2):
        build_parts(Workspace(tmp_path / str(workers)), work("modules"), jobs(2), workers)
    keys = [
        set(json.loads((tmp_path / n / "part-00001" / "part.json").read_text())["sha256"])
        for n in ("1", "2")
    ]
    assert keys == [{"modules.json"}] * 2


def test_workers_can_be_shared(tmp_path: Path, work: Callable[[str], object]) -> None:
    """Catches processes started for each call, and a call that fails after a worker's death."""
    with Workers(2) as workers:
        for number in (1, 2):
            build_parts(Workspace(tmp_path / str(number)), work("double"), jobs(5), workers)
        mark = str(tmp_path / "mark")
        todo = {name: (mark, number) for name, number in jobs(9).items()}
        counts = build_parts(Workspace(tmp_path / "3"), work("die_once"), todo, workers)
        build_parts(Workspace(tmp_path / "4"), work("double"), jobs(5), workers)
    pids = [
        {path.read_text() for path in (tmp_path / number).glob("*/pid.txt")}
        for number in ("1", "2", "4")
    ]
    assert len(pids[0] | pids[1]) <= 2 and not pids[0] & pids[2]
    assert [one.seen for one in counts] == list(range(1, 10))
    assert all(gone(int(pid)) for found in pids for pid in found)


def test_a_dead_workers_part_is_built_again(tmp_path: Path, work: Callable[[str], object]) -> None:
    """Catches one killed worker (out of memory) that ends hours of work of the others."""
    lines: list[str] = []
    workspace = Workspace(tmp_path / "w", log=lines.append)
    mark = str(tmp_path / "mark")
    todo = {name: (mark, number) for name, number in jobs(9).items()}
    counts = build_parts(workspace, work("die_once"), todo, 2)
    assert [one.seen for one in counts] == list(range(1, 10))
    assert any("worker died while part-0000" in line for line in lines)
    assert sorted(path.name for path in workspace.path.iterdir()) == list(jobs(9))


def test_a_part_that_kills_twice_ends_the_stage(
    tmp_path: Path, work: Callable[[str], object]
) -> None:
    """Catches an endless loop of fresh pools; the line names the guilty part, the rest is kept."""
    workspace = Workspace(tmp_path / "w")
    with pytest.raises(ChildFailed, match="died building part-00003"):
        build_parts(workspace, work("die_always"), jobs(3), 2)
    assert not list(workspace.path.glob("part-00003"))


def test_an_error_ends_the_others_at_once(tmp_path: Path, work: Callable[[str], object]) -> None:
    """Catches a refusal that waits for a minute, loses its words or leaves processes."""
    began = time.monotonic()
    with pytest.raises(BadInput, match="job 3 is bad; give another"):
        build_parts(Workspace(tmp_path / "w"), work("refuse"), jobs(3), 3)
    assert time.monotonic() - began < 50


def test_workers_import_nothing_heavy(tmp_path: Path) -> None:
    """Catches a start of seconds: the main module (Prefect here) must not come along."""
    (tmp_path / "parallel_work.py").write_text(WORK)
    script = tmp_path / "heavy.py"
    script.write_text(HEAVY_MAIN)
    subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment(tmp_path), check=True
    )
    loaded = json.loads((tmp_path / "w" / "part-00001" / "modules.json").read_text())
    assert sorted({name.partition(".")[0] for name in loaded} & set(HEAVY)) == []


def environment(folder: Path) -> dict[str, str]:
    """Return variables with which a process finds our packages and the work in `folder`."""
    repository = str(Path(__file__).resolve().parents[2])
    return os.environ | {"PYTHONPATH": f"{repository}{os.pathsep}{folder}"}


def started(folder: Path, count: int = 2) -> list[int]:
    """Wait until workers have begun; return their ids."""
    for _ in range(200):
        found = [int(path.name.rpartition(".")[2]) for path in folder.glob("at-*.*")]
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError("no worker began")


def gone(pid: int, seconds: float = 10) -> bool:
    """Tell whether a process ends within some seconds."""
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(int(seconds / 0.05)):
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "to_group", "code"),
    [
        (signal.SIGKILL, False, -9),
        (signal.SIGINT, True, 75),
        (signal.SIGTERM, False, 75),
        (signal.SIGTERM, True, None),
    ],
    ids=["kill -9", "Ctrl-C", "SIGTERM", "SIGTERM to all"],
)
def test_no_worker_outlives_its_parent(
    number: signal.Signals, to_group: bool, code: int | None, tmp_path: Path
) -> None:
    """Catches orphans that hold memory and cores, and a stop that takes as long as the work."""
    (tmp_path / "parallel_work.py").write_text(WORK)
    script = tmp_path / "run.py"
    script.write_text(RUN)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env=environment(tmp_path),
        start_new_session=True,
        stderr=subprocess.PIPE,
    )
    try:
        workers = started(tmp_path)
        (os.killpg if to_group else os.kill)(parent.pid, number)
        _, errors = parent.communicate(timeout=60)
    finally:
        parent.kill()
    assert all(gone(pid) for pid in workers)
    assert b"Traceback" not in errors, errors.decode()
    if code is not None:
        assert parent.returncode == code
    again = Workspace(tmp_path / "w")
    assert list(again.path.iterdir()) == []  # nothing half-made stays


def test_usable_cores_respect_the_affinity() -> None:
    """Catches 64 workers in a container that may use two cores."""
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


def test_counts_come_back_unchanged(tmp_path: Path, work: Callable[[str], object]) -> None:
    """Catches a ledger that loses its reasons or figures between processes."""
    (counts, _) = build_parts(Workspace(tmp_path / "w"), work("double"), jobs(2), 2)
    assert counts.to_json() == Counts(1, 0, {"odd": 1}).to_json()
