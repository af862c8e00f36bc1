"""Parts of a stage, side by side: (workspace, work, jobs) -> one whole part per job.

    def clean_part(job: CleanJob, folder: Path, tell: Tell) -> Counts: ...

    counts = build_parts(workspace, clean_part, {"part-00000": job, …}, workers=config.workers)

`work` is a function of a module, a job is a small picklable value (paths, numbers, plain data):
a worker reads its input and writes its output itself, and only the ledger comes back. Workers are
forks of one fresh process that has imported what the corpus rooms' workers need (where processes
cannot start so, each imports the module of `work` itself), so keep those modules free of Prefect
(not `task.py`), polars and the like. Calls that follow each other can share their workers:

    with Workers(config.workers) as workers:
        build_parts(workspace, clean_part, {"part-00000": job, …}, workers)

A part appears by one rename, made here, so it is whole or not there, and a stage that was killed
goes on with the parts it lacks. What was under way in a worker that died (out of memory, killed)
is built again, alone. Workers end when this process does, however it ends.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import signal
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from importlib.abc import MetaPathFinder
from multiprocessing import forkserver, get_all_start_methods, get_context
from multiprocessing.context import BaseContext, ForkServerContext
from pathlib import Path
from threading import Thread
from types import ModuleType, TracebackType
from typing import Generic, TypeVar

from storage.artifact import Counts
from storage.errors import ChildFailed
from storage.workspace import PART, Workspace

Job = TypeVar("Job")
Tell = Callable[[float], None]
Work = Callable[[Job, Path, Tell], Counts]
POLL_SECONDS = 0.2
ATTEMPTS_ALONE = 2  # the first death may have been another part's fault
PRELOADED = ["tasks.extract.pages", "tasks.clean.part"]  # imported once, not by each worker
OBJECTS_UNCOLLECTED = 100_000  # new objects between two searches for cycles; Python's own: 700
_SHARE = struct.Struct("d")
_CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")


def build_parts(
    workspace: Workspace,
    work: Work[Job],
    jobs: Mapping[str, Job],
    workers: int | Workers = 0,
    *,
    sizes: Mapping[str, float] | None = None,
    unit: str = "parts",
) -> list[Counts]:
    """Build the parts that are not there yet; return the ledgers of all of them, in order.

    `work(job, folder, tell)` fills a fresh folder and returns what it counted; `tell(share)` says
    how much of its job is done, from 0 to 1. `workers` counts processes, 0 is one per usable
    core; one worker is this process. `sizes` weigh the parts in the progress, in `unit`.
    """
    build = _Build(workspace, work, jobs, sizes or {}, unit)
    if isinstance(workers, Workers):
        build.side_by_side(workers)
    else:
        with Workers(min(workers or usable_cores(), len(build.missing))) as own:
            build.side_by_side(own)
    return [build.here(name) for name in jobs]


class Workers:
    """Processes for one call of `build_parts` or for several, started when first needed."""

    def __init__(self, number: int = 0) -> None:
        self.number = number or usable_cores()
        self._pool: ProcessPoolExecutor | None = None

    def pool(self) -> ProcessPoolExecutor:
        """Return the pool."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.number, _context(), _begin_worker)
        return self._pool

    def end(self, *, kill: bool = False) -> None:
        """End the processes, at once or after what they do; the next `pool` is a fresh one."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        for process in list((pool._processes or {}).values()) if kill else ():
            process.kill()  # 3.14: terminate_workers()
        pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Workers:
        """Return the workers themselves."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes."""
        self.end(kill=error is not None)


def warm_up() -> None:
    """Start the process that workers will be forked from, while this one imports what it needs."""
    if isinstance(_context(), ForkServerContext):
        forkserver.ensure_running()


def _context() -> BaseContext:
    """Return how processes start: as forks of one that has imported what they need, if possible.

    That one is a fresh process, not a fork of ours, so nothing of our threads and files is in it.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


class _NoPandas(MetaPathFinder):
    def find_spec(self, name: str, *rest: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas takes 0.2 s to import and is not used here")


def without_pandas() -> None:
    """Spare this process the import of pandas, which pyarrow tries at its first array."""
    sys.meta_path.insert(0, _NoPandas())


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    if _CGROUP_CPU.is_file():
        quota, _, period = _CGROUP_CPU.read_text().partition(" ")
        if quota.isdigit():
            cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


class _Build(Generic[Job]):
    """The jobs of one call, where they are built and how far they are."""

    def __init__(
        self,
        workspace: Workspace,
        work: Work[Job],
        jobs: Mapping[str, Job],
        sizes: Mapping[str, float],
        unit: str,
    ) -> None:
        self.workspace, self.work, self.jobs, self.unit = workspace, work, jobs, unit
        self.missing = [name for name in jobs if not (workspace.path / name / PART).exists()]
        self.weights = {name: sizes.get(name, 1.0) for name in jobs}
        self.total = sum(self.weights.values())
        self.done = self.total - sum(self.weights[name] for name in self.missing)

    def here(self, name: str) -> Counts:
        """Return a part's ledger; build it in this process if it is not there."""

        def tell(share: float) -> None:
            self._tell({name: share})

        def fill(folder: Path) -> Counts:
            with _seldom_collecting():
                return self.work(self.jobs[name], folder, tell)

        return self._commit(name, fill)

    def side_by_side(self, workers: Workers) -> None:
        """Build what is missing in the workers, if there is enough for two."""
        waiting = deque(self.missing)
        while waiting and min(workers.number, len(self.missing)) > 1:
            for name in self._in_pool(waiting, workers):
                self.workspace.log(
                    f"a worker died while {name} was under way; it is built again, alone"
                )
                if all(self._alone(name) for _ in range(ATTEMPTS_ALONE)):
                    raise ChildFailed(
                        f"workers died building {name}, even alone; if memory ran out, set fewer "
                        "workers, then run the same command again: the other parts are kept"
                    )

    def _alone(self, name: str) -> list[str]:
        with Workers(1) as worker:
            return self._in_pool(deque([name]), worker)

    def _in_pool(self, waiting: deque[str], workers: Workers) -> list[str]:
        """Build what is waiting; return what was under way when a worker died."""
        board = self.workspace.path / "progress.tmp"  # one number a part, written by the workers
        board.write_bytes(bytes(_SHARE.size * len(self.jobs)))
        slots = {name: _SHARE.size * index for index, name in enumerate(self.jobs)}
        running: dict[Future[Counts], str] = {}
        try:
            while waiting or running:
                while waiting and len(running) <= workers.number:  # one ahead, so that none idles
                    name = waiting[0]
                    folder = self._worker_folder(name)
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir()
                    job, slot = self.jobs[name], slots[name]
                    with _no_main_module():  # each call may start a worker
                        future = workers.pool().submit(_run, self.work, job, folder, board, slot)
                    running[future] = name
                    waiting.popleft()  # only now: a broken pool refuses the call
                done, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
                for future in done:
                    counts = future.result()
                    name = running.pop(future)
                    self._commit(name, partial(_take, self._worker_folder(name), counts))
                shares = board.read_bytes()
                self._tell(
                    {name: _SHARE.unpack_from(shares, slots[name])[0] for name in running.values()}
                )
        except BrokenProcessPool:
            workers.end()
            return list(running.values())
        except BaseException:
            workers.end(kill=True)  # nothing whole is lost: only our rename makes a part
            raise
        finally:
            board.unlink(missing_ok=True)
        return []

    def _commit(self, name: str, fill: Callable[[Path], Counts]) -> Counts:
        is_new = not (self.workspace.path / name / PART).exists()
        counts = self.workspace.part(name, fill)
        self.done += self.weights[name] * is_new
        self._tell({})
        return counts

    def _tell(self, shares: Mapping[str, float]) -> None:
        """Pass on how far all is: what is done, and the shares of what is under way."""
        under_way = sum(self.weights[name] * share for name, share in shares.items())
        self.workspace.progress(self.done + under_way, self.total, self.unit)

    def _worker_folder(self, name: str) -> Path:
        """Return where a worker writes; what a crash leaves there the next Workspace deletes."""
        return self.workspace.path / f"{name}.worker.tmp"


def _take(made: Path, counts: Counts, folder: Path) -> Counts:
    """Give the workspace what a worker made: its folder replaces the empty one."""
    made.rename(folder)
    return counts


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Search for cycles seldom: rows are many and hold none."""
    thresholds = gc.get_threshold()
    gc.set_threshold(OBJECTS_UNCOLLECTED, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Keep new workers from importing our main module: it may be all of Prefect, or pytest."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent does, killed or not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    without_pandas()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    Thread(target=follow, daemon=True).start()


def _run(work: Work[Job], job: Job, folder: Path, board: Path, offset: int) -> Counts:
    """Do one job in a worker, writing on the board how far it is."""
    handle = os.open(board, os.O_WRONLY)

    def tell(share: float) -> None:
        os.pwrite(handle, _SHARE.pack(share), offset)

    try:
        with _seldom_collecting():
            return work(job, folder, tell)
    finally:
        os.close(handle)
