"""The scanner against mwparserfromhell, an independent parser: same words, links and templates."""

from __future__ import annotations

import re
from pathlib import Path

import mwparserfromhell
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.clean.languages import Site
from tasks.clean.wikitext import parse_page

EN = Site.of("en", {"6": "File", "14": "Category"}, stop_sections=[])
WORDS = re.compile(r"\w+")
WORD = st.sampled_from(["bone", "river", "Köln", "12", "a", "été", "x2", "水", "of"])
TITLE = st.sampled_from(["Bonn", "bonn", "Bonn (city)", "A, B", "Ä", "C#x", "snow white"])


def compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Text in which markup holds text in which markup may hold text."""
    phrase = st.tuples(WORD, st.lists(inner, max_size=4)).map(
        lambda one: " ".join([one[0], *one[1]])
    )
    return st.one_of(
        phrase,
        st.tuples(TITLE, phrase).map(lambda one: f"[[{one[0]}|{one[1]}]]"),
        phrase.map(lambda one: f"<!-- {one} -->"),
        phrase.map(lambda one: f"<ref>{one}</ref>"),
        phrase.map(lambda one: f'<span class="x">{one}</span>'),
        phrase.map(lambda one: f"{{{{clear|{one}}}}}"),
    )


LEAF = st.one_of(
    WORD,
    TITLE.map(lambda one: f"[[{one}]]"),
    WORD.map(lambda one: f"'''{one}'''"),
    WORD.map(lambda one: f"[http://example.org/{one} {one}]"),
)
TEXT = st.recursive(LEAF, compound, max_leaves=12)


@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_same_words_and_links(text: str) -> None:
    """Catches words lost or added where links, tags, templates and comments are nested."""
    if re.search(r"\[\[[^\]]*\[\[|<ref>.*<ref>|<!--.*<!--", text):
        return  # MediaWiki has no such nesting; the two mend it in different ways
    document = parse_page(text, title="T", site=EN)
    oracle = mwparserfromhell.parse(text)
    for reference in oracle.filter_tags(matches=lambda tag: tag.tag == "ref"):
        oracle.remove(reference)
    body = document.text.partition("\n")[2]
    assert WORDS.findall(body) == WORDS.findall(oracle.strip_code(keep_template_params=False))
    names = {str(one.name).strip().capitalize() for one in oracle.ifilter_templates()}
    assert {name.capitalize() for name in document.templates} <= names
    titles = {str(one.title).partition("#")[0] for one in oracle.ifilter_wikilinks()}
    assert set(document.links) <= {one[:1].upper() + one[1:] for one in titles}


def test_real_pages_name_the_same_templates(shared_data: Path) -> None:
    """Catches templates overlooked on real pages: their names are what reports count."""
    folder = shared_data / "parser" / "wtf_wikipedia"
    pages = sorted(path for path in folder.rglob("*.txt") if path.stat().st_size < 60_000)[:25]
    if not pages:
        pytest.skip("no pages of wtf_wikipedia there")
    for path in pages:
        text = path.read_text(encoding="utf-8")
        found = set(parse_page(text, title=path.stem, site=EN).templates)
        tree = mwparserfromhell.parse(text)
        outer, known = (
            {
                rule.name
                for one in tree.ifilter_templates(recursive=recursive)
                if not (rule := EN.templates.look_up(one.name.strip_code().strip())).is_function
            }
            for recursive in (False, True)
        )
        assert outer <= found <= known, (path.name, outer - found, found - known)
