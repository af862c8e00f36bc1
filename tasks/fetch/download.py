"""Addresses -> files: two connections, resumed where they broke off, whole only when checked.

    dump-00001.xml.bz2     checked against its SHA-1, then renamed in: never loaded again
    dump-00002.part        still coming (part.py)

A resume sends `Range` with `If-Range`, so a server whose file has changed sends the new one from
its start instead of the rest of another. What is not the file (another size or SHA-1) is thrown
away and loaded once more from the last address, the origin. Two connections are what
Wikimedia asks of a client.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event

import httpx

from storage.errors import BadInput, Stopped
from tasks.fetch.client import Retry, check_status, open_client, persist, request_headers
from tasks.fetch.part import Part

CONNECTIONS = 2
POLL_SECONDS = 0.2
_SPAN = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a server: its addresses, the origin last, and what it must be where known."""

    urls: tuple[str, ...]
    size: int | None = None
    sha1: str | None = None


class _WrongFile(Exception):
    """What came is not the file that was wanted."""


def download(
    files: Mapping[Path, RemoteFile],
    *,
    contact: str = "",
    progress: Callable[[float, float | None, str], None] = lambda done, total, unit: None,
    log: Callable[[str], None] = lambda message: None,
    sleep: Callable[[float], object] | None = None,
) -> None:
    """Download every file to its path, going on from what an earlier attempt left there.

    Raises BadInput for what no retry mends (404, twice the wrong file, too small a disk) and
    ConnectionError when a server stays away; what was loaded then waits for the next run.
    Threads load; only the caller's thread speaks (`progress`, `log`).
    """
    for file in files.values():
        for url in file.urls:
            request_headers(url, contact)
    for folder in {target.parent for target in files}:
        there = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        check_space(folder, sum(file.size or 0 for file in files.values()) - there)
    totals = {target: file.size for target, file in files.items()}
    done = dict.fromkeys(files, 0)
    messages: SimpleQueue[str] = SimpleQueue()
    stop = Event()

    def load(target: Path, file: RemoteFile) -> None:
        def tell(size: int, total: int | None) -> None:
            if stop.is_set():
                raise Stopped("the download was stopped; run again to go on with it")
            done[target], totals[target] = size, total

        _Transfer(target, file, contact, tell, messages.put, sleep or stop.wait).run()

    def speak() -> None:
        known = [total for total in totals.values() if total is not None]
        progress(sum(done.values()), sum(known) if len(known) == len(totals) else None, "bytes")
        try:
            while True:
                log(messages.get_nowait())
        except Empty:
            return

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        pending: set[Future[None]] = {pool.submit(load, *one) for one in files.items()}
        try:
            while pending:
                finished, pending = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
                speak()
                for future in finished:
                    future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def check_space(folder: Path, needed: int) -> None:
    """Refuse work that needs more bytes than the disk of `folder` has free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BadInput(
            f"the dump needs {needed / 1e9:.1f} GB more and {folder} has {free / 1e9:.1f} GB free; "
            "free some or put ETUDE_HOME on a larger disk"
        )


class _Transfer:
    """One file on its way: from the mirror, then the origin, or else twice from the origin."""

    def __init__(
        self,
        target: Path,
        file: RemoteFile,
        contact: str,
        tell: Callable[[int, int | None], None],
        log: Callable[[str], None],
        sleep: Callable[[float], object],
    ) -> None:
        self.target, self.file, self.contact = target, file, contact
        self.tell, self.log, self.sleep = tell, log, sleep

    def run(self) -> None:
        """Bring the file to its path, unless it lies there whole."""
        if self._is_there():
            return
        self.part = Part(self.target)
        origin = self.file.urls[-1]
        refused = []
        for url in self.file.urls if len(self.file.urls) > 1 else (origin, origin):
            try:
                persist(partial(self._load, url), self._size, url, self.sleep, self.log)
                self._check(url)
            except _WrongFile as error:
                self.part.discard()
                refused.append(str(error))
            except (BadInput, ConnectionError) as error:
                if url == origin:
                    raise
                refused.append(str(error))  # a mirror may lag behind, or be down
            else:
                self.part.finish(self.target)
                return
            self.log(refused[-1])
        raise BadInput(f"{'; then '.join(refused)}; correct the address or SHA-1, or try later")

    def _is_there(self) -> bool:
        if not (self.file.sha1 and self.target.exists()):
            return False
        size = self.target.stat().st_size
        self.tell(size, size)
        with self.target.open("rb") as file:
            return hashlib.file_digest(file, "sha1").hexdigest() == self.file.sha1

    def _size(self) -> int:
        return self.part.size

    def _load(self, url: str) -> None:
        """Load the file, or what is missing of it, in one request."""
        part, wanted = self.part, self.file.size
        self.tell(part.size, wanted)
        if wanted and part.size >= wanted:
            return
        headers = request_headers(url, self.contact)
        if part.size and part.validator:
            headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
        with open_client() as client, client.stream("GET", url, headers=headers) as response:
            span = response.headers.get("content-range", "")
            if response.status_code == 416:  # nothing follows our bytes: all there, or too many
                if part.size and span.endswith(f"*/{part.size}"):
                    return
                part.discard()
                raise Retry("the server does not have the rest of what was loaded")
            check_status(response, url)
            length = response.headers.get("content-length")
            total = int(length) if length else wanted
            if response.status_code == 206:
                match = _SPAN.fullmatch(span)
                if match is None or int(match[1]) != part.size:
                    part.discard()
                    raise Retry(f"the server sends the range {span!r}, not what we asked for")
                total = int(match[2])
            if response.status_code != 206 or part.size == 0:  # the file from its start
                part.begin(_validator(response))
            if wanted and total != wanted:
                raise _WrongFile(f"{url} has {total:,} bytes, not {wanted:,}")
            if total and not wanted:
                check_space(part.path.parent, total - part.size)

            def tell(size: int) -> None:
                self.tell(size, total)
                if total and size > total:
                    raise _WrongFile(f"{url} has more than {total:,} bytes")

            part.append(response.iter_raw(), tell)  # as it comes: a size would hold bytes back
        if total and part.size < total:
            raise Retry("the server ended before the file did")

    def _check(self, url: str) -> None:
        """Refuse what is not the file that was wanted."""
        found, wanted = self.part.sha1.hexdigest(), self.file
        if self.part.size == 0:
            raise _WrongFile(f"{url} is an empty file")
        if wanted.size and self.part.size != wanted.size:
            raise _WrongFile(f"{url} has {self.part.size:,} bytes, not {wanted.size:,}")
        if wanted.sha1 and found != wanted.sha1:
            raise _WrongFile(f"{url} has SHA-1 {found}, not {wanted.sha1}")


def _validator(response: httpx.Response) -> str | None:
    """Return what If-Range may carry: a strong ETag, else the date of the last change."""
    etag = response.headers.get("etag", "")
    return etag if etag.startswith('"') else response.headers.get("last-modified")
