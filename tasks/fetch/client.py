"""One polite request: who asks, how long it waits, and when it gives up.

Wikimedia's servers refuse clients whose User-Agent has no contact (T427836). Busy answers (429,
5xx) are waited out as Retry-After says, else 2, 4, 8, … seconds give or take a quarter, so that
many clients do not come back in step. A connection that is silent for STALL_SECONDS is broken.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

import httpx

from storage.errors import BadInput

STALL_SECONDS = 30.0
MAX_WAIT_SECONDS = 600.0
ATTEMPTS = 8
LOOK_UP_ATTEMPTS = 5  # half a minute: somebody waits for the run to begin
MAX_TEXT_BYTES = 64_000_000  # enwiki's dumpstatus.json has 2 MB
BUSY = (408, 429, 500, 502, 503, 504)
Result = TypeVar("Result")
_VALIDATORS = ("etag", "last-modified", "content-length")


class Retry(Exception):
    """The server failed in a way that may pass; `wait` is the seconds it asked for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class NotThere(BadInput):
    """The server has no such file."""


def user_agent(contact: str) -> str:
    """Return the User-Agent: the program, its version and whom to write to."""
    try:
        name = f"etude/{version('etude')}"
    except PackageNotFoundError:
        name = "etude"
    return f"{name} ({contact})" if contact else name


def request_headers(url: str, contact: str) -> dict[str, str]:
    """Return the headers of every request; refuse Wikimedia's servers without a contact."""
    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL as error:
        raise BadInput(f"{url!r} is not an address ({error}); correct it") from None
    if f".{host}".endswith(".wikimedia.org") and not contact:
        raise BadInput(
            f"{host} refuses downloads without a contact; add fetch.0.contact=you@example.org "
            "(0 is the recipe's first source)"
        )
    return {"User-Agent": user_agent(contact), "Accept-Encoding": "identity"}


def open_client() -> httpx.Client:
    """Return a client that follows redirects and takes silence for a broken connection."""
    return httpx.Client(timeout=STALL_SECONDS, follow_redirects=True)


def check_status(response: httpx.Response, url: str) -> None:
    """Raise what an answer's status means: Retry, NotThere or BadInput."""
    status = response.status_code
    if status in BUSY:
        raise Retry(f"the server answers {status}", _retry_after(response))
    if status >= 400:
        refusal = NotThere if status in (404, 410) else BadInput
        raise refusal(f"{url} answers {status} {response.reason_phrase}; check the address")


def persist(
    attempt: Callable[[], Result],
    size: Callable[[], int],
    url: str,
    sleep: Callable[[float], object],
    log: Callable[[str], None] = lambda message: None,
    attempts: int = ATTEMPTS,
) -> Result:
    """Attempt until it works; give up after so many failures in a row that got no further."""
    failures, furthest = 0, size()
    while True:
        try:
            return attempt()
        except (httpx.RequestError, Retry) as error:
            reason = str(error) or type(error).__name__
            wait = error.wait if isinstance(error, Retry) else None
        failures = failures + 1 if size() <= furthest else 1
        furthest = max(furthest, size())
        if wait is None:
            wait = min(2.0**failures, 60.0) * random.uniform(0.75, 1.25)
        if failures >= attempts or wait > MAX_WAIT_SECONDS:
            kept = f", the {size():,} bytes so far are kept" if size() else ""
            raise ConnectionError(f"cannot load {url}: {reason}; run again later{kept}")
        log(f"{url}: {reason}; next attempt in {wait:.0f} s, {size():,} bytes so far")
        sleep(wait)


def read_text(url: str, *, contact: str, sleep: Callable[[float], object]) -> str:
    """Return a small file of a server as text."""
    headers = request_headers(url, contact)

    def ask() -> str:
        body = bytearray()
        with open_client() as client, client.stream("GET", url, headers=headers) as response:
            check_status(response, url)
            for piece in response.iter_raw():
                body += piece
                if len(body) > MAX_TEXT_BYTES:
                    raise BadInput(f"{url} has more than {MAX_TEXT_BYTES:,} bytes; is it the file?")
        return body.decode("utf-8", errors="replace")

    return persist(ask, lambda: 0, url, sleep, attempts=LOOK_UP_ATTEMPTS)


def remote_identity(
    url: str, *, contact: str = "", sleep: Callable[[float], object] = time.sleep
) -> str:
    """Return what a server says of its file: ETag, date and length, from one HEAD request."""
    headers = request_headers(url, contact)

    def ask() -> str:
        with open_client() as client:
            response = client.head(url, headers=headers)
        check_status(response, url)
        known = {name: response.headers[name] for name in _VALIDATORS if name in response.headers}
        return f"url:{url} " + " ".join(f"{name}={value}" for name, value in known.items())

    return persist(ask, lambda: 0, url, sleep, attempts=LOOK_UP_ATTEMPTS)


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds the server asks us to wait; it may say a number or a date."""
    value = response.headers.get("retry-after", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None
