"""etude_model on a machine that has torch, numpy, pyarrow, pydantic, safetensors, sentencepiece."""

from __future__ import annotations

import importlib.abc
import importlib.metadata
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

NEEDED = ("torch", "numpy", "pyarrow", "pydantic", "safetensors", "sentencepiece")


def plain(name: str) -> str:
    """Return the name of a distribution as all of its spellings share it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_with(names: tuple[str, ...]) -> set[str]:
    """Return the distributions that come with `names`, without anybody's extras."""
    found: set[str] = set()
    waiting = [plain(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # of another platform
            continue
        waiting += [
            plain(re.match(r"[\w.-]+", one)[0]) for one in requires if "extra ==" not in one
        ]
    return found


class Bare(importlib.abc.MetaPathFinder):
    """Finds what other finders find, but nothing of what a bare machine would lack."""

    def __init__(self, finders: Sequence[Any]) -> None:
        self.finders = finders
        allowed = installed_with(NEEDED)
        self.missing = {
            package
            for package, owners in importlib.metadata.packages_distributions().items()
            if not allowed & {plain(owner) for owner in owners}
        } - {"etude_model", "storage"}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return where a module is, or None where it is missing."""
        if name.partition(".")[0] in self.missing:
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        return next(filter(None, found), None)


def train_bare(run_dir: Path) -> None:
    """Import every module of etude_model and train, with what a bare machine has."""
    finder = Bare(list(sys.meta_path))
    assert {"pytest", "polars", "prefect", "transformers", "psutil"} <= finder.missing
    sys.meta_path[:] = [finder]
    import etude_model

    for module in pkgutil.walk_packages(etude_model.__path__, "etude_model."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    from etude_model.training.run import build_trainer, read_run

    events = list(build_trainer(read_run(run_dir), run_dir).events())
    assert [event["kind"] for event in events].count("step") == 2
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert not loaded & finder.missing


def test_it_imports_and_trains_with_six_packages(write_run, tmp_path):
    """Catches an import that works only where the whole of Etude is installed."""
    knobs = {"num_steps": 2, "warmup_steps": 1, "optimizer": "muon"}
    run_dir = write_run(tmp_path / "run", "pretrain", **knobs)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, __file__, str(run_dir)]
    subprocess.run(command, check=True, timeout=120, env=environment)


if __name__ == "__main__":
    train_bare(Path(sys.argv[1]))
