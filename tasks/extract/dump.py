"""A dump file -> its XML bytes: how it is packed is read off its first bytes, not off its name.

Multistream bz2, and gz or xz files of several members, read as one stream. A packed stream that
ends early just ends here, with `is_torn` set: the XML reader still gets all that was whole.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from types import TracebackType
from typing import Protocol

from storage.errors import BadInput

REFUSED = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


class DumpFile:
    """A readable stream of a dump's XML. `position` counts packed bytes, for the progress.

    `name` is what messages call the file: the user knows it by the name it had before the store.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self.path = path
        self.name = name or path.name
        self.is_torn = False
        if not path.is_file():
            raise BadInput(f"there is no dump file {path}; check the path")
        self.num_bytes = path.stat().st_size
        if self.num_bytes == 0:
            raise BadInput(f"the dump {self.name} is empty; download or copy it again")
        self._raw = path.open("rb")
        try:
            self._stream = _unpacked(self._raw, self.name)
        except BaseException:
            self._raw.close()
            raise

    @property
    def position(self) -> int:
        """Return how many bytes of the file have been read."""
        return self._raw.tell()

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes of XML, b"" at the end, be it the true or a torn one."""
        try:
            return self._stream.read(size)
        except EOFError:
            self.is_torn = True
            return b""
        except (OSError, zlib.error, lzma.LZMAError) as error:
            raise BadInput(
                f"the dump {self.name} is damaged ({error}); download or copy it again"
            ) from error

    def __enter__(self) -> DumpFile:
        """Return the stream itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._raw.close()


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def _unpacked(raw: io.BufferedReader, name: str) -> _Readable:
    """Return the stream of what is packed in `raw`."""
    magic = raw.peek(8)[:8]
    for start, kind in REFUSED.items():
        if magic.startswith(start):
            raise BadInput(f"the dump {name} is a {kind} file; unpack it first")
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if magic.startswith((b"\xfd7zXZ\x00", b"\x5d\x00\x00")):
        return lzma.LZMAFile(raw)
    return raw
