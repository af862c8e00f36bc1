"""A server on the loopback interface that is laid out like Wikimedia's and misbehaves on request.

`server.plan[path]` is how each GET of a path goes wrong, in turn; then all is well:

    503 · 429 7 · cut N · stall N · change N · no range · wrong range · piece N · 416 · corrupt
    short N · slow · unsized N
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

BODY = bytes(range(256)) * 3000


class Request(NamedTuple):
    """What the server was asked."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def start(self) -> int:
        """The first byte asked for."""
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))


class DumpServer(ThreadingHTTPServer):
    """Files by path, what was asked for, and how many answers were under way at once."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.path = "/dumps/xywiki.xml.bz2"
        self.files: dict[str, bytes] = {self.path: BODY}
        self.plan: dict[str, list[str]] = {}
        self.requests: list[Request] = []
        self.etag = '"one"'
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.busy = self.most_busy = 0

    @property
    def root(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        """Where the one plain file is."""
        return self.root + self.path

    def asked(self, ending: str) -> list[Request]:
        """Return the GETs of the paths that end so."""
        return [one for one in self.requests if one.method == "GET" and one.path.endswith(ending)]

    def publish(self, wiki: str, day: str, jobs: dict[str, tuple[str, dict[str, bytes]]]) -> None:
        """Put a day's dump up: the listing, the status, and the files of what is done."""
        status: dict[str, Any] = {"version": "0.8", "jobs": {}}
        for job, (state, files) in jobs.items():
            described = {
                name: {
                    "size": len(body),
                    "url": f"/{wiki}/{day}/{name}",
                    "md5": hashlib.md5(body).hexdigest(),
                    "sha1": hashlib.sha1(body).hexdigest(),
                }
                for name, body in files.items()
            }
            status["jobs"][job] = {"status": state, "updated": "x", "files": described}
            self.files |= {f"/{wiki}/{day}/{name}": body for name, body in files.items()}
        self.list_day(wiki, day)
        self.files[f"/{wiki}/{day}/dumpstatus.json"] = json.dumps(status).encode()

    def list_day(self, wiki: str, day: str) -> None:
        """Name a day in the wiki's listing, as nginx prints it."""
        page = self.files.get(
            f"/{wiki}/", b'<a href="../">../</a>\n<a href="latest/">latest/</a>\n'
        )
        self.files[f"/{wiki}/"] = page + f'<a href="{day}/">{day}/</a>  21-Nov-2026 -\n'.encode()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: DumpServer
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
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers)
        with server.lock:
            server.requests.append(request)
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
            plan = server.plan.get(self.path, [])
            what, _, number = (plan.pop(0) if plan and send_body else "").partition(" ")
            if what in ("no", "wrong"):
                what, number = f"{what} range", ""
        if self.path not in server.files:
            return self._plain(404)
        if re.fullmatch(r"\d{3}", what) and what != "416":
            return self._plain(int(what), {"Retry-After": number} if number else {})
        body, start = server.files[self.path], 0
        if "range" in headers and what != "no range":
            start = request.start if headers.get("if-range") in (None, server.etag) else 0
        if what == "416" or start >= len(body) > 0:
            return self._plain(416, {"Content-Range": f"bytes */{len(body)}"})
        if what == "corrupt":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if what == "short":
            body = body[: int(number)]
        end = min(start + int(number), len(body)) if what == "piece" else len(body)
        if start or what in ("wrong range", "piece"):
            self.send_response(206)
            first = start + 1 if what == "wrong range" else start
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(body)}")
        else:
            self.send_response(200)
        if what == "unsized":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(end - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        if send_body:
            self._send(what, number, body[start:end])
        else:
            self._leave()

    def _send(self, what: str, number: str, body: bytes) -> None:
        if what in ("cut", "stall", "change", "unsized"):
            body = body[: int(number)]
            self.close_connection = True
        pieces = [body[at : at + 20_000] for at in range(0, len(body), 20_000)]
        for piece in pieces[:-1]:
            self.wfile.write(piece)
            if what == "slow":
                time.sleep(0.01)
        if what == "change":
            self.server.files[self.path], self.server.etag = b"new" * 50_000, '"two"'
        self._leave()  # before the last byte: who has it may ask for the next file
        self.wfile.write(pieces[-1] if pieces else b"")
        if what == "stall":
            self.wfile.flush()
            self.server.ended.wait(30)

    def _plain(self, status: int, headers: dict[str, str] | None = None) -> None:
        self._leave()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _leave(self) -> None:
        with self.server.lock:
            self.server.busy -= 1


@pytest.fixture
def make_server() -> Iterator[Callable[[], DumpServer]]:
    """A function that starts one more server."""
    started: list[DumpServer] = []

    def start() -> DumpServer:
        one = DumpServer()
        threading.Thread(target=one.serve_forever, args=(0.02,), daemon=True).start()
        started.append(one)
        return one

    yield start
    for one in started:
        one.ended.set()
        one.shutdown()
        one.server_close()


@pytest.fixture
def server(make_server: Callable[[], DumpServer]) -> DumpServer:
    """A running server."""
    return make_server()


class Clock:
    """Counts the waiting instead of doing it."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def __call__(self, seconds: float) -> None:
        """Note a wait."""
        self.waits.append(seconds)


@pytest.fixture
def clock() -> Clock:
    """A clock that does not wait."""
    return Clock()
