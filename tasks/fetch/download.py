"""A URL -> a file: one polite connection, resumed where it broke off, checked at the end.

    dump.part        the bytes so far; survives a failed attempt and a killed process
    dump.part.json   the validator (ETag or Last-Modified) those bytes belong to

A resume sends `Range` with `If-Range`, so a server whose file has changed sends the new one from
its start instead of the rest of another. 429 and 5xx are waited out as Retry-After says, else
2, 4, 8, … seconds. Wikimedia's servers refuse clients whose User-Agent has no contact (T427836).
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx

from storage.errors import BadInput
from storage.files import read_json, write_json

TIMEOUT_SECONDS = 60.0
MAX_WAIT_SECONDS = 600.0
ATTEMPTS = 8
BUSY = (408, 429, 500, 502, 503, 504)
Result = TypeVar("Result")
_VALIDATORS = ("etag", "last-modified", "content-length")


class _Retry(Exception):
    """The server failed in a way that may pass; `wait` is the seconds it asked for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def user_agent(contact: str) -> str:
    """Return the User-Agent: the program, its version and whom to write to."""
    try:
        name = f"etude/{version('etude')}"
    except PackageNotFoundError:
        name = "etude"
    return f"{name} ({contact})" if contact else name


def remote_identity(
    url: str, *, contact: str = "", sleep: Callable[[float], None] = time.sleep
) -> str:
    """Return what a server says of its file: ETag, date and length, from one HEAD request."""
    headers = _headers(url, contact)

    def ask() -> str:
        with httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=True) as client:
            response = client.head(url, headers=headers)
        _check(response, url)
        known = {name: response.headers[name] for name in _VALIDATORS if name in response.headers}
        return f"url:{url} " + " ".join(f"{name}={value}" for name, value in known.items())

    return _persist(ask, lambda: 0, url, sleep)


def download(
    url: str,
    target: Path,
    *,
    contact: str = "",
    sha1: str | None = None,
    progress: Callable[[float, float | None, str], None] = lambda done, total, unit: None,
    log: Callable[[str], None] = lambda message: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Download `url` to `target`, going on from what an earlier attempt left beside it.

    Raises BadInput for what no retry mends (404, wrong SHA-1, empty file, full disk) and
    ConnectionError when the server stays away; what was loaded then waits for the next run.
    """
    headers = _headers(url, contact)
    part = target.with_name(f"{target.name.split('.')[0]}.part")
    note = part.with_name(f"{part.name}.json")

    def attempt() -> None:
        with httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=True) as client:
            _load(client, url, headers, part, note, progress)

    def size() -> int:
        return part.stat().st_size if part.exists() else 0

    _persist(attempt, size, url, sleep, log)
    if size() == 0:
        _discard(part, note)
        raise BadInput(f"{url} is an empty file; check the address")
    if sha1 and (found := _sha1(part)) != sha1:
        _discard(part, note)
        raise BadInput(
            f"{url} has SHA-1 {found}, not sha1={sha1}; check the value, then download again"
        )
    part.rename(target)
    note.unlink(missing_ok=True)


def _load(
    client: httpx.Client,
    url: str,
    headers: dict[str, str],
    part: Path,
    note: Path,
    progress: Callable[[float, float | None, str], None],
) -> None:
    """Load the file, or what is missing of it, in one request."""
    done = 0
    validator = read_json(note)["validator"] if note.exists() else None
    if part.exists() and validator:
        done = part.stat().st_size
        headers = headers | {"Range": f"bytes={done}-", "If-Range": validator}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:  # nothing follows our bytes: we have them all, or too many
            whole = response.headers.get("content-range", "").endswith(f"*/{done}")
            if done and whole:
                return
            _discard(part, note)
            raise _Retry("the server does not have the rest of what was loaded")
        _check(response, url)
        if response.status_code != 206:
            done = 0  # the server sends the file from its start
        elif not response.headers.get("content-range", "").startswith(f"bytes {done}-"):
            _discard(part, note)
            raise _Retry("the server sends another range than we asked for")
        write_json(note, {"url": url, "validator": _validator(response)})
        length = response.headers.get("content-length")
        total = done + int(length) if length else None
        _check_space(part.parent, int(length or 0), url)
        with part.open("ab" if done else "wb") as file:
            for piece in response.iter_raw():  # as it comes: a size would hold bytes back
                file.write(piece)
                done += len(piece)
                progress(done, total, "bytes")


def _persist(
    attempt: Callable[[], Result],
    size: Callable[[], int],
    url: str,
    sleep: Callable[[float], None],
    log: Callable[[str], None] = lambda message: None,
) -> Result:
    """Attempt until it works; give up after ATTEMPTS failures in a row without a new byte."""
    failures, before = 0, size()
    while True:
        try:
            return attempt()
        except (httpx.TransportError, _Retry) as error:
            reason = str(error) or type(error).__name__
            wait = error.wait if isinstance(error, _Retry) else None
        failures = failures + 1 if size() <= before else 1
        before = size()
        wait = min(2.0**failures, 60.0) if wait is None else wait
        if failures >= ATTEMPTS or wait > MAX_WAIT_SECONDS:
            raise ConnectionError(
                f"cannot load {url}: {reason}; run again later, "
                f"the {before:,} bytes so far are kept"
            )
        log(f"{reason}; next attempt in {wait:.0f} s, {before:,} bytes so far")
        sleep(wait)


def _headers(url: str, contact: str) -> dict[str, str]:
    host = urlsplit(url).hostname or ""
    if host.endswith("wikimedia.org") and not contact:
        raise BadInput(
            f"{host} refuses downloads without a contact; set contact=you@example.org in the source"
        )
    return {"User-Agent": user_agent(contact), "Accept-Encoding": "identity"}


def _check(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status in BUSY:
        raise _Retry(f"the server answers {status}", _retry_after(response))
    if status >= 400:
        raise BadInput(f"{url} answers {status} {response.reason_phrase}; check the address")


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds the server asks us to wait; it may say a number or a date."""
    value = response.headers.get("retry-after", "")
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _validator(response: httpx.Response) -> str | None:
    """Return what If-Range may carry: a strong ETag, else the date of the last change."""
    etag = response.headers.get("etag", "")
    return etag if etag.startswith('"') else response.headers.get("last-modified")


def _check_space(folder: Path, needed: int, url: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BadInput(
            f"{url} needs {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free; "
            "free some or put ETUDE_HOME on a larger disk"
        )


def _discard(part: Path, note: Path) -> None:
    part.unlink(missing_ok=True)
    note.unlink(missing_ok=True)


def _sha1(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()
