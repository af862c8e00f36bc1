"""Skeletons: stubs from a table are one, articles are each their own."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tasks.dedup.skeleton import skeleton, skeleton_hash

ABBEVILLE = (
    "Abbeville is a commune in the Marne department in northern France. The population was "
    "23,787 in 2013, down from 24,567. Its neighbours are Caours, Cambron and Mareuil."
)
AMIENS = (
    "Amiens is a commune in the Oise department in northern Italy. The population was "
    "9 in 1975, down from 12. Its neighbours are Villers-Bocage and Bourg de Metz."
)
DAWANG = "大王村是河北省石家庄市新乐市的一个村，面积12.5平方千米，2010年有1204人。"
XIAOLI = "小李庄是山东省济南市的一个村，面积三平方千米，一九九八年有90人。"


def hash_of(text: str, title: str = "", links: tuple[str, ...] = (), language: str = "en") -> int:
    """The skeleton's hash, title and links optional."""
    return skeleton_hash(text, title=title, links=links, language=language)


def test_names_and_numbers_make_no_difference() -> None:
    """Would catch stubs told apart by how many words names have, or by small ones in them."""
    first = hash_of(ABBEVILLE, "Abbeville")
    second = hash_of(AMIENS, "Amiens (Oise)", ("Bourg de Metz", "Villers-Bocage"))
    longer = hash_of(AMIENS.replace("Amiens", "Saint Amiens"), "x", ("Bourg de Metz",))
    assert first == second == longer != 0


def test_unspaced_names_are_those_of_the_title_and_the_links() -> None:
    """Would catch Chinese stubs that are told apart by every name: it has no capital letters."""
    first = hash_of(DAWANG, "大王村 (新乐市)", ("河北省", "石家庄市", "新乐市"), "zh")
    second = hash_of(XIAOLI, "小李庄", ("山东省", "济南市"), "zh")
    assert first == second != 0
    assert hash_of(XIAOLI, "别名", (), "zh") != second


@pytest.mark.parametrize(
    ("text", "language", "title", "links", "expected"),
    [
        ("Rome was born in 753, it is old", "en", "", (), "_ was born in _ it is old"),
        ("the iPod and the 3rd Man", "en", "", (), "the iPod and the _"),
        ("서울은 한국의 수도이다", "ko", "서울", ("한국",), "_ 은 _ 의 수도이다"),
        ("東京タワーは1958年に完成した塔", "ja", "東京タワー", (), "_ は _ 年 に 完 成 し た 塔"),
        ("小村（Xiaocun）有一百二十人", "zh", "小村", (), "_ 有 _ 人"),
        ("see Man of War now", "en", "", ("Man of War (ship)",), "see _ now"),
    ],
)
def test_what_is_masked(
    text: str, language: str, title: str, links: tuple[str, ...], expected: str
) -> None:
    """Would catch a mask too few or too many."""
    words = skeleton(text, title=title, links=links, language=language)
    assert " ".join(words).replace("\0", "_") == expected


def test_one_sentence_of_its_own_saves_a_page() -> None:
    """Would catch a skeleton of the lead alone: an article that grew from a stub would be lost."""
    assert hash_of(ABBEVILLE + " A battle was fought near the old mill.") != hash_of(ABBEVILLE)


def test_lists_of_names_and_long_pages_have_none() -> None:
    """Would catch all lists of people collapsing into one, as nothing is left of any of them."""
    names = "\n".join(f"- Name{number} Surname ({number})" for number in range(300))
    assert hash_of("# List of people from Rome\n\n" + names) == 0
    assert hash_of("word " * 2000) == 0
    assert hash_of("") == 0


def articles(path: Path, pattern: str) -> list[tuple[str, str]]:
    """The (title, text) of real extracted articles."""
    parts = re.split(pattern, path.read_text(), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def test_real_articles_never_collapse(shared_data: Path) -> None:
    """Would catch a mask so wide that ordinary pages look alike: leads are as short as stubs."""
    english = articles(shared_data / "eval/wikitext-2/valid.txt", r"^ = ([^=\n]+) = $")
    chinese = articles(
        shared_data / "zh/extracted/enix223-zhwiki-AA-wiki_00.txt",
        r'^<doc id="\d+".*title="(.*)">$',
    )
    for language, pages, least in (("en", english, 50), ("zh", chinese, 60)):
        for limit in (200, 500, 2000):  # leads of every length, as stubs would be
            hashes = Counter(hash_of(text[:limit], title, (), language) for title, text in pages)
            del hashes[0]
            assert len(pages) >= least and hashes.total() > 0.9 * len(pages)
            assert max(hashes.values()) == 1
