"""Small real artifacts for the rooms after `clean`, made without a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.artifact import ArtifactRef
from storage.formats.schemas import CORPUS, DIALOGUES, DOCUMENTS, PAIRS, PASSAGES
from storage.formats.table import write_table
from storage.workspace import Workspace

SCHEMAS: dict[str, pa.Schema] = {
    "documents": DOCUMENTS,
    "corpus": CORPUS,
    "passages": PASSAGES,
    "pairs": PAIRS,
    "dialogues": DIALOGUES,
}
Rows = Iterable[dict[str, Any]]
MakeArtifact = Callable[..., ArtifactRef]


def document(
    page_id: int, text: str, *, wiki: str = "enwiki", title: str = "", **more: Any
) -> dict[str, Any]:
    """Return a row of documents; sections are found by their Markdown heading lines."""
    title = title or f"Page {page_id}"
    starts = [0] + [at + 2 for at in range(len(text)) if text.startswith("\n\n## ", at)]
    ends = [*starts[1:], len(text)]
    sections = [
        {
            "level": 2 if text.startswith("## ", start) else 1,
            "title": text[start + 3 :].split("\n")[0] if text.startswith("## ", start) else title,
            "start": start,
            "end": end,
        }
        for start, end in zip(starts, ends, strict=True)
    ]
    row = {
        "wiki": wiki,
        "language": wiki.removesuffix("wiki"),
        "page_id": page_id,
        "rev_id": page_id * 10,
        "timestamp": "2024-01-01T00:00:00Z",
        "title": title,
        "url": "",
        "text": text,
        "sections": sections,
        "categories": ["c"],
        "links": [],
        "redirects": [],
        "facts": [("born", "1815")],
        "kind": "article",
        "num_chars": len(text),
        "flags": [],
    }
    return row | more


def corpus_row(page_id: int, text: str, *, split: str = "train", **more: Any) -> dict[str, Any]:
    """Return a row of the corpus."""
    row = document(page_id, text, **more)
    return row | {
        "content_hash": "",
        "split": split,
        "cluster": f"{row['wiki']}:{page_id}",
    }


@pytest.fixture
def make_document() -> Callable[..., dict[str, Any]]:
    """`document`, for tests that cannot import a conftest."""
    return document


@pytest.fixture
def make_corpus_row() -> Callable[..., dict[str, Any]]:
    """`corpus_row`, likewise."""
    return corpus_row


@pytest.fixture
def make_artifact(tmp_path: Path) -> MakeArtifact:
    """Return a function (kind, one list of rows per part) -> ArtifactRef."""
    made = 0

    def make(kind: str, *parts: Rows) -> ArtifactRef:
        nonlocal made
        made += 1
        path = tmp_path / f"{kind}-{made}"
        for number, rows in enumerate(parts):
            (path / f"part-{number:05d}").mkdir(parents=True)
            file = path / f"part-{number:05d}" / f"{kind}.parquet"
            write_table(file, rows, SCHEMAS[kind])
        return ArtifactRef(kind, f"key{made}", f"digest{made}", path)

    return make


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace without a store."""
    return Workspace.scratch(tmp_path / "workspace")


@pytest.fixture
def file_bytes() -> Callable[[Path], dict[str, bytes]]:
    """Return a function folder -> contents by relative path: equal runs give equal dicts."""

    def read(folder: Path) -> dict[str, bytes]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    return read
