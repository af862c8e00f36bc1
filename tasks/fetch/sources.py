"""A source -> its files, and the text that tells two states of the same source apart.

A path, an address or a wiki's name does not say what lies there today, so the stage's key also
holds the source's identity: the hash of a file's contents, or what a server says about its files.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from storage.artifact import sha256_file
from storage.errors import BadInput
from tasks.fetch.client import remote_identity
from tasks.fetch.config import FetchConfig, FileSource, PackageSource, UrlSource, WikiSource
from tasks.fetch.download import RemoteFile
from tasks.fetch.wiki import WikiFile
from tasks.paths import resolve

PACKED = (".bz2", ".gz", ".xz", ".lzma", ".7z", ".zst", ".zip")


@dataclass(frozen=True, slots=True)
class DumpFile:
    """A file of a dump: its original name, and where it is."""

    name: str
    origin: Path | RemoteFile


def identity(source: FetchConfig) -> str:
    """Return what stands for the source's present contents in the stage's key.

    A wiki costs two small requests, a URL without a SHA-1 one.
    """
    if isinstance(source, WikiSource):
        return source.dump.identity
    if isinstance(source, UrlSource):
        if source.sha1:
            return f"sha1:{source.sha1}"
        return remote_identity(source.url, contact=source.contact)
    return f"{file_name(source)} sha256:{sha256_file(local_path(source))}"


def dump_files(source: FetchConfig) -> list[DumpFile]:
    """Return the source's files, in the order of their pages."""
    if isinstance(source, WikiSource):
        return [_remote(source, file) for file in source.dump.files]
    name = file_name(source)
    if isinstance(source, UrlSource):
        return [DumpFile(name, RemoteFile((source.url,), sha1=source.sha1))]
    return [DumpFile(name, local_path(source))]


def local_path(source: FileSource | PackageSource) -> Path:
    """Return the file a local source names; refuse one that is missing, empty or a folder."""
    path = resolve(source.path if isinstance(source, FileSource) else _in_package(source))
    if not path.is_file():
        raise BadInput(f"{path} is not a file; name the dump file itself")
    if path.stat().st_size == 0:
        raise BadInput(f"the dump file {path} is empty; download or copy it again")
    return path


def file_name(source: FileSource | PackageSource | UrlSource) -> str:
    """Return the name the dump has where it comes from."""
    if isinstance(source, UrlSource):
        return PurePosixPath(unquote(urlsplit(source.url).path)).name or "dump.xml"
    if isinstance(source, FileSource):
        return source.path.name
    return PurePosixPath(source.path).name


def packing(name: str) -> str:
    """Return the ending that tells how a file is packed, or nothing."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix in PACKED else ""


def _remote(source: WikiSource, file: WikiFile) -> DumpFile:
    """Return a file of the wiki's dump: on the mirror, then on the origin."""
    servers = [server.rstrip("/") for server in (source.mirror, source.server) if server]
    folder = f"{source.wiki}/{source.dump.date}"
    urls = tuple(f"{server}/{folder}/{file.name}" for server in servers)
    return DumpFile(file.name, RemoteFile(urls, file.size, file.sha1))


def _in_package(source: PackageSource) -> Path:
    """Find a file of an installed distribution through its metadata, without importing it."""
    try:
        found = distribution(source.distribution)
    except PackageNotFoundError:
        wanted = "'etude[demo]'" if source.distribution == "gensim" else source.distribution
        raise BadInput(
            f"the package {source.distribution} is not installed; run `pip install {wanted}`"
        ) from None
    return Path(str(found.locate_file(source.path)))
