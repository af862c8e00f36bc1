"""dump -> pages: the XML of a dump becomes one row per page."""

from __future__ import annotations

from pathlib import Path

from storage.artifact import ArtifactRef, Counts
from storage.errors import BadInput
from storage.files import read_json
from storage.workspace import Workspace
from tasks.extract.config import ExtractConfig
from tasks.extract.room import extract_files
from tasks.stage import stage


@stage("extract", version=3, kind="pages")
def extract(dump: ArtifactRef, config: ExtractConfig, workspace: Workspace) -> Counts:
    """Write the dump's pages, redirects, templates, ledger and header, a part per range."""
    source = read_json(dump.path / "source.json")
    return extract_files(
        dump_files(dump.path, source),
        config,
        workspace,
        wiki=source["wiki"],
        language=source["language"],
    )


def dump_files(folder: Path, source: dict[str, object]) -> list[tuple[Path, str]]:
    """Return the files of a dump artifact, each with the name the user knows it by."""
    named = source.get("files")
    if isinstance(named, list):
        return [(folder / one["path"], one["name"]) for one in named]
    found = sorted(folder.glob("dump.xml*"))
    if len(found) != 1:
        raise BadInput(f"{folder} holds {len(found)} dump files, not one; run fetch again")
    return [(found[0], str(source["name"]))]
