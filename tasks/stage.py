"""How a stage runs, in one place: key -> reuse or run -> workspace -> commit -> report.

    @stage("clean", version=1, kind="documents")
    def clean(pages: ArtifactRef, config: CleanConfig, workspace: Workspace) -> Counts: ...

    documents = clean(pages=ref, config=config)     # in a flow: a Prefect task, an ArtifactRef out
    clean.run(pages=ref, config=config, workspace=Workspace.scratch(folder))      # plain Python

The store, and nothing else, decides whether a stage runs: Prefect's own cache stays off, so a
retry, a new run and a run in another process all reuse the same finished artifacts. A reused
stage is the Prefect state `Reused`. Its task is called directly, never submitted: a cancelled
flow must reach the training child (docs of the measured reasons: orchestration study, §1 and §2).
"""

from __future__ import annotations

import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as package_version
from typing import Any, Protocol

from tasks.environment import prepare

prepare()

from prefect import task  # noqa: E402
from prefect.artifacts import (  # noqa: E402
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.logging import get_run_logger  # noqa: E402
from prefect.states import Completed, State  # noqa: E402

from storage.artifact import ArtifactRef, Counts, Manifest, artifact_key  # noqa: E402
from storage.config import Config  # noqa: E402
from storage.errors import BadInput  # noqa: E402
from storage.store import Store  # noqa: E402
from storage.workspace import Workspace  # noqa: E402
from tasks import tracking  # noqa: E402
from tasks.report import report_markdown  # noqa: E402

Inputs = Mapping[str, ArtifactRef | list[ArtifactRef]]
ARTIFACT_UPDATE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class StageResult:
    """One row of a run's summary."""

    stage: str
    label: str
    reused: bool
    ref: ArtifactRef
    manifest: Manifest
    seconds: float


class Listener(Protocol):
    """Whoever watches a run: the live lines of the terminal, or a test."""

    def started(self, stage: str, label: str) -> None:
        """A stage begins to look for its artifact."""

    def progress(self, stage: str, label: str, done: float, total: float | None, unit: str) -> None:
        """A running stage got further."""

    def log(self, stage: str, label: str, message: str) -> None:
        """A running stage says something."""

    def finished(self, result: StageResult) -> None:
        """A stage's artifact is there."""

    def failed(self, stage: str, label: str, error: BaseException) -> None:
        """A stage could not make its artifact."""


_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("etude_listeners", default=())


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let a listener hear every stage that runs within the block."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


class Stage:
    """A room's function with a key, a Prefect task around it, and a memory."""

    def __init__(
        self,
        run: Callable[..., Counts],
        name: str,
        version: int,
        kind: str,
        identity: Callable[[Any], str] | None,
        tags: tuple[str, ...],
    ) -> None:
        self.run = run
        self.name = name
        self.version = version
        self.kind = kind
        self.identity = identity
        self.__doc__ = run.__doc__
        self._task = task(
            name=name,
            description=(run.__doc__ or "").strip().split("\n")[0],
            task_run_name="{title}",
            cache_policy=NO_CACHE,
            persist_result=False,
            tags=tags,
        )(self._run_task)

    def __call__(
        self, *, config: Config, label: str = "", **inputs: ArtifactRef | list[ArtifactRef]
    ) -> ArtifactRef:
        """Return the stage's artifact: found in the store, or made now. Needs Prefect's API."""
        title = f"{self.name} {label}".strip()
        state: State[Any] = self._task(
            title=title, label=label, config=config, inputs=inputs, return_state=True
        )
        ref: ArtifactRef = state.result()
        return ref

    def key(self, config: Config, inputs: Inputs) -> str:
        """Return the key of what the stage would write."""
        values = config.key_dict()
        if self.identity:
            values = values | {"identity": self.identity(config)}
        digests = {name: ref.digest for name, ref in _flat(inputs).items()}
        return artifact_key(self.name, self.version, values, digests)

    def _run_task(
        self, title: str, label: str, config: Config, inputs: Inputs
    ) -> State[ArtifactRef]:
        for listener in _listeners.get():
            listener.started(self.name, label)
        try:
            result = self._find_or_make(label, config, inputs)
        except BaseException as error:
            for listener in _listeners.get():
                listener.failed(self.name, label, error)
            raise
        for listener in _listeners.get():
            listener.finished(result)
        counts = result.manifest.counts
        message = f"{result.ref}: {counts.seen:,} rows in, {counts.rows_out:,} out"
        return Completed(
            name="Reused" if result.reused else "Completed", message=message, data=result.ref
        )

    def _find_or_make(self, label: str, config: Config, inputs: Inputs) -> StageResult:
        began = time.monotonic()
        store = Store()
        logger = get_run_logger()
        key = self.key(config, inputs)
        ref = store.find(self.kind, key)
        if ref is None:
            voice = _Voice(self.name, label, logger.info)
            predecessors = partial(
                store.predecessors,
                self.kind,
                stage=self.name,
                version=self.version,
                config=config.key_dict(),
                log=voice.log,
            )
            with store.building(
                self.kind, key, progress=voice.progress, log=voice.log, predecessors=predecessors
            ) as workspace:
                ref = store.find(self.kind, key)  # another run may have made it while we waited
                if ref is None:
                    ref = self._make(store, workspace, label, config, inputs)
                    _report(self.name, label, ref, store.manifest(ref))
                    voice.end()
                    manifest = store.manifest(ref)
                    seconds = time.monotonic() - began
                    return StageResult(self.name, label, False, ref, manifest, seconds)
        store.touch(ref)
        manifest = store.manifest(ref)
        tracking.link_reused(self.name, label, ref, manifest)
        return StageResult(self.name, label, True, ref, manifest, time.monotonic() - began)

    def _make(
        self, store: Store, workspace: Workspace, label: str, config: Config, inputs: Inputs
    ) -> ArtifactRef:
        key = workspace.path.stem
        began = time.monotonic()
        flat = _flat(inputs)
        with tracking.stage_run(self.name, label, key, config.key_dict(), flat) as run:
            try:
                counts = self.run(**inputs, config=config, workspace=workspace)
            except BadInput:
                _discard(workspace)
                raise
            ref = store.commit(
                workspace,
                stage=self.name,
                version=self.version,
                config=config.key_dict(),
                inputs=flat,
                counts=counts,
                seconds=time.monotonic() - began,
                links={"mlflow_run_id": run.run_id},
                environment=_environment(),
            )
            run.finish(ref, store.manifest(ref))
        return ref


def stage(
    name: str,
    *,
    version: int,
    kind: str,
    identity: Callable[[Any], str] | None = None,
    tags: tuple[str, ...] = (),
) -> Callable[[Callable[..., Counts]], Stage]:
    """Make a stage of a room's function.

    `version` goes up whenever the same inputs and config would give other bytes. `identity` names
    what else decides the output and only the world knows (the contents of a user's file).
    """

    def wrap(run: Callable[..., Counts]) -> Stage:
        return Stage(run, name, version, kind, identity, tags)

    return wrap


class _Voice:
    """Carries a stage's progress and log lines to the listeners and to the Prefect page."""

    def __init__(self, stage: str, label: str, info: Callable[[str], None]) -> None:
        self.stage, self.label, self.info = stage, label, info
        self.artifact: Any = create_progress_artifact(
            progress=0.0,
            key=_slug(f"{stage}-{label}-progress"),
            description=f"How far `{stage} {label}` is".replace(" `", "`"),
        )
        self.updated = time.monotonic()

    def progress(self, done: float, total: float | None, unit: str) -> None:
        for listener in _listeners.get():
            listener.progress(self.stage, self.label, done, total, unit)
        now = time.monotonic()
        if total and now - self.updated >= ARTIFACT_UPDATE_SECONDS:
            self.updated = now
            update_progress_artifact(self.artifact, progress=min(100.0, 100.0 * done / total))
            self.info(f"{done:,.0f} of {total:,.0f} {unit}")

    def log(self, message: str) -> None:
        self.info(message)
        for listener in _listeners.get():
            listener.log(self.stage, self.label, message)

    def end(self) -> None:
        update_progress_artifact(self.artifact, progress=100.0)


def _report(stage: str, label: str, ref: ArtifactRef, manifest: Manifest) -> None:
    """Leave the stage's report and a link to its MLflow run on the Prefect page."""
    slug = _slug(f"{stage}-{label}")
    create_markdown_artifact(report_markdown(ref, manifest), key=f"{slug}-report")
    link = tracking.run_url(manifest.links.get("mlflow_run_id", ""))
    if link:
        create_link_artifact(link, link_text="MLflow run", key=f"{slug}-mlflow")


def _flat(inputs: Inputs) -> dict[str, ArtifactRef]:
    """Return every input by name; the members of a list as `name.0`, `name.1`."""
    flat: dict[str, ArtifactRef] = {}
    for name, value in inputs.items():
        if isinstance(value, list):
            flat |= {f"{name}.{index}": ref for index, ref in enumerate(value)}
        else:
            flat[name] = value
    return flat


def _discard(workspace: Workspace) -> None:
    """Leave nothing of a stage whose input was refused, but hours of work that can go on."""
    if any(any(workspace.path.glob(work)) for work in ("steps/step_*", "*.part", "dump*")):
        return
    shutil.rmtree(workspace.path, ignore_errors=True)


def _environment() -> dict[str, str]:
    return {"python": platform.python_version(), "etude": package_version("etude")}


def _slug(text: str) -> str:
    """Return an artifact key as Prefect wants it: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


__all__ = ["Listener", "Stage", "StageResult", "listening", "stage"]
