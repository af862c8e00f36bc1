"""Where a dump comes from: one source, told apart by `kind`."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from storage.config import Config
from tasks.fetch.wiki import WikiDump, find_dump


class Source(Config):
    """What every source may say about its wiki, where the dump itself is silent or wrong."""

    wiki: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]*$")
    """Database name of the wiki, such as `enwiki`; by default what the dump's header says."""
    language: str | None = Field(None, pattern=r"^[a-z]{2,3}(-[a-z0-9]+)*$")
    """Language code, such as `zh`; by default that of the wiki."""


class FileSource(Source):
    """A dump file on this machine."""

    kind: Literal["file"] = "file"
    path: Path = Field(json_schema_extra={"key": False})
    """The file: XML, plain or packed; `recipe:demo/x.xml` lies in `flows/recipes/`."""


class PackageSource(Source):
    """A dump that some installed Python package happens to ship; the package is never imported."""

    kind: Literal["package"] = "package"
    distribution: str = "gensim"
    """Name of the distribution, as pip knows it."""
    path: str
    """The file's path inside the distribution."""


class ServerSource(Source):
    """What lies on a web server; servers want to know who asks."""

    contact: str = Field("", pattern=r"^[ -~]*$", json_schema_extra={"key": False})
    """Your mail address or page, sent in the User-Agent; Wikimedia's servers require one."""


class UrlSource(ServerSource):
    """A dump on a web server."""

    kind: Literal["url"] = "url"
    url: str = Field(pattern=r"^https?://\S+$")
    """Address of the file itself."""
    sha1: str | None = Field(None, pattern=r"^[0-9a-f]{40}$")
    """SHA-1 the download must have (dump servers publish it); None trusts the server."""


class WikiSource(ServerSource):
    """A wiki's newest finished dump, found on Wikimedia's dump server."""

    kind: Literal["wiki"] = "wiki"
    wiki: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Database name of the wiki, such as `zhwiki`."""
    date: str | None = Field(
        None, pattern=r"^[0-9]{8}$", coerce_numbers_to_str=True, json_schema_extra={"key": False}
    )
    """Day of the dump, such as `20261101`; None takes the newest that is finished."""
    server: str = Field(
        "https://dumps.wikimedia.org", pattern=r"^https?://\S+$", json_schema_extra={"key": False}
    )
    """The origin: it says what is finished, how large it is and which SHA-1 it has."""
    mirror: str | None = Field(None, pattern=r"^https?://\S+$", json_schema_extra={"key": False})
    """A server to load the files from, laid out like the origin; what it gives is checked."""

    @cached_property
    def dump(self) -> WikiDump:
        """The dump meant, looked up once, so that the stage's key and the download agree."""
        return find_dump(self.wiki, self.date, server=self.server, contact=self.contact)


FetchConfig = Annotated[
    WikiSource | UrlSource | FileSource | PackageSource, Field(discriminator="kind")
]
