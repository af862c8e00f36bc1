"""The command line: bad input is one line and exit code 2, help has examples."""

from __future__ import annotations

import bz2
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import cli

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = (
    "run", "stage", "extract", "ls", "show", "generate", "chat", "embed", "evaluate", "export",
    "import", "up", "down", "status", "recover",
)  # fmt: skip
DUMP = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="en">
<siteinfo><sitename>T</sitename><dbname>testwiki</dbname><base>https://t.example/wiki/Main</base>
<case>first-letter</case><namespaces><namespace key="0" case="first-letter" />
<namespace key="10" case="first-letter">Template</namespace></namespaces></siteinfo>
{pages}</mediawiki>"""


def etude(
    home: Path, *arguments: str, stdin: str = "", **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, in a home of its own."""
    environment = {
        "ETUDE_HOME": str(home),
        "PREFECT_HOME": os.environ["PREFECT_HOME"],  # one for all: making one takes ten seconds
        "PATH": "/usr/bin:/bin",
        "HOME": str(home.parent),
        **settings,
    }
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        cwd=REPOSITORY,
        env=environment,
        timeout=300,
    )


@pytest.fixture(scope="module")
def api_url(prefect_api: None) -> str:
    """The address of the session's Prefect API: a run of its own takes ten seconds to start."""
    from prefect.settings import PREFECT_API_URL

    return str(PREFECT_API_URL.value())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(command: str, tmp_path: Path) -> None:
    """Catches a help page that lists options and leaves the user to guess the rest."""
    done = etude(tmp_path, command, "--help")
    assert done.returncode == 0
    assert "Example: " in done.stdout and f"etude {command}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nothing"], "no recipe 'nothing'"),
        (["run", "demo", "clean.min_char=5"], "clean.min_char: Extra inputs"),
        (
            ["run", "demo", "pretrain.model.num_heads=5"],
            "pretrain.model.num_heads=5 is not",
        ),
        (["stage", "nothing"], "no stage 'nothing'"),
        (["show", "pages:latest"], "no artifact 'pages:latest'"),
        (["ls", "nouns"], "unknown kind 'nouns'"),
        (["show", "pages:latest", "--find", "x"], "--find x lists what a ledger holds"),
        (["show", "x", "--ledger", "--lineage"], "two questions; ask one"),
        (["export", "latest", "x", "--format", "peft", "--dtype", "q8_0"], "--dtype q8_0: an"),
        (["evaluate", "latest", "x", "--device", "tpu"], "device='tpu' is unknown"),
        (["generate", "latest", "x"], "no artifact 'latest'"),
        (["export", "latest", "x", "--format", "exe"], "--format exe is unknown"),
        (["import", "nowhere", "x"], "nowhere is not a whole model folder, it lacks config.json"),
        (["run", "demo", "pretrain.learning_rate=.inf"], "pretrain.learning_rate: Input should be"),
        (["run", "demo", "pretrain.device=tpu"], "pretrain.device: String should match"),
        (["run", "demo", "shard.context_length=20"], "shard.context_length=20 is less than the 22"),
        (["run", "demo", "format_sft.files=[tests]"], "format_sft.files: tests is a folder"),
        (["stage", "sft", "demo", "pretrain.parent=nope"], "pretrain.parent: nope is not there"),
        (["extract", "README.md", "LICENSE"], "LICENSE is a file; name a folder"),
        (["up", "--prefect-port", "99999"], "--prefect-port"),
        (["up", "--prefect-port", "5001", "--mlflow-port", "5001"], "both ports are 5001"),
        (["run", "--nothing"], "No such option"),
        (["nothing"], "No such command"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    """Catches a traceback, a wrong exit code, or silence, where the user made a mistake."""
    done = etude(tmp_path / "home", *arguments, "--json")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["exit_code"] == 2 and words in answer["error"]


@pytest.mark.parametrize("command", [["ls"], ["status"], ["run", "demo"]])
@pytest.mark.parametrize(("home", "words"), [("LICENSE", "is a file"), ("/proc/x", "cannot be")])
def test_a_home_that_cannot_be_is_refused(home: str, words: str, command: list[str]) -> None:
    """Catches a traceback from deep within a stage, where ETUDE_HOME is no folder."""
    done = etude(REPOSITORY / home, *command)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "mistake",
    [
        lambda folder: (folder / "file" / "x").mkdir(),
        lambda folder: (folder / "file").mkdir(),
        lambda folder: (folder / "nothing").read_bytes(),
        lambda folder: folder.read_bytes(),
    ],
    ids=["NotADirectory", "FileExists", "FileNotFound", "IsADirectory"],
)
def test_a_wrong_path_is_one_line(
    mistake: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches a traceback where some command stumbles over a path that the user gave."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(cli, "app", lambda **_: mistake(tmp_path))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"etude: {tmp_path}")


def test_a_bug_says_so_in_json_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a program that waits for the promised JSON line, and a bug without its traceback."""

    def app(**_: object) -> None:
        raise LookupError("no such thing")

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr("sys.argv", ["etude", "ls", "--json"])
    with pytest.raises(LookupError):
        cli.main()
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"error": "LookupError: no such thing", "exit_code": 1}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.xml", None, "is not there"),
        ("empty.xml", b"", "is empty"),
        ("text.xml", b"hello, this is not XML", "not XML"),
        ("page.xml", b"<html><body/></html>", "not a MediaWiki export"),
        ("none.xml", DUMP.format(pages="").encode(), "no article"),
        (
            "cut.xml.bz2",
            bz2.compress(DUMP.format(pages="<page>" * 400).encode())[:-20],
            "ends early",
        ),
        (
            "bomb.xml",
            b'<?xml version="1.0"?><!DOCTYPE m [<!ENTITY a "aaaa">]><mediawiki>&a;</mediawiki>',
            "document type",
        ),
    ],
)
def test_a_bad_dump_is_refused_and_leaves_nothing(
    name: str, content: bytes | None, words: str, tmp_path: Path, home: Path, api_url: str
) -> None:
    """Catches a bad dump that crashes with a traceback or leaves a half artifact behind."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    source = f"[{{kind: file, wiki: testwiki, path: {tmp_path / name}}}]"
    done = etude(home, "run", "demo", f"fetch={source}", PREFECT_API_URL=api_url)
    assert done.returncode == 2, done.stderr[-2000:]
    line = done.stderr.strip().splitlines()[-1]
    assert words.lower() in line.lower(), line
    assert name in line, "the line does not name the file as the user did"
    assert "Traceback" not in done.stderr + done.stdout
    store = home / "store"
    assert list(store.glob("*/*.partial")) == []
    assert {path.parent.name for path in store.glob("*/*")} <= {"dump"}


def test_a_vocabulary_that_the_text_cannot_fill_is_refused(home: Path, api_url: str) -> None:
    """Catches the trainer's own error, or none, where only the text tells what is too many."""
    tiny = str(Path(__file__).with_name("tiny.yaml"))
    too_many = "train_tokenizer.vocab_size=60000"
    done = etude(home, "stage", "train_tokenizer", tiny, too_many, PREFECT_API_URL=api_url)
    assert done.returncode == 2, done.stderr[-2000:]
    line = done.stderr.strip().splitlines()[-1]
    assert f"etude: {too_many}, the text supports at most" in line
    assert list((home / "store").glob("tokenizer/*")) == []


def test_an_artifact_is_listed_shown_and_explained(tmp_path: Path) -> None:
    """Catches `ls`, `show`, its ledger and its lineage drifting from what the store holds."""
    from storage.artifact import Counts
    from storage.formats.schemas import LEDGER
    from storage.formats.table import write_table
    from storage.store import Store

    store = Store(tmp_path)
    with store.building("documents", "abc123") as workspace:

        def fill(folder: Path) -> Counts:
            row = {"id": "enwiki:7", "title": "Too Short", "reason": "too_short", "detail": None}
            write_table(folder / "ledger.parquet", [row], LEDGER)
            return Counts(2, 1, {"too_short": 1})

        counts = workspace.part("part-00000", fill)
        store.commit(
            workspace, stage="clean", version=1, config={}, inputs={}, counts=counts, seconds=1
        )
    listed = json.loads(etude(tmp_path, "ls", "--json").stdout.splitlines()[-1])
    assert [one["key"] for one in listed["artifacts"]] == ["abc123"]
    shown = etude(tmp_path, "show", "abc")
    assert "too_short" in shown.stdout and shown.returncode == 0
    ledger = etude(tmp_path, "show", "documents:latest", "--ledger", "--find", "too s")
    assert "Too Short" in ledger.stdout and "1 of 2 rows dropped" in ledger.stdout
    assert "documents:abc123" in etude(tmp_path, "show", "abc", "--lineage").stdout
