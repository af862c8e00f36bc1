"""source -> dump: its files, wherever they came from, and a note that says which wiki it is.

source.json                  wiki, language, name, date, files: [{path, name}]
dump.xml.bz2                 a dump of one file, or
dump-00001.xml.bz2, …        a dump of several, by their page ranges
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from storage.artifact import Counts
from storage.files import replacing, write_json
from storage.workspace import Workspace
from tasks.fetch.config import FetchConfig, ServerSource, WikiSource
from tasks.fetch.download import RemoteFile, check_space, download
from tasks.fetch.sources import dump_files, identity, packing
from tasks.stage import stage


@stage("fetch", version=3, kind="dump", identity=identity)
def fetch(config: FetchConfig, workspace: Workspace) -> Counts:
    """Copy or download the dump's files; write `source.json`."""
    files = dump_files(config)
    date = None
    if isinstance(config, WikiSource):
        date = config.dump.date
        for day in config.dump.unfinished:
            workspace.log(f"{config.wiki} {day}: not finished, passed over")
        workspace.log(f"{config.wiki} {date}: {len(files)} files")
    wanted: dict[Path, Path | RemoteFile] = {}
    entries: list[dict[str, str]] = []
    for number, file in enumerate(files, 1):
        stem = "dump" if len(files) == 1 else f"dump-{number:05d}"
        path = f"{stem}.xml{packing(file.name)}"
        wanted[workspace.path / path] = file.origin
        entries.append({"path": path, "name": file.name})
    contact = config.contact if isinstance(config, ServerSource) else ""
    _bring(wanted, contact, workspace)
    source = {"wiki": config.wiki, "language": config.language, "name": files[0].name}
    write_json(workspace.path / "source.json", source | {"date": date, "files": entries})
    num_bytes = sum(path.stat().st_size for path in wanted)
    return Counts(len(files), len(files), metrics={"bytes": num_bytes})


def _bring(wanted: Mapping[Path, Path | RemoteFile], contact: str, workspace: Workspace) -> None:
    """Copy what lies on this machine, download the rest."""
    local = {target: origin for target, origin in wanted.items() if isinstance(origin, Path)}
    check_space(workspace.path, sum(origin.stat().st_size for origin in local.values()))
    for target, origin in local.items():
        with replacing(target) as temporary:
            shutil.copyfile(origin, temporary)
    remote = {target: file for target, file in wanted.items() if isinstance(file, RemoteFile)}
    download(remote, contact=contact, progress=workspace.progress, log=workspace.log)
