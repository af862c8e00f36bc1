"""A disk that is full: nothing half is left that a later run takes for whole."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.artifact import ArtifactRef, Counts
from storage.store import Store


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def build(store: Store, size: int) -> ArtifactRef:
    """Make an artifact of two parts of `size` bytes each."""

    def fill(folder: Path) -> Counts:
        (folder / "rows.bin").write_bytes(b"x" * size)
        return Counts(1, 1)

    with store.building("pages", "k") as workspace:
        counts = [workspace.part(f"part-{index:05}", fill) for index in range(2)]
        return store.commit(
            workspace,
            stage="extract",
            version=1,
            config={},
            inputs={},
            counts=Counts.total(counts),
            seconds=0,
        )


def test_a_full_disk_leaves_what_a_retry_goes_on_with(small_disk: Path) -> None:
    """Catches a half part or manifest, and a retry that starts over when there is room again."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 500_000)
    store = Store(small_disk / "home")
    with pytest.raises(OSError) as caught:
        build(store, 300_000)
    assert caught.value.errno == errno.ENOSPC
    assert store.find("pages", "k") is None and store.artifacts() == []
    ballast.unlink()
    first = store.root / "pages" / "k.partial" / "part-00000" / "rows.bin"
    before = first.stat().st_ino
    ref = build(store, 300_000)
    assert store.find("pages", "k") == ref
    assert (ref.path / "part-00000" / "rows.bin").stat().st_ino == before
