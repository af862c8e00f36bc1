"""source -> dump: one file, wherever it came from, and a note that says which wiki it is."""

from __future__ import annotations

import shutil

from storage.artifact import Counts
from storage.files import replacing, write_json
from storage.workspace import Workspace
from tasks.fetch.config import FetchConfig, UrlSource
from tasks.fetch.download import download
from tasks.fetch.sources import dump_name, file_name, identity, local_path
from tasks.stage import stage


@stage("fetch", version=1, kind="dump", identity=identity)
def fetch(config: FetchConfig, workspace: Workspace) -> Counts:
    """Copy or download the dump to `dump.xml` (and its packing's ending); write `source.json`."""
    name = file_name(config)
    target = workspace.path / dump_name(name)
    if isinstance(config, UrlSource):
        download(
            config.url,
            target,
            contact=config.contact,
            sha1=config.sha1,
            progress=workspace.progress,
            log=workspace.log,
        )
    else:
        with replacing(target) as temporary:
            shutil.copyfile(local_path(config), temporary)
    source = {"wiki": config.wiki, "language": config.language, "name": name}
    write_json(workspace.path / "source.json", source)
    return Counts(seen=1, kept=1, metrics={"bytes": target.stat().st_size})
