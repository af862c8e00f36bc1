"""dump -> pages: the XML of a dump becomes one row per page."""

from __future__ import annotations

from pathlib import Path

from storage.artifact import ArtifactRef, Counts
from storage.errors import BadInput
from storage.files import read_json
from storage.workspace import Workspace
from tasks.extract.config import ExtractConfig
from tasks.extract.pages import extract_dump
from tasks.stage import stage


@stage("extract", version=1, kind="pages")
def extract(dump: ArtifactRef, config: ExtractConfig, workspace: Workspace) -> Counts:
    """Write the dump's pages, redirects, ledger and header as one part."""
    source = read_json(dump.path / "source.json")

    def build(folder: Path) -> Counts:
        return extract_dump(
            dump_file(dump.path),
            folder,
            config,
            wiki=source["wiki"],
            language=source["language"],
            name=source["name"],
            progress=workspace.progress,
            log=workspace.log,
        )

    return workspace.part("part-00000", build)


def dump_file(folder: Path) -> Path:
    """Return the one dump file of a dump artifact."""
    found = sorted(folder.glob("dump.xml*"))
    if len(found) != 1:
        raise BadInput(f"{folder} holds {len(found)} dump files, not one; run fetch again")
    return found[0]
