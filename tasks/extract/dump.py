"""A dump file, or a range of one -> its XML bytes in UTF-8, whatever it is packed in.

How it is packed is read off its first bytes, not off its name. gz, xz and zstd files of several
members read as one stream. A packed stream that ends early just ends here, with `is_torn` set: the
XML reader still gets all that was whole. XML in UTF-16 is recoded on the way.

bz2 goes through `indexed_bzip2` (45 MB of XML per second and core, the standard library 35). Its
errors do not tell a torn file from a damaged one, so at the first of them the standard library
takes over at the same byte.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import tempfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, cast

import indexed_bzip2
import pyarrow as pa

from storage.errors import BadInput

CHUNK = 1 << 20
MAGIC = {
    b"BZh": "bz2",
    b"\x1f\x8b": "gz",
    b"\xfd7zXZ\x00": "xz",
    b"\x5d\x00\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"PK\x03\x04": "zip",
}
_UTF16 = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}


def packing_of(path: Path, name: str = "") -> str:
    """Return how a file is packed: a value of MAGIC, or "xml"; refuse what is no dump at all."""
    name = name or path.name
    if not path.is_file():
        raise BadInput(f"there is no dump file {path}; check the path")
    with path.open("rb") as file:
        head = file.read(8)
    if not head:
        raise BadInput(f"the dump {name} is empty; download or copy it again")
    kind = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), "xml")
    if kind == "zip":
        raise BadInput(f"the dump {name} is a zip file; unpack it first")
    return kind


class DumpFile:
    """A readable stream of a dump's XML, or of what is packed in its bytes `start` to `end`.

    `name` is what messages call the file: the user knows it by the name it had before the store.
    """

    def __init__(
        self, path: Path, name: str = "", start: int = 0, end: int | None = None, cores: int = 1
    ) -> None:
        self.name = name or path.name
        self.is_torn = False
        kind = packing_of(path, self.name)
        self._raw = _Slice(path, start, path.stat().st_size if end is None else end)
        self._encoding = "" if start else None  # None: the first bytes will tell
        try:
            self._stream = _unpacked(self._raw, kind if self._raw.size else "xml", self.name, cores)
        except BaseException:
            self._raw.close()
            raise
        # A whole `read` of a torn file gives nothing of what it had before the tear.
        self._read_stream = getattr(self._stream, "read1", self._stream.read)

    @property
    def share(self) -> float:
        """Return how much of the packed bytes has been read, from 0 to 1."""
        return self._raw.tell() / max(self._raw.size, 1)

    def read(self, size: int = CHUNK) -> bytes:
        """Return up to `size` bytes of XML, b"" at the end, be it the true or a torn one."""
        piece = self._read(size)
        if self._encoding is None:
            piece += self._read(2) if len(piece) < 2 else b""
            self._encoding = "" if piece[2:4] == b"\0\0" else _UTF16.get(piece[:2], "")
            if self._encoding:
                self._decoder = codecs.getincrementaldecoder(self._encoding)()
        if not self._encoding:
            return piece
        try:
            text = self._decoder.decode(piece, final=not piece)
            if piece and not text:
                return self.read(size)
            return text.encode()
        except UnicodeError as error:
            if not piece:
                self.is_torn = True
                return b""
            raise BadInput(f"{self.name} is not the UTF-16 it begins as ({error})") from error

    def _read(self, size: int) -> bytes:
        try:
            return self._read_stream(size)
        except EOFError:
            self.is_torn = True
            return b""
        except (OSError, zlib.error, lzma.LZMAError) as error:
            if str(error) == "Truncated compressed stream":  # Arrow's word for a torn zstd file
                self.is_torn = True
                return b""
            raise BadInput(
                f"the dump {self.name} is damaged ({error}); download or copy it again"
            ) from error

    @property
    def is_utf16(self) -> bool:
        """Tell, after the first read, whether the XML is recoded."""
        return bool(self._encoding)

    def __enter__(self) -> DumpFile:
        """Return the stream itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file, what reads it first: indexed_bzip2 aborts where its file is closed."""
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()
        self._raw.close()


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Slice(io.RawIOBase):
    """The bytes `start` to `end` of a file, as if they were all of it."""

    def __init__(self, path: Path, start: int, end: int) -> None:
        self.size = end - start
        self._start = start
        self._file: BinaryIO = path.open("rb")
        self._file.seek(start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell() - self._start

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self.size}[whence]
        return self._file.seek(self._start + origin + offset) - self._start

    def read(self, size: int = -1) -> bytes:
        left = max(self.size - self.tell(), 0)
        return self._file.read(left if size < 0 else min(size, left))

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Bzip2:
    """bz2, fast while all is well; what is wrong is said by the standard library."""

    def __init__(self, raw: _Slice, cores: int) -> None:
        self._raw = raw
        self._given = 0
        self._slow: bz2.BZ2File | None = None
        self._fast = indexed_bzip2.IndexedBzip2File(raw, parallelization=cores)

    def read(self, size: int = -1, /) -> bytes:
        if self._slow is None:
            try:
                piece: bytes = self._fast.read(size)
                self._given += len(piece)
                return piece
            except (RuntimeError, ValueError):
                self._raw.seek(0)
                self._slow = bz2.BZ2File(self._raw)
                self._slow.seek(self._given)
        return self._slow.read1(size)

    def close(self) -> None:
        self._fast.close()


class _Zstd:
    """zstd by Arrow, in small reads: one that meets a tear gives nothing of what came before."""

    def __init__(self, raw: _Slice) -> None:
        self._stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")

    def read(self, size: int = -1, /) -> bytes:
        piece: bytes = self._stream.read(min(size, 1 << 14))
        return piece

    def close(self) -> None:
        self._stream.close()


def _unpacked(raw: _Slice, kind: str, name: str, cores: int) -> _Readable:
    """Return the stream of what is packed in `raw`."""
    if kind == "bz2":
        return _Bzip2(raw, cores)
    if kind == "gz":
        return gzip.GzipFile(fileobj=raw)
    if kind == "xz":
        return lzma.LZMAFile(cast("BinaryIO", raw))
    if kind == "zstd":
        return _Zstd(raw)
    if kind == "7z":
        return _seven_zip(raw, name)
    return raw


def _seven_zip(raw: _Slice, name: str) -> BinaryIO:
    """Return the one file of a 7z archive, unpacked to a nameless file on the disk."""
    try:
        import py7zr
    except ImportError as error:
        raise BadInput(f"the dump {name} is a 7z file; pip install py7zr, or unpack it") from error
    with tempfile.TemporaryDirectory() as folder:
        try:
            with py7zr.SevenZipFile(cast("BinaryIO", raw)) as archive:
                members = [one for one in archive.list() if one.is_file]
                if len(members) != 1:
                    raise BadInput(f"{name} holds {len(members)} files, not one; unpack it first")
                archive.extractall(folder)
        except (py7zr.exceptions.ArchiveError, lzma.LZMAError, EOFError, OSError) as error:
            raise BadInput(f"{name} is damaged ({error}); download or copy it again") from error
        unpacked = [path for path in Path(folder).rglob("*") if path.is_file()]
        return unpacked[0].open("rb")  # its name goes with the folder, its bytes with the handle
