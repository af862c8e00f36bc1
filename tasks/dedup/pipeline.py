"""documents -> corpus in three readings of the texts, without Prefect.

    index     each file by itself                        index.py, in workers
    decide    over the indexes of all files              decide.py -> plan.py
    write     each file by itself, as the plan says      corpus.py, in workers

What the first two write is gone at the end, and made anew when a run that was killed goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from storage.artifact import Counts
from storage.workspace import Workspace
from tasks.dedup.config import DedupConfig
from tasks.dedup.corpus import PartJob, write_part
from tasks.dedup.decide import make_plan
from tasks.dedup.index import index_documents
from tasks.dedup.plan import write_plans
from tasks.parallel import Workers, build_parts


def build_corpus(paths: Sequence[Path], config: DedupConfig, workspace: Workspace) -> Counts:
    """Write a part of the corpus for each file of documents; return the ledger of all."""
    names = [f"part-{number:05d}" for number in range(len(paths))]
    with (
        TemporaryDirectory(prefix="plan-", suffix=".tmp", dir=workspace.path) as folder,
        Workers(config.workers) as workers,
    ):
        scratch = Workspace(Path(folder), progress=workspace.progress, log=workspace.log)
        by_name = dict(zip(names, paths, strict=True))
        build_parts(scratch, index_documents, by_name, workers, unit="files indexed")
        indexed = [scratch.path / name for name in names]
        verdicts = [one / "plan.parquet" for one in indexed]
        write_plans(make_plan(paths, indexed, config, scratch.path), verdicts)
        jobs = {name: PartJob(*job) for name, *job in zip(names, paths, verdicts, strict=True)}
        return Counts.total(build_parts(workspace, write_part, jobs, workers, unit="files"))
