"""The clean room as a whole: parts in, parts out, a reason for every page that is not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

from storage.artifact import ArtifactRef, Counts
from storage.errors import BadInput
from storage.formats.schemas import PAGES
from storage.formats.table import read_rows, write_table
from storage.workspace import Workspace
from tasks.clean import documents as documents_module
from tasks.clean.config import CleanConfig
from tasks.clean.task import clean
from tasks.extract.config import ExtractConfig
from tasks.extract.pages import REDIRECTS, extract_dump
from tasks.figures import curves, histogram

GENSIM = (
    "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)
PROSE = "It is a long story about nothing in particular, told at length. " * 6


def pages_artifact(folder: Path, texts: dict[str, str], *, parts: int = 1) -> ArtifactRef:
    """Write an artifact of pages."""
    items = list(texts.items())
    for part in range(parts):
        place = folder / f"part-{part:05d}"
        place.mkdir(parents=True)
        rows = [
            {
                "wiki": "enwiki", "language": "en", "page_id": number, "rev_id": 1,
                "timestamp": "2020-01-01T00:00:00Z", "title": title, "namespace": 0,
                "model": "wikitext", "redirect": None, "url": None, "wikitext": text,
            }
            for number, (title, text) in enumerate(items)
            if number % parts == part
        ]  # fmt: skip
        write_table(place / "pages.parquet", rows, PAGES)
        aliases = [{"title": f"alias {part}", "target": "a#b"}, {"title": "other", "target": "X"}]
        write_table(place / "redirects.parquet", aliases, REDIRECTS)
        info = {"dbname": "enwiki", "language": "en", "base": "", "case": "", "namespaces": {}}
        (place / "siteinfo.json").write_text(json.dumps(info))
    return ArtifactRef("pages", "key", "digest", folder)


def run(
    pages: ArtifactRef, folder: Path, **options: Any
) -> tuple[Counts, list[dict[str, Any]], list[dict[str, Any]], Workspace]:
    """Clean; return the ledger, the documents, the dropped pages and the workspace."""
    workspace = Workspace.scratch(folder)
    counts = clean.run(pages=pages, config=CleanConfig(**options), workspace=workspace)
    rows = list(read_rows(sorted(folder.glob("*/documents.parquet"))))
    dropped = list(read_rows(sorted(folder.glob("*/ledger.parquet"))))
    return counts, rows, dropped, workspace


def test_every_page_is_a_document_or_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a crash that ends the stage, a silent drop, aliases that are lost."""
    parse = documents_module.parse_page

    def fragile(text: str, **options: Any) -> Any:
        if "BOOM" in text:
            raise RecursionError("too deep")
        return parse(text, **options)

    monkeypatch.setattr(documents_module, "parse_page", fragile)
    texts = {"A": PROSE, "B": "Short.", "C": "{{disambig}}" + PROSE, "D": "{{x}}", "E": "BOOM"}
    counts, rows, dropped, workspace = run(pages_artifact(tmp_path / "in", texts), tmp_path / "out")
    assert (counts.seen, counts.kept) == (5, 1)
    assert {one["title"]: one["reason"] for one in dropped} == {
        "B": "too_short", "C": "disambiguation", "D": "empty", "E": "error",
    }  # fmt: skip
    assert [one["detail"] for one in dropped if one["reason"] == "error"] == [
        "RecursionError: too deep"
    ]
    assert rows[0]["redirects"] == ["alias 0"]
    assert rows[0]["num_chars"] == len(rows[0]["text"]) == counts.metrics["characters"]
    assert (workspace.logs / "document_length.png").stat().st_size > 1000


def test_options_are_obeyed(tmp_path: Path) -> None:
    """Catches a knob without effect."""
    pages = pages_artifact(tmp_path / "in", {"A": "Short.", "B": "{{disambig}}Word list."})
    counts, rows, _, _ = run(pages, tmp_path / "out", min_chars=3, keep_disambiguation=True)
    assert counts.kept == 2
    assert rows[1]["kind"] == "disambiguation"


def test_nothing_left_is_said_at_once(tmp_path: Path) -> None:
    """Catches an empty corpus that only the training notices."""
    pages = pages_artifact(tmp_path / "in", {"A": "Short."})
    with pytest.raises(BadInput, match=r"no document is left of 1 pages.*clean\.min_chars"):
        run(pages, tmp_path / "out")


def test_workers_and_parts_change_nothing(tmp_path: Path) -> None:
    """Catches order or content that depends on how the work was shared out, and lost parts."""
    texts = {f"Page {number}": f"{number} {PROSE}" for number in range(150)}
    one = pages_artifact(tmp_path / "in", texts, parts=2)
    first = run(one, tmp_path / "a")
    second = run(one, tmp_path / "b", workers=2)
    assert first[0] == second[0]
    assert first[1] == second[1]
    for name in ("part-00000", "part-00001"):
        file = f"{name}/documents.parquet"
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_finished_part_is_not_cleaned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a retry that starts over, or counts that only know the last attempt."""
    pages = pages_artifact(tmp_path / "in", {f"P{n}": PROSE for n in range(4)}, parts=2)
    before = run(pages, tmp_path / "out")[0]

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("cleaned again")

    monkeypatch.setattr(documents_module, "parse_page", never)
    assert run(pages, tmp_path / "out")[0] == before


def test_the_demo_dump(tmp_path: Path) -> None:
    """Catches residues, lost lists and lost articles on 206 real pages."""
    try:
        path = Path(str(distribution("gensim").locate_file(GENSIM)))
    except PackageNotFoundError:
        pytest.skip("gensim is not installed: pip install 'etude[demo]'")
    rows, counts = _clean_dump(path, tmp_path)
    assert counts.seen == 106
    assert counts.kept == 98
    assert dict(counts.dropped) == {"disambiguation": 8}
    residues = {name: number for name, number in counts.metrics.items() if number}
    assert set(residues) == {"characters"}, residues
    texts = {one["title"]: one["text"] for one in rows}
    assert texts["Anarchism"].startswith("# Anarchism\n\nAnarchism is a political philosophy")
    assert sum(text.count("\n- ") for text in texts.values()) > 1500
    assert not any("## References" in text or "## See also" in text for text in texts.values())
    assert "Computer accessibility" not in texts
    assert all(one["redirects"] == sorted(one["redirects"]) for one in rows)
    for one in rows:
        for section in one["sections"]:
            assert one["text"].startswith("#" * section["level"] + " ", section["start"])


@pytest.mark.parametrize(
    ("file", "wiki", "present", "absent"),
    [
        ("dbpedia_minidumps/zhwiki.xml.bz2", "zhwiki", "", "缩略图"),
        ("dbpedia_minidumps/dewiki.xml.bz2", "dewiki", "Schopenhauer", "## Einzelnachweise"),
        ("dbpedia_minidumps/frwiki.xml.bz2", "frwiki", "", "vignette|"),
        ("dbpedia_minidumps/jawiki.xml.bz2", "jawiki", "", "## 脚注"),
        ("dbpedia_minidumps/ruwiki.xml.bz2", "ruwiki", "", "мини|"),
        ("dbpedia_minidumps/kowiki.xml.bz2", "kowiki", "", "섬네일|"),
        ("gensim/enwiki-table-markup.xml.bz2", None, "constructive vote", "cellpadding"),
    ],
)
def test_real_pages(
    shared_data: Path, tmp_path: Path, file: str, wiki: str | None, present: str, absent: str
) -> None:
    """Catches local markup in the text; some headers say en and lie."""
    rows, counts = _clean_dump(shared_data / "dumps" / file, tmp_path, wiki=wiki)
    text = "\n".join(one["text"] for one in rows)
    assert len(text) > 1000
    assert present in text and absent not in text
    assert "error" not in counts.dropped
    residues = {name: n for name, n in counts.metrics.items() if name != "characters" and n}
    assert sum(residues.values()) <= 1 + len(text) // 20_000, residues


def test_the_demo_of_chinese(tmp_path: Path) -> None:
    """Catches traces of markup in the Chinese demo."""
    path = Path(__file__).parents[3] / "flows" / "recipes" / "demo" / "zhwiki-demo.xml"
    if not path.exists():
        pytest.skip("flows/recipes/demo/zhwiki-demo.xml is not there")
    rows, counts = _clean_dump(path, tmp_path)
    assert counts.kept > 30
    assert {name for name, number in counts.metrics.items() if number} == {"characters"}
    water = next(one for one in rows if one["title"] == "水")
    assert water["text"].startswith(
        "# 水\n\n水（Water）是由氢和氧两种元素组成的无机化合物，化学式为H₂O。"
    )
    assert dict(water["facts"])["化学式"] == "H₂O"


@pytest.mark.parametrize("draw", [lambda p: histogram(p, [], "t", "x"),
                                  lambda p: histogram(p, [1, 10, 10_000], "t", "x"),
                                  lambda p: curves(p, {"a": ([1, 2], [3, 4]), "b": ([], [])},
                                                   "t", "x", "y")])  # fmt: skip
def test_pictures(tmp_path: Path, draw: Callable[[Path], None]) -> None:
    """Catches a picture that fails on no data, or that differs from run to run."""
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    data = (tmp_path / "a.png").read_bytes()
    assert data.startswith(b"\x89PNG") and data == (tmp_path / "b.png").read_bytes()


def _clean_dump(
    path: Path, folder: Path, wiki: str | None = None
) -> tuple[list[dict[str, Any]], Counts]:
    part = folder / "pages" / "part-00000"
    part.mkdir(parents=True)
    extract_dump(path, part, ExtractConfig(), wiki=wiki)
    pages = ArtifactRef("pages", "key", "digest", folder / "pages")
    counts, rows, _, _ = run(pages, folder / "out")
    return rows, counts
