"""A dump file -> documents as Parquet: the same rooms, without flow, server or store.

    OUT/documents.parquet   one row per article
    OUT/ledger.parquet      what was dropped, and why
    OUT/documents.jsonl     the same, with jsonl=True

Half-done work lies in OUT/.partial, and the same call goes on with it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from flows.recipe import merge, nested, one_line_errors
from storage.artifact import ArtifactRef, Counts, artifact_key
from storage.errors import BadInput
from storage.files import replacing
from storage.formats.schemas import DOCUMENTS, LEDGER
from storage.formats.table import read_rows, write_table
from storage.workspace import Workspace
from tasks.clean.config import CleanConfig
from tasks.clean.task import clean
from tasks.extract.config import ExtractConfig
from tasks.extract.task import extract
from tasks.fetch.config import FileSource
from tasks.fetch.sources import identity
from tasks.fetch.task import fetch

Progress = Callable[[str, float, float | None, str], None]


def extract_documents(
    dump: Path, out: Path, overrides: list[str], *, jsonl: bool = False, progress: Progress
) -> Counts:
    """Write the documents of a dump into the folder `out`; return the ledger of all its pages."""
    values: dict[str, object] = {}
    for override in overrides:
        values = merge(values, nested(override))
    unknown = set(values) - {"fetch", "extract", "clean"}
    if unknown:
        raise BadInput(f"{unknown.pop()} is no section here; use fetch, extract or clean")
    with one_line_errors():
        source = FileSource.model_validate({"path": dump, **_section(values, "fetch")})
        extract_config = ExtractConfig.model_validate(_section(values, "extract"))
        clean_config = CleanConfig.model_validate(_section(values, "clean"))
    if (out / "documents.parquet").exists():
        raise BadInput(f"{out} holds documents already; name another folder or delete it")

    config = {"extract": extract_config.key_dict(), "clean": clean_config.key_dict()}
    key = artifact_key("extract", 1, config, {"dump": identity(source)})
    partial = out / ".partial" / key  # of this dump and these settings, and no others

    def room(name: str) -> Workspace:
        def tell(done: float, total: float | None, unit: str) -> None:
            progress(name, done, total, unit)

        return Workspace(partial / name, progress=tell)

    try:
        fetch.run(config=source, workspace=room("dump"))
        pages = extract.run(
            dump=_ref("dump", partial), config=extract_config, workspace=room("pages")
        )
        documents = clean.run(
            pages=_ref("pages", partial), config=clean_config, workspace=room("documents")
        )
    except BadInput:
        shutil.rmtree(out / ".partial", ignore_errors=True)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        raise
    made = _ref("documents", partial)
    ledgers = [*_ref("pages", partial).files("ledger.parquet"), *made.files("ledger.parquet")]
    with replacing(out / "ledger.parquet") as path:
        write_table(path, read_rows(ledgers), LEDGER)
    if jsonl:
        with replacing(out / "documents.jsonl") as path, path.open("w", encoding="utf-8") as file:
            for row in read_rows(made.files("documents.parquet")):
                plain = row | {"facts": dict(row["facts"] or [])}
                file.write(json.dumps(plain, ensure_ascii=False) + "\n")
    with replacing(out / "documents.parquet") as path:
        write_table(path, read_rows(made.files("documents.parquet")), DOCUMENTS, 1024)
    shutil.rmtree(out / ".partial")
    dropped = Counts.total([pages, documents]).dropped
    return Counts(pages.seen, documents.kept, dropped, documents.rows_out)


def _section(values: dict[str, object], name: str) -> dict[str, object]:
    section = values.get(name, {})
    if not isinstance(section, dict):
        raise BadInput(f"{name}={section!r} is not a setting; write {name}.field=value")
    return section


def _ref(kind: str, partial: Path) -> ArtifactRef:
    return ArtifactRef(kind, kind, "", partial / kind)
