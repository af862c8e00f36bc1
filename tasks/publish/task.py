"""checkpoint + report -> release: what others load; a better one becomes champion."""

from __future__ import annotations

from storage.artifact import ArtifactRef, Counts
from storage.files import read_json, write_json
from storage.workspace import Workspace
from tasks import tracking
from tasks.publish.config import PublishConfig
from tasks.publish.registry import register_release
from tasks.publish.release import write_release
from tasks.stage import stage


@stage("publish", version=2, kind="release")
def publish(
    checkpoint: ArtifactRef, report: ArtifactRef, config: PublishConfig, workspace: Workspace
) -> Counts:
    """Export the checkpoint with its report and, within a tracked run, register the release."""
    release = write_release(
        checkpoint.path,
        report.path,
        workspace.path,
        checkpoint_digest=checkpoint.digest,
        config=config,
    )
    run = tracking.current()
    if config.register_model and run is not None:
        verdict = register_release(
            workspace.path,
            read_json(report.path / "report.json"),
            model_name=config.model_name,
            run_id=run.run_id,
            tracking_uri=tracking.uri(),
        )
        write_json(workspace.logs / "registry.json", verdict)
        place = "is the champion" if verdict["champion"] else "is not the champion"
        version = f"{config.model_name} version {verdict['version']}"
        workspace.log(f"{version} {place}: {verdict['why']}")
    return Counts(1, 1, rows=len(release["files"]), metrics=dict(release["metrics"]))
