"""A dump file -> documents as Parquet: the same rooms, without flow, server or store.

    OUT/documents.parquet   one row per article
    OUT/ledger.parquet      what was dropped, and why
    OUT/documents.jsonl     the same documents as lines of JSON, with jsonl=True

The dump is read where it lies. Half-done work is in OUT/.partial, part by part, and the same call
goes on with it, even after a kill. Nothing heavy is imported (no Prefect, no polars): a small dump
is done in a second or two.
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifact import Counts, artifact_key
from storage.errors import BadInput
from storage.files import sync_file
from storage.formats.schemas import DOCUMENTS, LEDGER
from storage.workspace import Workspace
from tasks.clean.config import CleanConfig
from tasks.clean.room import clean_parts
from tasks.extract.config import ExtractConfig
from tasks.extract.dump import packing_of
from tasks.extract.room import extract_files

Progress = Callable[[str, float, float | None, str], None]
REPETITIVE = ("wiki", "language", "kind", "variant", "reason")  # columns worth a dictionary


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
    if (out / "documents.parquet").exists():
        raise BadInput(f"{out} holds documents already; name another folder or delete it")
    state = dump.stat()
    config = {"extract": extract_config.key_dict(), "clean": clean_config.key_dict()}
    source = {"wiki": wiki, "language": language, "size": state.st_size, "time": state.st_mtime_ns}
    key = artifact_key("extract", 2, config | source, {"dump": str(dump.resolve())})
    partial = out / ".partial" / key  # of this dump and these settings, and no others

    def room(name: str, watch: Callable[[], None] = lambda: None) -> Workspace:
        def tell(done: float, total: float | None, unit: str) -> None:
            watch()
            progress(name, done, total, unit)

        return Workspace(partial / name, progress=tell, log=log)

    try:
        pages = room("pages")
        files = [(dump, dump.name)]
        seen = extract_files(files, extract_config, pages, wiki=wiki, language=language)
        parts = _parts(pages.path)
        made = [partial / "documents" / part.name for part in parts]
        with _Joined(partial / "documents.parquet", made, DOCUMENTS) as documents:
            cleaning = room("documents", documents.take_new)
            kept = clean_parts(parts, clean_config, cleaning, is_artifact=False).counts
            documents.take_new()
    except BadInput:
        shutil.rmtree(out / ".partial", ignore_errors=True)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        raise
    with _Joined(partial / "ledger.parquet", [*parts, *made], LEDGER) as ledger:
        ledger.take_new()
    names = ["ledger.parquet", "documents.parquet"]  # the last says that all is done
    if jsonl:
        _write_jsonl(made, partial / "documents.jsonl")
        names.insert(0, "documents.jsonl")
    for name in names:
        sync_file(partial / name)
        (partial / name).rename(out / name)
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
    with one_line_errors():
        wiki, language = _told(values["fetch"]) if "fetch" in values else (None, None)
        extract_config = ExtractConfig.model_validate(values.get("extract", {}))
        clean_config = CleanConfig.model_validate(values.get("clean", {}))
    return extract_config, clean_config, wiki, language


def _told(section: dict[str, Any]) -> tuple[str | None, str | None]:
    from tasks.fetch.config import Source

    source = Source.model_validate(section)
    return source.wiki, source.language


def _parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("part-*") if path.is_dir())


class _Joined:
    """The tables of parts as one file of their name, written while later parts are being made."""

    def __init__(self, path: Path, parts: Sequence[Path], schema: pa.Schema) -> None:
        self._waiting = deque(part / path.name for part in parts)
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=[name for name in schema.names if name in REPETITIVE],
        )

    def take_new(self) -> None:
        """Append what is there by now, in order, a row group in memory at a time."""
        while self._waiting and self._waiting[0].exists():  # a part appears whole
            with pq.ParquetFile(self._waiting.popleft()) as file:
                for group in range(file.num_row_groups):
                    self._writer.write_table(file.read_row_group(group))

    def __enter__(self) -> _Joined:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()


def _write_jsonl(parts: Iterable[Path], path: Path) -> None:
    """Write documents as lines of JSON."""
    with path.open("w", encoding="utf-8") as lines:
        for part in parts:
            with pq.ParquetFile(part / "documents.parquet") as file:
                for batch in file.iter_batches(64):
                    for row in batch.to_pylist():
                        plain = row | {"facts": dict(row["facts"] or [])}
                        lines.write(json.dumps(plain, ensure_ascii=False) + "\n")
