"""A wiki's newest finished dump is found, pinned and brought, from a server like Wikimedia's."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from storage.errors import BadInput
from storage.workspace import Workspace
from tasks.fetch import client
from tasks.fetch.config import FetchConfig, WikiSource
from tasks.fetch.sources import identity
from tasks.fetch.task import fetch
from tasks.fetch.wiki import find_dump

REPOSITORY = Path(__file__).resolve().parents[3]
MULTI, PLAIN = "articlesmultistreamdump", "articlesdump"
KILLED = """
import sys
from pathlib import Path
from storage.workspace import Workspace
from tasks.fetch.config import WikiSource
from tasks.fetch.task import fetch
source = WikiSource(wiki="xywiki", server=sys.argv[1])
fetch.run(config=source, workspace=Workspace.scratch(Path(sys.argv[2])))
"""


def small(day: str, *, form: str = "-multistream", index: bool = True) -> dict[str, bytes]:
    """Return the files of a small wiki's day."""
    stem = f"xywiki-{day}-pages-articles{form}"
    files = {f"{stem}.xml.bz2": f"dump of {day}".encode() * 1000}
    return files | ({f"{stem}-index.txt.bz2": f"index of {day}".encode()} if index else {})


def large(day: str) -> dict[str, bytes]:
    """Return the files of a large wiki's day, out of order, as a JSON object may hold them."""
    stem = f"xywiki-{day}-pages-articles-multistream"
    ranges = [(10, "p90001p200000"), (1, "p1p4124"), (2, "p4125p90000"), (10, "p200001p300000")]
    files = {}
    for number, pages in ranges:
        body = random.Random(pages).randbytes(200_000)
        files[f"{stem}{number}.xml-{pages}.bz2"] = body
        files[f"{stem}-index{number}.txt-{pages}.bz2"] = pages.encode()
    return files


def run(folder: Path, source: WikiSource) -> dict[str, Any]:
    """Run the room; return its note."""
    workspace = Workspace.scratch(folder)
    fetch.run(config=source, workspace=workspace)
    note: dict[str, Any] = json.loads((folder / "source.json").read_text())
    assert not list(folder.glob("*.part*"))
    return note


def test_the_newest_finished_day_is_taken(server: Any, tmp_path: Path) -> None:
    """Catches `latest/`, a dump that is still being written, and an order by the listing."""
    server.publish("xywiki", "20261120", {MULTI: ("in-progress", {}), PLAIN: ("done", {})})
    server.publish("xywiki", "20261101", {MULTI: ("done", small("20261101"))})
    server.publish("xywiki", "20261020", {MULTI: ("done", small("20261020"))})
    server.list_day("xywiki", "20261121")  # its folder is there, its status not yet
    source = WikiSource(wiki="xywiki", language="xy", server=server.root)
    assert run(tmp_path / "out", source) == {
        "wiki": "xywiki",
        "language": "xy",
        "name": "xywiki-20261101-pages-articles-multistream.xml.bz2",
        "date": "20261101",
        "files": [
            {
                "path": "dump.xml.bz2",
                "name": "xywiki-20261101-pages-articles-multistream.xml.bz2",
            }
        ],
    }
    assert (tmp_path / "out" / "dump.xml.bz2").read_bytes() == b"dump of 20261101" * 1000
    assert not any("index" in one.path for one in server.requests)
    assert not any("latest" in one.path or "20261020" in one.path for one in server.requests)
    assert all("etude" in one.headers["user-agent"] for one in server.requests)
    days = [line.split(":")[0] for line in source.dump.unfinished]
    assert days == ["20261121", "20261120"]


@pytest.mark.parametrize(
    ("jobs", "job"),
    [
        ({MULTI: "done", PLAIN: "done"}, MULTI),
        ({MULTI: "failed", PLAIN: "done"}, PLAIN),
        ({PLAIN: "done"}, PLAIN),
        ({MULTI: "waiting", PLAIN: "done"}, None),
        ({MULTI: "failed", PLAIN: "in-progress"}, None),
        ({}, None),
    ],
)
def test_which_job_is_read(server: Any, jobs: dict[str, str], job: str | None) -> None:
    """Catches a plain dump that is swapped for the multistream one of the same day hours later."""
    forms = {MULTI: small("20261101"), PLAIN: small("20261101", form="", index=False)}
    server.publish("xywiki", "20261101", {name: (jobs[name], forms[name]) for name in jobs})
    if job is None:
        with pytest.raises(BadInput, match="no finished dump of xywiki"):
            find_dump("xywiki", server=server.root)
        return
    (file,) = find_dump("xywiki", server=server.root).files
    assert file.name in forms[job]


def test_a_given_day_is_taken_or_refused(server: Any, tmp_path: Path) -> None:
    """Catches another day than the one asked for."""
    for day in ("20261020", "20261101"):
        server.publish("xywiki", day, {MULTI: ("done", small(day))})
    older = WikiSource(wiki="xywiki", server=server.root, date="20261020")
    assert run(tmp_path, older)["date"] == "20261020"
    with pytest.raises(BadInput, match="no dump of xywiki of date=20200101; it has 20261101, 2026"):
        find_dump("xywiki", "20200101", server=server.root)
    with pytest.raises(BadInput, match="no wiki 'abwiki'"):
        find_dump("abwiki", server=server.root)
    override = {"kind": "wiki", "wiki": "xywiki", "date": 20261101}  # YAML reads digits so
    given = TypeAdapter(FetchConfig).validate_python(override)
    assert isinstance(given, WikiSource) and given.date == "20261101"


def test_the_parts_of_a_large_wiki_come_in_order_two_at_once(server: Any, tmp_path: Path) -> None:
    """Catches parts in the order of names (10 before 2), an index, and a third connection."""
    files = large("20261101")
    server.publish("xywiki", "20261101", {MULTI: ("done", files)})
    server.plan = {f"/xywiki/20261101/{name}": ["slow"] for name in files}
    seen: list[tuple[float, float | None]] = []
    workspace = Workspace(tmp_path, progress=lambda done, total, unit: seen.append((done, total)))
    counts = fetch.run(config=WikiSource(wiki="xywiki", server=server.root), workspace=workspace)
    note = json.loads((tmp_path / "source.json").read_text())
    pages = ["p1p4124", "p4125p90000", "p90001p200000", "p200001p300000"]
    assert [one["name"].split("xml-")[1] for one in note["files"]] == [f"{p}.bz2" for p in pages]
    assert [one["path"] for one in note["files"]] == [f"dump-0000{n}.xml.bz2" for n in range(1, 5)]
    for entry in note["files"]:
        assert (tmp_path / entry["path"]).read_bytes() == files[entry["name"]]
    assert not any("index" in one.path for one in server.requests)
    assert server.most_busy == 2
    total = sum(len(body) for name, body in files.items() if "index" not in name)
    assert (counts.kept, counts.metrics["bytes"]) == (4, total)
    assert seen[-1] == (total, total) and all(known == total for _, known in seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_whole_beside_its_parts_is_left(server: Any) -> None:
    """Catches every page read twice."""
    files = small("20261101") | large("20261101")
    server.publish("xywiki", "20261101", {MULTI: ("done", files)})
    found = find_dump("xywiki", server=server.root).files
    assert len(found) == 4 and all("xml-p" in file.name for file in found)


def test_the_key_sees_a_new_finished_dump_and_nothing_else(server: Any) -> None:
    """Catches a refresh that reruns for a mirror or an unfinished day, or sleeps through a dump."""

    def look(**more: Any) -> tuple[str, str]:
        source = WikiSource(wiki="xywiki", server=server.root, **more)
        return identity(source), json.dumps(source.key_dict())

    server.publish("xywiki", "20261020", {MULTI: ("done", small("20261020"))})
    first = look()
    server.publish("xywiki", "20261101", {MULTI: ("in-progress", small("20261101"))})
    assert look() == look(contact="a@b.c") == look(mirror="http://m.org") == first
    assert look(date="20261020") == first
    server.publish("xywiki", "20261101", {MULTI: ("done", small("20261101"))})
    second = look()
    assert second[0] != first[0] and second[1] == first[1]
    server.publish("xywiki", "20261101", {MULTI: ("done", small("20261101", index=False))})
    assert look() == second
    other = small("20261101") | {name: b"other" for name in small("20261101", index=False)}
    server.publish("xywiki", "20261101", {MULTI: ("done", other)})
    assert look()[0] != second[0]


def test_a_dump_finished_meanwhile_is_left_for_the_next_run(server: Any, tmp_path: Path) -> None:
    """Catches a key made of one dump over the bytes of the next."""
    server.publish("xywiki", "20261101", {MULTI: ("done", small("20261101"))})
    source = WikiSource(wiki="xywiki", server=server.root)
    assert "20261101" in identity(source)
    server.publish("xywiki", "20261120", {MULTI: ("done", small("20261120"))})
    assert run(tmp_path, source)["date"] == "20261101"
    assert "20261120" in identity(WikiSource(wiki="xywiki", server=server.root))


def test_refresh_tells_of_a_new_finished_dump_once(
    server: Any, home: Path, prefect_api: None
) -> None:
    """Catches an event for a dump that is not finished, and one that is never told of."""
    from flows.etude import refresh
    from flows.recipe import check_recipe

    def look() -> bool:
        source = {"kind": "wiki", "wiki": "xywiki", "server": server.root}
        return bool(refresh(check_recipe({"base": "demo", "fetch": [source]})))

    server.publish("xywiki", "20261020", {MULTI: ("done", small("20261020"))})
    assert [look(), look()] == [True, False]
    server.publish("xywiki", "20261101", {MULTI: ("in-progress", small("20261101"))})
    assert not look()
    server.publish("xywiki", "20261101", {MULTI: ("done", small("20261101"))})
    assert [look(), look()] == [True, False]


def test_the_stage_keeps_what_is_whole_and_reuses_what_is_done(
    server: Any, home: Path, prefect_api: None
) -> None:
    """Catches hours of download deleted for one bad file, and a dump fetched twice."""
    from prefect import flow

    files = large("20261101")
    bad = "xywiki-20261101-pages-articles-multistream10.xml-p200001p300000.bz2"
    server.publish("xywiki", "20261101", {MULTI: ("done", files)})
    server.plan = {f"/xywiki/20261101/{bad}": ["corrupt", "corrupt"]}

    @flow
    def fetching() -> str:
        return str(fetch(config=WikiSource(wiki="xywiki", server=server.root)))

    with pytest.raises(BadInput, match=f"{bad} has SHA-1"):
        fetching()
    assert fetching() == fetching()
    assert len(server.asked(bad)) == 3
    assert len(server.asked("multistream1.xml-p1p4124.bz2")) == 1


def test_a_mirror_gives_the_files_and_the_origin_the_word(
    make_server: Callable[[], Any], tmp_path: Path
) -> None:
    """Catches checksums from the mirror, and a lagging or corrupt one that ends the run."""
    mirror, origin = make_server(), make_server()
    files = small("20261101")
    dump = next(f"/xywiki/20261101/{name}" for name in files)
    origin.publish("xywiki", "20261101", {MULTI: ("done", files)})
    mirror.files[dump] = bytes(len(files[Path(dump).name]))  # of the right size
    source = WikiSource(wiki="xywiki", server=origin.root, mirror=f"{mirror.root}/")
    run(tmp_path, source)
    assert (tmp_path / "dump.xml.bz2").read_bytes() == files[Path(dump).name]
    assert [one.path for one in mirror.requests] == [dump]
    assert len(origin.asked("dumpstatus.json")) == len(origin.asked(dump)) == 1


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/cron.d/x.xml.bz2",
        "xywiki-20261101-pages-articles.xml.bz2/../../x",
        "/xywiki-20261101-pages-articles.xml.bz2",
        "xywiki-20261101-pages-articles.xml.bz2\n",
        "xywiki-20261101-pages-articles..xml.bz2",
        "otherwiki-20261101-pages-articles.xml.bz2",
        "xywiki-20261101-pages-articles-multistream.xml",
        "xywiki-20261101-pages-articles-multistream\u0661.xml.bz2",
        "..",
        "",
    ],
)
def test_a_strange_file_name_is_refused(server: Any, name: str) -> None:
    """Catches a name from the network that leads out of a folder, or to another wiki."""
    server.publish("xywiki", "20261101", {MULTI: ("done", small("20261101") | {name: b"x"})})
    with pytest.raises(BadInput, match="strange name"):
        find_dump("xywiki", server=server.root)


def described(**changes: Any) -> str:
    """Return a status whose only file is described with these changes."""
    file = {"size": 5, "sha1": "0" * 40} | changes
    name = "xywiki-20261101-pages-articles-multistream.xml.bz2"
    return json.dumps({"jobs": {MULTI: {"status": "done", "files": {name: file}}}})


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("", "cannot be read"),
        ("<html>502</html>", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"jobs": []}', "cannot be read"),
        ('{"jobs": {"articlesmultistreamdump": "done"}}', "cannot be read"),
        ('{"jobs": {"articlesmultistreamdump": {"status": "done"}}}', "has no files"),
        (described(sha1=None), "sha1"),
        (described(sha1="../x"), "sha1"),
        (described(size=-1), "size"),
        (described(size="1e99"), "size"),
    ],
)
def test_a_broken_status_is_told_from_a_finished_one(server: Any, status: str, words: str) -> None:
    """Catches a traceback, or an unchecked download, on what a server should not say."""
    server.list_day("xywiki", "20261101")
    server.files["/xywiki/20261101/dumpstatus.json"] = status.encode()
    with pytest.raises(BadInput, match=words) as caught:
        find_dump("xywiki", server=server.root)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_broken_newest_status_does_not_hide_the_day_before(server: Any) -> None:
    """Catches a half-written status that stops everything until it is whole."""
    server.publish("xywiki", "20261020", {MULTI: ("done", small("20261020"))})
    server.list_day("xywiki", "20261101")
    server.files["/xywiki/20261101/dumpstatus.json"] = b'{"version": "0.8", "jobs": {"xml'
    assert find_dump("xywiki", server=server.root).date == "20261020"


def test_the_look_up_waits_for_a_busy_server(server: Any, clock: Any) -> None:
    """Catches a refresh that fails on the first 429, or takes a busy day for a missing one."""
    server.publish("xywiki", "20261101", {MULTI: ("done", small("20261101"))})
    server.plan = {"/xywiki/": ["429 3"], "/xywiki/20261101/dumpstatus.json": ["503", "cut 10"]}
    assert find_dump("xywiki", server=server.root, sleep=clock).date == "20261101"
    assert len(clock.waits) == 3 and clock.waits[0] == 3.0
    server.plan = {"/xywiki/": ["503"] * 9}
    with pytest.raises(ConnectionError, match=r"answers 503; run again later$"):
        find_dump("xywiki", server=server.root, sleep=clock)
    assert sum(clock.waits[3:]) < 60


def test_an_endless_text_is_not_read(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a server that fills the memory."""
    monkeypatch.setattr(client, "MAX_TEXT_BYTES", 1000)
    server.files["/xywiki/"] = bytes(5000)
    with pytest.raises(BadInput, match="more than 1,000 bytes"):
        find_dump("xywiki", server=server.root)


def test_wikimedia_itself_needs_a_contact() -> None:
    """Catches an anonymous look-up; nothing is sent here."""
    with pytest.raises(BadInput, match=r"add fetch\.0\.contact=you@example\.org"):
        identity(WikiSource(wiki="simplewiki"))


def test_a_killed_download_goes_on(server: Any, tmp_path: Path) -> None:
    """Catches whole files loaded again, and parts begun again, after a kill -9."""
    files = large("20261101")
    paths = [f"/xywiki/20261101/{name}" for name in files if ".xml-" in name]
    held = next(path for path in paths if "p4125p" in path)
    server.publish("xywiki", "20261101", {MULTI: ("done", files)})
    server.plan = {held: ["stall 60000"], paths[0]: ["stall 80000"]}
    command = [sys.executable, "-c", KILLED, server.root, str(tmp_path)]
    child = subprocess.Popen(command, cwd=REPOSITORY)
    sizes = {"dump-00002.part": 60_000, "dump-00003.part": 80_000}
    for _ in range(1200):
        parts = {path.name: path.stat().st_size for path in tmp_path.glob("*.part")}
        if parts == sizes:
            break
        assert child.poll() is None
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert parts == sizes
    whole = hashlib.sha1((tmp_path / "dump-00001.xml.bz2").read_bytes()).hexdigest()
    before = len(server.requests)
    note = run(tmp_path, WikiSource(wiki="xywiki", server=server.root))
    for entry in note["files"]:
        assert (tmp_path / entry["path"]).read_bytes() == files[entry["name"]]
    asked = {one.path: one.start for one in server.requests[before:]}
    assert asked[held] == 60_000 and asked[paths[0]] == 80_000
    assert hashlib.sha1(files[Path(paths[1]).name]).hexdigest() == whole
    assert paths[1] not in asked and paths[3] in asked
