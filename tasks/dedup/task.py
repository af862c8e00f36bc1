"""documents -> corpus: one copy of every text, and a split that never moves."""

from __future__ import annotations

from functools import partial

from storage.artifact import ArtifactRef, Counts
from storage.workspace import Workspace
from tasks.dedup.config import DedupConfig
from tasks.dedup.corpus import plan_corpus, write_part
from tasks.stage import stage


@stage("dedup", version=1, kind="corpus")
def dedup(documents: list[ArtifactRef], config: DedupConfig, workspace: Workspace) -> Counts:
    """Drop copies over all wikis and split the pages into train and validation."""
    paths = [path for ref in documents for path in ref.files("documents.parquet")]
    plan = plan_corpus(paths, validation_share=config.validation_share, salt=config.salt)
    parts = []
    for number, path in enumerate(paths):
        own = plan.filter(plan["file"] == number)
        parts.append(workspace.part(f"part-{number:05d}", partial(write_part, path, own)))
        workspace.progress(number + 1, len(paths), "files")
    return Counts.total(parts)
