"""The first bytes of a file, kept beside its place until the rest has come.

    dump-00002.part        the bytes so far; survives a failed attempt and a killed process
    dump-00002.part.json   the validator (ETag or Last-Modified) those bytes belong to

The SHA-1 is taken while the bytes come; what an earlier process left is hashed once, at the start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from storage.files import read_json, sync_file, write_json


class Part:
    """The bytes of a file so far, their SHA-1, and the validator they belong to."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name.split('.')[0]}.part")
        self.note = self.path.with_name(f"{self.path.name}.json")
        self.sha1 = hashlib.sha1()
        self.size = 0
        self.validator = read_json(self.note)["validator"] if self.note.exists() else None
        if self.path.exists():
            self.size = self.path.stat().st_size
            with self.path.open("rb") as file:
                self.sha1 = hashlib.file_digest(file, "sha1")

    def begin(self, validator: str | None) -> None:
        """Start at the first byte of the file that `validator` names."""
        self.path.write_bytes(b"")  # first: never old bytes under a new validator
        write_json(self.note, {"validator": validator})
        self.sha1, self.size, self.validator = hashlib.sha1(), 0, validator

    def append(self, pieces: Iterable[bytes], tell: Callable[[int], None]) -> None:
        """Append what comes; tell the size after each piece."""
        with self.path.open("ab") as file:
            for piece in pieces:
                file.write(piece)
                self.sha1.update(piece)
                self.size += len(piece)
                tell(self.size)

    def discard(self) -> None:
        """Forget everything."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.sha1, self.size, self.validator = hashlib.sha1(), 0, None

    def finish(self, target: Path) -> None:
        """Make the part the file; a power cut leaves one or the other."""
        sync_file(self.path)
        self.path.rename(target)
        self.note.unlink(missing_ok=True)
