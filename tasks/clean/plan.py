"""What all parts of one wiki share, worked out once: pages -> a folder that every worker reads.

    plan.tmp/siteinfo.json     the header: language, namespaces
    plan.tmp/modules.json      the wiki's groups of conversion rules, by name
    plan.tmp/aliases-*.parquet the redirects, by the part of pages they lead to
    templates.parquet          template redirects, and categories that have a rule, by name

The last one stays in the artifact: the next dump is compared with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifact import canonical_json
from storage.files import read_json, write_json
from storage.formats.schemas import TEMPLATES
from storage.formats.table import read_rows
from storage.workspace import Workspace
from tasks.clean.aliases import sort_aliases
from tasks.clean.config import CleanConfig
from tasks.clean.incremental import (
    Predecessor,
    find_predecessor,
    fingerprint,
    split_templates,
)
from tasks.clean.languages import Site
from tasks.clean.templates import TemplateTable

_NOBODY = "\ue000"  # the name of no template
_DECISIVE = ("language", "case", "namespaces")


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the shared files lie, and what a part must know to copy rows. Every job has it."""

    folder: Path
    templates: Path
    wiki: str
    cleaner: str
    groups: str
    predecessor: Predecessor | None


def make_plan(parts: Sequence[Path], config: CleanConfig, workspace: Workspace) -> Plan:
    """Gather what the parts share, and look for an earlier run to copy from."""
    folder = workspace.path / "plan.tmp"  # what a crash leaves there the next Workspace deletes
    folder.mkdir(exist_ok=True)
    info = read_json(parts[0] / "siteinfo.json")
    write_json(folder / "siteinfo.json", info)
    modules = _modules(parts)
    write_json(folder / "modules.json", modules)
    templates = workspace.path / "templates.parquet"
    pq.write_table(_templates(parts, info["language"]), templates, compression="zstd")
    cleaner = fingerprint({name: info.get(name) for name in _DECISIVE}, config.key_dict())
    groups = hashlib.sha256(canonical_json(modules).encode()).hexdigest()
    predecessor = find_predecessor(
        workspace.predecessors(),
        wiki=info["dbname"],
        language=info["language"],
        cleaner=cleaner,
        groups=groups,
        templates=templates,
        log=workspace.log,
    )
    return Plan(folder, templates, info["dbname"], cleaner, groups, predecessor)


def plan_aliases(plan: Plan, parts: Sequence[Path]) -> list[Path]:
    """Sort the redirects by the part they lead to; return each part's file."""
    info = read_json(plan.folder / "siteinfo.json")
    is_first_upper = info.get("case") != "case-sensitive"
    return sort_aliases(parts, plan.folder, is_first_upper=is_first_upper)


@lru_cache(maxsize=1)
def load_site(folder: Path, templates: Path, config: CleanConfig) -> Site:
    """Return the wiki's words, read once in each worker."""
    info = read_json(folder / "siteinfo.json")
    redirects, categories = split_templates(read_rows([templates]))
    return Site.of(
        info["language"],
        info["namespaces"],
        config.drop_sections,
        variant=config.variant,
        template_redirects=redirects,
        template_categories=categories,
        modules=read_json(folder / "modules.json"),
    )


def _templates(parts: Sequence[Path], language: str) -> pa.Table:
    """Return the template tables of all parts as one: what decides a rule, sorted by name.

    Of the English Wikipedia's 900,000 templates most have neither a redirect nor a category that
    a rule is known for; every worker would carry them.
    """

    @cache
    def decides(category: str) -> bool:
        table = TemplateTable.of(language, {}, {_NOBODY: [category]})
        return table.look_up(_NOBODY).role != "unknown"

    rows: dict[str, dict[str, Any]] = {}
    files = [part / "templates.parquet" for part in parts]
    for row in read_rows(file for file in files if file.exists()):
        categories = [one for one in row["categories"] or () if decides(one)]
        if categories or row["redirect"]:
            rows.setdefault(row["name"], row | {"categories": categories})
    return pa.Table.from_pylist([rows[name] for name in sorted(rows)], schema=TEMPLATES)


def _modules(parts: Sequence[Path]) -> dict[str, str]:
    """Return the groups of conversion rules by name without namespace (`CGroup/IT`)."""
    files = [part / "modules.parquet" for part in parts]
    rows = sorted(
        (row["title"], row["text"]) for row in read_rows(file for file in files if file.exists())
    )
    modules: dict[str, str] = {}
    for title, text in rows:  # sorted: a module comes before the old template of its name
        modules.setdefault(title.partition(":")[2] or title, text)
    return modules
