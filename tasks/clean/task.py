"""pages -> documents: wikitext becomes clean text."""

from __future__ import annotations

import time
from dataclasses import replace

from storage.artifact import ArtifactRef, Counts
from storage.workspace import Workspace
from tasks.clean.config import CleanConfig
from tasks.clean.report import run_metrics, write_report
from tasks.clean.room import clean_parts
from tasks.stage import stage


@stage("clean", version=4, kind="documents")
def clean(pages: ArtifactRef, config: CleanConfig, workspace: Workspace) -> Counts:
    """Clean every part of the pages into a part of the same name; report on the whole.

    Pages that an earlier run of the same wiki and cleaner knows unchanged are copied from it.
    """
    began = time.monotonic()
    parts = [file.parent for file in pages.files("pages.parquet")]
    done = clean_parts(parts, config, workspace)
    seconds = time.monotonic() - began
    metrics = run_metrics(workspace.path, done.predecessor, done.made, seconds)
    counts = replace(done.counts, metrics={**done.counts.metrics, **metrics})
    write_report(workspace, pages, counts)
    return counts
