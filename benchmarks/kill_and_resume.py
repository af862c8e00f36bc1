"""Kill the demo with -9 at random moments, start it again, and compare with an undisturbed run.

    python benchmarks/kill_and_resume.py                      the whole demo, 12 kills
    python benchmarks/kill_and_resume.py --kills 3 --overrides pretrain.num_steps=8 …

One home is run in peace; a second one is run with its whole process group killed `--kills` times,
each at a random moment after the last start, then to its end. Prints a table of the kills (when,
what had been running, what the next start reused), whether every safetensors file of the last run
is equal byte for byte, and whether any MLflow curve has a step twice. The last line is JSON; the
exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 13.0


def main() -> int:
    """Run the comparison; return 0 if nothing differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mean-delay", type=float, help="seconds from a start to its kill")
    parser.add_argument("--keep", type=Path, help="folder for both homes, not deleted")
    parser.add_argument("--reference", type=Path, help="an ETUDE_HOME that ran the recipe in peace")
    parser.add_argument("--overrides", nargs="*", default=[])
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="etude-kills-"))
    command = [sys.executable, "-m", "flows.cli", "run", options.recipe, *options.overrides]
    peace, war = options.reference or folder / "peace", folder / "war"

    began = time.monotonic()
    reference = finish(command, peace)
    peace_seconds = time.monotonic() - began
    # The moments are spread over the whole run: on average each start gets its share of the work
    # done, and START_SECONDS to get going (Prefect, MLflow, torch).
    run_seconds = sum(stage["seconds"] for stage in reference["stages"])
    if run_seconds < 5:  # the reference was reused
        run_seconds = sum(manifest["seconds"] for manifest in manifests(peace))
    mean_delay = options.mean_delay or run_seconds / options.kills + START_SECONDS
    dice = random.Random(options.seed)
    kills = []
    for number in range(options.kills):
        delay = dice.uniform(2.0, 2.0 * mean_delay)
        kills.append(kill_after(command, war, delay, number))
        print(row(kills[-1]), flush=True)
    last = finish(command, war)

    # The last run reuses what the killed ones had finished; compare what both runs ended with.
    same, differing = compare(outputs(peace, reference), outputs(war, last))
    doubled = doubled_steps(war)
    print(f"\nsafetensors files equal: {same}, different: {len(differing)} {differing}")
    print(f"curves with a step twice: {len(doubled)} {doubled}")
    result = {
        "kills": len(kills),
        "killed_while": [kill["while"] for kill in kills],
        "equal_files": same,
        "different_files": differing,
        "doubled_steps": doubled,
        "peace_seconds": round(peace_seconds, 1),
    }
    if not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result))
    return 1 if differing or doubled or not same else 0


def environment(home: Path) -> dict[str, str]:
    """Return this process's environment with a home of its own."""
    return os.environ | {"ETUDE_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}


def finish(command: list[str], home: Path) -> dict[str, list[dict[str, float]]]:
    """Run to the end; return the JSON that the command prints last."""
    done = subprocess.run(
        [*command, "--json"], env=environment(home), stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, list[dict[str, float]]] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def kill_after(command: list[str], home: Path, delay: float, number: int) -> dict[str, object]:
    """Start the command, kill its process group after `delay` seconds, tell what it was doing."""
    log = home.parent / f"{home.name}-{number}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment(home), stdout=output, stderr=output, start_new_session=True
        )
        try:
            was = process.wait(delay)
        except subprocess.TimeoutExpired:
            was = None
        doing = under_way(home)
        os.killpg(process.pid, signal.SIGKILL) if was is None else None
        process.wait()
    done = sum(1 for _ in manifests(home))
    state = "ended already" if was is not None else doing
    return {"number": number + 1, "after": round(delay, 1), "while": state, "finished": done}


def under_way(home: Path) -> str:
    """Return which artifacts are half built, and how far a training is."""
    found = []
    for path in sorted((home / "store").glob("*/*.partial")):
        steps = sorted(one.name for one in (path / "steps").glob("step_*"))
        training = path / "logs" / "run.json"
        name = json.loads(training.read_text())["stage"] if training.exists() else path.parent.name
        found.append(f"{name} ({steps[-1] if steps else 'no checkpoint'})")
    return ", ".join(found) or "between stages"


def row(kill: dict[str, object]) -> str:
    """Return a kill as a line of the table."""
    return (
        f"kill {kill['number']:>2} after {kill['after']:>6} s: {kill['finished']:>2} artifacts "
        f"finished, under way: {kill['while']}"
    )


def manifests(home: Path) -> Iterator[dict[str, float]]:
    """Yield the manifests of a home's finished artifacts."""
    for path in (home / "store").glob("*/*/manifest.json"):
        yield json.loads(path.read_text(encoding="utf-8"))


def outputs(home: Path, result: dict[str, list[dict[str, float]]]) -> dict[str, str]:
    """Return the SHA-256 of every safetensors file that a run's artifacts hold."""
    digests = {}
    for stage in result["stages"]:
        folder = home / "store" / str(stage["kind"]) / str(stage["key"])
        for path in sorted(folder.rglob("*.safetensors")):
            name = f"{stage['stage']}{stage['label']}/{path.relative_to(folder)}"
            digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def compare(one: dict[str, str], two: dict[str, str]) -> tuple[int, list[str]]:
    """Return how many files are equal, and the names of those that are not or are missing."""
    names = sorted(one.keys() | two.keys())
    differing = [name for name in names if one.get(name) != two.get(name)]
    return len(names) - len(differing), differing


def doubled_steps(home: Path) -> list[str]:
    """Return the curves of MLflow that have two values at one step."""
    with sqlite3.connect(home / "mlflow" / "mlflow.db") as database:
        query = "SELECT run_uuid, key, step FROM metrics GROUP BY 1, 2, 3 HAVING count(*) > 1"
        return sorted({f"{run[:8]} {key}" for run, key, _ in database.execute(query)})


if __name__ == "__main__":
    sys.exit(main())
