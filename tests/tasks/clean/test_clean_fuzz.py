"""Wikitext, cut and mixed at random: no exception, no hang, no mark, no control character.

What must hold of any text is `check`; `benchmarks/fuzz_clean.py` searches for a text that breaks
it, led by coverage. Its finds belong in FOUND.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.formats.table import read_rows
from tasks.clean.languages import Site
from tasks.clean.markup import MARKS
from tasks.clean.wikitext import Document, parse_page
from tasks.extract.config import ExtractConfig
from tasks.extract.pages import extract_dump

REPOSITORY = Path(__file__).resolve().parents[3]
EN = Site.of("en", {"6": "File", "14": "Category"})
ZH = Site.of("zh", {"6": "文件", "14": "分类"})
SNIPPETS = [
    "'''Bonn''' ({{IPA|bɔn}}; {{lang|la|Bonna}}) is a [[city]] on the [[Rhine|river]].",
    "{{Infobox settlement\n| name = Bonn\n| area = {{convert|141|km2}}\n| x = [[a|b]]<br>c\n}}",
    "It has 331,885 people.<ref name=\"a\">{{cite web|url=http://x.y|title=Z}}</ref><ref name=a />",
    "[[File:Bonn.jpg|thumb|200px|The [[town hall]] of {{nowrap|old Bonn}}]]",
    "== History ==\n:''Main article: [[History of Bonn]]''\n\nIt was founded in {{circa|12 BC}}.",
    "{| class=x\n|+ Mayors\n! Name !! Years\n|-\n| [[A]] || 1949–1956\n|-\n| B\n| style=x | 2\n|}",
    "* one\n** two <sup>2</sup>\n# three\n; term : definition\n: indented",
    "<math>x^{2}_{i}</math>, <code>f(x) = [[1]]</code>, <nowiki>[[a]]</nowiki> and H<sub>2</sub>O",
    " for i in x:\n   print(i)\n",
    "<pre>\nraw '' text\n</pre><!-- comment -->\n<gallery>\nFile:a.jpg|b\n</gallery>",
    "[http://example.org label] [http://example.org] http://example.org/x?a=b",
    "[[Category:Cities]]\n[[de:Bonn]]\n{{DEFAULTSORT:Bonn}}\n{{Germany-geo-stub}}",
    "'''北京'''（{{lang-en|Beijing}}；{{IPA|x}}）是[[中华人民共和国|中国]]的首都，人口{{formatnum:21893095}}。",
    "-{zh-hans:计算机;zh-hant:電腦}--{H|zh-cn:软件;zh-tw:軟體}-{{NoteTA|G1=IT|1=zh-cn:信息;zh-tw:資訊}}",
    "<div style=\"x\"><table><tr><td>a</td><th>b</th></tr></table></div><ul><li>c</li></ul>",
    "&nbsp;&amp;lt; &#x41; &#0; &bogus; 3 < 5 ''''x''''' __NOTOC__ {{{1|d}}} {{#if:a|b|c}}",
]  # fmt: skip
FOUND = [
    "a {{Ci<br>tation needed}} b {{No such<br>thing|x}}",
]
REAL = (
    "dumps/gensim/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
    "dumps/wp2txt/testdata_en_0.10.xml.bz2",
    "dumps/wp2txt/testdata_ja_0.10.xml.bz2",
    "dumps/wikiclean/zhwiki-20150423-id13.xml",
    "zh/komica/assembled_komicawiki_filtered.xml.bz2",
)
WINDOW_CHARS = 3_000
MAX_SECONDS = 5  # of processor time: a machine may stand still
PIECES = sorted({piece for text in SNIPPETS for piece in re.findall(r"\w+|\s+|[^\w\s]{1,3}", text)})
CONTROLS = re.compile("[\u0000-\u0008\u000b-\u001f\u007f-\u009f\ud800-\udfff]")


def check(text: str) -> None:
    """Parse with both wikis; what must hold for any text."""
    began = time.process_time()
    for site in (EN, ZH):
        document = parse_page(text, title="T", site=site)
        assert not MARKS.search(document.text) and not CONTROLS.search(document.text)
        check_columns(document)
    assert time.process_time() - began < MAX_SECONDS


def check_columns(document: Document) -> None:
    """Sections cover the text; no mark is in any column."""
    end = 0
    for section in document.sections:
        assert section["start"] == end
        end = section["end"]
    assert end == len(document.text)
    words = [*document.links, *document.categories, *document.facts.values(), *document.templates]
    assert not any(MARKS.search(word) for word in words), words


def mutate(text: str, data: st.DataObject) -> str:
    """Cut, double and splice a text a few times."""
    for _ in range(data.draw(st.integers(0, 6))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 40)))
        change = data.draw(st.sampled_from(["cut", "double", "insert"]))
        if change == "cut":
            text = text[:start] + text[end:]
        elif change == "double":
            text = text[:end] + text[start:end] + text[end:]
        else:
            text = text[:start] + data.draw(st.sampled_from(PIECES)) + text[start:]
    return text


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(SNIPPETS), min_size=1, max_size=6), st.data())
def test_mutated_pages(snippets: list[str], data: st.DataObject) -> None:
    """Catches what breaks when brackets lose their partners: pages are cut, doubled and spliced."""
    check(mutate("\n".join(snippets), data))


@pytest.fixture(scope="module", params=REAL, ids=lambda file: Path(file).name[:12])
def real_pages(
    request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """The wikitext of a real dump's pages."""
    path = shared_data / request.param
    if not path.exists():
        pytest.skip(f"../shared/data/{request.param} is not there")
    folder = tmp_path_factory.mktemp("pages")
    extract_dump(path, folder, ExtractConfig())
    return [row["wikitext"] for row in read_rows([folder / "pages.parquet"], ["wikitext"])]


@pytest.mark.timeout(300)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_real_pages(real_pages: list[str], data: st.DataObject) -> None:
    """Catches what only the habits of real editors bring about: a window on a page, mutated."""
    page = real_pages[data.draw(st.integers(0, len(real_pages) - 1))]
    start = data.draw(st.integers(0, max(0, len(page) - WINDOW_CHARS)))
    check(mutate(page[start : start + WINDOW_CHARS], data))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
def test_mixed_pieces(text: str) -> None:
    """Catches combinations that nobody would write."""
    check(text)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_characters(text: str) -> None:
    """Catches control characters, surrogates and our own marks coming in from outside."""
    check(text)


@pytest.mark.parametrize("text", FOUND)
def test_what_the_fuzzer_found(text: str) -> None:
    """Catches each text again that once broke the cleaner."""
    check(text)


@pytest.mark.skipif(find_spec("atheris") is not None, reason="atheris is installed here")
def test_the_fuzzer_says_what_it_wants(tmp_path: Path) -> None:
    """Catches a harness that no longer starts, and a traceback where a command would help."""
    command = [sys.executable, "benchmarks/fuzz_clean.py", str(tmp_path / "corpus")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith("atheris is not installed: pip install atheris\n")


def test_marks_of_ours_in_a_page_are_dropped() -> None:
    """Catches a page that puts another page's verbatim text, or a number, in its own place."""
    text = "a\ue01e0\ue01fb \ue002\ue003\ue010 <nowiki>x</nowiki> &#xE01E;0&#57375;\x07\x85"
    document = parse_page(text, title="T", site=EN)
    assert document.text.startswith("# T\n\na0b x ")
    assert not MARKS.search(document.text)
