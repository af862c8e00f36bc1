"""Artifacts of pages, made row by row."""

from __future__ import annotations

import json
import re
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
NUM_CONSTRUCTS = 72
_TASKS = Path(__file__).parents[1]
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


@pytest.fixture
def check_constructs() -> Callable[[Iterable[int], Mapping[int, str]], None]:
    """Return a function that holds rows and reasons together against the study's numbers.

    0 is a row of our own. A reason names the tests elsewhere, or says how the row differs.
    """

    def check(rows: Iterable[int], reasons: Mapping[int, str]) -> None:
        numbers = set(rows) - {0}
        assert numbers | reasons.keys() == set(range(1, NUM_CONSTRUCTS + 1))
        for number, reason in reasons.items():
            named = re.findall(r"([\w/]+\.py)::(\w+)", reason)
            assert named or (number in numbers and reason.startswith("differs: ")), number
            for file, test in named:
                assert f"def {test}(" in (_TASKS / file).read_text(encoding="utf-8"), reason

    return check
