"""A wiki's name -> its newest finished dump: which files, how large, with which SHA-1.

    https://dumps.wikimedia.org/zhwiki/                             a folder per day
    https://dumps.wikimedia.org/zhwiki/20261101/dumpstatus.json     jobs, their state, their files

A day counts as soon as the job we read is done; days before that are looked at in turn. `latest/`
is never used: its names carry no day and it may mix two dumps. A large wiki's dump is several
files, each a range of page ids. The multistream index beside each is left where it is: `extract`
finds the streams by themselves, and enwiki's are 250 MB. What the server says is not trusted: names
are matched whole, so none leads out of a folder.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from storage.errors import BadInput
from tasks.fetch.client import NotThere, read_text

JOBS = ("articlesmultistreamdump", "articlesdump")
COMING = ("in-progress", "waiting")
_NAME = (
    r"{wiki}-{day}-pages-articles"
    r"(?P<form>(?:-multistream)?(?P<number>\d{{0,6}})\.xml"
    r"|-multistream-index\d{{0,6}}\.txt)"
    r"(?:-p(?P<page>\d{{1,18}})p\d{{1,18}})?\.(?:bz2|gz|xz|zst|7z)"
)


@dataclass(frozen=True, slots=True)
class WikiFile:
    """A file of a dump, as the server describes it."""

    name: str
    size: int
    sha1: str


@dataclass(frozen=True, slots=True)
class WikiDump:
    """A finished dump: its files by page range."""

    wiki: str
    date: str
    files: tuple[WikiFile, ...]
    unfinished: tuple[str, ...] = ()
    """The newer days that were passed over, and why."""

    @property
    def identity(self) -> str:
        """Return what tells this dump from any other: wiki, day and a digest of the SHA-1s."""
        lines = [f"{one.sha1}  {one.name}" for one in self.files]
        digest = hashlib.sha1("\n".join(lines).encode()).hexdigest()
        return f"wiki:{self.wiki} {self.date} sha1s:{digest}"


class _File(BaseModel):
    size: int = Field(ge=1)
    sha1: str = Field(pattern=r"^[0-9a-f]{40}$")


class _Job(BaseModel):
    status: str
    files: dict[str, Any] = {}


class _Status(BaseModel):
    jobs: dict[str, _Job]


class _Unfinished(Exception):
    """This day has no dump to read yet."""


def find_dump(
    wiki: str,
    date: str | None = None,
    *,
    server: str,
    contact: str = "",
    sleep: Callable[[float], object] = time.sleep,
) -> WikiDump:
    """Return the dump of a day, or the newest that is finished."""

    def read(path: str) -> str:
        return read_text(f"{server.rstrip('/')}/{wiki}/{path}", contact=contact, sleep=sleep)

    try:
        listing = read("")
    except NotThere:
        raise BadInput(f"{server} has no wiki {wiki!r}; correct fetch's `wiki`") from None
    days = sorted(set(re.findall(r'href="(\d{8})/"', listing, re.ASCII)), reverse=True)
    if date and date not in days:
        raise BadInput(
            f"{server} has no dump of {wiki} of date={date}; it has {', '.join(days) or 'none'}"
        )
    unfinished: list[str] = []
    for day in [date] if date else days:
        try:
            status = read(f"{day}/dumpstatus.json")
            return WikiDump(wiki, day, _files(wiki, day, status), tuple(unfinished))
        except (_Unfinished, NotThere) as error:
            unfinished.append(f"{day}: {error}")
    raise BadInput(
        f"no finished dump of {wiki} on {server} ({'; '.join(unfinished) or 'no days listed'}); "
        "run again in a day or two"
    )


def _files(wiki: str, day: str, text: str) -> tuple[WikiFile, ...]:
    """Return the dump files of a day's status, in the order of their pages."""
    try:
        jobs = _Status.model_validate_json(text).jobs
    except ValidationError as error:
        raise _Unfinished(f"dumpstatus.json cannot be read ({_first(error)})") from None
    job = _finished_job(jobs)
    pattern = re.compile(_NAME.format(wiki=wiki, day=day), re.ASCII)
    dumps: dict[tuple[int, int], WikiFile] = {}
    for name, values in jobs[job].files.items():
        match = pattern.fullmatch(name)
        if match is None:
            raise BadInput(f"{wiki} {day}: {job} has a file of a strange name, {name[:120]!r}")
        try:
            file = _File.model_validate(values)
        except ValidationError as error:
            raise BadInput(f"{wiki} {day}: {name} in dumpstatus.json: {_first(error)}") from None
        if match["form"].endswith(".xml"):
            place = (int(match["page"] or 0), int(match["number"] or 0))
            dumps[place] = WikiFile(name, file.size, file.sha1)
    if len(dumps) > 1:
        dumps.pop((0, 0), None)  # the whole beside its parts would be every page twice
    if not dumps:
        raise BadInput(f"{wiki} {day}: {job} is done and has no files; choose another `date`")
    return tuple(dumps[place] for place in sorted(dumps))


def _finished_job(jobs: dict[str, _Job]) -> str:
    """Return the job to read: multistream, or the plain one where no multistream is coming."""
    for name in JOBS:
        status = jobs[name].status if name in jobs else "absent"
        if status == "done":
            return name
        if status in COMING:
            break
    states = ", ".join(f"{name} {jobs[name].status}" for name in JOBS if name in jobs)
    raise _Unfinished(states or f"no job {JOBS[0]}")


def _first(error: ValidationError) -> str:
    one = error.errors(include_url=False)[0]
    return f"{'.'.join(str(step) for step in one['loc'])}: {one['msg']}"[:200]
