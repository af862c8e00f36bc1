"""Where a dump comes from: one source, told apart by `kind`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from storage.config import Config


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
    """The file: XML, plain or as bz2, gz or xz. `recipe:demo/x.xml` lies in `flows/recipes/`."""


class PackageSource(Source):
    """A dump that some installed Python package happens to ship; the package is never imported."""

    kind: Literal["package"] = "package"
    distribution: str = "gensim"
    """Name of the distribution, as pip knows it."""
    path: str
    """The file's path inside the distribution."""


class UrlSource(Source):
    """A dump on a web server."""

    kind: Literal["url"] = "url"
    url: str = Field(pattern=r"^https?://\S+$")
    """Address of the file itself."""
    sha1: str | None = Field(None, pattern=r"^[0-9a-f]{40}$")
    """SHA-1 the download must have (dump servers publish it); None trusts the server."""
    contact: str = Field("", json_schema_extra={"key": False})
    """Your mail address or page, sent in the User-Agent; Wikimedia's servers require one."""


FetchConfig = Annotated[FileSource | PackageSource | UrlSource, Field(discriminator="kind")]
