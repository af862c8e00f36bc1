"""MediaWiki's own parser tests as a judge of retention: the words of its HTML must be in our text.

What stays lost or is added, and why, is a table in docs/corpus.md: 44 and 34 words of 2,284.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tasks.clean.languages import Site
from tasks.clean.wikitext import parse_page


@pytest.fixture(scope="module")
def judge(shared_data: Path) -> ModuleType:
    """The script that reads the tests and scores texts against them."""
    path = shared_data.parent / "tools" / "score_parsertests.py"
    if not path.exists():
        pytest.skip("../shared/tools/score_parsertests.py is not there")
    spec = importlib.util.spec_from_file_location("score_parsertests", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_words_of_mediawiki(shared_data: Path, judge: ModuleType) -> None:
    """Catches text that is lost with its markup, in any construct that needs no server.

    Others, recall and precision: WikiExtractor 3.1.0 0.529 and 0.775, mwparserfromhell 0.906 and
    0.876, gensim 0.895 and 0.902, wikitextparser 0.953 and 0.879.
    """
    tests = shared_data / "parser" / "parsoid" / "parserTests.txt"
    cases = list({case[0]: case for case in reversed(list(judge.cases(tests)))}.values())
    assert len(cases) > 600
    site = Site.of("en", {"6": "File", "14": "Category", "2": "User"}, stop_sections=[])
    texts = {
        name: parse_page(text, title="", site=site, keep_empty_sections=True).text
        for name, text, _, _ in cases
    }
    table = judge.score(cases, texts)
    recall, precision, _ = table["all"]
    assert recall >= 0.98 and precision >= 0.98, table
    for group, (found, right, _) in table.items():
        assert found >= 0.96 and right >= 0.965, (group, table)
