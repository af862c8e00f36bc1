"""The README stays true: its commands exist, its links lead somewhere, both languages agree."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.recipe import load_recipe

REPOSITORY = Path(__file__).resolve().parents[1]
READMES = ("README.md", "README.zh-CN.md")
# What the lines that are not `etude …` are run by.
RUN_BY = {
    "make demo": ".ci/run",
    "make test": ".ci/run",
    "make quick": "tests/test_readme.py",
    "make lint": ".ci/run",
    "python benchmarks/demo_claims.py": "tests/flows/test_whole_way.py",
    "python benchmarks/kill_and_resume.py": "tests/flows/test_whole_way.py",
    "python benchmarks/on_gpu.py": "tests/etude_model/test_gpu_benchmark.py",
    "prefect deployment run etude/end-to-end": "tests/flows/test_local_services.py",
    ". .venv/bin/activate": ".ci/run",
}


def commands(name: str) -> list[str]:
    """Return the command lines of a README's sh blocks, comments cut off."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S)).splitlines()
    return [line.split("  #")[0].split("   #")[0].strip() for line in lines if line.strip()]


def etude_commands() -> list[str]:
    """Return the `etude …` lines of the README."""
    return [line for line in commands("README.md") if line.startswith("etude ")]


def test_both_readmes_show_the_same_commands() -> None:
    """Catches a command that was changed in one language only."""
    assert commands("README.md") == commands("README.zh-CN.md")


@pytest.mark.parametrize("line", etude_commands())
def test_the_command_line_takes_it(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an option, a command or a setting that the README promises and that is not there.

    Running them for real is tests/flows/test_whole_way.py's and .ci/run's work.
    """
    words = shlex.split(line)[1:]
    result = CliRunner().invoke(app, [words[0], "--help"])
    assert result.exit_code == 0
    for word in words[1:]:
        if word.startswith("--"):
            assert word in result.output, f"{words[0]} has no {word}"
    if words[0] in ("run", "stage"):
        recipe, *overrides = words[1:] if words[0] == "run" else words[2:]
        load_recipe(recipe, overrides)


def test_every_other_command_is_run_somewhere() -> None:
    """Catches a README line that nothing ever executes."""
    others = [line for line in commands("README.md") if not line.startswith("etude ")]
    assert set(others) == set(RUN_BY)
    for line, where in RUN_BY.items():
        text = (REPOSITORY / where).read_text(encoding="utf-8")
        needle = line.removeprefix("python benchmarks/").split(" run ")[-1]
        assert needle in text, f"{where} does not run {line}"


def test_make_quick_leaves_out_every_marked_test() -> None:
    """Catches a marker for tests that take long or need a device, and that quick does not know."""
    command = ["make", "--no-print-directory", "--dry-run", "quick"]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    marks = [
        mark.partition(":")[0] for mark in settings["tool"]["pytest"]["ini_options"]["markers"]
    ]
    expression = " and ".join(f"not {mark}" for mark in marks)
    assert said.stdout.splitlines()[-1].endswith(f'python -m pytest -m "{expression}"')


@pytest.mark.parametrize("name", READMES)
def test_links_lead_to_files(name: str) -> None:
    """Catches a moved file that the README still names."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (REPOSITORY / target).exists(), target
    assert "DEMO_" not in text
