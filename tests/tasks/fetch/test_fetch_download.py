"""The downloader against a real server on the loopback interface that misbehaves on request."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from storage.errors import BadInput
from tasks.fetch import client
from tasks.fetch.client import remote_identity
from tasks.fetch.download import RemoteFile, download

BODY = bytes(range(256)) * 3000
SHA1 = hashlib.sha1(BODY).hexdigest()
NEW = b"new" * 50_000


def load(server: Any, target: Path, *, sha1: str | None = SHA1, **more: Any) -> None:
    """Download the server's one plain file."""
    urls = more.pop("urls", (server.url,))
    download({target: RemoteFile(urls, more.pop("size", None), sha1)}, **more)


def test_whole_file_arrives_with_a_contact_and_no_leftovers(server: Any, tmp_path: Path) -> None:
    """Catches a missing User-Agent contact, a transparent gzip and a forgotten `.part`."""
    seen: list[tuple[float, float | None]] = []
    load(
        server,
        tmp_path / "dump.xml.bz2",
        contact="me@example.org",
        progress=lambda done, total, unit: seen.append((done, total)),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["dump.xml.bz2"]
    assert (tmp_path / "dump.xml.bz2").read_bytes() == BODY
    headers = server.requests[0].headers
    assert (
        headers["user-agent"].startswith("etude/") and "(me@example.org)" in headers["user-agent"]
    )
    assert headers["accept-encoding"] == "identity"
    assert seen[-1] == (len(BODY), len(BODY))


@pytest.mark.parametrize(
    ("plan", "starts"),
    [
        (["cut 100000", "cut 200000"], [0, 100_000, 300_000]),
        (["cut 100000", "503", "429"], [0, 100_000, 100_000, 100_000]),
        (["stall 100000"], [0, 100_000]),
        (["piece 100000", "piece 50000"], [0, 100_000, 150_000]),
        (["cut 100000", "no range"], [0, 100_000]),
        (["cut 100000", "no range", "cut 5"], [0, 100_000]),
        (["cut 100000", "wrong range"], [0, 100_000, 0]),
        (["wrong range"], [0, 0]),
        (["cut 100000", "416"], [0, 100_000, 0]),
        (["cut 100000", "corrupt"], [0, 100_000, 0]),
        (["corrupt"], [0, 0]),
    ],
    ids=lambda one: "-".join(one).replace(" ", "_") if isinstance(one[0], str) else "",
)
def test_a_broken_download_goes_on_where_it_broke_off(
    server: Any,
    tmp_path: Path,
    clock: Any,
    monkeypatch: pytest.MonkeyPatch,
    plan: list[str],
    starts: list[int],
) -> None:
    """Catches a resume that starts over, appends at the wrong place, or believes the server."""
    if "stall" in plan[0]:
        monkeypatch.setattr(client, "STALL_SECONDS", 1.0)
    server.plan[server.path] = list(plan)
    load(server, tmp_path / "dump.xml", sleep=clock)
    assert (tmp_path / "dump.xml").read_bytes() == BODY
    assert [one.start for one in server.requests] == starts
    resumed = [one.headers for one in server.requests if one.start]
    assert all(one["if-range"] == '"one"' for one in resumed)


def test_the_next_run_goes_on_too(server: Any, tmp_path: Path, clock: Any) -> None:
    """Catches a `.part` that only the same process can use, and a SHA-1 of its end alone."""
    server.plan[server.path] = ["cut 5000"] + ["503"] * 8
    with pytest.raises(ConnectionError, match="5,000 bytes so far are kept"):
        load(server, tmp_path / "dump.xml", sleep=clock)
    load(server, tmp_path / "dump.xml", sleep=clock)
    assert server.requests[-1].start == 5000


def test_a_file_that_changed_meanwhile_is_loaded_anew(
    server: Any, tmp_path: Path, clock: Any
) -> None:
    """Catches a splice of two versions of the file."""
    server.plan[server.path] = ["change 100000"]
    load(server, tmp_path / "dump.xml", sha1=hashlib.sha1(NEW).hexdigest(), sleep=clock)
    assert (tmp_path / "dump.xml").read_bytes() == NEW
    assert [one.start for one in server.requests] == [0, 100_000]


def test_without_a_validator_nothing_is_resumed(server: Any, tmp_path: Path, clock: Any) -> None:
    """Catches a resume that nobody can vouch for, in this process or the next."""
    server.plan[server.path] = ["cut 1000"] + ["503"] * 7
    server.etag = 'W/"weak"'
    with pytest.raises(ConnectionError):
        load(server, tmp_path / "dump.xml", sleep=clock)
    load(server, tmp_path / "dump.xml", sleep=clock)
    assert not any("range" in one.headers for one in server.requests)


def test_busy_servers_are_waited_for(server: Any, tmp_path: Path, clock: Any) -> None:
    """Catches impatience: Retry-After in seconds, as a date, as nonsense, and none at all."""
    date = formatdate(0, usegmt=True)
    server.plan[server.path] = ["429 7", "503", f"429 {date}", "429 soon", "429 \u00b2"]
    load(server, tmp_path / "dump.xml", sleep=clock)
    assert (clock.waits[0], clock.waits[2]) == (7.0, 0.0)
    for failures, wait in ((2, clock.waits[1]), (4, clock.waits[3]), (5, clock.waits[4])):
        assert 0.75 * 2**failures <= wait <= 1.25 * 2**failures


def test_patience_starts_anew_only_with_new_bytes(server: Any, tmp_path: Path, clock: Any) -> None:
    """Catches giving up on a slow way forward, and an endless dance on the spot."""
    server.plan[server.path] = ["cut 40000"] * 15
    load(server, tmp_path / "dump.xml", sleep=clock)
    assert len(clock.waits) == 15 and max(clock.waits) <= 2.5
    server.plan[server.path] = ["cut 90000", *(["416", "cut 80000"] * 4)]
    with pytest.raises(ConnectionError):
        load(server, tmp_path / "other.xml", sleep=clock)


def test_a_very_long_wait_is_left_to_the_user(server: Any, tmp_path: Path, clock: Any) -> None:
    """Catches a stage that sleeps for an hour."""
    server.plan[server.path] = ["429 3600"]
    with pytest.raises(ConnectionError, match="run again later"):
        load(server, tmp_path / "dump.xml", sleep=clock)
    assert clock.waits == []


def test_wrong_sha1_is_tried_once_more_and_forgotten(
    server: Any, tmp_path: Path, clock: Any
) -> None:
    """Catches a bad file that stays, or that the next run would go on from."""
    with pytest.raises(BadInput, match=f"has SHA-1 {SHA1}, not {'0' * 40}; then"):
        load(server, tmp_path / "dump.xml", sha1="0" * 40, sleep=clock)
    assert len(server.requests) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (["short 700000"] * 2, "has 700,000 bytes, not 768,000"),
        (["unsized 700000", *["503"] * 8], None),
        (["unsized 700000"], ""),
    ],
    ids=["truncated", "ended-early", "ended-early-once"],
)
def test_the_published_size_is_believed(
    server: Any, tmp_path: Path, clock: Any, plan: list[str], reason: str | None
) -> None:
    """Catches a truncated file, and an end of the connection taken for the end of the file."""
    server.plan[server.path] = plan
    target = tmp_path / "dump.xml"
    if reason:
        told: list[float] = []
        with pytest.raises(BadInput, match=reason):
            load(
                server,
                target,
                size=len(BODY),
                sleep=clock,
                progress=lambda done, total, unit: told.append(done),
            )
        assert list(tmp_path.iterdir()) == [] and max(told) == 0
    elif reason is None:
        with pytest.raises(ConnectionError, match="700,000 bytes so far are kept"):
            load(server, target, size=len(BODY), sleep=clock)
    else:
        load(server, target, size=len(BODY), sleep=clock)
        assert [one.start for one in server.requests] == [0, 700_000]


def test_more_than_the_published_size_is_cut_off(server: Any, tmp_path: Path, clock: Any) -> None:
    """Catches an endless answer that fills the disk."""
    server.files[server.path] = BODY * 20
    server.plan[server.path] = ["unsized 15000000"] * 2
    with pytest.raises(BadInput, match="has more than 768,000 bytes"):
        load(server, tmp_path / "dump.xml", size=len(BODY), sleep=clock)


@pytest.mark.parametrize("fault", ["corrupt", "short 700000", "404", "403"])
def test_a_bad_mirror_is_left_for_the_origin(
    make_server: Callable[[], Any], tmp_path: Path, clock: Any, fault: str
) -> None:
    """Catches trust in a mirror: what it gives wrong, or has not yet, comes from the origin."""
    mirror, origin = make_server(), make_server()
    mirror.plan[mirror.path] = [fault]
    said: list[str] = []
    urls = (mirror.url, origin.url)
    load(origin, tmp_path / "dump.xml", urls=urls, size=len(BODY), sleep=clock, log=said.append)
    assert (tmp_path / "dump.xml").read_bytes() == BODY
    assert (len(mirror.requests), len(origin.requests)) == (1, 1)
    assert mirror.root in said[0]


def test_a_bad_mirror_and_a_bad_origin_are_both_named(
    make_server: Callable[[], Any], tmp_path: Path, clock: Any
) -> None:
    """Catches a message that blames only the last."""
    mirror, origin = make_server(), make_server()
    origin.plan[origin.path] = ["corrupt"]
    mirror.plan[mirror.path] = ["corrupt"]
    with pytest.raises(BadInput, match=rf"{mirror.url}.*; then {origin.url} has SHA-1"):
        load(origin, tmp_path / "dump.xml", urls=(mirror.url, origin.url), sleep=clock)


def test_a_part_that_is_whole_already_is_enough(server: Any, tmp_path: Path, clock: Any) -> None:
    """Catches an endless loop on 416."""
    (tmp_path / "dump.part").write_bytes(BODY)
    (tmp_path / "dump.part.json").write_text('{"validator": "\\"one\\""}')
    load(server, tmp_path / "dump.xml", sleep=clock)
    (tmp_path / "dump.xml").unlink()
    assert [one.start for one in server.requests] == [len(BODY)]
    (tmp_path / "dump.part").write_bytes(BODY + b"too much")
    (tmp_path / "dump.part.json").write_text('{"validator": "\\"one\\""}')
    load(server, tmp_path / "dump.xml", sleep=clock)
    assert (tmp_path / "dump.xml").read_bytes() == BODY


def test_what_is_there_is_believed_by_its_sha1(server: Any, tmp_path: Path, clock: Any) -> None:
    """Catches a whole file loaded again, and a broken one kept."""
    target = tmp_path / "dump.xml"
    target.write_bytes(BODY)
    load(server, target, sleep=clock)
    assert server.requests == []
    target.write_bytes(BODY[:-1] + b"!")
    load(server, target, sleep=clock)
    assert target.read_bytes() == BODY
    target.rename(tmp_path / "dump.part")  # killed before the rename: all there, nothing to ask
    load(server, target, size=len(BODY), sleep=clock)
    assert len(server.requests) == 1


def test_not_found_and_empty_are_the_users_to_mend(server: Any, tmp_path: Path, clock: Any) -> None:
    """Catches retries of what no retry mends."""
    server.plan[server.path] = ["404"]
    with pytest.raises(BadInput, match="answers 404"):
        load(server, tmp_path / "dump.xml", sleep=clock)
    assert len(server.requests) == 1
    server.files[server.path] = b""
    with pytest.raises(BadInput, match="empty"):
        load(server, tmp_path / "dump.xml", sha1=None, sleep=clock)
    assert clock.waits == []
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_the_download(
    server: Any, tmp_path: Path, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a disk filled up to the last byte: by one file, or by all of them together."""
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("tasks.fetch.download.shutil.disk_usage", lambda folder: usage)
    half = RemoteFile((server.url,), 600_000)
    with pytest.raises(BadInput, match="ETUDE_HOME on a larger disk"):
        download({tmp_path / "a.xml": half, tmp_path / "b.xml": half}, sleep=clock)
    assert server.requests == []
    server.files[server.path] = BODY * 2
    with pytest.raises(BadInput, match="ETUDE_HOME on a larger disk"):
        load(server, tmp_path / "dump.xml", sha1=None, sleep=clock)
    (tmp_path / "a.part").write_bytes(bytes(400_000))  # what is there needs no room again
    server.files[server.path] = BODY[:600_000]
    download({tmp_path / "a.xml": half, tmp_path / "b.xml": half}, sleep=clock)


def test_an_interrupted_caller_stops_the_threads(server: Any, tmp_path: Path) -> None:
    """Catches a Ctrl-C that waits for the whole dump, or for a server's ten minutes."""
    server.plan[server.path] = ["429 60"]
    said: list[str] = []

    def interrupt(message: str) -> None:
        said.append(message)
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        load(server, tmp_path / "dump.xml", log=interrupt)
    assert len(said) == 1 and len(server.requests) == 1
    assert time.monotonic() - began < 55


@pytest.mark.parametrize("host", ["dumps.wikimedia.org", "wikimedia.org"])
def test_wikimedia_needs_a_contact(tmp_path: Path, host: str) -> None:
    """Catches anonymous requests, which Wikimedia blocks; nothing is sent here."""
    file = RemoteFile((f"https://{host}/x.bz2",))
    with pytest.raises(BadInput, match=r"add fetch\.0\.contact=you@example\.org"):
        download({tmp_path / "dump.xml": file})


def test_identity_follows_the_servers_file(server: Any) -> None:
    """Catches a key that stays when the file behind the address changes."""
    first = remote_identity(server.url)
    assert first == remote_identity(server.url)
    server.etag = '"two"'
    assert remote_identity(server.url) != first
