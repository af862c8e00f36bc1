"""The store: finished artifacts by kind and key on a local folder.

    <home>/store/<kind>/<key>/manifest.json     finished (the manifest is written last)
    <home>/store/<kind>/<key>.partial/          being written, by whoever holds the lock
    <home>/locks/<kind>-<key>.lock              flock: freed by the kernel when its holders die

A stage asks `find(kind, key)`, and, when there is nothing, writes within `building(kind, key)` and
calls `commit`. Nothing else makes an artifact. A file that vanished or changed is noticed by
`find`; `building` then keeps what is still whole, so that only the rest is built again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from storage.artifact import (
    KINDS,
    LOGS,
    MANIFEST,
    ArtifactRef,
    Counts,
    FileEntry,
    Manifest,
    content_digest,
)
from storage.errors import BadInput
from storage.files import read_json, sync_directory, sync_file, write_json
from storage.workspace import PART, Progress, Workspace, file_entry

PARTIAL = ".partial"


def etude_home() -> Path:
    """Return the folder everything lies in: `ETUDE_HOME`, or `.etude` in the current folder."""
    return Path(os.environ.get("ETUDE_HOME") or ".etude").resolve()


class Store:
    """Artifacts under one folder. Safe for several processes; no server needed."""

    def __init__(self, home: Path | None = None) -> None:
        self.home = (home or etude_home()).resolve()
        self.root = self.home / "store"
        self.locks = self.home / "locks"

    def find(self, kind: str, key: str) -> ArtifactRef | None:
        """Return the finished artifact, or None if it has to be (re)built.

        Every file is checked: by size and mtime, and by its SHA-256 where those differ.
        """
        path = self.root / kind / key
        manifest = read_manifest(path)
        if manifest is None or not all(_is_whole(path, entry) for entry in manifest.files):
            return None
        return ArtifactRef(kind, key, manifest.digest, path)

    @contextmanager
    def building(
        self,
        kind: str,
        key: str,
        *,
        progress: Progress | None = None,
        log: Callable[[str], None] | None = None,
        predecessors: Callable[[], Iterable[ArtifactRef]] = tuple,
    ) -> Iterator[Workspace]:
        """Hold the key's exclusive lock and give its workspace; wait while another run holds it.

        What is left of a damaged artifact becomes the workspace. Look once more with `find` inside:
        the other run may have finished meanwhile. The lock's file descriptor is inheritable on
        purpose, so that a training child keeps the lock for as long as it writes, even when its
        parent was killed.
        """
        self.locks.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.locks / f"{kind}-{key}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, f"{kind}:{key[:10]}", log)
            _salvage(self.root / kind / key)
            path = self.root / kind / f"{key}{PARTIAL}"
            yield Workspace(
                path, progress=progress, log=log, lock_fd=descriptor, predecessors=predecessors
            )
            with suppress(OSError):
                path.rmdir()  # another run had made it meanwhile: ours stayed empty
        finally:
            os.close(descriptor)

    def commit(
        self,
        workspace: Workspace,
        *,
        stage: str,
        version: int,
        config: dict[str, object],
        inputs: dict[str, ArtifactRef],
        counts: Counts,
        seconds: float,
        links: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> ArtifactRef:
        """Hash every file, write the manifest last, rename `<key>.partial` to `<key>`."""
        partial = workspace.path
        kind, key = partial.parent.name, partial.name.removesuffix(PARTIAL)
        (partial / MANIFEST).unlink(missing_ok=True)
        files = []
        for file in sorted(partial.rglob("*")):
            if file.is_file():
                sync_file(file)
                files.append(file_entry(file, partial))
        manifest = Manifest(
            kind=kind,
            key=key,
            digest=content_digest(files),
            stage=stage,
            version=version,
            config=dict(config),
            inputs={
                name: {"kind": ref.kind, "key": ref.key, "digest": ref.digest}
                for name, ref in sorted(inputs.items())
            },
            files=tuple(files),
            counts=counts,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(seconds, 3),
            links=links or {},
            environment=environment or {},
        )
        write_json(partial / MANIFEST, manifest.to_json())
        sync_directory(partial)
        final = partial.with_name(key)
        partial.rename(final)
        sync_directory(final.parent)
        return ArtifactRef(kind, key, manifest.digest, final)

    def touch(self, ref: ArtifactRef) -> None:
        """Mark an artifact as used now: `latest` means the one used last."""
        os.utime(ref.path / MANIFEST)

    def manifest(self, ref: ArtifactRef) -> Manifest:
        """Return the manifest of a finished artifact."""
        manifest = read_manifest(ref.path)
        if manifest is None:
            raise BadInput(f"{ref} has no manifest any more; run its stage again")
        return manifest

    def artifacts(self, kind: str | None = None) -> list[tuple[ArtifactRef, Manifest]]:
        """Return the finished artifacts, the one used last first."""
        if kind is not None and kind not in KINDS:
            raise BadInput(f"unknown kind {kind!r}; the kinds are {', '.join(KINDS)}")
        found = []
        for path in self.root.glob(f"{kind or '*'}/*/{MANIFEST}"):
            manifest = read_manifest(path.parent)
            if manifest is not None and not path.parent.name.endswith(PARTIAL):
                ref = ArtifactRef(manifest.kind, manifest.key, manifest.digest, path.parent)
                found.append((path.stat().st_mtime_ns, ref, manifest))
        found.sort(key=lambda one: one[0], reverse=True)
        return [(ref, manifest) for _, ref, manifest in found]

    def predecessors(
        self,
        kind: str,
        *,
        stage: str,
        version: int,
        config: dict[str, object],
        log: Callable[[str], None] | None = None,
    ) -> Iterator[ArtifactRef]:
        """Yield what a stage made with these settings, whatever its inputs, the newest first.

        A damaged artifact is passed over, and said to be.
        """
        same = [
            (manifest.created, ref)
            for ref, manifest in self.artifacts(kind)
            if (manifest.stage, manifest.version, manifest.config) == (stage, version, config)
        ]
        for _, ref in sorted(same, key=lambda one: one[0], reverse=True):
            if self.find(kind, ref.key):
                yield ref
            elif log:
                log(f"{ref} is damaged: nothing is copied from it")

    def resolve(self, text: str, kind: str | None = None) -> ArtifactRef:
        """Return the artifact a REF names: a key, a unique prefix, `latest` or `kind:latest`."""
        prefix = text
        if ":" in text:
            kind, prefix = text.split(":", 1)
        refs = [ref for ref, _ in self.artifacts(kind)]
        if prefix == "latest" and refs:
            return refs[0]
        matches = [ref for ref in refs if prefix and ref.key.startswith(prefix)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise BadInput(f"{text!r} is short for {len(matches)} artifacts; give more digits")
        where = f"{kind} in {self.root}" if kind else str(self.root)
        raise BadInput(f"no artifact {text!r} among the {len(refs)} of {where}; see `etude ls`")

    def lineage(self, ref: ArtifactRef) -> list[tuple[int, ArtifactRef | None, str]]:
        """Return the artifact and all it was made from, as (depth, ref or None if gone, name)."""
        rows: list[tuple[int, ArtifactRef | None, str]] = []

        def walk(current: ArtifactRef, depth: int) -> None:
            rows.append((depth, current, str(current)))
            for parent in self.manifest(current).inputs.values():
                path = self.root / parent["kind"] / parent["key"]
                if read_manifest(path) is None:
                    rows.append((depth + 1, None, f"{parent['kind']}:{parent['key'][:10]}"))
                else:
                    walk(
                        ArtifactRef(parent["kind"], parent["key"], parent["digest"], path),
                        depth + 1,
                    )

        walk(ref, 0)
        return rows

    def collect_partials(self, *, older_than_seconds: float = 0.0) -> list[Path]:
        """Delete the partial artifacts that nobody holds the lock of; return what was deleted."""
        removed = []
        for path in sorted(self.root.glob(f"*/*{PARTIAL}")):
            if time.time() - path.stat().st_mtime < older_than_seconds:
                continue
            key = path.name.removesuffix(PARTIAL)
            self.locks.mkdir(parents=True, exist_ok=True)
            lock = self.locks / f"{path.parent.name}-{key}.lock"
            with lock.open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(path)
                removed.append(path)
        return removed


def _salvage(path: Path) -> None:
    """Turn a damaged artifact into a partial one of its whole parts; the caller holds the lock.

    What is broken goes first, while the manifest still says that it is; so a kill in here leaves
    either a damaged artifact or a sound partial one.
    """
    manifest = read_manifest(path)
    if manifest is None:
        if path.exists():  # a folder that lost its manifest says nothing about itself
            shutil.rmtree(path)
        return
    if all(_is_whole(path, entry) for entry in manifest.files):
        return
    by_folder: dict[str, list[FileEntry]] = {}
    for entry in manifest.files:
        by_folder.setdefault(entry.path.split("/")[0], []).append(entry)
    for name, entries in by_folder.items():
        folder = path / name
        is_part = (folder / PART).exists()
        if not folder.is_dir():
            folder.unlink(missing_ok=True)  # a file of its own: cheap to write again
        elif not (is_part and all(_is_whole(path, entry) for entry in entries)):
            shutil.rmtree(folder)
    partial = path.with_name(path.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    path.rename(partial)
    (partial / MANIFEST).unlink()


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest in a folder, or None where there is none that can be read."""
    try:
        return Manifest.from_json(read_json(path / MANIFEST))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _is_whole(root: Path, entry: FileEntry) -> bool:
    path = root / entry.path
    try:
        if path.stat().st_size != entry.size and not entry.path.startswith(f"{LOGS}/"):
            return False
        return entry.path.startswith(f"{LOGS}/") or (
            file_entry(path, root, known=entry).sha256 == entry.sha256
        )
    except OSError:
        return entry.path.startswith(f"{LOGS}/")


def _lock(descriptor: int, name: str, log: Callable[[str], None] | None) -> None:
    """Take the lock; say so once if another process holds it, then wait for it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if log:
            log(f"{name} is being built by another run; waiting for it")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
