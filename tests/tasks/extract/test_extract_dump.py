"""Dumps, good and bad, as the extract room meets them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from storage.artifact import ArtifactRef, Counts
from storage.errors import BadInput
from storage.formats.table import num_rows, read_rows
from storage.workspace import Workspace
from tasks.extract.config import ExtractConfig
from tasks.extract.pages import extract_dump, identify, page_url, read_site
from tasks.extract.task import extract
from tasks.extract.xml_reader import Site

HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="de">
<siteinfo><sitename>W</sitename><dbname>dewiki</dbname>
<base>https://de.wikipedia.org/wiki/Haupt%C2%ADseite</base><case>first-letter</case><namespaces>
<namespace key="-2">Medium</namespace><namespace key="0" /><namespace key="1">Diskussion</namespace>
<namespace key="6">Datei</namespace><namespace key="10">Vorlage</namespace>
<namespace key="14">Kategorie</namespace></namespaces></siteinfo>
"""
FOOTER = "</mediawiki>\n"


def page(
    number: int,
    title: str,
    text: str = "Ein Text.",
    *,
    ns: int | None = 0,
    redirect: str = "",
    model: str = "wikitext",
    revisions: list[tuple[str, str]] | None = None,
) -> str:
    """One `<page>`."""
    parts = [f"<page><title>{escape(title)}</title>"]
    parts += [f"<ns>{ns}</ns>"] if ns is not None else []
    parts += [f"<id>{number}</id>"]
    parts += [f'<redirect title="{escape(redirect)}" />'] if redirect else []
    for time, words in revisions or [("2020-01-01T00:00:00Z", text)]:
        body = f"<text>{escape(words)}</text>" if words else '<text bytes="0" />'
        parts.append(
            f"<revision><id>{number}0</id><timestamp>{time}</timestamp><contributor><id>7</id>"
            f"</contributor><model>{model}</model>{body}</revision>"
        )
    return "".join([*parts, "</page>\n"])


def dump(*pages: str) -> str:
    """A whole dump."""
    return HEADER + "".join(pages) + FOOTER


def run(path: Path, **options: Any) -> tuple[Counts, list[dict[str, Any]], list[dict[str, Any]]]:
    """Extract a file; return the ledger, the pages and the dropped ones."""
    folder = path.parent / f"out-{path.name}"
    folder.mkdir()
    counts = extract_dump(path, folder, ExtractConfig(**options))
    return (
        counts,
        list(read_rows([folder / "pages.parquet"])),
        list(read_rows([folder / "ledger.parquet"])),
    )


def write(tmp_path: Path, text: str | bytes, name: str = "dump.xml") -> Path:
    """Write a dump file."""
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_every_page_is_a_row_or_a_reason(tmp_path: Path) -> None:
    """Catches lost pages, pages merged at a self-closing text, colon titles misread."""
    path = write(
        tmp_path,
        dump(
            page(1, "2001: Odyssee"),
            page(2, "Leer", ""),
            page(3, "Danach", "Nach der leeren Seite."),
            page(4, "Weiter", "#WEITERLEITUNG [[Danach]]", redirect="Danach"),
            page(5, "Vorlage:X", ns=10),
            page(6, "Daten", '{"a":1}', model="json"),
        ),
    )
    counts, pages, ledger = run(path)
    assert counts.seen == 6
    assert dict(counts.dropped) == {"empty": 1, "redirect": 1, "namespace": 1, "model": 1}
    assert [one["title"] for one in pages] == ["2001: Odyssee", "Danach"]
    assert [(one["page_id"], one["rev_id"]) for one in pages] == [(1, 10), (3, 30)]
    assert pages[0]["url"] == "https://de.wikipedia.org/wiki/2001:_Odyssee"
    assert (pages[0]["wiki"], pages[0]["language"]) == ("dewiki", "de")
    assert {(one["id"], one["reason"], one["detail"]) for one in ledger} == {
        ("2", "empty", None),
        ("4", "redirect", "Danach"),
        ("5", "namespace", "10"),
        ("6", "model", "json"),
    }


def test_pages_without_a_number_are_dropped_and_counted(tmp_path: Path) -> None:
    """Catches pages that would all be the page 0, each the copy of another."""
    whole = page(1, "Eins")
    ids = ("<id>abc</id>", "<id>0</id>", "<id>-3</id>", "<id></id>", "")
    bad = [whole.replace("<id>1</id>", id, 1) for id in ids]
    counts, pages, ledger = run(write(tmp_path, dump(whole, *bad)))
    assert [one["page_id"] for one in pages] == [1]
    assert dict(counts.dropped) == {"bad_id": 5} and counts.seen == 6
    assert [one["title"] for one in ledger] == ["Eins"] * 5


def test_pages_read_ahead_are_not_lost(tmp_path: Path) -> None:
    """Catches clearing the whole root: the parser is pages ahead of the reader (half were lost)."""
    path = write(tmp_path, dump(*(page(n, f"Seite {n}", "kurz") for n in range(1, 2001))))
    counts, pages, _ = run(path)
    assert counts.kept == 2000
    assert [one["page_id"] for one in pages] == list(range(1, 2001))
    assert all(one["wikitext"] == "kurz" for one in pages)


def test_the_newest_revision_wins(tmp_path: Path) -> None:
    """Catches history dumps read oldest first, newest first, or with equal times."""
    new, old = ("2020-02-02T00:00:00Z", "neu"), ("2019-01-01T00:00:00Z", "alt")
    path = write(
        tmp_path,
        dump(
            page(1, "A", revisions=[old, new]),
            page(2, "B", revisions=[new, old]),
            page(3, "C", revisions=[new, (new[0], "neuer")]),
        ),
    )
    assert [one["wikitext"] for one in run(path)[1]] == ["neu", "neu", "neuer"]


def test_old_dumps_without_ns_and_redirect(tmp_path: Path) -> None:
    """Catches export-0.3: namespaces from titles, redirects from text, in several languages."""
    path = write(
        tmp_path,
        dump(
            page(1, "Vorlage:X", ns=None),
            page(2, "template:Y", ns=None),
            page(3, "2001: Odyssee", ns=None),
            page(4, "U", "#REDIRECT [[Ziel#Teil|x]]", ns=None),
            page(5, "V", "#重定向：[[目标]]".replace("：", ":"), ns=None),
            page(6, "W", "# Weiterleitung ist ein Wort", ns=None),
        ),
    )
    _, pages, ledger = run(path)
    assert [one["title"] for one in pages] == ["2001: Odyssee", "W"]
    targets = {one["title"]: one["detail"] for one in ledger if one["reason"] == "redirect"}
    assert targets == {"U": "Ziel", "V": "目标"}
    aliases = list(read_rows([path.parent / "out-dump.xml" / "redirects.parquet"]))
    assert aliases == [{"title": "U", "target": "Ziel"}, {"title": "V", "target": "目标"}]


def _multistream(data: bytes) -> bytes:
    middle = data.index(b"<page>", len(data) // 2)
    return bz2.compress(data[:middle]) + bz2.compress(data[middle:])


@pytest.mark.parametrize(
    "pack",
    [bytes, bz2.compress, _multistream, gzip.compress, lzma.compress],
    ids=["plain", "bz2", "multistream", "gz", "xz"],
)
def test_packings_are_known_by_their_bytes(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """Catches trust in file names, and a multistream file read only to its first stream."""
    data = dump(*(page(n, f"Seite {n}") for n in range(1, 41))).encode()
    assert run(write(tmp_path, pack(data), "dump.dat"))[0].kept == 40


@pytest.mark.parametrize(
    "pack", [bytes, lambda data: bz2.compress(data, 1), gzip.compress, lzma.compress]
)
def test_truncated_dumps(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """Catches a short corpus that nobody noticed, and a torn page that is kept."""
    words = " ".join(str(number * 7919 % 10007) for number in range(300))
    data = pack(dump(*(page(n, f"Seite {n}", f"{n} {words}") for n in range(1, 400))).encode())
    path = write(tmp_path, data[: int(len(data) * 0.8)])
    with pytest.raises(BadInput, match=r"dump\.xml ends early.*allow_truncated=true keeps"):
        extract_dump(path, _folder(tmp_path), ExtractConfig())
    counts, pages, ledger = run(path, allow_truncated=True)
    assert 0 < counts.kept < 399
    assert counts.dropped.get("truncated", 0) <= 1
    assert all(one["wikitext"].endswith(words) for one in pages)
    assert [one["reason"] for one in ledger] == ["truncated"] * (counts.seen - counts.kept)


def test_a_torn_page_is_counted(tmp_path: Path) -> None:
    """Catches a torn page that is neither kept nor in the ledger."""
    text = HEADER + page(1, "Ganz") + page(2, "Torn")[:-60]
    counts, _, ledger = run(write(tmp_path, text), allow_truncated=True)
    assert (counts.seen, counts.kept, dict(counts.dropped)) == (2, 1, {"truncated": 1})
    assert ledger[0]["title"] == "Torn"


BOMB = '<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>' + dump(page(1, "A", "x"))
BAD = {
    "empty": (b"", "is empty"),
    "packed nothing": (bz2.compress(b""), "empty"),
    "packed, cut at once": (bz2.compress(dump(page(1, "A")).encode())[:-30], "ends early, before"),
    "not XML": (b"hello world", "not XML"),
    "HTML": (b"<!doctype html><html><body>404</body></html>", "declares a document type"),
    "another XML": (b"<feed><entry/></feed>", "root is <feed>"),
    "broken": (dump(page(1, "A")).replace("</title>", "</tittle>").encode(), "broken"),
    "no article": (dump(page(1, "Vorlage:A", ns=10)).encode(), "no article"),
    "no page": (dump().encode(), "no article"),
    "entities": (BOMB.encode(), "declares a document type"),
    "late entities": ((b" " * 5000 + BOMB.encode()), "declares a document type"),
    "UTF-32": (dump(page(1, "A")).encode("utf-32"), "not XML in UTF-8"),
    "UTF-7": (b'<?xml version="1.0" encoding="UTF-7"?>+ADw-x+AD4-<a>', "utf-7, not in"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "damaged"),
    "damaged": (bz2.compress(b"x" * 9000)[:20] + b"\0" * 40, "damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_dumps_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    """Catches tracebacks, silence, expanded entities; the line names the file."""
    data, message = BAD[name]
    path = write(tmp_path, data, "mydump.xml")
    with pytest.raises(BadInput, match=message) as caught:
        extract_dump(path, _folder(tmp_path), ExtractConfig())
    assert "mydump.xml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value) or "," in str(caught.value)  # what to do follows


def test_a_missing_dump(tmp_path: Path) -> None:
    """Catches a FileNotFoundError."""
    with pytest.raises(BadInput, match="no dump file"):
        extract_dump(tmp_path / "no.xml", _folder(tmp_path), ExtractConfig())


def test_long_pages_and_bounded_memory(tmp_path: Path) -> None:
    """Catches libxml2's 10 MB limit on a text, and pages that pile up in memory."""
    path = tmp_path / "dump.xml"
    with path.open("w") as file:
        file.write(HEADER + page(1, "Lang", "x" * 11_000_000))
        for number in range(2, 6002):
            file.write(page(number, f"S{number}", "y" * 10_000, ns=10))
        file.write(FOOTER)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts, pages, _ = run(path)
    assert len(pages[0]["wikitext"]) == 11_000_000
    assert counts.dropped["namespace"] == 6000
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 200, f"{grown:.0f} MB more for a dump of 71 MB"


def test_equal_dumps_give_equal_bytes(tmp_path: Path) -> None:
    """Catches clocks, paths or dict order in the artifact."""
    texts = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        run(write(folder, dump(page(1, "A"), page(2, "Vorlage:B", ns=10))))
        files = sorted((folder / "out-dump.xml").iterdir())
        texts.append([(file.name, file.read_bytes()) for file in files])
    assert texts[0] == texts[1]


def test_the_room(tmp_path: Path) -> None:
    """Catches a header that is not beside its pages, or a source's word that does not win."""
    folder = tmp_path / "dump"
    folder.mkdir()
    write(folder, dump(page(1, "A")))
    source = {"wiki": "xywiki", "language": None, "name": "my.xml"}
    (folder / "source.json").write_text(json.dumps(source))
    workspace = Workspace.scratch(tmp_path / "out")
    ref = ArtifactRef("dump", "key", "digest", folder)
    counts = extract.run(dump=ref, config=ExtractConfig(), workspace=workspace)
    assert counts.kept == 1
    info = json.loads((workspace.path / "part-00000" / "siteinfo.json").read_text())
    assert (info["dbname"], info["language"]) == ("xywiki", "xy")
    assert info["namespaces"]["6"] == "Datei"


@pytest.mark.parametrize(
    ("site", "name", "wiki", "expected"),
    [
        (Site(dbname="simplewiki", language="en"), "x", None, ("simplewiki", "en")),
        (Site(dbname="enwiki", language="en"), "x", "zhwiki", ("zhwiki", "zh")),
        (Site(), "zh_min_nanwiki-20260101.xml", None, ("zh_min_nanwiki", "zh-min-nan")),
        (Site(base="http://it.wikipedia.org/wiki/P"), "x.xml", None, ("itwiki", "it")),
        (Site(), "dewiktionary-1.xml", None, ("dewiktionary", "de")),
        (Site(dbname="plwiki", language="en"), "x.xml", None, ("plwiki", "pl")),
        (Site(dbname="nowiki", language="nb"), "x.xml", None, ("nowiki", "nb")),
        (Site(dbname="commonswiki", language="en"), "x.xml", None, ("commonswiki", "en")),
        (Site(), "x.xml", None, ("wiki", "und")),
    ],
)
def test_which_wiki_it_is(
    site: Site, name: str, wiki: str | None, expected: tuple[str, str]
) -> None:
    """Catches Chinese text cleaned as English because a header was wrong or missing."""
    assert identify(site, name, wiki, None) == expected


@pytest.mark.parametrize(
    ("name", "believed"),
    [
        ("arwiki.xml.bz2", False),
        ("arwiki-20260101-pages-articles.xml.bz2", False),
        ("tumwiki-latest-pages-articles.xml.bz2", False),
        ("enwiki-20260101-pages-articles.xml.bz2", True),
        ("simplewiki.xml", False),
        ("mywiki.xml", True),
        ("arwiki_cut.xml", True),
        ("x.xml", True),
    ],
)
def test_a_header_of_another_wiki_is_not_believed(
    tmp_path: Path, name: str, believed: bool
) -> None:
    """Catches Arabic cleaned by English rules because a tool wrapped it in enwiki's header."""
    text = dump(page(1, "A")).replace("dewiki", "enwiki")
    site = read_site(write(tmp_path, text, name), name)
    assert (site.dbname, site.base != "") == (("enwiki", True) if believed else ("", False))


def test_pages_without_a_root_or_an_end(tmp_path: Path) -> None:
    """Catches bare pages refused, and whole pages refused because only the last tag is missing."""
    bare = page(1, "A") + page(2, "B")
    for text, name in ((bare, "zhwiki-20150423-id13.xml"), (HEADER + bare, "dewiki.xml")):
        counts, pages, _ = run(write(tmp_path, text, name))
        assert [one["title"] for one in pages] == ["A", "B"]
        assert counts.metrics == {"unclosed": 1}
        assert {one["wiki"] for one in pages} == {name.partition("-")[0].removesuffix(".xml")}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("declared", [False, True])
def test_marks_of_encoding(tmp_path: Path, encoding: str, declared: bool) -> None:
    """Catches UTF-16 refused or read as rubbish, and a BOM that hides the header."""
    name = "UTF-8" if encoding == "utf-8-sig" else "UTF-16"
    prolog = f'<?xml version="1.0" encoding="{name}"?>\n' if declared else ""
    text = prolog + dump(page(1, "Müller 数学 𝔘", "Straße 数学 𝔘"))
    _, pages, _ = run(write(tmp_path, text.encode(encoding)))
    assert [(one["title"], one["wikitext"]) for one in pages] == [
        ("Müller 数学 𝔘", "Straße 数学 𝔘")
    ]
    assert pages[0]["wiki"] == "dewiki"


def test_a_history_is_read_revision_by_revision(tmp_path: Path) -> None:
    """Catches a page's whole history held in memory, and an older text taken."""
    revisions = [
        (f"20{n // 12:02d}-{n % 12 + 1:02d}-01T00:00:00Z", "x" * 400_000) for n in range(150)
    ]
    revisions.insert(200, ("2030-01-01T00:00:00Z", "newest"))
    path = write(tmp_path, dump(page(1, "A", revisions=revisions)))
    del revisions
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, pages, _ = run(path)
    assert [one["wikitext"] for one in pages] == ["newest"]
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 60


def test_what_is_not_a_page_is_passed_over(tmp_path: Path) -> None:
    """Catches log items, comments and pages within pages that stop or fool the reader."""
    odd = "<logitem><id>9</id></logitem><!-- <pages> --><page><page><id>7</id></page></page>"
    text = HEADER + page(1, "A") + odd + page(2, "B") + FOOTER
    counts, pages, _ = run(write(tmp_path, text))
    assert [one["title"] for one in pages] == ["A", "B"]
    assert (counts.seen, dict(counts.dropped)) == (3, {"empty": 1})


def test_an_endless_page_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches one huge text that fills the memory, or takes the pages after it along."""
    monkeypatch.setattr("tasks.extract.xml_reader.MAX_TEXT_BYTES", 2_500_000)
    for size in (8_000_000, *range(4_193_900, 4_194_400, 40)):  # its end astride two pieces too
        name = f"{size}.xml"
        text = dump(page(1, "A"), page(2, "B", "x > " * (size // 4)), page(3, "C"))
        counts, pages, ledger = run(write(tmp_path, text, name))
        assert [one["title"] for one in pages] == ["A", "C"]
        assert [(one["title"], one["reason"]) for one in ledger] == [("B", "too_large")]
        assert counts.seen == 3


def test_a_large_old_revision_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a page dropped for what nobody reads of it."""
    monkeypatch.setattr("tasks.extract.xml_reader.MAX_TEXT_BYTES", 2_500_000)
    revisions = [("2019-01-01T00:00:00Z", "x" * 6_000_000), ("2020-01-01T00:00:00Z", "new")]
    _, pages, _ = run(write(tmp_path, dump(page(1, "A", revisions=revisions))))
    assert [one["wikitext"] for one in pages] == ["new"]


def test_templates_and_conversion_groups(tmp_path: Path) -> None:
    """Catches templates whose redirects and categories the cleaner would have to guess."""
    text = (
        "{{{1}}}<noinclude>[[Kategorie:Vorlage:Zahl| ]][[category: Stub_templates ]]"
        "[[:Kategorie:Nur ein Link]]</noinclude>"
    )
    path = write(
        tmp_path,
        dump(
            page(1, "Vorlage:Zahl", text, ns=10),
            page(
                2, "Vorlage:Num", "#WEITERLEITUNG [[Vorlage:Zahl]]", ns=10, redirect="Vorlage:Zahl"
            ),
            page(3, "Vorlage:X", "#WEITERLEITUNG [[Anderswo]]", ns=10, redirect="Anderswo"),
            page(4, "Vorlage:Stil.css", "a{}", ns=10, model="sanitized-css"),
            page(5, "Vorlage:CGroup/IT", "Item('a','zh-cn:b;')", ns=10),
            page(6, "Module:CGroup/Math", "return {}", ns=828, model="Scribunto"),
            page(7, "Module:Math", "return {}", ns=828, model="Scribunto"),
            page(8, "Artikel"),
        ),
    )
    counts, _, _ = run(path)
    folder = tmp_path / "out-dump.xml"
    assert list(read_rows([folder / "templates.parquet"])) == [
        {"name": "Zahl", "redirect": None, "categories": ["Vorlage:Zahl", "Stub templates"]},
        {"name": "Num", "redirect": "Zahl", "categories": []},
        {"name": "X", "redirect": None, "categories": []},
        {"name": "CGroup/IT", "redirect": None, "categories": []},
    ]
    assert list(read_rows([folder / "modules.parquet"])) == [
        {"title": "Vorlage:CGroup/IT", "text": "Item('a','zh-cn:b;')"},
        {"title": "Module:CGroup/Math", "text": "return {}"},
    ]
    assert dict(counts.dropped) == {"namespace": 7}


def test_urls_need_a_base() -> None:
    """Catches made-up addresses."""
    assert page_url("", "A") is None
    assert page_url("https://x.org/wiki/M", "C sharp?") == "https://x.org/wiki/C_sharp%3F"


REAL: dict[str, tuple[int, int, str, str]] = {
    "dbpedia_minidumps/arwiki.xml.bz2": (3, 3, "arwiki", "ar"),
    "dbpedia_minidumps/dewiki.xml.bz2": (2, 2, "dewiki", "de"),
    "dbpedia_minidumps/enwiki.xml.bz2": (27, 24, "enwiki", "en"),
    "dbpedia_minidumps/frwiki.xml.bz2": (3, 3, "frwiki", "fr"),
    "dbpedia_minidumps/jawiki.xml.bz2": (1, 1, "jawiki", "ja"),
    "dbpedia_minidumps/kowiki.xml.bz2": (1, 1, "kowiki", "ko"),
    "dbpedia_minidumps/ruwiki.xml.bz2": (1, 1, "ruwiki", "ru"),
    "dbpedia_minidumps/zhwiki.xml.bz2": (1, 1, "zhwiki", "zh"),
    "enwik8/enwik8.gz": (12347, 8587, "enwiki", "en"),
    "gensim/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2": (
        206, 106, "enwiki", "en",
    ),
    "gensim/enwiki-table-markup.xml.bz2": (5, 5, "enwiki", "en"),
    "json-wikipedia/it_small-dump.xml.gz": (747, 608, "itwiki", "it"),
    "macbre/dump.xml.7z": (3, 1, "macbre", "pl"),
    "macbre/dump.xml.bz2": (2, 1, "fowiki", "fo"),
    "misc/accumulo-enwiki-20110901-001.xml": (4, 3, "enwiki", "en"),
    "misc/dumpster-7dae0a-smallwiki-latest-pages-articles.xml.bz2": (2004, 903, "ltgwiki", "ltg"),
    "misc/mwxml-dump.xml": (2, 1, "enwiki", "en"),
    "misc/nwtgck-wikidump.xml": (85, 18, "enwiki", "en"),
    "pywikibot/article-pear-0.10.xml": (1, 1, "enwiki", "en"),
    "pywikibot/article-pear.xml": (1, 1, "enwiki", "en"),
    "wikiclean/dewiki-20130602-id1.xml": (1, 1, "dewiki", "de"),
    "wikiclean/enwiki-20120104-id12.xml": (1, 1, "enwiki", "en"),
    "wikiclean/zhwiki-20150423-id13.xml": (1, 1, "zhwiki", "zh"),
    "wiktionary/dbpedia-dewiktionary-20130321-pages-articles.xml": (2, 2, "dewiktionary", "de"),
    "wiktionary/dbpedia-elwiktionary-20130402-pages-articles.xml": (2, 2, "elwiktionary", "el"),
    "wiktionary/dbpedia-enwiktionary-20130328-pages-articles.xml": (2, 2, "enwiktionary", "en"),
    "wiktionary/dbpedia-frwiktionary-20130321-pages-articles.xml": (2, 2, "frwiktionary", "fr"),
    "wiktionary/wikt2pron-enwiktionary-test-multistream.xml": (4, 4, "enwiktionary", "en"),
    "wp2txt/testdata_en_0.10.xml.bz2": (251, 139, "enwiki", "en"),
    "wp2txt/testdata_ja_0.10.xml.bz2": (262, 204, "jawiki", "ja"),
    "xztextfilter/ukwiki-truncated-100k.xml.xz": (533, 512, "ukwiki", "uk"),
    "xztextfilter/viwiki-truncated-100k.xml.xz": (971, 274, "viwiki", "vi"),
}  # fmt: skip
TORN = ("enwik8/enwik8.gz", "xztextfilter/ukwiki", "xztextfilter/viwiki")
REFUSED = {
    "enwik8/README-upstream.md": "is not XML",
    "macbre/dump.xml": "no article: 2 pages, {'bad_id': 1, 'namespace': 1}",  # no <id> at all
    "macbre/expected.txt": "is not XML",
    "macbre/text.txt": "is not XML",
    "misc/jwpl-aawiki-20260101-pages-meta-current.xml.bz2": "no article: 507 pages",
    "pywikibot/article-pyrus.xml": "no article: 1 pages, {'redirect': 1}",
    "pywikibot/article-pyrus.xml.7z": "no article: 1 pages, {'redirect': 1}",
    "pywikibot/article-pyrus.xml.bz2": "no article: 1 pages, {'redirect': 1}",
    "pywikibot/article-pyrus.xml.gz": "no article: 1 pages, {'redirect': 1}",
    "pywikibot/article-pyrus.xml.lzma": "no article: 1 pages, {'redirect': 1}",
    "pywikibot/article-pyrus.xml.xz": "no article: 1 pages, {'redirect': 1}",
    "wp2txt/expected_en_A.txt": "is not XML",
}


@pytest.mark.parametrize("file", REAL)
def test_real_dumps(shared_data: Path, tmp_path: Path, file: str) -> None:
    """Catches pages lost in real files (`seen` is what `grep -c '<page>'` finds), wrong wikis."""
    if file.endswith(".7z"):
        pytest.importorskip("py7zr")
    path = shared_data / "dumps" / file
    if file.startswith(TORN[1:]):
        with pytest.raises(BadInput, match="ends early"):
            extract_dump(path, tmp_path, ExtractConfig())
    config = ExtractConfig(allow_truncated=file.startswith(TORN))
    counts = extract_dump(path, tmp_path, config)
    info = json.loads((tmp_path / "siteinfo.json").read_text())
    assert (counts.seen, counts.kept, info["dbname"], info["language"]) == REAL[file]
    kept = num_rows([tmp_path / "pages.parquet"])
    dropped = num_rows([tmp_path / "ledger.parquet"])
    assert (counts.seen, counts.kept) == (kept + dropped, kept)
    assert counts.metrics.get("truncated", 0) == file.startswith(TORN)


@pytest.mark.parametrize("file", REFUSED)
def test_what_is_no_dump_of_articles_is_refused(
    shared_data: Path, tmp_path: Path, file: str
) -> None:
    """Catches a traceback, and an empty corpus made of a file without articles."""
    with pytest.raises(BadInput, match=re.escape(REFUSED[file])) as caught:
        extract_dump(shared_data / "dumps" / file, tmp_path, ExtractConfig())
    assert "\n" not in str(caught.value)


def test_no_real_dump_is_forgotten(shared_data: Path) -> None:
    """Catches a new file that nobody tried."""
    root = shared_data / "dumps"
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert files == REAL.keys() | REFUSED.keys()


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "refused"
    folder.mkdir()
    return folder
