"""The downloader against a real server on the loopback interface that misbehaves on request."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from storage.errors import BadInput
from tasks.fetch.download import download, remote_identity

BODY = bytes(range(256)) * 3000
SHA1 = hashlib.sha1(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves BODY and remembers what it was asked for; `plan` says how each GET goes wrong."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[str] = []
        self.requests: list[dict[str, str]] = []
        self.body = BODY
        self.etag = '"one"'

    @property
    def url(self) -> str:
        """Where the dump is."""
        return f"http://127.0.0.1:{self.server_address[1]}/dumps/xywiki.xml.bz2"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer with the headers."""
        self._answer(send_body=False)

    def do_GET(self) -> None:
        """Answer with the file."""
        self._answer(send_body=True)

    def _answer(self, *, send_body: bool) -> None:
        server = self.server
        server.requests.append({name.lower(): value for name, value in self.headers.items()})
        what = server.plan.pop(0) if server.plan and send_body else "whole"
        if what.isdigit():
            self._plain(int(what))
            return
        if what.startswith("busy"):
            self._plain(429, what.removeprefix("busy "))
            return
        body, start = server.body, 0
        wanted = self.headers.get("Range")
        honoured = what != "no range" and self.headers.get("If-Range") in (None, server.etag)
        if wanted and honoured:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", server.etag)
        self.end_headers()
        if not send_body:
            return
        if what.startswith("cut"):
            self.wfile.write(body[start : start + int(what.removeprefix("cut "))])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body[start:])

    def _plain(self, status: int, retry_after: str = "") -> None:
        self.send_response(status)
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server."""
    one = Server()
    thread = threading.Thread(target=one.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield one
    one.shutdown()
    one.server_close()


class Clock:
    """Counts the waiting instead of doing it."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def __call__(self, seconds: float) -> None:
        """Note a wait."""
        self.waits.append(seconds)


def test_whole_file_arrives_with_a_contact_and_no_leftovers(server: Server, tmp_path: Path) -> None:
    """Catches a missing User-Agent contact, a transparent gzip and a forgotten `.part`."""
    seen: list[tuple[float, float | None]] = []
    download(
        server.url,
        tmp_path / "dump.xml.bz2",
        contact="me@example.org",
        sha1=SHA1,
        progress=lambda done, total, unit: seen.append((done, total)),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["dump.xml.bz2"]
    assert (tmp_path / "dump.xml.bz2").read_bytes() == BODY
    assert "me@example.org" in server.requests[0]["user-agent"]
    assert server.requests[0]["user-agent"].startswith("etude")
    assert server.requests[0]["accept-encoding"] == "identity"
    assert seen[-1] == (len(BODY), len(BODY))


def test_a_cut_download_goes_on_where_it_broke_off(server: Server, tmp_path: Path) -> None:
    """Catches a resume that starts over, or that appends at the wrong place."""
    server.plan = ["cut 100000", "cut 200000"]
    clock = Clock()
    download(server.url, tmp_path / "dump.xml", sha1=SHA1, sleep=clock)
    starts = [int(one["range"].split("=")[1].rstrip("-")) for one in server.requests[1:]]
    assert starts == [100000, 300000]
    assert all(one["if-range"] == '"one"' for one in server.requests[1:])
    assert (tmp_path / "dump.xml").read_bytes() == BODY
    assert clock.waits == [2.0, 2.0]  # bytes came: patience starts anew


def test_the_next_run_goes_on_too(server: Server, tmp_path: Path) -> None:
    """Catches a `.part` that only the same process can use."""
    server.plan = ["cut 5000"] + ["503"] * 8
    with pytest.raises(ConnectionError, match="5,000 bytes so far are kept"):
        download(server.url, tmp_path / "dump.xml", sleep=Clock())
    download(server.url, tmp_path / "dump.xml", sha1=SHA1, sleep=Clock())
    assert server.requests[-1]["range"] == "bytes=5000-"


def test_a_server_that_ignores_ranges_means_start_over(server: Server, tmp_path: Path) -> None:
    """Catches appending a whole file to a part of it."""
    server.plan = ["cut 100000", "no range"]
    download(server.url, tmp_path / "dump.xml", sha1=SHA1, sleep=Clock())
    assert (tmp_path / "dump.xml").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_loaded_anew(server: Server, tmp_path: Path) -> None:
    """Catches a splice of two versions of the file."""
    server.plan = ["cut 100000", "503"]

    def change(seconds: float) -> None:
        server.body, server.etag = b"new" * 50000, '"two"'

    download(server.url, tmp_path / "dump.xml", sleep=change)
    assert (tmp_path / "dump.xml").read_bytes() == b"new" * 50000


def test_without_a_validator_nothing_is_resumed(server: Server, tmp_path: Path) -> None:
    """Catches a resume that nobody can vouch for."""
    server.plan = ["cut 1000"]
    server.etag = 'W/"weak"'
    download(server.url, tmp_path / "dump.xml", sha1=SHA1, sleep=Clock())
    assert "range" not in server.requests[1]


def test_busy_servers_are_waited_for(server: Server, tmp_path: Path) -> None:
    """Catches impatience: Retry-After in seconds, as a date, and none at all."""
    server.plan = ["busy 7", "503", f"busy {formatdate(0, usegmt=True)}"]
    clock = Clock()
    download(server.url, tmp_path / "dump.xml", sha1=SHA1, sleep=clock)
    assert clock.waits == [7.0, 4.0, 0.0]


def test_a_very_long_wait_is_left_to_the_user(server: Server, tmp_path: Path) -> None:
    """Catches a stage that sleeps for an hour."""
    server.plan = ["busy 3600"]
    with pytest.raises(ConnectionError, match="run again later"):
        download(server.url, tmp_path / "dump.xml", sleep=Clock())


def test_wrong_sha1_is_refused_and_forgotten(server: Server, tmp_path: Path) -> None:
    """Catches a bad file that stays, or that the next run would go on from."""
    with pytest.raises(BadInput, match=f"has SHA-1 {SHA1}"):
        download(server.url, tmp_path / "dump.xml", sha1="0" * 40, sleep=Clock())
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_whole_already_is_enough(server: Server, tmp_path: Path) -> None:
    """Catches an endless loop on 416."""
    (tmp_path / "dump.part").write_bytes(BODY)
    (tmp_path / "dump.part.json").write_text('{"validator": "\\"one\\""}')
    download(server.url, tmp_path / "dump.xml", sha1=SHA1, sleep=Clock())
    (tmp_path / "dump.part").write_bytes(BODY + b"too much")
    (tmp_path / "dump.part.json").write_text('{"validator": "\\"one\\""}')
    download(server.url, tmp_path / "dump.xml", sha1=SHA1, sleep=Clock())


def test_not_found_and_empty_are_the_users_to_mend(server: Server, tmp_path: Path) -> None:
    """Catches retries of what no retry mends."""
    clock = Clock()
    server.plan = ["404"]
    with pytest.raises(BadInput, match="answers 404"):
        download(server.url, tmp_path / "dump.xml", sleep=clock)
    server.body = b""
    with pytest.raises(BadInput, match="empty"):
        download(server.url, tmp_path / "dump.xml", sleep=clock)
    assert clock.waits == []
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a disk filled up to the last byte."""
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("tasks.fetch.download.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(BadInput, match="ETUDE_HOME on a larger disk"):
        download(server.url, tmp_path / "dump.xml", sleep=Clock())


def test_wikimedia_needs_a_contact(tmp_path: Path) -> None:
    """Catches anonymous requests, which Wikimedia blocks; nothing is sent here."""
    with pytest.raises(BadInput, match="contact"):
        download("https://dumps.wikimedia.org/x.bz2", tmp_path / "dump.xml")


def test_identity_follows_the_servers_file(server: Server) -> None:
    """Catches a key that stays when the file behind the address changes."""
    first = remote_identity(server.url)
    assert first == remote_identity(server.url)
    server.etag = '"two"'
    assert remote_identity(server.url) != first
