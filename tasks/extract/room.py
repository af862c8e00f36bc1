"""The files of a dump -> parts of pages, side by side; runs without Prefect, server or store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from storage.artifact import Counts
from storage.errors import BadInput
from storage.files import replacing
from storage.workspace import Workspace
from tasks.extract.config import ExtractConfig
from tasks.extract.dump import CHUNK, DumpFile
from tasks.extract.pages import (
    Split,
    Wanted,
    extract_split,
    identify,
    read_site,
    refuse_nothing,
)
from tasks.extract.splits import plan_splits
from tasks.parallel import Workers, build_parts, usable_cores


def extract_files(
    files: Sequence[tuple[Path, str]],
    config: ExtractConfig,
    workspace: Workspace,
    *,
    wiki: str | None = None,
    language: str | None = None,
    workers: Workers | None = None,
) -> Counts:
    """Write the pages of a dump's files, each with the name the user knows it by, as parts.

    `wiki` and `language` win over the headers. What cannot be cut is unpacked into the workspace
    first, and deleted when all parts are there. `workers` are used in place of new ones.
    """
    splits: list[Split] = []
    unpacked: list[Path] = []
    known: tuple[str, str] | None = None
    for path, name in files:
        site = read_site(path, name)
        known = known or identify(site, name, wiki, language)
        place = path
        if plan_splits(path, config.split_bytes) is None:
            place = _unpack(path, name, len(unpacked), config, workspace)
            unpacked.append(place)
        for start, end in plan_splits(place, config.split_bytes) or []:
            splits.append(Split(place, name, start, end, site, *known, Wanted.of(config)))
    jobs = {f"part-{number:05d}": split for number, split in enumerate(splits)}
    # The ends of the files first: a dump that ends early is refused at once, not after hours.
    first = sorted(jobs, key=lambda part: not jobs[part].is_last)
    sizes = {part: split.end - split.start for part, split in jobs.items()}
    parts = build_parts(
        workspace,
        extract_split,
        {part: jobs[part] for part in first},
        workers or config.workers,
        sizes=sizes,
        unit="bytes",
    )
    counts = Counts.total(parts)
    refuse_nothing(counts, files[0][1])
    for place in unpacked:
        place.unlink()
    if counts.metrics.get("truncated"):
        workspace.log(f"{files[-1][1]} ends early; {counts.seen:,} pages were found")
    elif counts.metrics.get("unclosed"):
        workspace.log(f"{files[-1][1]} has no closing tag; it ends with a whole page")
    return counts


def _unpack(
    path: Path, name: str, number: int, config: ExtractConfig, workspace: Workspace
) -> Path:
    """Write the XML of a file that cannot be cut into one that can."""
    target = workspace.path / f"unpacked-{number:05d}.xml"
    if target.exists():
        return target
    cores = config.workers or usable_cores()
    with (
        replacing(target) as temporary,
        temporary.open("wb") as file,
        DumpFile(path, name, cores=cores) as dump,
    ):
        while piece := dump.read(CHUNK):
            file.write(piece)
            workspace.progress(dump.share, 1.0, "unpacked")
        if dump.is_torn and not config.allow_truncated:
            raise BadInput(
                f"the dump {name} ends early; download or copy it again, or "
                "extract.allow_truncated=true keeps what is whole"
            )
    return target
