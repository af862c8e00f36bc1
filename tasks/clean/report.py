"""Finished documents -> what a person wants to know of them, as Markdown, a picture and a page.

    logs/report.md             reasons, lengths, residues, what was copied, speed, unknown templates
    logs/document_length.png   how long the documents are
    logs/samples.html          twenty documents beside their wikitext, always the same pages

All words of pages are a stranger's: they are escaped wherever they are shown.
"""

from __future__ import annotations

import html
import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from storage.artifact import ArtifactRef, Counts
from storage.files import read_json
from storage.formats.table import read_rows, read_table
from storage.workspace import Workspace
from tasks.clean.incremental import STATS, Predecessor
from tasks.figures import histogram

NUM_SAMPLES = 20
MAX_ROWS = 100
SAMPLE_CHARS = 6_000
MAX_CELL_CHARS = 80
_INVISIBLE = re.compile(
    "[\u0000-\u0020\u007f-\u00a0\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+"
)
_PUNCTUATION = {ord(mark): f"&#{ord(mark)};" for mark in string.punctuation}
_PAGE = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Documents beside their wikitext</title>
<style>
body {{ font: 14px/1.5 system-ui, sans-serif; margin: 2rem; }}
table {{ width: 100%; table-layout: fixed; border-collapse: collapse; }}
td, th {{ vertical-align: top; border: 1px solid #bbb; padding: .5rem; text-align: left; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; max-height: 40rem; overflow: auto;
       margin: 0; font: 12px/1.5 ui-monospace, monospace; }}
</style>
<h1>Documents beside their wikitext</h1>
<p>The {number} pages of the smallest hash: the same ones in every run that keeps them.</p>
<table>
<tr><th>wikitext</th><th>document</th></tr>
{rows}
</table>
"""


def run_metrics(
    folder: Path, predecessor: Predecessor | None, made: Counts, seconds: float
) -> dict[str, float]:
    """Return what the run itself was like: its speed, and what it copied from the run before.

    `made` counts the parts that were made in `seconds`; an earlier attempt may have left others.
    """
    stats = [read_json(file) for file in sorted((folder / STATS).glob("*.json"))]
    metrics = {
        "cpu_seconds": sum(one["cpu_seconds"] for one in stats),
        "peak_megabytes": max((one["peak_megabytes"] for one in stats), default=0),
        "megabytes_per_second": made.metrics.get("wikitext_bytes", 0) / 1e6 / max(seconds, 1e-3),
    }
    if predecessor is None:
        return metrics
    pages: Counter[str] = Counter()
    for one in stats:
        pages.update(one["pages"])
    met_again = pages["changed"] + pages["moved"] + pages["unchanged"]
    names = ("new", "changed", "moved", "reused")
    metrics |= {f"refresh/{name}": pages[name] for name in names}
    metrics["refresh/deleted"] = max(0, predecessor.num_pages - met_again)
    return metrics


def write_report(workspace: Workspace, pages: ArtifactRef, counts: Counts) -> None:
    """Write the report, the picture and the samples of the documents in `workspace`."""
    files = sorted(workspace.path.glob("*/documents.parquet"))
    keys = read_table(files, ["page_id", "num_chars"])
    lengths = keys.column("num_chars").to_numpy()
    histogram(
        workspace.logs / "document_length.png", lengths, "Length of the documents", "characters"
    )
    unresolved = sum_unresolved(read_rows(sorted(workspace.path.glob("*/unresolved.parquet"))))
    samples = pick_samples(keys.column("page_id").to_numpy(), NUM_SAMPLES)
    write_samples(workspace.logs / "samples.html", samples, files, pages.path)
    over_budget = [
        one
        for file in sorted((workspace.path / STATS).glob("*.json"))
        for one in read_json(file)["over_budget"]
    ]
    text = "\n".join(_sections(counts, lengths, over_budget, unresolved))
    (workspace.logs / "report.md").write_text(text, encoding="utf-8")


def sum_unresolved(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, int, str]]:
    """Return (template, documents, title of one of them) over all parts, the commonest first."""
    found: dict[str, tuple[int, str]] = {}
    for row in rows:
        pages, example = found.get(row["name"], (0, row["example"]))
        found[row["name"]] = pages + row["pages"], example
    ordered = sorted(found.items(), key=lambda one: (-one[1][0], one[0]))
    return [(name, pages, example) for name, (pages, example) in ordered]


def pick_samples(page_ids: np.ndarray, number: int) -> list[int]:
    """Return the ids of the smallest hash: a random choice that a refresh does not change."""
    mixed = page_ids.astype(np.uint64)
    with np.errstate(over="ignore"):  # splitmix64, Steele et al. 2014
        mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    order = np.lexsort((page_ids, mixed))
    return list(dict.fromkeys(page_ids[order[: 2 * number]].tolist()))[:number]


def write_samples(
    path: Path, page_ids: Sequence[int], documents: Sequence[Path], pages: Path
) -> None:
    """Write a page with the documents beside their wikitext; long texts are cut."""
    rows = []
    for file in documents:
        for document in _rows_with(file, page_ids, ["page_id", "title", "text"]):
            source = pages / file.parent.name / "pages.parquet"
            found = _rows_with(source, [document["page_id"]], ["page_id", "title", "wikitext"])
            texts = [one["wikitext"] for one in found if one["title"] == document["title"]]
            cells = (_shown(one) for one in ("".join(texts[:1]), document["text"]))
            title = html.escape(f"{document['title']} ({document['page_id']})")
            rows.append(f'<tr><th colspan="2">{title}</th></tr>')
            rows.append("<tr>" + "".join(f"<td><pre>{one}</pre></td>" for one in cells) + "</tr>")
    number = len(rows) // 2
    path.write_text(_PAGE.format(number=number, rows="\n".join(rows)), encoding="utf-8")


def _rows_with(file: Path, page_ids: Sequence[int], columns: list[str]) -> list[dict[str, Any]]:
    wanted = [("page_id", "in", list(page_ids))]
    rows: list[dict[str, Any]] = pq.read_table(file, columns=columns, filters=wanted).to_pylist()
    return rows


def _shown(text: str) -> str:
    """Return a stranger's text for an HTML page, its beginning if it is long."""
    more = f"\n… {len(text) - SAMPLE_CHARS:,} more characters" if len(text) > SAMPLE_CHARS else ""
    return html.escape(text[:SAMPLE_CHARS].replace("\0", "") + more)


def cell(text: str) -> str:
    """Return a stranger's words for a cell of a Markdown table: no mark in them means anything."""
    words = _INVISIBLE.sub(" ", text).strip()
    words = words if len(words) <= MAX_CELL_CHARS else words[:MAX_CELL_CHARS] + "…"
    return words.translate(_PUNCTUATION)


def _sections(
    counts: Counts,
    lengths: np.ndarray,
    over_budget: list[tuple[int, str, str]],
    unresolved: list[tuple[str, int, str]],
) -> Iterator[str]:
    metrics = counts.metrics
    yield from _refresh(metrics)
    yield from _speed(metrics)
    yield "## Pages\n"
    reasons = [("kept", counts.kept), *sorted(counts.dropped.items(), key=lambda one: -one[1])]
    share = [(cell(name), f"{n:,}", f"{100 * n / counts.seen:.2f}%") for name, n in reasons]
    yield from _table(("what became of them", "pages", "share"), share)
    yield "## Lengths\n"
    places = (1, 10, 50, 90, 99)
    quantiles = np.percentile(lengths, places)
    yield from _table(
        ("percentile", *(f"{one}%" for one in places), "longest", "all"),
        [("characters", *(f"{n:,.0f}" for n in (*quantiles, lengths.max(), lengths.sum())))],
    )
    yield "## Residues\n"
    residues = {
        name.removeprefix("residue/"): number
        for name, number in metrics.items()
        if name.startswith("residue/")
    }
    yield from _table(
        ("trace of markup", "in all", "per 1,000 documents"),
        [
            (cell(name), f"{n:,.0f}", f"{1000 * n / counts.kept:.2f}")
            for name, n in residues.items()
        ],
    )
    if over_budget:
        yield "## Pages over their budget\n"
        yield f"{len(over_budget):,} pages were too long, too slow or too deep to render in full.\n"
        shown = [(cell(title), str(page), flag) for page, title, flag in over_budget[:MAX_ROWS]]
        yield from _table(("page", "id", "flag"), shown)
    yield "## Unresolved templates\n"
    yield (
        f"{len(unresolved):,} templates in the documents have no rule; the commonest are\n"
        if unresolved
        else "Every template in the documents has a rule.\n"
    )
    rows = [(cell(name), f"{n:,}", cell(title)) for name, n, title in unresolved[:MAX_ROWS]]
    if rows:
        yield from _table(("template", "documents", "such as"), rows)
    yield f"{NUM_SAMPLES} documents beside their wikitext: `samples.html`."


def _refresh(metrics: Mapping[str, float]) -> Iterator[str]:
    if "refresh/reused" not in metrics:
        return
    yield "## Since the last dump\n"
    words = {
        "new": "new",
        "changed": "changed",
        "moved": "moved (another title)",
        "deleted": "gone (deleted, or a redirect now)",
        "reused": "documents copied",
    }
    rows = [(word, f"{metrics[f'refresh/{name}']:,.0f}") for name, word in words.items()]
    yield from _table(("pages", "number"), rows)


def _speed(metrics: Mapping[str, float]) -> Iterator[str]:
    megabytes = metrics["wikitext_bytes"] / 1e6
    cpu = metrics["cpu_seconds"]
    yield "## Speed\n"
    yield (
        f"{megabytes:,.1f} MB of wikitext, {metrics['megabytes_per_second']:,.1f} MB/s; "
        f"{cpu:,.1f} CPU-seconds, {megabytes / max(cpu, 1e-3):,.1f} MB per CPU-second; "
        f"no process larger than {metrics['peak_megabytes']:,.0f} MB.\n"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|---{'|---:' * (len(head) - 1)}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""
