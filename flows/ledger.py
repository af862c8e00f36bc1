"""Why is my article missing? An artifact and all it was made from -> where a page went.

    from flows.ledger import explain
    explain(Store(), ref, "Aristotle").answer     # "'Aristotle' (page 308) is in documents:4f1c…"

Every room that drops pages writes a ledger, and every room that keeps them writes their titles, so
the question is put to all of them in the order of the way: pages, documents, corpus.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.artifact import ArtifactRef, Counts
from storage.formats.table import read_rows
from storage.store import Store

PAGE_TABLES = ("pages.parquet", "documents.parquet", "corpus.parquet")
MAX_NEAR = 10
MAX_HOPS = 3
REASONS = {
    "redirect": "it is a redirect to {detail}",
    "namespace": "it is not an article: namespace {detail}; see extract.namespaces",
    "model": "its content model is {detail}, not wikitext",
    "empty": "it has no text",
    "truncated": "the dump ends within it",
    "disambiguation": "it only lists what a word may mean; clean.keep_disambiguation=true keeps it",
    "too_short": "it is too short ({detail}); see clean.min_chars",
    "error": "the cleaner failed on it ({detail})",
    "older_revision": "a newer revision of it is there ({detail})",
    "duplicate": "its text is that of {detail}",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one artifact says of a page: `reason` is None where the page is kept."""

    artifact: str
    part: str
    page_id: str
    title: str
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer to a question, with all that was found, in the order of the way.

    `near` are titles that look like the asked one, where no page has it.
    """

    query: str
    answer: str
    findings: list[Finding] = field(default_factory=list)
    near: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)


def explain(store: Store, ref: ArtifactRef, query: str) -> Explanation:
    """Tell where the page of a title or an id went, on the way to an artifact."""
    way = _way(store, ref)
    findings = _search(way, _is_called(_spellings(query)) | _has_id(query.strip()))
    note = ""
    if not findings:
        lower = _spellings(query)[1].lower()
        findings = _search(way, pc.utf8_lower(pc.field("title")) == lower)
        if findings:
            note = f"No page is called {query!r}, but for its capitals. "
    if not findings:
        near = _near(way, _spellings(query)[1])
        answer = f"{query!r} is nowhere in {ref} or what it was made from"
        answer += ", neither as a title (in any capitals, with spaces for underscores) nor as an id"
        return Explanation(query, answer + ".", near=near)
    findings = _with_targets(way, findings)
    return Explanation(query, note + " ".join(_sentences(ref, findings)), findings)


def summary(store: Store, ref: ArtifactRef) -> list[dict[str, Any]]:
    """Return what an artifact and all it was made from dropped: number and an example by reason."""
    rows = []
    for one in _way(store, ref):
        manifest = store.manifest(one)
        dropped = manifest.counts.dropped
        examples = _examples(one, set(dropped))
        by_reason = [
            {"reason": reason, "pages": number, "example": examples.get(reason)}
            for reason, number in sorted(dropped.items(), key=lambda item: -item[1])
        ]
        counts = {"seen": manifest.counts.seen, "kept": manifest.counts.kept}
        rows.append({"artifact": str(one), "stage": manifest.stage, **counts, "dropped": by_reason})
    return rows


def answer_page(store: Store, ref: ArtifactRef, query: str) -> tuple[dict[str, Any], list[str]]:
    """Return the answer about one page as JSON values and as lines for a person."""
    explanation = explain(store, ref, query)
    lines = [_plain(explanation.answer)]
    for one in explanation.findings:
        what = f"dropped: {one.reason}" if one.reason else "kept"
        detail = f"  {one.detail}" if one.detail else ""
        lines.append(_plain(f"  {one.artifact:<22} {what:<24} {one.title}{detail}"))
    if explanation.near:
        lines.append("Titles that hold it: " + _plain("; ".join(explanation.near)))
    return explanation.to_json(), lines


def answer_summary(store: Store, ref: ArtifactRef) -> tuple[dict[str, Any], list[str]]:
    """Return what was dropped by reason, over the whole way, as JSON values and as lines."""
    rows = summary(store, ref)
    lines = []
    for row in rows:
        lines.append(f"{row['artifact']}: {row['seen']:,} seen, {row['kept']:,} kept")
        for one in row["dropped"]:
            example = f"  such as {one['example']}" if one["example"] else ""
            lines.append(_plain(f"  {one['reason']:<20}{one['pages']:>12,}{example}"))
    lines.append(f"Ask for one page: etude show {ref} --ledger TITLE_OR_ID")
    return {"ledgers": rows}, lines


def answer_list(
    ref: ArtifactRef, counts: Counts, text: str
) -> tuple[dict[str, Any], Iterator[str]]:
    """Return the artifact's own dropped rows whose id or title holds a text."""
    wanted = text.casefold()
    dropped = [
        row
        for row in read_rows(ref.files("ledger.parquet"))
        if wanted in f"{row['id']} {row['title']}".casefold()
    ]

    def lines() -> Iterator[str]:
        for row in dropped:
            detail = f"  {row['detail']}" if row["detail"] else ""
            yield _plain(f"{row['reason']:<16} {row['id']:<20} {row['title']}{detail}")
        yield f"{len(dropped):,} of {counts.seen:,} rows dropped"

    return {"counts": counts.to_json(), "dropped": dropped}, lines()


def _plain(text: str) -> str:
    """Return a stranger's words without what a terminal would obey."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


def _way(store: Store, ref: ArtifactRef) -> list[ArtifactRef]:
    """Return the artifacts that know pages, the dump's first; each once."""
    found: dict[Path, ArtifactRef] = {}
    for _, one, _ in reversed(store.lineage(ref)):
        if one is not None and any(_tables(one)):
            found.setdefault(one.path, one)
    kinds = ("pages", "documents", "corpus")
    order = {kind: number for number, kind in enumerate(kinds)}
    return sorted(found.values(), key=lambda one: order.get(one.kind, len(order)))


def _tables(ref: ArtifactRef) -> Iterator[Path]:
    """Yield the files of an artifact that name pages, part by part."""
    for name in ("ledger.parquet", *PAGE_TABLES):
        yield from ref.files(name)


def _spellings(query: str) -> list[str]:
    """Return how a title may have been meant: as given, with single spaces, with a capital."""
    spaced = " ".join(query.replace("_", " ").split())
    return [query, spaced, spaced[:1].upper() + spaced[1:]]


def _is_called(titles: list[str]) -> pc.Expression:
    return pc.field("title").isin(titles)


def _has_id(query: str) -> pc.Expression:
    """Match a page's id: a number, or `enwiki:7` as the corpus calls it; `id` is a string."""
    return (pc.field("id") == query) | pc.ends_with(pc.field("id"), f":{query}")


def _search(way: list[ArtifactRef], wanted: pc.Expression) -> list[Finding]:
    return [finding for ref in way for file in _tables(ref) for finding in _rows(ref, file, wanted)]


def _rows(ref: ArtifactRef, file: Path, wanted: pc.Expression) -> Iterator[Finding]:
    """Yield the rows of a file that match."""
    is_ledger = file.name == "ledger.parquet"
    columns = ["id", "title", "reason", "detail"] if is_ledger else ["page_id", "title"]
    with pq.ParquetFile(file) as parquet:
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, columns)
            if not is_ledger:
                ids = pc.cast(table.column("page_id"), "string")
                table = table.append_column("id", ids)
            for row in table.filter(wanted).to_pylist():
                yield Finding(
                    artifact=str(ref),
                    part=file.parent.name,
                    page_id=row["id"],
                    title=row["title"],
                    reason=row.get("reason"),
                    detail=row.get("detail"),
                )


def _with_targets(way: list[ArtifactRef], findings: list[Finding]) -> list[Finding]:
    """Add what is known of the pages that redirects among the findings lead to."""
    known = {one.title for one in findings}
    found = list(findings)
    for _ in range(MAX_HOPS):
        targets = {
            _spellings((one.detail or "").partition("#")[0])[2]
            for one in found
            if one.reason == "redirect"
        } - known
        if not targets:
            break
        known |= targets
        found += _search(way, _is_called(sorted(targets)))
    return found


def _sentences(ref: ArtifactRef, findings: list[Finding]) -> Iterator[str]:
    """Say of each page whether the artifact has it, and else who dropped it and why."""
    pages: dict[tuple[str, str], list[Finding]] = {}
    for one in findings:
        pages.setdefault((one.title, one.page_id.rpartition(":")[2]), []).append(one)
    for (title, page_id), met in pages.items():
        name = f"{title!r} (page {page_id})"
        dropped = [one for one in met if one.reason is not None]
        kept = [one for one in met if one.reason is None and one.artifact == str(ref)]
        for one in kept:
            yield f"{name} is in {ref}, {one.part}."
        for one in dropped:
            why = REASONS.get(one.reason or "", "{reason} ({detail})")
            why = why.format(reason=one.reason, detail=one.detail or "no more is known")
            yield f"{name} was dropped on the way to {one.artifact}: {why}."
        if not kept and not dropped:
            yield f"{name} is in {', '.join(one.artifact for one in met)}."


def _near(way: list[ArtifactRef], title: str) -> list[str]:
    """Return some titles that hold the asked one, whatever its capitals, the shortest first."""
    if not title:
        return []
    holds = pc.match_substring(pc.field("title"), title, ignore_case=True)
    titles = {one.title for one in _search(way[:1], holds)}
    return sorted(titles, key=lambda one: (len(one), one))[:MAX_NEAR]


def _examples(ref: ArtifactRef, reasons: set[str]) -> dict[str, str]:
    """Return a title for each reason, the first in the ledger."""
    found: dict[str, str] = {}
    for file in ref.files("ledger.parquet"):
        for batch in pq.ParquetFile(file).iter_batches(columns=["title", "reason"]):
            if found.keys() >= reasons:
                return found
            titles, names = (column.to_pylist() for column in batch.columns)
            for title, reason in zip(titles, names, strict=True):
                found.setdefault(reason, title)
    return found
