"""The clean room as a whole: parts in, parts out, a reason for every page that is not there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

from storage.artifact import ArtifactRef, Counts
from storage.errors import BadInput
from storage.formats.table import read_rows
from storage.workspace import Workspace
from tasks.clean import documents as documents_module
from tasks.clean import part as part_module
from tasks.clean.config import CleanConfig
from tasks.clean.task import clean
from tasks.extract.config import ExtractConfig
from tasks.extract.room import extract_files
from tasks.figures import curves, histogram

GENSIM = (
    "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)
Make = Callable[..., ArtifactRef]
PROSE = "It is a long story about nothing in particular, told at length. " * 6


def run(
    pages: ArtifactRef, folder: Path, **options: Any
) -> tuple[Counts, list[dict[str, Any]], list[dict[str, Any]], Workspace]:
    """Clean; return the ledger, the documents, the dropped pages and the workspace."""
    workspace = Workspace.scratch(folder)
    config = CleanConfig(**{"workers": 1} | options)
    counts = clean.run(pages=pages, config=config, workspace=workspace)
    rows = list(read_rows(sorted(folder.glob("*/documents.parquet"))))
    dropped = list(read_rows(sorted(folder.glob("*/ledger.parquet"))))
    return counts, rows, dropped, workspace


@pytest.fixture
def make(tmp_path: Path, make_page: Callable[..., Any], make_pages: Callable[..., Any]) -> Make:
    """Return a function that makes an artifact of pages of titles and texts."""

    def artifact(texts: dict[str, str], **options: Any) -> ArtifactRef:
        rows = [make_page(number, *one) for number, one in enumerate(texts.items(), 1)]
        ref: ArtifactRef = make_pages(tmp_path / "in", rows, **options)
        return ref

    return artifact


def test_every_page_is_a_document_or_a_reason(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a crash that ends the stage, a silent drop, aliases that are lost."""
    parse = documents_module.parse_page

    def fragile(text: str, **options: Any) -> Any:
        if "BOOM" in text:
            raise RecursionError("too deep")
        return parse(text, **options)

    monkeypatch.setattr(documents_module, "parse_page", fragile)
    texts = {"A": PROSE, "B": "Short.", "C": "{{disambig}}" + PROSE, "D": "{{x}}", "E": "BOOM"}
    aliases = [("alias", "a#b"), ("other", "X"), ("alias of alias", "alias")]
    pages = make(texts, redirects=aliases)
    counts, rows, dropped, workspace = run(pages, tmp_path / "out")
    assert (counts.seen, counts.kept) == (5, 1)
    assert {one["title"]: one["reason"] for one in dropped} == {
        "B": "too_short", "C": "disambiguation", "D": "empty", "E": "error",
    }  # fmt: skip
    assert [one["detail"] for one in dropped if one["reason"] == "error"] == [
        "RecursionError: too deep"
    ]
    assert rows[0]["redirects"] == ["alias"]
    assert rows[0]["num_chars"] == len(rows[0]["text"]) == counts.metrics["characters"]
    assert (workspace.logs / "document_length.png").stat().st_size > 1000
    assert list(workspace.path.glob("*.tmp")) == []


def test_what_nothing_is_known_of_is_counted(tmp_path: Path, make: Make) -> None:
    """Catches an audit that misses a template, or names one that the dump itself explains."""
    use = "{{Quite unheard of|1|2|3}} {{Wordy|x}} {{Quite unheard of}} "
    texts = {"A": use + PROSE, "B": PROSE, "C": use + PROSE, "D": "{{Quite unheard of}}"}
    pages = make(texts, templates=[("Wordy", "Nowrap", [])])
    run(pages, tmp_path / "out")
    (row,) = read_rows(sorted((tmp_path / "out").glob("*/unresolved.parquet")))
    assert row == {"name": "Quite unheard of", "pages": 2, "example": "A"}


def test_options_are_obeyed(tmp_path: Path, make: Make) -> None:
    """Catches a knob without effect."""
    pages = make({"A": "Short.", "B": "{{disambig}}Word list."})
    counts, rows, _, _ = run(pages, tmp_path / "out", min_chars=3, keep_disambiguation=True)
    assert counts.kept == 2
    assert rows[1]["kind"] == "disambiguation"


def test_nothing_left_is_said_at_once(tmp_path: Path, make: Make) -> None:
    """Catches an empty corpus that only the training notices."""
    with pytest.raises(BadInput, match=r"no document is left of 1 pages.*clean\.min_chars"):
        run(make({"A": "Short."}), tmp_path / "out")


def test_workers_and_parts_change_nothing(
    tmp_path: Path, make: Make, file_bytes: Callable[[Path], dict[str, bytes]]
) -> None:
    """Catches order or content that depends on how the work was shared out, and lost parts."""
    texts = {f"Page {number}": f"{number} {PROSE}" for number in range(150)}
    pages = make(texts, parts=2)
    for workers in (1, 2):
        counts, rows, _, _ = run(pages, tmp_path / str(workers), workers=workers)
        assert counts.kept == 150
        assert [row["title"] for row in rows] == list(texts)
    one, two = (
        {name: data for name, data in file_bytes(tmp_path / folder).items() if "logs/" not in name}
        for folder in ("1", "2")
    )
    assert one == two


def test_a_worker_starts_light() -> None:
    """Catches an import that every worker would pay for: half a second and 100 MB, or Prefect."""
    heavy = ("prefect", "mlflow", "polars", "torch", "matplotlib", "tasks.stage", "tasks.figures")
    code = f"import sys, tasks.clean.part; print([one for one in {heavy} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_part_of_many_row_groups_is_in_order(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches rows lost or doubled where one row group ends and the next begins."""
    monkeypatch.setattr(part_module, "GROUP_ROWS", 7)
    monkeypatch.setattr(part_module, "GROUP_BYTES", 4 * len(PROSE))
    texts = {f"Page {number}": f"{number} {PROSE}" for number in range(80)}
    counts, rows, _, _ = run(make(texts), tmp_path / "out")
    assert [row["title"] for row in rows] == list(texts) and counts.kept == 80
    seen = list(read_rows(sorted((tmp_path / "out").glob("*/seen.parquet"))))
    assert [row["document"] for row in seen] == list(range(80))


def test_a_finished_part_is_not_cleaned_again(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a retry that starts over, or counts that only know the last attempt."""
    pages = make({f"P{n}": PROSE for n in range(4)}, parts=2)
    before = run(pages, tmp_path / "out")[0]

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("cleaned again")

    monkeypatch.setattr(documents_module, "parse_page", never)
    after = run(pages, tmp_path / "out")[0]
    assert (after.seen, after.kept) == (before.seen, before.kept)
    same = {name for name, value in before.metrics.items() if after.metrics[name] == value}
    assert same == set(before.metrics) - {"megabytes_per_second"}


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
    assert _residues(counts) == {}
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
    residues = _residues(counts)
    assert sum(residues.values()) <= 1 + len(text) // 20_000, residues


def test_the_demo_of_chinese(tmp_path: Path) -> None:
    """Catches traces of markup in the Chinese demo."""
    path = Path(__file__).parents[3] / "flows" / "recipes" / "demo" / "zhwiki-demo.xml"
    if not path.exists():
        pytest.skip("flows/recipes/demo/zhwiki-demo.xml is not there")
    rows, counts = _clean_dump(path, tmp_path)
    assert counts.kept > 30
    assert _residues(counts) == {}
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


def _residues(counts: Counts) -> dict[str, float]:
    metrics = counts.metrics.items()
    return {name: value for name, value in metrics if name.startswith("residue/") and value}


def _clean_dump(
    path: Path, folder: Path, wiki: str | None = None
) -> tuple[list[dict[str, Any]], Counts]:
    workspace = Workspace.scratch(folder / "pages")
    extract_files([(path, path.name)], ExtractConfig(workers=1), workspace, wiki=wiki)
    pages = ArtifactRef("pages", "key", "digest", folder / "pages")
    counts, rows, _, _ = run(pages, folder / "out")
    return rows, counts
