"""documents -> corpus: no copies, few bot stubs, and a split that hardly moves."""

from __future__ import annotations

from storage.artifact import ArtifactRef, Counts
from storage.workspace import Workspace
from tasks.dedup.config import DedupConfig
from tasks.dedup.pipeline import build_corpus
from tasks.stage import stage


@stage("dedup", version=2, kind="corpus")
def dedup(documents: list[ArtifactRef], config: DedupConfig, workspace: Workspace) -> Counts:
    """Drop copies, near-copies and noise over all wikis, and split the rest in two sides."""
    paths = [path for ref in documents for path in ref.files("documents.parquet")]
    return build_corpus(paths, config, workspace)
