"""The store: nothing half is ever taken for whole, nothing whole is built twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from storage.artifact import ArtifactRef, Counts, FileEntry, artifact_key, content_digest
from storage.errors import BadInput
from storage.store import Store
from storage.workspace import Workspace


def build(store: Store, key: str, files: dict[str, str], kind: str = "pages") -> ArtifactRef:
    """Make an artifact of two parts' worth of files, as a stage would."""
    with store.building(kind, key) as workspace:
        for name, text in files.items():
            write_part(workspace, name, text)
        return store.commit(
            workspace,
            stage="extract",
            version=1,
            config={"a": 1},
            inputs={},
            counts=Counts(2, 2),
            seconds=0.1,
        )


def write_part(workspace: Workspace, name: str, text: str) -> Counts:
    """Write one part with one file."""

    def fill(folder: Path) -> Counts:
        (folder / "rows.txt").write_text(text)
        return Counts(1, 1)

    return workspace.part(name, fill)


def test_a_committed_artifact_is_found_with_its_digest(tmp_path: Path) -> None:
    """Catches a store that forgets, or a digest that depends on when or where it was written."""
    one, two = Store(tmp_path / "a"), Store(tmp_path / "b")
    first = build(one, "k1", {"part-00000": "x", "part-00001": "y"})
    second = build(two, "k2", {"part-00000": "x", "part-00001": "y"})
    assert one.find("pages", "k1") == first
    assert first.digest == second.digest
    assert build(two, "k3", {"part-00000": "x", "part-00001": "z"}).digest != first.digest


def test_logs_do_not_change_the_digest(tmp_path: Path) -> None:
    """Catches a picture or a time stamp that would make everything below run again."""
    entry = FileEntry("a", 1, "aa", 0)
    with_log = [entry, FileEntry("logs/run.json", 1, "bb", 0)]
    assert content_digest([entry]) == content_digest(with_log)
    assert content_digest([entry]) != content_digest([FileEntry("b", 1, "aa", 0)])


def test_the_key_sees_stage_version_config_and_input_digests() -> None:
    """Catches a changed setting or input that would be answered with the old artifact."""
    base = artifact_key("clean", 1, {"a": 1}, {"pages": "d"})
    assert base == artifact_key("clean", 1, {"a": 1}, {"pages": "d"})
    others = [
        artifact_key("clean", 2, {"a": 1}, {"pages": "d"}),
        artifact_key("clean", 1, {"a": 2}, {"pages": "d"}),
        artifact_key("clean", 1, {"a": 1}, {"pages": "e"}),
        artifact_key("cut", 1, {"a": 1}, {"pages": "d"}),
    ]
    assert len({base, *others}) == 5


@pytest.mark.parametrize("damage", ["delete", "change", "truncate"])
def test_a_damaged_part_alone_is_built_again(tmp_path: Path, damage: str) -> None:
    """Catches a vanished or altered file being served, and a rebuild that starts from nothing."""
    store = Store(tmp_path)
    ref = build(store, "k", {"part-00000": "first", "part-00001": "second"})
    victim = ref.path / "part-00001" / "rows.txt"
    if damage == "delete":
        victim.unlink()
    else:
        victim.write_text("SECOND" if damage == "change" else "sec")
    assert store.find("pages", "k") is None
    built = []
    with store.building("pages", "k") as workspace:
        for name in ("part-00000", "part-00001"):

            def fill(folder: Path, name: str = name) -> Counts:
                built.append(name)
                (folder / "rows.txt").write_text({"part-00001": "second"}.get(name, "wrong"))
                return Counts(1, 1)

            workspace.part(name, fill)
        again = store.commit(
            workspace, stage="s", version=1, config={}, inputs={}, counts=Counts(2, 2), seconds=0
        )
    assert built == ["part-00001"]
    assert again.digest == ref.digest


def test_predecessors_are_of_the_same_settings_the_newest_first(tmp_path: Path) -> None:
    """Catches rows copied from another stage, version or setting, or from a damaged artifact."""
    store = Store(tmp_path)
    made = {key: build(store, key, {"part-00000": key}) for key in ("k1", "k2", "k3")}
    for number, ref in enumerate(made.values()):
        path = ref.path / "manifest.json"
        manifest = json.loads(path.read_text()) | {"created": f"2024-01-0{number + 1}"}
        path.write_text(json.dumps(manifest))
    lines: list[str] = []

    def found(stage: str = "extract", version: int = 1, a: int = 1) -> list[str]:
        refs = store.predecessors(
            "pages", stage=stage, version=version, config={"a": a}, log=lines.append
        )
        return [ref.key for ref in refs]

    assert found() == ["k3", "k2", "k1"]
    assert found(stage="clean") == found(version=2) == found(a=2) == []
    (made["k2"].path / "part-00000" / "rows.txt").write_text("other")
    assert lines == [] and found() == ["k3", "k1"]
    assert lines == ["pages:k2 is damaged: nothing is copied from it"]


def test_a_lost_manifest_is_no_dead_end(tmp_path: Path) -> None:
    """Catches a folder without a manifest on which every later commit fails."""
    store = Store(tmp_path)
    ref = build(store, "k", {"part-00000": "first"})
    for text in (None, "half a {"):
        (ref.path / "manifest.json").unlink()
        if text:
            (ref.path / "manifest.json").write_text(text)
        assert store.find("pages", "k") is None
        assert build(store, "k", {"part-00000": "first"}) == ref


def test_a_kill_while_damage_is_cleared_away_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a damaged part that a rebuild takes for whole because its clearing was cut short."""
    store = Store(tmp_path)
    ref = build(store, "k", {"part-00000": "first", "part-00001": "second"})
    (ref.path / "part-00001" / "rows.txt").write_text("SECOND")

    def killed(path: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        with store.building("pages", "k"):
            pass
    again = build(store, "k", {"part-00000": "first", "part-00001": "second"})
    assert again.digest == ref.digest


def test_a_touched_but_equal_file_is_still_whole(tmp_path: Path) -> None:
    """Catches a store copied to another disk (new mtimes) being rebuilt."""
    store = Store(tmp_path)
    ref = build(store, "k", {"part-00000": "first"})
    os.utime(ref.path / "part-00000" / "rows.txt", (1, 1))
    assert store.find("pages", "k") == ref


def test_a_part_that_failed_leaves_nothing(tmp_path: Path) -> None:
    """Catches a half-written part (a full disk) that a retry would take for whole."""
    workspace = Workspace.scratch(tmp_path / "w")

    def fail(folder: Path) -> Counts:
        (folder / "rows.txt").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        workspace.part("part-00000", fail)
    assert not (tmp_path / "w" / "part-00000").exists()
    assert list(Workspace.scratch(tmp_path / "w").path.iterdir()) == []


def _hold(home: Path, ready: object, killed: bool) -> None:
    with Store(home).building("pages", "k") as workspace:
        write_part(workspace, "part-00000", "mine")
        ready.set()  # type: ignore[attr-defined]
        time.sleep(60 if killed else 0.5)


def test_a_second_builder_waits_and_a_killed_one_frees_the_lock(tmp_path: Path) -> None:
    """Catches two runs writing one artifact at once, and a lock that outlives kill -9."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready, True))
    process.start()
    assert ready.wait(30)
    lock = tmp_path / "locks" / "pages-k.lock"
    import fcntl

    with lock.open("w") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with Store(tmp_path).building("pages", "k") as workspace:
        counts = workspace.part("part-00000", lambda folder: pytest.fail("built twice"))
    assert counts == Counts(1, 1, rows=1)


def test_references_are_resolved_or_refused_in_words(tmp_path: Path) -> None:
    """Catches an ambiguous or unknown REF that ends in a traceback or the wrong artifact."""
    store = Store(tmp_path)
    first = build(store, "aa11", {"part-00000": "x"})
    second = build(store, "aa22", {"part-00000": "y"})
    store.touch(first)
    assert store.resolve("pages:latest") == first
    assert store.resolve("aa2") == second
    for text, words in (("aa", "short for 2"), ("bb", "no artifact"), ("nouns:x", "unknown kind")):
        with pytest.raises(BadInput, match=words):
            store.resolve(text)


def test_a_ledger_that_does_not_add_up_is_refused() -> None:
    """Catches a silently dropped row."""
    with pytest.raises(AssertionError, match="2 rows unaccounted"):
        Counts(seen=5, kept=2, dropped={"short": 1})
    total = Counts.total([Counts(3, 2, {"short": 1}), Counts(2, 1, {"empty": 1}, rows=4)])
    assert json.loads(json.dumps(total.to_json()))["rows"] == 6
    assert total.dropped == {"short": 1, "empty": 1}


def test_lineage_and_partials(tmp_path: Path) -> None:
    """Catches a lineage that loses a parent, and a collector that deletes what is in use."""
    store = Store(tmp_path)
    parent = build(store, "p", {"part-00000": "x"})
    with store.building("documents", "d") as workspace:
        write_part(workspace, "part-00000", "y")
        assert store.collect_partials() == []
        child = store.commit(
            workspace,
            stage="clean",
            version=1,
            config={},
            inputs={"pages": parent},
            counts=Counts(1, 1),
            seconds=0,
        )
    assert [(depth, name) for depth, _, name in store.lineage(child)] == [
        (0, "documents:d"),
        (1, "pages:p"),
    ]
    with store.building("documents", "left") as workspace:
        write_part(workspace, "part-00000", "z")
    assert [path.name for path in store.collect_partials()] == ["left.partial"]
