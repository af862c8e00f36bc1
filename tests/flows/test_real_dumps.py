"""Every real dump, from file to documents: a page seen is a document or a counted reason."""

from __future__ import annotations

import bz2
import gzip
import html
import lzma
import re
from collections import Counter
from pathlib import Path
from typing import IO, Any

import pytest

from flows.extract_dump import extract_documents
from storage.errors import BadInput
from storage.formats.table import read_rows

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FILES = (path for folder in ("dumps", "zh/komica") for path in (DATA / folder).rglob("*.xml*"))
ENWIK8 = "dumps/enwik8/enwik8.gz"
DUMPS = [ENWIK8, *sorted(path.relative_to(DATA).as_posix() for path in FILES)]
NUM_ENWIK8_BYTES = 12_000_000  # of 100 MB: the whole takes a minute
NOTHING_LEFT = re.compile(r"no article: \d+ pages|no document is left of \d+ pages")
OPENERS: dict[str, Any] = {
    ".bz2": bz2.open, ".gz": gzip.open, ".xz": lzma.open, ".lzma": lzma.open, ".xml": open,
}  # fmt: skip
SETTINGS = ["extract.allow_truncated=true", "extract.workers=1", "clean.workers=1"]


def unpacked(path: Path) -> bytes:
    """The XML, read by the standard library; of enwik8 the beginning."""
    file: IO[bytes]
    with OPENERS[path.suffix](path, "rb") as file:
        return file.read(NUM_ENWIK8_BYTES if path == DATA / ENWIK8 else -1)


@pytest.mark.parametrize("file", DUMPS)
def test_nothing_is_lost(shared_data: Path, tmp_path: Path, file: str) -> None:
    """Catches pages that are in no file between a dump and its documents, or in two of them."""
    path = shared_data / file
    if not path.exists():
        pytest.skip(f"../shared/data/{file} is not there")
    if path.suffix == ".7z":
        pytest.skip("the same pages are there as bz2; the standard library reads no 7z")
    xml = unpacked(path)
    if path == DATA / ENWIK8:
        path = tmp_path / "enwik8.xml"
        path.write_bytes(xml)
    try:
        counts = extract_documents(path, tmp_path / "out", SETTINGS, progress=lambda *_: None)
    except BadInput as error:
        assert NOTHING_LEFT.search(str(error)), error
        return
    assert counts.seen == len(re.findall(rb"<page>", xml))
    assert counts.seen == counts.kept + sum(counts.dropped.values())
    documents = list(read_rows(sorted((tmp_path / "out" / "documents").iterdir()), ["title"]))
    ledger = list(read_rows([tmp_path / "out" / "ledger.parquet"]))
    assert len(documents) == counts.kept
    assert Counter(row["reason"] for row in ledger) == counts.dropped
    titles = re.findall(rb"<page>\s*<title>([^<]*)</title>", xml)
    assert Counter(row["title"] for row in (*documents, *ledger)) == Counter(
        html.unescape(title.decode()).replace("_", " ") for title in titles
    )
