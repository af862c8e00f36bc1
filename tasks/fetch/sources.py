"""A source -> a local file, and the text that tells two states of the same source apart.

A path or an address does not say what lies there today, so the stage's key also holds the
source's identity: the hash of a file's contents, or what a server says about its file.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from storage.artifact import sha256_file
from storage.errors import BadInput
from tasks.fetch.config import FetchConfig, FileSource, PackageSource, UrlSource
from tasks.fetch.download import remote_identity
from tasks.paths import resolve

PACKED = (".bz2", ".gz", ".xz", ".lzma", ".7z", ".zst", ".zip")


def identity(source: FetchConfig) -> str:
    """Return what stands for the source's present contents in the stage's key.

    A URL without a SHA-1 costs one HEAD request.
    """
    if not isinstance(source, UrlSource):
        return f"{file_name(source)} sha256:{sha256_file(local_path(source))}"
    if source.sha1:
        return f"sha1:{source.sha1}"
    return remote_identity(source.url, contact=source.contact)


def local_path(source: FileSource | PackageSource) -> Path:
    """Return the file a local source names; refuse one that is missing, empty or a folder."""
    path = resolve(source.path if isinstance(source, FileSource) else _in_package(source))
    if not path.is_file():
        raise BadInput(f"{path} is not a file; name the dump file itself")
    if path.stat().st_size == 0:
        raise BadInput(f"the dump file {path} is empty; download or copy it again")
    return path


def file_name(source: FetchConfig) -> str:
    """Return the name the dump has where it comes from."""
    if isinstance(source, UrlSource):
        return PurePosixPath(unquote(urlsplit(source.url).path)).name or "dump.xml"
    if isinstance(source, FileSource):
        return source.path.name
    return PurePosixPath(source.path).name


def dump_name(name: str) -> str:
    """Return the name in the artifact: `dump.xml` and the ending that tells how it is packed."""
    suffix = PurePosixPath(name).suffix.lower()
    return "dump.xml" + (suffix if suffix in PACKED else "")


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
