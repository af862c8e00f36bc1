"""The house: imports go down only, stages chain, loading is light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = (
    "fetch", "extract", "clean", "dedup", "cut", "pair", "format_sft", "train_tokenizer", "shard",
    "train", "evaluate", "publish",
)  # fmt: skip


def imported(code: str, *names: str) -> list[str]:
    """Return which of the modules are loaded after `code` ran in a fresh interpreter."""
    probe = f"{code}\nimport sys\nprint([n for n in {list(names)} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    return list(ast.literal_eval(done.stdout.strip().splitlines()[-1]))


def test_flows_and_tasks_load_without_torch() -> None:
    """Catches a top-level torch import: a deployment and its form must load in about a second."""
    code = "import flows.cli, flows.etude, flows.recipe"
    assert imported(code, "torch", "mlflow", "transformers") == []


def test_the_model_loads_without_prefect_mlflow_or_polars() -> None:
    """Catches an import that a bare GPU machine does not have."""
    code = "import etude_model.training.run, etude_model.inference.generate"
    assert imported(code, "prefect", "mlflow", "polars", "flows", "tasks") == []


@pytest.mark.parametrize("library", ["prefect", "mlflow"])
def test_prefect_and_mlflow_stay_in_their_files(library: str) -> None:
    """Catches the orchestrator or the tracker growing into the plain code of a room."""
    allowed = {
        "prefect": r"flows/.*|tasks/stage\.py|tasks/.*/task\.py",
        "mlflow": r"tasks/tracking\.py|tasks/publish/.*",
    }[library]
    for package in ("flows", "tasks", "etude_model", "storage"):
        for path in (REPOSITORY / package).rglob("*.py"):
            name = path.relative_to(REPOSITORY).as_posix()
            if re.fullmatch(allowed, name):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                else:
                    modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                roots = {module.split(".")[0] for module in modules}
                assert library not in roots, f"{name} imports {library}"


def test_the_rooms_chain_from_dump_to_release() -> None:
    """Catches a room whose first line does not say what comes in and what goes out."""
    have = {"source"}
    for room in ROOMS:
        text = (REPOSITORY / "tasks" / room / "task.py").read_text(encoding="utf-8")
        first = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
        match = re.match(r"(.+?) -> ([a-z]+)", first)
        assert match, f"tasks/{room}/task.py begins {first!r}"
        needs = set(re.findall(r"[a-z]+s?\b", match[1])) & KINDS
        missing = needs - have
        assert not missing, f"{room} reads {missing}, which no room before it writes"
        have.add(match[2])
    assert have >= KINDS


KINDS = {
    "dump", "pages", "documents", "corpus", "passages", "pairs", "dialogues", "tokenizer",
    "shards", "checkpoint", "report", "release",
}  # fmt: skip


def test_no_module_prints_but_the_command_line() -> None:
    """Catches a print that would end up in a worker's log instead of with the user."""
    speakers = {f"flows/{name}.py" for name in ("answers", "cli", "model_commands", "talk")}
    speakers |= {f"etude_model/{package}/__main__.py" for package in ("evaluation", "training")}
    for package in ("flows", "tasks", "etude_model", "storage"):
        for path in (REPOSITORY / package).rglob("*.py"):
            name = path.relative_to(REPOSITORY).as_posix()
            calls = [
                node
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            ]
            assert not calls or name in speakers, f"{name} prints"
