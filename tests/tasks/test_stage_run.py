"""The stage wrapper on a real Prefect API and a real MLflow: what runs, and what is reused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.runtime import flow_run as this_run

from storage.artifact import ArtifactRef, Counts
from storage.config import Config
from storage.errors import BadInput
from storage.store import Store
from storage.workspace import Workspace
from tasks import tracking
from tasks.stage import StageResult, listening, stage

ran: list[str] = []
fail_next: list[Exception] = []
predecessors: list[str] = []


class Words(Config):
    """What the first stage writes."""

    words: tuple[str, ...] = ("a", "b", "c")
    """The words."""
    upper: bool = False
    """Write capitals."""


class Nothing(Config):
    """No settings."""


@stage("fetch", version=1, kind="dump")
def first(config: Words, workspace: Workspace) -> Counts:
    """Write the words."""
    ran.append("first")
    kept = [word for word in config.words if word != "drop"]
    text = "".join(kept)
    (workspace.path / "words.txt").write_text(text.upper() if config.upper else text)
    for index in range(len(kept)):
        workspace.progress(index + 1, len(kept), "words")
    dropped = len(config.words) - len(kept)
    return Counts(len(config.words), len(kept), {"unwanted": dropped} if dropped else {})


@stage("extract", version=1, kind="pages")
def second(dump: ArtifactRef, config: Nothing, workspace: Workspace) -> Counts:
    """Copy them in two parts."""
    ran.append("second")
    before = [ref.path / "part-00000" / "copy.txt" for ref in workspace.predecessors()]
    predecessors[:] = [path.read_text().removesuffix("part-00000") for path in before]

    def build(name: str) -> Counts:
        def fill(folder: Path) -> Counts:
            ran.append(name)
            (folder / "copy.txt").write_text((dump.path / "words.txt").read_text() + name)
            return Counts(1, 1)

        return workspace.part(name, fill)

    total = Counts.total([build("part-00000")])
    if fail_next:
        raise fail_next.pop()
    return Counts.total([total, build("part-00001")])


@flow(name="etude-test")
def way(words: Words) -> ArtifactRef:
    """Both stages, recorded."""
    with tracking.flow_run(str(this_run.id), "way", words.model_dump()):
        return second(dump=first(config=words), config=Nothing())


class Ear:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.results: list[StageResult] = []
        self.heard: list[tuple[Any, ...]] = []

    def finished(self, result: StageResult) -> None:
        """Keep the result."""
        self.results.append(result)

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.heard.append((name, *args))


def go(words: Words) -> list[str]:
    """Run the flow; return which stages and parts really ran."""
    ran.clear()
    way(words)
    return list(ran)


@pytest.fixture(autouse=True)
def _own_home(home: Path, prefect_api: None) -> None:
    fail_next.clear()


def test_only_what_changed_runs(home: Path) -> None:
    """Catches reuse that is too eager or too shy: same settings, a change, and an early cut-off."""
    everything = ["first", "second", "part-00000", "part-00001"]
    assert go(Words()) == everything
    assert go(Words()) == []
    assert go(Words(words=("a", "b", "d"))) == everything
    assert go(Words(words=("a", "b", "drop", "c"))) == ["first"]  # other settings, equal bytes


def test_a_deleted_file_is_rebuilt_and_nothing_else(home: Path) -> None:
    """Catches a reused path that is dead, and a rebuild of more than what is gone."""
    go(Words())
    ref = Store().resolve("pages:latest")
    (ref.path / "part-00001" / "copy.txt").unlink()
    assert go(Words()) == ["second", "part-00001"]
    assert Store().resolve("pages:latest").digest == ref.digest
    assert go(Words()) == []


def test_a_failed_stage_goes_on_at_the_part_it_lacked(home: Path) -> None:
    """Catches a retry that starts over, and a second MLflow run for the same work."""
    fail_next.append(RuntimeError("power cut"))
    with pytest.raises(RuntimeError, match="power cut"):
        go(Words())
    assert go(Words()) == ["second", "part-00001"]
    runs = tracking.client().search_runs([tracking.experiment_id()])
    children = [run for run in runs if run.data.tags.get("etude.stage") == "extract"]
    assert [run.info.status for run in children] == ["FINISHED"]
    parents = [run for run in runs if "prefect.flow_run_id" in run.data.tags]
    assert sorted(run.info.status for run in parents) == ["FAILED", "FINISHED"]
    finished = next(run for run in parents if run.info.status == "FINISHED")
    assert children[0].data.tags["mlflow.parentRunId"] == finished.info.run_id


def test_a_stage_may_look_at_what_it_made_before(home: Path) -> None:
    """Catches a refresh without a predecessor, and a half artifact taken for one."""
    go(Words(words=("a",)))
    assert predecessors == []
    fail_next.append(RuntimeError("power cut"))
    with pytest.raises(RuntimeError):
        go(Words(words=("b",)))
    assert predecessors == ["a"]
    go(Words(words=("c",)))
    assert predecessors == ["a"]
    go(Words(words=("d",)))
    assert sorted(predecessors) == ["a", "c"]


def test_refused_input_leaves_nothing_behind(home: Path) -> None:
    """Catches a half artifact after bad input, and an error that loses its type on the way."""
    fail_next.append(BadInput("the dump is empty; give another"))
    with pytest.raises(BadInput, match="the dump is empty"):
        go(Words())
    assert list((home / "store").glob("*/*.partial")) == []


def test_listeners_and_the_ledger_hear_of_every_row(home: Path) -> None:
    """Catches a summary that shows other numbers than the manifest."""
    ear = Ear()
    with listening(ear):
        go(Words(words=("a", "drop", "b")))
        go(Words(words=("a", "drop", "b")))
    assert [result.reused for result in ear.results] == [False, False, True, True]
    counts = ear.results[0].manifest.counts
    assert (counts.seen, counts.kept, dict(counts.dropped)) == (3, 2, {"unwanted": 1})
    assert ("progress", "fetch", "", 2, 2, "words") in ear.heard


def test_mlflow_knows_params_inputs_ledger_and_manifest(home: Path) -> None:
    """Catches a run page without the figures that people open it for."""
    go(Words(words=("a", "drop")))
    runs = tracking.client().search_runs([tracking.experiment_id()])
    by_stage = {run.data.tags.get("etude.stage"): run for run in runs}
    fetch, extract = by_stage["fetch"], by_stage["extract"]
    assert fetch.data.params["upper"] == "False"
    assert fetch.data.metrics["ledger/rows_in"] == 2 and fetch.data.metrics["dropped/unwanted"] == 1
    names = {file.path for file in tracking.client().list_artifacts(fetch.info.run_id)}
    assert "manifest.json" in names
    (dataset,) = extract.inputs.dataset_inputs
    assert dataset.dataset.digest == Store().resolve("dump:latest").digest[:36]


def test_points_of_a_curve_are_never_sent_twice(home: Path) -> None:
    """Catches the zig-zag of a resumed training: a step that a curve has is not sent again."""
    point = tracking.Point

    def send(steps: range) -> str:
        with tracking.stage_run("pretrain", "", "key", {}, {}) as run:
            run.log_points(point("train/loss", 1.0 / (s + 1), s, 1000 * s) for s in steps)
            if steps.stop < 40:
                raise RuntimeError("killed")
            return run.run_id

    with pytest.raises(RuntimeError):
        send(range(30))
    run_id = send(range(20, 40))
    history = tracking.client().get_metric_history(run_id, "train/loss")
    assert sorted(metric.step for metric in history) == list(range(40))
