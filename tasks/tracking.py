"""What MLflow remembers: a parent run per flow run, a child run per executed stage.

Runs are found again by the tag `etude.run_key` (`flow:<id>`, `stage:<name>:<key>`), so a stage that
is taken up again, even on another day, goes on with the same run and the same curves. Metrics are
sent when the checkpoint they belong to is durable, and never at or below the step that a metric
has reached already: no curve has a step twice, whatever was killed when.

MLflow keeps its SQLite database and its files under `<home>/mlflow`; `MLFLOW_TRACKING_URI`
overrides that. Nothing here decides what runs: the folder may be deleted.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psutil

from storage.artifact import ArtifactRef, Manifest
from storage.store import etude_home
from tasks.environment import prepare
from tasks.report import report_markdown

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "etude"
RUN_KEY = "etude.run_key"
PARENT = "mlflow.parentRunId"
DESCRIBED = "etude.described"  # params and inputs are logged
METRICS_PER_CALL = 900  # MLflow takes 1,000 metrics a call
PARAMS_PER_CALL = 90  # and 100 params, of at most 6,000 characters
PARAM_CHARS = 5_900
DIGEST_CHARS = 36

_parent: ContextVar[str | None] = ContextVar("etude_parent_run", default=None)
_current: ContextVar[StageRun | None] = ContextVar("etude_stage_run", default=None)


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a curve; `time_ms` is when it was measured."""

    name: str
    value: float
    step: int
    time_ms: int


def folder() -> Path:
    """Return where MLflow's database and artifacts lie."""
    return etude_home() / "mlflow"


def uri() -> str:
    """Return the tracking URI: absolute, so that every working directory means the same file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder() / 'mlflow.db'}"


def client() -> MlflowClient:
    """Return a client of an initialised database that has the experiment."""
    return _client(uri(), str(folder()))


@cache
def _client(address: str, home: str) -> MlflowClient:
    prepare()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    path = Path(home)
    path.mkdir(parents=True, exist_ok=True)
    # Several processes that open an empty database at once break it for good: one at a time.
    with (path / "initialise.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        database = path / "mlflow.db"
        is_ours = address == f"sqlite:///{database}"
        if is_ours and not database.exists():  # a kill during its migrations would break it too
            for leftover in path.glob("mlflow.db.new*"):
                leftover.unlink()
            fresh = path / "mlflow.db.new"
            MlflowClient(tracking_uri=f"sqlite:///{fresh}").search_experiments()
            fresh.rename(database)
        made = cast("MlflowClient", _Whole(MlflowClient(tracking_uri=address)))
        old = made.get_experiment_by_name(EXPERIMENT)
        if is_ours and old and old.artifact_location != (path / "artifacts").as_uri():
            # The home was moved: a new experiment, or its files would go to the old place.
            made.rename_experiment(old.experiment_id, f"{EXPERIMENT} until {int(time.time())}")
        if made.get_experiment_by_name(EXPERIMENT) is None:
            try:
                made.create_experiment(
                    EXPERIMENT,
                    artifact_location=(path / "artifacts").as_uri(),
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            except MlflowException:  # another machine's process, on a shared server
                if made.get_experiment_by_name(EXPERIMENT) is None:
                    raise
    return made


class _Whole:
    """A client whose calls are made whole: they run in a thread of their own, one by one.

    A stop is an exception in the main thread, wherever that is. Inside of SQLAlchemy it can leave a
    transaction open, and the database is locked, for what this process says last of its run too.
    """

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._thread = ThreadPoolExecutor(1, "mlflow")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._thread.submit(method, *args, **kwargs).result()


def experiment_id() -> str:
    """Return the id of the experiment all runs are in."""
    experiment = client().get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return str(experiment.experiment_id)


def run_url(run_id: str) -> str:
    """Return the page of a run on the local MLflow server, or nothing where no page is known."""
    base = os.environ.get("ETUDE_MLFLOW_URL") or (uri() if uri().startswith("http") else "")
    return f"{base}/#/experiments/{experiment_id()}/runs/{run_id}" if base and run_id else ""


@contextmanager
def flow_run(
    flow_run_id: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Open the parent run of a flow run, or continue it on a retry; yield its MLflow id."""
    close_dead_runs()
    all_tags = {"prefect.flow_run_id": flow_run_id, **_owner(), **(tags or {})}
    run_id, is_new = _open(f"flow:{flow_run_id}", name, all_tags)
    if is_new:
        _log_params(run_id, params)
        client().set_tag(run_id, DESCRIBED, "1")
    token = _parent.set(run_id)
    status = "FAILED"
    try:
        yield run_id
        status = "FINISHED"
    except Exception:
        raise
    except BaseException:
        status = "KILLED"
        raise
    finally:
        _parent.reset(token)
        client().set_terminated(run_id, status)
        _sum_up(run_id)


def _sum_up(parent: str) -> None:
    """Say on the parent's page what its stages took and made, and how good the models are."""
    whole = client().get_run(parent).data
    children = [
        client().get_run(run_id)
        for name, run_id in whole.tags.items()
        if name.startswith("stage.") and name.endswith(".run_id")
    ]
    lines = [
        "| stage | rows in | rows out | seconds | bits per byte |",
        "|---|---:|---:|---:|---:|",
    ]
    for child in sorted(children, key=lambda one: one.info.start_time):
        figures = child.data.metrics
        cells = [
            f"{figures[name]:{form}}" if name in figures else ""
            for name, form in (
                ("ledger/rows_in", ",.0f"),
                ("ledger/rows_out", ",.0f"),
                ("ledger/seconds", ",.1f"),
                ("evaluate/bits_per_byte", ".4f"),
            )
        ]
        address = f"#/experiments/{child.info.experiment_id}/runs/{child.info.run_id}"
        lines.append(f"| [{child.info.run_name}]({address}) | {' | '.join(cells)} |")
        if child.data.tags.get("etude.stage") == "evaluate":
            run, now = StageRun(parent), int(time.time() * 1000)
            run.log_points(
                Point(name, value, run._last(name) + 1, now)  # a retry may bring another value
                for name, value in figures.items()
                if not name.startswith("ledger/") and whole.metrics.get(name) != value
            )
    client().set_tag(parent, "mlflow.note.content", "\n".join(lines))


@contextmanager
def stage_run(
    stage: str, label: str, key: str, params: Mapping[str, Any], inputs: Mapping[str, ArtifactRef]
) -> Iterator[StageRun]:
    """Open the child run of an executed stage, or continue the one of the same key."""
    parent = _parent.get()
    tags = {"etude.stage": stage, "etude.key": key, **_owner()}
    if parent:
        tags[PARENT] = parent
    name = f"{stage} {label}".strip()
    run_id, is_new = _open(f"stage:{stage}:{key}", name, tags)
    if is_new:
        _log_params(run_id, params)
        _log_inputs(run_id, inputs)
        client().set_tag(run_id, DESCRIBED, "1")
    if parent:
        client().set_tag(parent, f"stage.{name}.run_id", run_id)
    run = StageRun(run_id)
    token = _current.set(run)
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except Exception as error:
        client().set_tag(run_id, "etude.error", str(error)[:PARAM_CHARS])
        raise
    except BaseException:
        status = "KILLED"
        raise
    finally:
        _current.reset(token)
        client().set_terminated(run_id, status)


def current() -> StageRun | None:
    """Return the run of the stage that is executing, for rooms that have curves to show."""
    return _current.get()


def link_reused(stage: str, label: str, ref: ArtifactRef, manifest: Manifest) -> None:
    """Note on the parent run which run made a reused artifact; an empty child would say nothing.

    A process killed between commit and here left that run unfinished: it is finished now.
    """
    parent, found = _parent.get(), _search(f"stage:{stage}:{ref.key}")
    if not found:
        return
    run_id: str = found[0].info.run_id
    tags = found[0].data.tags
    is_busy = tags.get("etude.pid") != str(os.getpid()) and _is_alive(tags)
    if found[0].info.status != "FINISHED" and not is_busy:
        StageRun(run_id).finish(ref, manifest)
        client().set_terminated(run_id, "FINISHED")
    if parent:
        client().set_tag(parent, f"stage.{stage} {label}".strip() + ".run_id", run_id)


@dataclass(slots=True)
class StageRun:
    """The MLflow run of an executing stage."""

    run_id: str
    _last_step: dict[str, int] = field(default_factory=dict)

    def log_points(self, points: Iterable[Point]) -> None:
        """Send points of curves, in the order of their steps; those already sent are left out."""
        from mlflow.entities import Metric

        fresh = []
        for point in points:
            name = _name(point.name)
            if point.step > self._last(name):
                self._last_step[name] = point.step
                fresh.append(Metric(name, point.value, point.time_ms, point.step))
        for start in range(0, len(fresh), METRICS_PER_CALL):
            client().log_batch(self.run_id, metrics=fresh[start : start + METRICS_PER_CALL])

    def _last(self, name: str) -> int:
        if name not in self._last_step:
            history = client().get_metric_history(self.run_id, name)
            self._last_step[name] = max((metric.step for metric in history), default=-1)
        return self._last_step[name]

    def log_values(self, values: Mapping[str, float]) -> None:
        """Log single values, each once."""
        now = int(time.time() * 1000)
        self.log_points(Point(name, float(value), 0, now) for name, value in values.items())

    def log_table(self, name: str, columns: Mapping[str, list[Any]]) -> None:
        """Write a table that the page can compare across runs (MLflow's log_table would append)."""
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        client().log_dict(self.run_id, {"columns": list(columns), "data": rows}, name)
        tables = json.dumps([{"path": name, "type": "table"}])
        client().set_tag(self.run_id, "mlflow.loggedArtifacts", tables)

    def log_folder(self, path: Path) -> None:
        """Log every file of a folder as an artifact of the run."""
        if path.is_dir():
            client().log_artifacts(self.run_id, str(path))

    def finish(self, ref: ArtifactRef, manifest: Manifest) -> None:
        """Log what every finished stage has: its ledger, its manifest and its pictures."""
        counts = manifest.counts
        values: dict[str, float] = {
            "ledger/rows_in": counts.seen,
            "ledger/rows_kept": counts.kept,
            "ledger/rows_out": counts.rows_out,
            "ledger/bytes": manifest.num_bytes,
            "ledger/seconds": manifest.seconds,
        }
        values |= {f"dropped/{reason}": number for reason, number in counts.dropped.items()}
        for name, value in counts.metrics.items():
            if not name.startswith(("before/", "after/")):  # the ends of curves that are there
                values[name if "/" in name else f"measure/{name}"] = value
        self.log_values(values)
        client().set_tag(self.run_id, "etude.digest", ref.digest)
        client().set_tag(self.run_id, "mlflow.note.content", report_markdown(ref, manifest))
        text = json.dumps(manifest.to_json(), ensure_ascii=False, indent=1)
        client().log_text(self.run_id, text, "manifest.json")
        self.log_folder(ref.path / "logs")


def close_dead_runs() -> list[str]:
    """Mark the runs whose process is gone (kill -9, power cut) as KILLED; return their ids."""
    closed = []
    query = f"attributes.status = 'RUNNING' and tags.`etude.host` = '{socket.gethostname()}'"
    for run in client().search_runs([experiment_id()], query):
        if not _is_alive(run.data.tags):
            closed.append(run.info.run_id)
            client().set_terminated(run.info.run_id, "KILLED")
    return closed


def is_dead(flow_run_id: str) -> bool:
    """Tell whether the process of a flow run, if it ran on this host, is gone."""
    found = _search(f"flow:{flow_run_id}")
    if not found or found[0].data.tags.get("etude.host") != socket.gethostname():
        return False
    return not _is_alive(found[0].data.tags)


def _is_alive(tags: Mapping[str, str]) -> bool:
    try:
        process = psutil.Process(int(tags["etude.pid"]))
        return str(process.create_time()) == tags["etude.started"]
    except (KeyError, psutil.NoSuchProcess):
        return False


def _owner() -> dict[str, str]:
    """Return whose run it is: the start time tells a process from a later one of the same pid."""
    return {
        "etude.pid": str(os.getpid()),
        "etude.started": str(psutil.Process().create_time()),
        "etude.host": socket.gethostname(),
    }


def _search(run_key: str) -> list[Any]:
    """Return the runs of a key, the newest first."""
    query = f"tags.`{RUN_KEY}` = '{run_key}'"
    order = ["attributes.start_time DESC"]
    return list(client().search_runs([experiment_id()], query, order_by=order))


def _open(run_key: str, name: str, tags: Mapping[str, str]) -> tuple[str, bool]:
    """Return the run to write to and whether it lacks its params: an unfinished one goes on.

    A finished stage that has to run again (its files were damaged) gets a run of its own: two
    trainings must not share one curve.
    """
    found = _search(run_key)
    is_flow = run_key.startswith("flow:")
    if found and (is_flow or found[0].info.status != "FINISHED"):
        run_id: str = found[0].info.run_id
        client().update_run(run_id, status="RUNNING")
        for tag, value in tags.items():
            client().set_tag(run_id, tag, value)
        return run_id, DESCRIBED not in found[0].data.tags
    repeat = {"etude.repeat": str(len(found) + 1)} if found else {}
    run = client().create_run(
        experiment_id(), run_name=name, tags={RUN_KEY: run_key, **tags, **repeat}
    )
    return run.info.run_id, True


def _log_params(run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    entries = [
        Param(_name(name), str(value)[:PARAM_CHARS]) for name, value in flatten(params).items()
    ]
    for start in range(0, len(entries), PARAMS_PER_CALL):
        client().log_batch(run_id, params=entries[start : start + PARAMS_PER_CALL])


def _log_inputs(run_id: str, inputs: Mapping[str, ArtifactRef]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    datasets = []
    for name, ref in inputs.items():
        source = json.dumps({"uri": ref.path.as_uri()})
        dataset = Dataset(str(ref), ref.digest[:DIGEST_CHARS], "local", source)
        datasets.append(DatasetInput(dataset, [InputTag("mlflow.data.context", name)]))
    if datasets:
        client().log_inputs(run_id, datasets=datasets)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one level of dotted names, lists by index."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
            flat |= flatten(
                {str(index): one for index, one in enumerate(value)}, f"{prefix}{name}."
            )
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _name(name: str) -> str:
    """Return a name MLflow takes: `recall@10` is refused by it, `recall_at_10` is not."""
    name = name.replace("@", "_at_")
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)[:240]
