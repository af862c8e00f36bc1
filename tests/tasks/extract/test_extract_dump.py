"""Dumps, good and bad, as the extract room meets them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from storage.artifact import ArtifactRef, Counts
from storage.errors import BadInput
from storage.formats.table import read_rows
from storage.workspace import Workspace
from tasks.extract.config import ExtractConfig
from tasks.extract.pages import extract_dump, identify, page_url
from tasks.extract.task import extract
from tasks.extract.xml_reader import Site

HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="de">
<siteinfo><sitename>W</sitename><dbname>dewiki</dbname>
<base>https://de.wikipedia.org/wiki/Haupt%C2%ADseite</base><case>first-letter</case><namespaces>
<namespace key="-2">Medium</namespace><namespace key="0" /><namespace key="1">Diskussion</namespace>
<namespace key="6">Datei</namespace><namespace key="10">Vorlage</namespace></namespaces></siteinfo>
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
    "page without root": (page(1, "A").encode(), "root is <page>"),
    "another XML": (b"<feed><entry/></feed>", "root is <feed>"),
    "broken": (dump(page(1, "A")).replace("</title>", "</tittle>").encode(), "broken"),
    "no article": (dump(page(1, "Vorlage:A", ns=10)).encode(), "no article"),
    "no page": (dump().encode(), "no article"),
    "entities": (BOMB.encode(), "declares a document type"),
    "late entities": ((b" " * 5000 + BOMB.encode()), "declares a document type"),
    "UTF-16": (dump(page(1, "A")).encode("utf-16"), "not XML in UTF-8"),
    "UTF-7": (b'<?xml version="1.0" encoding="UTF-7"?>+ADw-x+AD4-<a>', "UTF-7"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "7z file; unpack"),
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
        (Site(), "x.xml", None, ("wiki", "und")),
    ],
)
def test_which_wiki_it_is(
    site: Site, name: str, wiki: str | None, expected: tuple[str, str]
) -> None:
    """Catches Chinese text cleaned as English because a header was wrong or missing."""
    assert identify(site, name, wiki, None) == expected


def test_urls_need_a_base() -> None:
    """Catches made-up addresses."""
    assert page_url("", "A") is None
    assert page_url("https://x.org/wiki/M", "C sharp?") == "https://x.org/wiki/C_sharp%3F"


@pytest.mark.parametrize(
    ("file", "seen", "kept", "options"),
    [
        ("gensim/enwiki-table-markup.xml.bz2", 5, 5, {}),
        ("json-wikipedia/it_small-dump.xml.gz", 747, 608, {}),
        ("misc/dumpster-7dae0a-smallwiki-latest-pages-articles.xml.bz2", 2004, 903, {}),
        ("misc/nwtgck-wikidump.xml", 85, 18, {}),
        ("wp2txt/testdata_en_0.10.xml.bz2", 251, 139, {"allow_truncated": True}),
        ("xztextfilter/ukwiki-truncated-100k.xml.xz", 533, 512, {"allow_truncated": True}),
    ],
)
def test_real_dumps(
    shared_data: Path, tmp_path: Path, file: str, seen: int, kept: int, options: dict[str, Any]
) -> None:
    """Catches pages lost in real files; `seen` is what `grep -c '<page>'` finds."""
    counts = extract_dump(shared_data / "dumps" / file, tmp_path, ExtractConfig(**options))
    assert (counts.seen, counts.kept) == (seen, kept)


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "refused"
    folder.mkdir()
    return folder
