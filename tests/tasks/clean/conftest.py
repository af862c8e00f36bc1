"""Artifacts of pages, made row by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.artifact import ArtifactRef
from storage.formats.schemas import PAGES
from storage.formats.table import write_table

MakePages = Callable[..., ArtifactRef]
_TEMPLATES = pa.schema(
    [("name", pa.string()), ("redirect", pa.string()), ("categories", pa.list_(pa.string()))]
)
_TWO_TEXTS = {
    "redirects": pa.schema([("title", pa.string()), ("target", pa.string())]),
    "modules": pa.schema([("title", pa.string()), ("text", pa.string())]),
}


def page(
    page_id: int, title: str, text: str, rev_id: int = 0, wiki: str = "enwiki"
) -> dict[str, Any]:
    """Return a row of pages."""
    return {
        "wiki": wiki,
        "language": wiki[:2],
        "page_id": page_id,
        "rev_id": rev_id or 10 * page_id,
        "timestamp": f"2024-01-01T00:00:{(rev_id or page_id) % 60:02d}Z",
        "title": title,
        "namespace": 0,
        "model": "wikitext",
        "redirect": None,
        "url": f"https://{wiki[:2]}.example/wiki/{title}",
        "wikitext": text,
    }


@pytest.fixture
def make_page() -> Callable[..., dict[str, Any]]:
    """`page`, for tests that cannot import a conftest."""
    return page


@pytest.fixture
def make_pages() -> MakePages:
    """Return a function that writes an artifact of pages as `extract` leaves it.

    Redirects, templates and modules are shared out over the parts, as they are in a dump.
    """

    def make(
        folder: Path,
        rows: Sequence[Mapping[str, Any]],
        *,
        parts: int = 1,
        redirects: Iterable[tuple[str, str]] = (),
        templates: Iterable[tuple[str, str | None, list[str]]] = (),
        modules: Iterable[tuple[str, str]] = (),
        case: str = "first-letter",
    ) -> ArtifactRef:
        shares = {
            "redirects": [dict(zip(("title", "target"), one, strict=True)) for one in redirects],
            "modules": [dict(zip(("title", "text"), one, strict=True)) for one in modules],
            "templates": [dict(zip(_TEMPLATES.names, one, strict=True)) for one in templates],
        }
        size = -(-len(rows) // parts)
        for number in range(parts):
            part = folder / f"part-{number:05d}"
            part.mkdir(parents=True)
            own = rows[number * size : (number + 1) * size]
            write_table(part / "pages.parquet", own, PAGES)
            for name, values in shares.items():
                schema = _TWO_TEXTS.get(name, _TEMPLATES)
                write_table(part / f"{name}.parquet", values[number::parts], schema)
            wiki = rows[0]["wiki"] if rows else "enwiki"
            names = {"0": "", "6": "File", "10": "Template", "14": "Category"}
            info = {"dbname": wiki, "language": wiki[:2], "base": "", "case": case}
            text = json.dumps(info | {"namespaces": names})
            (part / "siteinfo.json").write_text(text, encoding="utf-8")
        return ArtifactRef("pages", "key", "digest", folder)

    return make
