"""Parts of pages -> parts of documents, side by side; runs without Prefect, server or store."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

from storage.artifact import Counts
from storage.errors import BadInput
from storage.files import read_json
from storage.formats.table import num_rows
from storage.workspace import PART, Workspace
from tasks.clean.config import CleanConfig
from tasks.clean.incremental import STATS, Predecessor
from tasks.clean.part import CleanJob, clean_part
from tasks.clean.plan import load_site, make_plan, plan_aliases
from tasks.parallel import Workers, build_parts


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What came of it: all parts, those of them made now, and the run that rows came from."""

    counts: Counts
    made: Counts
    predecessor: Predecessor | None


def clean_parts(
    parts: Sequence[Path],
    config: CleanConfig,
    workspace: Workspace,
    *,
    is_artifact: bool = True,
    workers: Workers | None = None,
) -> Cleaning:
    """Clean folders of pages into parts of the same names; those that are there stay.

    Parts that no report and no later run will read (`is_artifact=False`) are made without what
    only these need. `workers` are used in place of new ones.
    """
    plan = make_plan(parts, config, workspace)
    stats = workspace.path / STATS
    stats.mkdir(parents=True, exist_ok=True)
    jobs = {
        part.name: CleanJob(part, aliases, stats / f"{part.name}.json", plan, config, is_artifact)
        for part, aliases in zip(parts, plan_aliases(plan, parts), strict=True)
    }
    sizes = {part.name: float(num_rows([part / "pages.parquet"])) for part in parts}
    is_new = [not (workspace.path / name / PART).exists() for name in jobs]
    side_by_side = workers or config.workers
    counts = build_parts(workspace, clean_part, jobs, side_by_side, sizes=sizes, unit="pages")
    for name in compress(jobs, is_new):
        note = read_json(stats / f"{name}.json")["note"]
        if note:
            workspace.log(f"{name}: {note}")
    load_site.cache_clear()
    shutil.rmtree(plan.folder)
    total = Counts.total(counts)
    if not total.kept:
        raise BadInput(
            f"no document is left of {total.seen:,} pages, {dict(total.dropped)}; "
            "lower clean.min_chars or give another dump"
        )
    return Cleaning(total, Counts.total(compress(counts, is_new)), plan.predecessor)
