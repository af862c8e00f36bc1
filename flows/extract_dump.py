"""A dump file -> documents as Parquet: the same rooms, without flow, server or store.

    OUT/documents/part-00000.parquet …   one row per article, in the dump's order
    OUT/ledger.parquet                   what was dropped, and why
    OUT/documents.jsonl                  the same documents as lines of JSON, with jsonl=True

The dump is read where it lies. Half-done work is in OUT/.partial, part by part, and the same call
goes on with it, even after a kill. Nothing heavy is imported (no Prefect, no polars): a small dump
is done in a second or two.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from functools import partial as bind
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifact import Counts, artifact_key
from storage.errors import BadInput
from storage.files import sync_file
from storage.formats.schemas import LEDGER
from storage.formats.table import read_rows
from storage.workspace import Workspace
from tasks.clean.config import CleanConfig
from tasks.clean.room import clean_parts
from tasks.extract.config import ExtractConfig
from tasks.extract.dump import packing_of
from tasks.extract.room import extract_files
from tasks.parallel import Workers

Progress = Callable[[str, float, float | None, str], None]


def extract_documents(
    dump: Path,
    out: Path,
    overrides: list[str],
    *,
    jsonl: bool = False,
    progress: Progress,
    log: Callable[[str], None] = lambda message: None,
) -> Counts:
    """Write the documents of a dump into the folder `out`; return the ledger of all its pages."""
    extract_config, clean_config, wiki, language = _settings(overrides)
    packing_of(dump)  # what is no file, or empty, is refused before anything is made
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file; name a folder to write documents into")
    if (out / "documents").exists():
        raise BadInput(f"{out} holds documents already; name another folder or delete it")
    state = dump.stat()
    config = {"extract": extract_config.key_dict(), "clean": clean_config.key_dict()}
    source = {"wiki": wiki, "language": language, "size": state.st_size, "time": state.st_mtime_ns}
    key = artifact_key("extract", 2, config | source, {"dump": str(dump.resolve())})
    partial = out / ".partial" / key  # of this dump and these settings, and no others

    def room(name: str) -> Workspace:
        return Workspace(partial / name, progress=bind(progress, name), log=log)

    try:
        pages, documents = room("pages"), room("documents")
        with Workers(extract_config.workers) as workers:
            files, told = [(dump, dump.name)], {"wiki": wiki, "language": language}
            seen = extract_files(files, extract_config, pages, **told, workers=workers)
            parts = _parts(pages.path)
            same = clean_config.workers == extract_config.workers
            shared = workers if same else None
            cleaned = clean_parts(parts, clean_config, documents, is_artifact=False, workers=shared)
    except BadInput:
        shutil.rmtree(out / ".partial", ignore_errors=True)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        raise
    kept, made = cleaned.counts, _parts(documents.path)
    finished = _gather(made, partial / "finished")
    ledgers = [part / "ledger.parquet" for part in (*parts, *made)]
    _join(ledgers, partial / "ledger.parquet", LEDGER)
    names = ["ledger.parquet"]
    if jsonl:
        _write_jsonl(finished, partial / "documents.jsonl")
        names.append("documents.jsonl")
    for name in names:
        sync_file(partial / name)
        (partial / name).rename(out / name)
    (partial / "finished").rename(out / "documents")  # says that all is done
    shutil.rmtree(out / ".partial")
    dropped = Counts.total([seen, kept]).dropped
    return Counts(seen.seen, kept.kept, dropped, kept.rows_out)


def _settings(
    overrides: list[str],
) -> tuple[ExtractConfig, CleanConfig, str | None, str | None]:
    """Return the rooms' configs, and the wiki and language if they are told."""
    if not overrides:
        return ExtractConfig(), CleanConfig(), None, None
    from flows.overrides import merge, nested, one_line_errors

    values: dict[str, Any] = {}
    for override in overrides:
        values = merge(values, nested(override))
    for name, section in values.items():
        if name not in ("fetch", "extract", "clean"):
            raise BadInput(f"{name} is no section here; use fetch, extract or clean")
        if not isinstance(section, dict):
            raise BadInput(f"{name}={section!r} is not a setting; write {name}.field=value")
    with one_line_errors(ExtractConfig, "extract"):
        extract_config = ExtractConfig.model_validate(values.get("extract", {}))
    with one_line_errors(CleanConfig, "clean"):
        clean_config = CleanConfig.model_validate(values.get("clean", {}))
    wiki, language = _told(values["fetch"]) if "fetch" in values else (None, None)
    return extract_config, clean_config, wiki, language


def _told(section: dict[str, Any]) -> tuple[str | None, str | None]:
    from flows.overrides import one_line_errors
    from tasks.fetch.config import Source

    with one_line_errors(Source, "fetch"):
        source = Source.model_validate(section)
    return source.wiki, source.language


def _parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("part-*") if path.is_dir())


def _gather(parts: Iterable[Path], folder: Path) -> list[Path]:
    """Move the documents of the parts into one folder; what a stopped run moved is there."""
    folder.mkdir(exist_ok=True)
    for part in parts:
        if (part / "documents.parquet").exists():
            (part / "documents.parquet").rename(folder / f"{part.name}.parquet")
    return sorted(folder.iterdir())


def _join(files: Iterable[Path], path: Path, schema: pa.Schema) -> None:
    """Write the rows of several tables into one, a row group in memory at a time."""
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=3) as writer:
        for name in files:
            with pq.ParquetFile(name) as file:
                for group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(group))


def _write_jsonl(files: Iterable[Path], path: Path) -> None:
    """Write documents as lines of JSON."""
    with path.open("w", encoding="utf-8") as lines:
        for row in read_rows(files):
            plain = row | {"facts": dict(row["facts"] or [])}
            lines.write(json.dumps(plain, ensure_ascii=False) + "\n")
