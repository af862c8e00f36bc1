"""The report: right figures, the same samples in every run, and nothing of a page obeyed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lxml import html
from markdown_it import MarkdownIt

from storage.artifact import ArtifactRef, Counts
from storage.workspace import Workspace
from tasks.clean.config import CleanConfig
from tasks.clean.report import SAMPLE_CHARS, cell, pick_samples, sum_unresolved
from tasks.clean.task import clean

Row = dict[str, Any]
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)> | [a](http://b) **c** `d`"
PROSE = "It is a long story about nothing in particular, told at length. " * 6


def report(
    folder: Path, make_pages: Callable[..., ArtifactRef], rows: list[Row], **options: Any
) -> tuple[str, str, Counts]:
    """Clean; return the report, the samples and the ledger."""
    pages = make_pages(folder / "in", rows, parts=2)
    workspace = Workspace.scratch(folder / "out")
    config = CleanConfig(**{"workers": 1} | options)
    counts = clean.run(pages=pages, config=config, workspace=workspace)
    logs = workspace.logs
    return (logs / "report.md").read_text(), (logs / "samples.html").read_text(), counts


def test_the_figures_are_those_of_the_ledger(
    tmp_path: Path, make_page: Callable[..., Row], make_pages: Callable[..., ArtifactRef]
) -> None:
    """Catches a report that tells other numbers than the manifest, or leaves a section out."""
    rows = [make_page(n, f"P{n}", PROSE * (n % 4)) for n in range(1, 41)]
    text, samples, counts = report(tmp_path, make_pages, rows)
    assert counts.kept == 30
    for line in ("| kept | 30 | 75.00% |", "| empty | 10 | 25.00% |", "## Lengths", "## Residues",
                 "## Unresolved templates", "MB per CPU-second",
                 "per 1,000 documents"):  # fmt: skip
        assert line in text
    assert "Since the last dump" not in text
    page = html.fromstring(samples)
    assert len(page.findall(".//pre")) == 2 * 20
    assert (tmp_path / "out" / "logs" / "document_length.png").exists()


def test_nothing_of_a_page_is_obeyed(
    tmp_path: Path, make_page: Callable[..., Row], make_pages: Callable[..., ArtifactRef]
) -> None:
    """Catches a page's markup that becomes markup of the report or runs in a browser."""
    text = f"{HOSTILE} {{{{<b>x</b>`'|y}}}} <nowiki>{HOSTILE}</nowiki> {PROSE}"
    long = "<nowiki><i></nowiki>" + PROSE * 100
    rows = [make_page(1, f"A{HOSTILE}", text), make_page(2, "B", long)]
    markdown, samples, _ = report(tmp_path, make_pages, rows)
    page = html.fromstring(samples)
    for name in ("script", "img", "a", "i", "b"):
        assert page.find(f".//{name}") is None, name
    assert len(page.findall(".//pre")) == 4
    left, *_ = [pre.text_content() for pre in page.findall(".//pre")]
    assert left.startswith(HOSTILE) and "more characters" in samples
    assert max(len(pre.text_content()) for pre in page.findall(".//pre")) < SAMPLE_CHARS + 50
    rendered = html.fromstring(MarkdownIt("commonmark").enable("table").render(markdown))
    assert not set(one.tag for one in rendered.iter()) & {"script", "img", "a", "b", "strong"}


@pytest.mark.parametrize(
    "text",
    [HOSTILE, "a|b", "| x\n\n# y", "\\|", "&lt;", "![x](y)", "\u202ex\u2028y", "_a_ ~b~ $c$"],
)
def test_a_cell_shows_its_words_and_does_nothing(text: str) -> None:
    """Catches a name that breaks out of its cell: rendered, the row has two cells of plain text."""
    table = f"| a | b |\n|---|---|\n| {cell(text)} | end |"
    rendered = html.fromstring(MarkdownIt("commonmark").enable("table").render(table))
    cells = rendered.findall(".//td")
    assert len(cells) == 2 and len(cells[0]) == 0
    shown = cells[0].text or ""
    assert shown.rstrip("…") in " ".join(text.replace("\u202e", " ").replace("\u2028", " ").split())
    assert len(rendered.findall(".//tr")) == 2


def test_samples_stay_when_a_refresh_adds_pages() -> None:
    """Catches samples that follow the order of the pages, or change with every run."""
    pages = np.arange(1, 5001)
    chosen = pick_samples(pages, 20)
    assert len(set(chosen)) == 20
    assert pick_samples(pages[::-1], 20) == chosen
    assert len(set(pick_samples(np.arange(1, 5051), 20)) & set(chosen)) >= 17
    assert np.std(chosen) > 800, "the samples are not spread over the pages"
    assert pick_samples(np.array([5, 5, 5]), 20) == [5]


def test_rates_and_counts_are_those_of_documents(
    tmp_path: Path,
    make_page: Callable[..., Row],
    make_pages: Callable[..., ArtifactRef],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a residue told per page, or a template counted where no document came of the page."""
    use = "{{Quite unheard of|1|2|3}} "
    rows = [make_page(n, f"P{n}", use + PROSE * (n % 2)) for n in range(1, 21)]
    monkeypatch.setattr("tasks.clean.part.count_residues", lambda text: {"x": text.count("P1\n")})
    text, _, counts = report(tmp_path, make_pages, rows)
    assert (counts.seen, counts.kept) == (20, 10)
    assert "| Quite unheard of | 10 | P1 |" in text
    assert "| template | documents | such as |" in text
    assert "| x | 1 | 100.00 |" in text


def test_unresolved_templates_add_up_over_parts() -> None:
    """Catches counts of one part only, or an order that changes from run to run."""
    rows = [
        {"name": "b", "pages": 2, "example": "P"},
        {"name": "a", "pages": 2, "example": "Q"},
        {"name": "c", "pages": 1, "example": "R"},
        {"name": "c", "pages": 4, "example": "S"},
    ]
    assert sum_unresolved(rows) == [("c", 5, "R"), ("a", 2, "Q"), ("b", 2, "P")]
