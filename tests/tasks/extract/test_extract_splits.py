"""A dump cut into ranges: every page in exactly one, whatever the packing and the borders."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.artifact import Counts
from storage.errors import BadInput
from storage.formats.table import read_rows
from storage.workspace import Workspace
from tasks.extract.config import ExtractConfig
from tasks.extract.dump import DumpFile
from tasks.extract.pages import Split, Wanted, extract_split
from tasks.extract.room import extract_files
from tasks.extract.splits import plan_splits
from tasks.extract.xml_reader import End, Site, own_pages, read_pages

KIB = 1 << 10
HEADER = b"""<mediawiki xml:lang="en"><siteinfo><dbname>testwiki</dbname>
<base>https://test.example.org/wiki/Main_Page</base></siteinfo>
"""


def one_page(number: int, size: int = 2000) -> bytes:
    """A page of words that do not pack well."""
    words = " ".join(str((number * 7919 + n * 104729) % 1000003) for n in range(size // 7))
    return (
        f"  <page>\n    <title>Page {number}</title>\n    <ns>0</ns>\n    <id>{number}</id>\n"
        f"    <revision>\n      <id>{number}</id>\n      <text>{words}</text>\n    </revision>\n"
        "  </page>\n"
    ).encode()


def multistream(pages: list[bytes], group: int = 10) -> tuple[bytes, list[int]]:
    """A dump as Wikimedia packs them, and the offsets its index would have."""
    packed, offsets = bz2.compress(HEADER), []
    for first in range(0, len(pages), group):
        offsets.append(len(packed))
        packed += bz2.compress(b"".join(pages[first : first + group]))
    return packed + bz2.compress(b"</mediawiki>\n"), offsets


def blockwise(xml: bytes, size: int = 7001) -> bytes:
    """A dump as pbzip2 packs one: streams end anywhere, within tags too."""
    return b"".join(bz2.compress(xml[at : at + size]) for at in range(0, len(xml), size))


PAGES = [one_page(number) for number in range(1, 301)]
XML = HEADER + b"".join(PAGES) + b"</mediawiki>\n"


def zstd(xml: bytes) -> bytes:
    """Two frames, one after the other."""
    codec, half = pa.Codec("zstd"), len(xml) // 2
    return bytes(codec.compress(xml[:half])) + bytes(codec.compress(xml[half:]))


def seven_zip(xml: bytes) -> bytes:
    """An archive of one file."""
    py7zr = pytest.importorskip("py7zr")
    buffer = io.BytesIO()
    with py7zr.SevenZipFile(buffer, "w") as archive:
        archive.writestr(xml, "testwiki.xml")
    return buffer.getvalue()


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "xml": bytes,
    "multistream": lambda xml: multistream(PAGES)[0],
    "pbzip2": blockwise,
    "one stream": lambda xml: bz2.compress(xml, 1),
    "gz": gzip.compress,
    "gz of two members": lambda xml: gzip.compress(xml[:99999]) + gzip.compress(xml[99999:]),
    "xz": lzma.compress,
    "lzma": lambda xml: lzma.compress(xml, lzma.FORMAT_ALONE),
    "zstd": zstd,
    "7z": seven_zip,
    "UTF-16": lambda xml: xml.decode().encode("utf-16"),
    "UTF-16 without a mark, in gz": lambda xml: gzip.compress(xml.decode().encode("utf-16-be")),
    "UTF-8 with a mark": lambda xml: b"\xef\xbb\xbf" + xml,
}


def extract(path: Path, folder: Path, **options: object) -> tuple[Counts, list[list[int]]]:
    """Extract with small ranges; return the ledger and the page ids of each part."""
    config = ExtractConfig.model_validate({"split_bytes": 64 * KIB, "workers": 1} | options)
    counts = extract_files([(path, path.name)], config, Workspace(folder))
    parts = sorted(folder.glob("part-*"))
    return counts, [
        [row["page_id"] for row in read_rows([part / "pages.parquet"])] for part in parts
    ]


@pytest.mark.parametrize("name", PACKINGS)
def test_every_packing_is_cut_and_complete(name: str, tmp_path: Path) -> None:
    """Catches a page lost, doubled or torn at a border, and one core's work where many could."""
    path = tmp_path / "testwiki.dump"
    path.write_bytes(PACKINGS[name](XML))
    counts, parts = extract(path, tmp_path / "out")
    assert len(parts) >= 3
    assert [number for part in parts for number in part] == list(range(1, 301))
    assert (counts.seen, counts.kept, dict(counts.metrics)) == (300, 300, {})
    assert not list((tmp_path / "out").glob("unpacked*"))
    texts = [row["wikitext"] for row in read_rows(sorted((tmp_path / "out").rglob("pages.pa*")))]
    assert all(text.encode() in page for text, page in zip(texts, PAGES, strict=True))


def test_ranges_of_a_multistream_dump_begin_where_its_index_says(tmp_path: Path) -> None:
    """Catches a border within a stream: found without the index, they are the index's offsets."""
    packed, offsets = multistream(PAGES)
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(packed)
    ranges = plan_splits(path, 16 * KIB)
    assert ranges is not None and len(ranges) > 10
    assert {start for start, _ in ranges[1:]} <= set(offsets)
    assert [start for start, _ in ranges] == [0, *(end for _, end in ranges[:-1])]
    assert ranges[-1][1] == len(packed)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 1500), max_size=4))
def test_a_page_belongs_to_the_range_it_begins_in(borders: list[int]) -> None:
    """Catches a tag that lies astride a border and is seen by both ranges, or by neither."""
    pages = [one_page(number, 100) for number in range(1, 6)]
    xml = HEADER + b"".join(pages) + b"</mediawiki>\n"
    edges = [0, *sorted(min(border, len(xml)) for border in borders), len(xml)]
    found: list[int] = []
    for start, end in pairwise(edges):
        own, rest = io.BytesIO(xml[start:end]), io.BytesIO(xml[end:])
        pieces = own_pages(lambda size, own=own: own.read(min(size, 17)), rest.read)
        here = [page.page_id for page in read_pages(pieces, Site(), "x", End())]
        first = [n for n, page in enumerate(pages, 1) if start <= xml.index(page) + 2 < end]
        assert here == first
        found += here
    assert found == [1, 2, 3, 4, 5]


def test_workers_change_no_byte(tmp_path: Path) -> None:
    """Catches parts that depend on how many processes made them, or which was done first."""
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(multistream(PAGES)[0])
    made = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        extract(path, folder, workers=workers)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        made.append([(file.relative_to(folder), file.read_bytes()) for file in files])
    assert len(made[0]) > 20
    assert made[0] == made[1]


def test_the_plan_does_not_grow_without_end(tmp_path: Path) -> None:
    """Catches a hundred thousand parts for a large wiki."""
    path = tmp_path / "dump.xml"
    path.write_bytes(XML)
    assert len(plan_splits(path, 100) or []) == 400


@pytest.mark.parametrize("name", ["xml", "multistream", "one stream", "gz", "xz", "zstd"])
def test_a_torn_dump_is_refused_or_salvaged(name: str, tmp_path: Path) -> None:
    """Catches a torn page kept, whole ones lost, and hours of work before the refusal."""
    path = tmp_path / "dump"
    packed = PACKINGS[name](XML)
    path.write_bytes(packed[: len(packed) * 9 // 10])
    with pytest.raises(BadInput, match=r"dump ends early.*allow_truncated=true keeps"):
        extract(path, tmp_path / "refused")
    assert len(list((tmp_path / "refused").glob("part-*"))) <= 1  # its end was looked at first
    counts, parts = extract(path, tmp_path / "out", allow_truncated=True)
    kept = [number for part in parts for number in part]
    assert kept == list(range(1, counts.kept + 1))
    assert 200 < counts.kept < 300
    assert counts.metrics == {"truncated": 1}
    assert counts.seen - counts.kept == counts.dropped.get("truncated", 0) <= 1


@pytest.mark.parametrize("at", [0.4, 0.97])
def test_a_damaged_stream_is_refused(at: float, tmp_path: Path) -> None:
    """Catches flipped bits taken for the end of the dump, or passed on as text."""
    packed = bytearray(multistream(PAGES)[0])
    packed[int(len(packed) * at)] ^= 0xFF
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(packed)
    with pytest.raises(BadInput, match=r"dump\.xml\.bz2 is damaged"):
        extract(path, tmp_path / "out", allow_truncated=True)


def test_a_range_that_ends_early_is_damage(tmp_path: Path) -> None:
    """Catches a hole in the middle of a dump that allow_truncated lets pass."""
    packed, offsets = multistream(PAGES)
    cut = packed[: offsets[10] - 40] + packed[offsets[10] :]
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(cut)
    split = Split(path, "dump", 0, offsets[10] - 40, Site(), "w", "en", Wanted.of(ExtractConfig()))
    with pytest.raises(BadInput, match="damaged"):
        extract_split(split, tmp_path, lambda share: None)


def test_bz2_by_both_libraries_is_the_same(tmp_path: Path) -> None:
    """Catches the fast library and the standard one parting, on odd streams too."""
    for name, packed in {
        "streams": multistream(PAGES)[0],
        "empty streams": bz2.compress(b"") + bz2.compress(XML) + bz2.compress(b""),
        "level 1": bz2.compress(XML, 1),
        "rubbish after it": bz2.compress(XML) + b"rubbish",
    }.items():
        path = tmp_path / name
        path.write_bytes(packed)
        with DumpFile(path) as dump:
            ours = b"".join(iter(dump.read, b""))
        with bz2.open(path) as standard:
            assert ours == standard.read() == XML, name


def test_several_files_are_one_wiki(tmp_path: Path) -> None:
    """Catches parts of a multi-part wiki that overwrite each other, or take another name."""
    half = [PAGES[:150], PAGES[150:]]
    files = []
    for number, pages in enumerate(half):
        path = tmp_path / f"dump-{number}.xml.bz2"
        path.write_bytes(multistream(pages)[0])
        files.append((path, f"testwiki-part{number}.xml.bz2"))
    config = ExtractConfig(split_bytes=64 * KIB, workers=1)
    counts = extract_files(files, config, Workspace(tmp_path / "out"))
    rows = list(read_rows(sorted((tmp_path / "out").rglob("pages.parquet"))))
    assert counts.kept == 300
    assert [row["page_id"] for row in rows] == list(range(1, 301))
    assert {row["wiki"] for row in rows} == {"testwiki"}


def test_an_unpacked_dump_is_not_unpacked_twice(tmp_path: Path) -> None:
    """Catches a retry that unpacks hours of gz again, and a torn copy taken for a whole one."""
    path = tmp_path / "dump.gz"
    path.write_bytes(gzip.compress(XML))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "unpacked-00000.xml").write_bytes(HEADER + PAGES[0] + b"</mediawiki>")
    (tmp_path / "out" / ".unpacked-00000.xml.tmp").write_bytes(b"half")
    counts, _ = extract(path, tmp_path / "out")
    assert counts.seen == 1
    assert not list((tmp_path / "out").glob("*unpacked*"))


def test_workers_start_light() -> None:
    """Catches an import that each of 64 workers pays for."""
    code = "import sys, tasks.extract.pages, tasks.parallel; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"prefect", "polars", "mlflow", "torch", "typer", "pydantic", "pandas", "matplotlib"}
    assert heavy.isdisjoint(loaded)
