"""`etude extract` against WikiExtractor on one dump, in turn, several rounds; medians.

    python benchmarks/extract_vs_wikiextractor.py DUMP [--wikiextractor PATH] [--rounds 5]

Both turn the same file into documents: ours into Parquet with one and with two workers, with all
its columns and its ledger; WikiExtractor into JSON lines, with `--no-templates` (its fast way), one
and two processes. CPU-seconds are those of the command and of all processes it started, its start
included; memory is that of the largest process. The last line is JSON.

A dump to try it on: `make_multistream.py` wraps enwik8 (12,346 pages, 100.5 MB) as a modern one.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tasks.extract.dump import DumpFile

BARS = {"cpu_ratio": 2.0, "wall_ratio": 3.5, "scaling": 1.8}
MAX_WORKER_MB = 400
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of one command took."""

    wall_seconds: float
    cpu_seconds: float
    peak_mb: float


def main() -> int:
    """Run the rounds; return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dump", type=Path)
    parser.add_argument("--wikiextractor", default="wikiextractor", help="the command; '' for none")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with DumpFile(arguments.dump) as dump:
        num_bytes = sum(len(piece) for piece in iter(dump.read, b""))
    commands = {
        f"etude extract, {workers} worker{'s' * (workers > 1)}": [
            sys.executable, "-m", "flows.cli", "extract", str(arguments.dump), "OUT", "--json",
            f"extract.workers={workers}", f"clean.workers={workers}",
        ]
        for workers in (1, 2)
    }  # fmt: skip
    if arguments.wikiextractor:
        commands |= {
            f"WikiExtractor, {workers} process{'es' * (workers > 1)}": [
                arguments.wikiextractor, str(arguments.dump), "-o", "OUT", "--json", "-q",
                "--no-templates", "--processes", str(workers),
            ]
            for workers in (1, 2)
        }  # fmt: skip
    adopt_orphans()
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(arguments.rounds):
        for name, command in commands.items():
            runs[name].append(measure(command))
            print(f"round {number + 1}: {name}: {runs[name][-1]}", file=sys.stderr)
    medians = {
        name: Run(
            statistics.median(run.wall_seconds for run in done),
            statistics.median(run.cpu_seconds for run in done),
            max(run.peak_mb for run in done),
        )
        for name, done in runs.items()
    }
    answer = report(medians, num_bytes)
    print(json.dumps(answer))
    return 0 if answer["passed"] else 1


def measure(command: list[str]) -> Run:
    """Run a command into a fresh folder; what it and its children took."""
    with tempfile.TemporaryDirectory() as folder:
        filled = [str(Path(folder, "out")) if word == "OUT" else word for word in command]
        began = time.monotonic()
        process = os.posix_spawnp(
            filled[0],
            filled,
            os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        )
        cpu = peak = 0.0
        wall, status = 0.0, 0
        while True:  # until nothing that it started is left
            try:
                ended, code, usage = os.wait4(-1, 0)
            except ChildProcessError:
                break
            cpu += usage.ru_utime + usage.ru_stime
            peak = max(peak, usage.ru_maxrss / 1024)
            if ended == process:
                wall, status = time.monotonic() - began, code
        if status:
            raise SystemExit(f"{' '.join(filled)} ended with status {status}")
    return Run(wall, cpu, peak)


def adopt_orphans() -> None:
    """Become the parent of what our children leave behind, so that its time is counted (Linux)."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise SystemExit("PR_SET_CHILD_SUBREAPER failed")


def report(medians: dict[str, Run], num_bytes: int) -> dict[str, object]:
    """Print the table; return the figures and whether the bars hold."""
    megabytes = num_bytes / 1e6
    print(f"{megabytes:.1f} MB of XML; medians, memory the largest seen")
    print(f"{'':<28}{'wall s':>8}{'CPU s':>8}{'MB/CPU-s':>10}{'MB/s':>8}{'peak MB':>9}")
    for name, run in medians.items():
        print(
            f"{name:<28}{run.wall_seconds:>8.2f}{run.cpu_seconds:>8.2f}"
            f"{megabytes / run.cpu_seconds:>10.1f}{megabytes / run.wall_seconds:>8.1f}"
            f"{run.peak_mb:>9.0f}"
        )
    ours = [run for name, run in medians.items() if name.startswith("etude")]
    peers = [run for name, run in medians.items() if not name.startswith("etude")]
    ratios = {"scaling": ours[0].wall_seconds / ours[1].wall_seconds}
    if peers:  # the peer's better run each time
        cpu, wall = (min(getattr(run, f"{of}_seconds") for run in peers) for of in ("cpu", "wall"))
        ratios["cpu_ratio"] = cpu / ours[0].cpu_seconds
        ratios["wall_ratio"] = wall / ours[1].wall_seconds
    for name, ratio in ratios.items():
        print(f"{name:<12}{ratio:>6.2f} x, the bar is {BARS[name]} x")
    peak = max(run.peak_mb for run in ours)
    passed = all(ratio >= BARS[name] for name, ratio in ratios.items()) and peak < MAX_WORKER_MB
    figures = {
        name: {
            "wall_seconds": round(run.wall_seconds, 2),
            "cpu_seconds": round(run.cpu_seconds, 2),
            "mb_per_cpu_second": round(megabytes / run.cpu_seconds, 2),
            "peak_mb": round(run.peak_mb),
        }
        for name, run in medians.items()
    }
    rounded = {name: round(ratio, 2) for name, ratio in ratios.items()}
    return {"megabytes": round(megabytes, 1), "runs": figures, **rounded, "passed": passed}


if __name__ == "__main__":
    sys.exit(main())
