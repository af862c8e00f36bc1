"""`etude extract`: a dump file becomes documents, whatever interrupts it, and nothing is set up."""

from __future__ import annotations

import bz2
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import flows.extract_dump
from flows.extract_dump import extract_documents
from storage.artifact import Counts
from storage.errors import BadInput
from storage.formats.table import read_rows

REPOSITORY = Path(__file__).resolve().parents[2]
HEADER = """<mediawiki xml:lang="en"><siteinfo><dbname>testwiki</dbname>
<base>https://test.example.org/wiki/Main_Page</base></siteinfo>
"""
NUM_PAGES = 160


def page(number: int) -> str:
    """An article of words that do not pack well; each tenth page redirects to the one before."""
    if number % 10 == 0:
        text = f"#REDIRECT [[Page {number - 1}]]"
        redirect = f'<redirect title="Page {number - 1}" />'
    else:
        words = " ".join(str((number * 7919 + n * 104729) % 1000003) for n in range(300))
        text, redirect = f"'''Page {number}''' holds {words}.", ""
    return (
        f"<page><title>Page {number}</title><ns>0</ns><id>{number}</id>{redirect}<revision>"
        f"<id>{number}</id><timestamp>2026-01-01T00:00:00Z</timestamp><text>{text}</text>"
        "</revision></page>\n"
    )


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multistream dump of ten parts."""
    path = tmp_path_factory.mktemp("dump") / "testwiki.xml.bz2"
    pages = [page(number) for number in range(1, NUM_PAGES + 1)]
    groups = ["".join(pages[first : first + 5]) for first in range(0, NUM_PAGES, 5)]
    texts = [HEADER, *groups, "</mediawiki>\n"]
    path.write_bytes(b"".join(bz2.compress(text.encode()) for text in texts))
    return path


SMALL = ["extract.split_bytes=16384", "extract.workers=2", "clean.workers=2"]


def run(dump: Path, out: Path, overrides: list[str] = SMALL, **options: Any) -> Counts:
    """Extract in this process."""
    options = {"progress": lambda *told: None} | options
    return extract_documents(dump, out, overrides, **options)


@pytest.fixture(scope="module")
def straight(dump: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run in peace makes."""
    out = tmp_path_factory.mktemp("straight") / "out"
    run(dump, out, jsonl=True)
    return out


def contents(out: Path) -> dict[str, bytes]:
    """The files that are there, by name."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def documents_of(out: Path) -> list[dict[str, Any]]:
    """The documents, in order."""
    return list(read_rows(sorted((out / "documents").iterdir())))


def test_every_page_is_a_document_or_in_the_ledger(dump: Path, straight: Path) -> None:
    """Catches parts left out, doubled or out of order, and redirects lost between parts."""
    assert {path.name for path in straight.iterdir()} == {
        "documents", "documents.jsonl", "ledger.parquet"
    }  # fmt: skip
    documents = documents_of(straight)
    ledger = list(read_rows([straight / "ledger.parquet"]))
    ids = [row["page_id"] for row in documents]
    assert ids == [number for number in range(1, NUM_PAGES + 1) if number % 10]
    assert [int(row["id"]) for row in ledger] == list(range(10, NUM_PAGES + 1, 10))
    assert {row["reason"] for row in ledger} == {"redirect"}
    nine = next(row for row in documents if row["page_id"] == 9)
    assert nine["redirects"] == ["Page 10"]
    lines = [json.loads(line) for line in (straight / "documents.jsonl").open(encoding="utf-8")]
    assert [line["text"] for line in lines] == [row["text"] for row in documents]


def test_one_process_makes_the_same(dump: Path, straight: Path, tmp_path: Path) -> None:
    """Catches documents that depend on the number of workers."""
    alone = [SMALL[0], "extract.workers=1", "clean.workers=1"]
    counts = run(dump, tmp_path / "out", alone, jsonl=True)
    assert contents(tmp_path / "out") == contents(straight)
    assert counts.to_json()["seen"] == NUM_PAGES
    assert counts.dropped == {"redirect": NUM_PAGES // 10}


def command(dump: Path, out: Path) -> list[str]:
    """The command as a user gives it."""
    return [sys.executable, "-m", "flows.cli", "extract", str(dump), str(out), *SMALL]


def parts(out: Path) -> list[Path]:
    """The parts that are whole."""
    return list(out.glob(".partial/*/*/part-*/part.json"))


def processes_of(group: int) -> list[str]:
    """The processes of a group that still run; one that ended and that nobody reaped is not."""
    ps = subprocess.run(["ps", "-eo", "pgid=,stat=,pid=,args="], capture_output=True, text=True)
    rows = [line.split(None, 2) for line in ps.stdout.splitlines()]
    return [row[2] for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


@pytest.mark.parametrize("num_parts", [3, 10], ids=["extracting", "cleaning"])
def test_a_killed_run_goes_on(dump: Path, straight: Path, tmp_path: Path, num_parts: int) -> None:
    """Catches work done twice after kill -9, half a file taken for whole, a process left behind."""
    out = tmp_path / "out"
    child = subprocess.Popen(
        command(dump, out), cwd=REPOSITORY, start_new_session=True, stderr=subprocess.PIPE
    )
    while len(parts(out)) < num_parts:
        assert child.poll() is None, child.communicate()[1].decode()
        time.sleep(0.005)
    child.kill()
    child.communicate()
    assert not (out / "documents").exists()
    before = {path: path.stat().st_mtime_ns for path in parts(out)}
    assert len(before) >= num_parts
    told: list[tuple[str, float]] = []

    def progress(name: str, done: float, total: float | None, unit: str) -> None:
        told.append((name, done / (total or 1)))
        assert all(path.stat().st_mtime_ns == time for path, time in before.items())

    run(dump, out, jsonl=True, progress=progress)
    assert told[0][0] == "pages" and told[0][1] > 0  # it did not begin at nothing
    assert contents(out) == contents(straight)
    deadline = time.monotonic() + 60
    while alive := processes_of(child.pid):
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


@pytest.mark.parametrize("name", ["_gather", "_join", "_write_jsonl", "sync_file"])
def test_an_end_that_was_cut_short_is_made_up_for(
    dump: Path, straight: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches documents lost between the parts and the folder they end in."""
    real, calls = getattr(flows.extract_dump, name), []

    def cut_short(*given: Any) -> Any:
        calls.append(real(*given))
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(flows.extract_dump, name, cut_short)
        run(dump, out, jsonl=True)
    assert len(calls) == 1 and not (out / "documents").exists()
    run(dump, out, jsonl=True)
    assert contents(out) == contents(straight)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_says_how_to_go_on(
    dump: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Catches a traceback or the wrong exit code at Ctrl-C, and a stop that loses the parts."""
    out = tmp_path / "out"
    child = subprocess.Popen(
        command(dump, out), cwd=REPOSITORY, start_new_session=True, stderr=subprocess.PIPE
    )
    while len(parts(out)) < 2:
        assert child.poll() is None, child.communicate()[1].decode()
        time.sleep(0.005)
    os.killpg(child.pid, number) if number == signal.SIGINT else child.send_signal(number)
    errors = child.communicate(timeout=60)[1].decode()
    assert child.returncode == 75, errors
    assert "run the same command again to go on" in errors and "Traceback" not in errors
    assert len(parts(out)) >= 2


def test_other_settings_do_not_take_old_parts(dump: Path, tmp_path: Path) -> None:
    """Catches documents of two settings, or of two states of a dump, in one file."""
    out = tmp_path / "out"
    child = subprocess.Popen(command(dump, out), cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    while not parts(out):
        time.sleep(0.005)
    child.kill()
    child.wait()
    counts = run(dump, out, [*SMALL, "extract.namespaces=[0,1]"])
    assert counts.seen == NUM_PAGES
    assert not (out / ".partial").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["dedup.x=1"], "dedup is no section here"),
        (["clean=3"], "clean=3 is not a setting"),
        (["clean.min_char=3"], "^clean.min_char: Extra inputs"),
        (["fetch.wiki=A-B"], "^fetch.wiki: String should match"),
        (["extract.split_bytes=1"], "^extract.split_bytes: Input should be greater"),
        (["clean.min_chars=999999999"], "no document is left of 144 pages"),
    ],
)
def test_bad_settings_leave_nothing(
    dump: Path, tmp_path: Path, overrides: list[str], words: str
) -> None:
    """Catches a typo found after an hour, and an empty folder that blocks the next try."""
    given = [*SMALL, *overrides] if "clean=3" not in overrides else overrides
    with pytest.raises(BadInput, match=words):
        run(dump, tmp_path / "out", given)
    assert not (tmp_path / "out").exists()


def test_documents_are_never_overwritten(dump: Path, straight: Path) -> None:
    """Catches yesterday's documents lost to a repeated command."""
    with pytest.raises(BadInput, match="holds documents already"):
        run(dump, straight)


def test_wiki_and_language_can_be_told(dump: Path, tmp_path: Path) -> None:
    """Catches settings of `fetch` that are taken and then forgotten."""
    run(dump, tmp_path / "out", [*SMALL, "fetch.wiki=dewiki"])
    row = documents_of(tmp_path / "out")[0]
    assert (row["wiki"], row["language"]) == ("dewiki", "de")


def test_it_starts_light() -> None:
    """Catches a second of imports before anything is read: the server's, the trainer's."""
    code = "import sys, flows.cli, flows.extract_dump; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    heavy = {"prefect", "polars", "mlflow", "torch", "pandas", "matplotlib", "httpx"}
    assert heavy.isdisjoint(done.stdout.split())
