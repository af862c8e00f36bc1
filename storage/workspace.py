"""Where a stage writes: `<key>.partial/`, which becomes the artifact by one rename.

    documents/4f1c….partial/
      part-00000/documents.parquet   a part: built in part-00000.tmp/, renamed in when whole
      part-00000/part.json           its ledger and the digests of its files
      logs/                          pictures, logs, events: never part of the digest

A part that is whole is never built twice, so a retry does only what is missing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from storage.artifact import LOGS, ArtifactRef, Counts, FileEntry, sha256_file
from storage.files import read_json, sync_directory, sync_file, write_json

Progress = Callable[[float, float | None, str], None]
PART = "part.json"
UPDATE_SECONDS = 0.2


class Workspace:
    """The folder a stage writes into, its parts, and its voice (progress and log lines)."""

    def __init__(
        self,
        path: Path,
        *,
        progress: Progress | None = None,
        log: Callable[[str], None] | None = None,
        lock_fd: int | None = None,
        predecessors: Callable[[], Iterable[ArtifactRef]] = tuple,
    ) -> None:
        self.path = path
        self.lock_fd = lock_fd
        self.predecessors = predecessors
        """What the stage made of other inputs with the same settings, the newest first. It is no
        part of the key: only what the stage would write anyway may be copied from it."""
        self._progress = progress
        self._log = log
        self._last_update = 0.0
        path.mkdir(parents=True, exist_ok=True)
        for leftover in path.glob("*.tmp"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    @classmethod
    def scratch(cls, path: Path) -> Workspace:
        """Return a workspace without a store, for tests and for use as a library."""
        return cls(path)

    @property
    def logs(self) -> Path:
        """Return the folder for pictures, logs and events, made on first use."""
        folder = self.path / LOGS
        folder.mkdir(exist_ok=True)
        return folder

    def progress(self, done: float, total: float | None, unit: str) -> None:
        """Tell how far the work is; cheap enough to call for every row."""
        now = time.monotonic()
        if self._progress and (now - self._last_update >= UPDATE_SECONDS or done == total):
            self._last_update = now
            self._progress(done, total, unit)

    def log(self, message: str) -> None:
        """Say one line to whoever watches the run."""
        if self._log:
            self._log(message)

    def part(self, name: str, build: Callable[[Path], Counts]) -> Counts:
        """Build one part unless it is there already; return its ledger.

        `build(directory)` writes files into a fresh directory and returns what it counted.
        """
        final = self.path / name
        if (final / PART).exists():
            return Counts.from_json(read_json(final / PART)["counts"])
        temporary = self.path / f"{name}.tmp"
        for leftover in (temporary, final):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        counts = build(temporary)
        digests = {}
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                sync_file(file)
                digests[file.relative_to(temporary).as_posix()] = sha256_file(file)
        write_json(temporary / PART, {"counts": counts.to_json(), "sha256": digests})
        temporary.rename(final)
        sync_directory(self.path)
        return counts


def file_entry(path: Path, root: Path, known: FileEntry | None = None) -> FileEntry:
    """Describe a file; `known` spares the hashing when size and mtime are still the same."""
    stat = path.stat()
    if known and (known.size, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
        return known
    relative = path.relative_to(root).as_posix()
    return FileEntry(relative, stat.st_size, sha256_file(path), stat.st_mtime_ns)
