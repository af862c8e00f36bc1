"""An earlier run's documents -> the rows that need not be cleaned again.

A row is copied when a scratch run would write the same: the page has the same revision, title and
wikitext (by BLAKE2b), the cleaner is the same (`fingerprint`: code, language data, settings,
namespaces), and no template on the page resolves otherwise than it did (the `templates` column
against both dumps' template tables; one that brings conversion rules, if the wiki's groups of
rules changed). What a page merely has beside its text (aliases, address, time) is always taken
from the new dump. Dropped pages are judged again.

    seen.parquet       of each part: page, revision, title, digest, its row among the documents
    templates.parquet  of the artifact: the dump's template redirects and categories
    logs/parts/*.json  of each part: wiki, fingerprint, and what the part cost
"""

from __future__ import annotations

import hashlib
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import merge
from importlib.metadata import version as package_version
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.artifact import LOGS, ArtifactRef, canonical_json
from storage.files import read_json
from storage.formats.table import num_rows, read_rows
from tasks.clean.languages import Site

STATS = f"{LOGS}/parts"
OVER_BUDGET = frozenset({"rough", "deep"})  # flags of pages that were not rendered in full
_ABOUT_ROWS = ("report.py", "room.py", "task.py")  # code that changes no row
_GROUPS_IN_MEMORY = 2


@dataclass(frozen=True, slots=True)
class Predecessor:
    """An earlier artifact of the same wiki. Rows are copied from `reusable` parts only."""

    name: str
    parts: tuple[Path, ...]
    reusable: frozenset[Path]
    changed_templates: frozenset[str]
    """Keys of the templates that resolve otherwise now."""
    has_other_groups: bool
    """The wiki's groups of conversion rules are not what they were."""
    num_pages: int
    """How many pages the earlier run saw."""


def fingerprint(wiki: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Return the digest of all that decides a document beside its page and its templates.

    The code itself is part of it: whoever edits the cleaner gets no stale rows, version or not.
    """
    here = Path(__file__).parent
    digest = hashlib.sha256(canonical_json([wiki, settings, package_version("opencc")]).encode())
    files = {*here.rglob("*.py"), *here.rglob("*.yaml")} - {here / name for name in _ABOUT_ROWS}
    for file in sorted(files):
        digest.update(f"\0{file.relative_to(here).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def find_predecessor(
    candidates: Iterable[ArtifactRef],
    *,
    wiki: str,
    language: str,
    cleaner: str,
    groups: str,
    templates: Path,
    log: Callable[[str], None],
) -> Predecessor | None:
    """Return the first candidate that was made of the same wiki; one that cannot be read is none.

    `cleaner` is the fingerprint of now, `groups` the digest of the new dump's conversion groups,
    `templates` its template table.
    """
    for ref in candidates:
        try:
            stats = {
                ref.path / file.stem: read_json(file) for file in (ref.path / STATS).glob("*.json")
            }
            parts = tuple(sorted(file.parent for file in ref.files("seen.parquet")))
            own = [one for one in stats.values() if one["wiki"] == wiki]
            if not parts or not own:
                continue
            reusable = {part for part in parts if stats.get(part, {}).get("cleaner") == cleaner}
            changed: frozenset[str] | None = frozenset()
            if reusable:
                changed = changed_templates(ref.path / "templates.parquet", templates, language)
            else:
                log(f"the cleaner is not the one that made {ref}: every page is cleaned")
            if changed is None:
                log(f"a template was taken for a function in {ref}: every page is cleaned")
                reusable, changed = set(), frozenset()
            others = any(one["groups"] != groups for one in own)
            num_pages = num_rows(part / "seen.parquet" for part in parts)
            return Predecessor(str(ref), parts, frozenset(reusable), changed, others, num_pages)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            log(f"{ref} cannot be read ({error}): nothing is copied from it")
    return None


def template_key(name: str) -> str:
    """Return a template's name as it is compared: templates that differ in case count as one."""
    return name.replace("_", " ").strip().casefold()


def changed_templates(old: Path, new: Path, language: str) -> frozenset[str] | None:
    """Return the keys of the templates that the two dumps' tables resolve differently.

    Both tables are sorted by name, so they stream past each other. A template whose redirect or
    categories changed counts only if its rule did, with the names it has and had. None means that
    the documents do not tell: they list no parser functions, and a template was taken for one.
    """
    both = merge(read_rows([old]), read_rows([new]), key=itemgetter("name"))
    differing = {
        name
        for name, rows in groupby(both, key=itemgetter("name"))
        if not _is_pair_of_equals(list(rows))
    }
    if not differing:
        return frozenset()
    tables = [_table_around(path, differing, language) for path in (old, new)]
    changed: set[str] = set()
    for name in differing:
        before, after = (table.look_up(name) for table in tables)
        if before != after and before.is_function:
            return None
        if before != after:
            changed |= {template_key(one) for one in (name, before.name, after.name)}
    return frozenset(changed)


def _is_pair_of_equals(rows: list[dict[str, Any]]) -> bool:
    return len(rows) == 2 and rows[0] == rows[1]


def _table_around(path: Path, names: set[str], language: str) -> Any:
    """Return a template table of the given names, what they lead to, and those spelt likewise."""
    targets = {row["redirect"] for row in read_rows([path]) if row["name"] in names}
    wanted = {template_key(name) for name in names | (targets - {None})}
    rows = [row for row in read_rows([path]) if template_key(row["name"]) in wanted]
    redirects, categories = split_templates(rows)
    site = Site.of(language, template_redirects=redirects, template_categories=categories)
    return site.templates


def split_templates(
    rows: Iterable[Mapping[str, Any]],
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Return the redirects and the categories of a template table's rows; equal ones are one."""
    redirects: dict[str, str] = {}
    categories: dict[str, tuple[str, ...]] = {}
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    for row in rows:
        if row["redirect"]:
            redirects[row["name"]] = sys.intern(row["redirect"])
        if row["categories"]:
            names = tuple(row["categories"])
            categories[row["name"]] = known.setdefault(names, names)
    return redirects, categories


@dataclass(frozen=True, slots=True)
class Known:
    """A page as the earlier run saw it; `document` is its row there, None where it was dropped."""

    part: Path
    rev_id: int
    title: str
    digest: bytes
    document: int | None
    residues: dict[str, int]


class Earlier:
    """What the earlier run knows of one part's pages, and the rows that can be copied."""

    def __init__(
        self,
        predecessor: Predecessor | None,
        page_ids: pa.Array,
        brings_rules: Callable[[str], bool],
    ) -> None:
        self.brings_rules = brings_rules
        self.counts = dict.fromkeys(("new", "changed", "moved", "unchanged", "reused"), 0)
        self._predecessor = predecessor
        self._pages: dict[int, Known] = {}
        self._groups: dict[tuple[Path, int], pa.Table] = {}
        self._starts: dict[Path, list[int]] = {}
        for part in predecessor.parts if predecessor else ():
            for row in _rows_of(part / "seen.parquet", page_ids):
                known = Known(
                    part, row["rev_id"], row["title"], row["digest"], row["document"],
                    dict(row["residues"] or ()),
                )  # fmt: skip
                self._pages[row["page_id"]] = known

    def find(self, page_id: int, rev_id: int, title: str, digest: bytes) -> Known | None:
        """Return the page whose row can be copied, and count what became of it."""
        if self._predecessor is None:
            return None
        known = self._pages.get(page_id)
        if known is None:
            self.counts["new"] += 1
            return None
        if known.title != title:
            self.counts["moved"] += 1
            return None
        if known.rev_id != rev_id or known.digest != digest:
            self.counts["changed"] += 1
            return None
        self.counts["unchanged"] += 1
        if known.document is None or not self._is_reusable(known):
            return None
        self.counts["reused"] += 1
        return known

    def rows(self, pages: list[Known], columns: list[str]) -> pa.Table:
        """Return the documents of pages, in their order."""
        wanted: dict[tuple[Path, int], list[int]] = {}
        for number, page in enumerate(pages):
            wanted.setdefault(self._place(page), []).append(number)
        tables, order = [], []
        for (part, group), numbers in wanted.items():
            table = self._group(part, group).select(columns)
            start = self._starts[part][group]
            tables.append(table.take([(pages[one].document or 0) - start for one in numbers]))
            order += numbers
        back = sorted(range(len(order)), key=order.__getitem__)
        return pa.concat_tables(tables).take(back)

    def _is_reusable(self, page: Known) -> bool:
        predecessor = self._predecessor
        assert predecessor is not None
        if page.part not in predecessor.reusable:
            return False
        part, group = self._place(page)
        row = (page.document or 0) - self._starts[part][group]
        table = self._group(part, group)
        flags, used = (table.column(name)[row].as_py() for name in ("flags", "templates"))
        if flags is None or used is None or not OVER_BUDGET.isdisjoint(flags):
            return False  # a page that took too long may have more luck this time
        if predecessor.has_other_groups and any(map(self.brings_rules, used)):
            return False
        return predecessor.changed_templates.isdisjoint(map(template_key, used))

    def _place(self, page: Known) -> tuple[Path, int]:
        if page.part not in self._starts:
            footer = pq.read_metadata(page.part / "documents.parquet")
            starts = [0]
            for group in range(footer.num_row_groups):
                starts.append(starts[-1] + footer.row_group(group).num_rows)
            self._starts[page.part] = starts
        return page.part, bisect_right(self._starts[page.part], page.document or 0) - 1

    def _group(self, part: Path, group: int) -> pa.Table:
        """Return a row group; the last few stay in memory, as both dumps go by page id."""
        if (part, group) not in self._groups:
            if len(self._groups) >= _GROUPS_IN_MEMORY:
                self._groups.pop(next(iter(self._groups)))
            with pq.ParquetFile(part / "documents.parquet") as file:
                self._groups[part, group] = file.read_row_group(group)
        return self._groups[part, group]


def _rows_of(path: Path, page_ids: pa.Array) -> Iterator[dict[str, Any]]:
    """Yield the rows with these page ids; row groups without any are not read."""
    limits = pc.min_max(page_ids)
    low, high = limits["min"].as_py(), limits["max"].as_py()
    if low is None:
        return
    with pq.ParquetFile(path) as file:
        for group in range(file.metadata.num_row_groups):
            bounds = file.metadata.row_group(group).column(0).statistics
            if bounds is None or (bounds.min <= high and bounds.max >= low):
                table = file.read_row_group(group)
                is_known = pc.is_in(table.column("page_id"), value_set=page_ids)
                yield from table.filter(is_known).to_pylist()
