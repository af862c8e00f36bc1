"""The files of the languages, and what a site is made of from them and a dump's header."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from storage.errors import BadInput
from tasks.clean import languages
from tasks.clean.languages import FOLDER, LANGUAGES, Language, Site, base_code, section_key
from tasks.clean.wikitext import parse_page

KEYS = {
    "language", "is_cjk", "namespaces", "redirect_words", "link_trail", "stop_sections",
    "list_titles", "year_titles", "disambiguation_titles", "number", "templates",
}  # fmt: skip


def test_every_file_has_its_language() -> None:
    """Catches a file that nobody reads, and a folder that would hide the module of its name."""
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(LANGUAGES)
    assert {path.suffix for path in FOLDER.iterdir()} == {".yaml"}


@pytest.mark.parametrize("code", LANGUAGES)
def test_files_are_whole(code: str) -> None:
    """Catches a key that is missing, misspelt or of the wrong shape, and doubled words."""
    data = yaml.load((FOLDER / f"{code}.yaml").read_text(encoding="utf-8"), yaml.BaseLoader)
    assert data.keys() - {"stop_if_links"} == KEYS
    assert data["language"] == code
    assert data["namespaces"].keys() >= {"file", "category"}
    own = Language.load(code)
    assert not set(own.stop_sections) & set(own.stop_if_links)
    for words in (own.stop_sections, own.redirect_words, *own.namespaces.values()):
        assert words and len({word.casefold() for word in words}) == len(words)
    assert all(section_key(title) for title in (*own.stop_sections, *own.stop_if_links))
    assert own.decimal in (".", ",") and own.group in (".", ",", " ") and own.decimal != own.group


TITLES = {
    "en": ("List of rivers", "1987", "Mercury (disambiguation)"),
    "zh": ("中国城市列表", "1987年", "水星 (消歧义)"),
    "de": ("Liste der Flüsse", "1987", "Merkur (Begriffsklärung)"),
    "fr": ("Liste des rivières", "1987", "Mercure (homonymie)"),
    "ja": ("河川の一覧", "1987年", "水星 (曖昧さ回避)"),
    "es": ("Lista de ríos", "Años 1980", "Mercurio (desambiguación)"),
    "ru": ("Список рек", "1987 год", "Меркурий (значения)"),
    "ko": ("강 목록", "1987년", "수성 (동음이의)"),
    "it": ("Lista di fiumi", "1987", "Mercurio (disambigua)"),
    "uk": ("Список річок", "1987", "Меркурій (значення)"),
    "vi": ("Danh sách sông", "1987", "Sao Thủy (định hướng)"),
}


@pytest.mark.parametrize("code", LANGUAGES)
def test_titles_are_told_apart(code: str) -> None:
    """Catches a pattern that matches nothing, or everything."""
    site, titles = Site.of(code), TITLES[code]
    patterns = (site.list_titles, site.year_titles, site.disambiguation_titles)
    for number, pattern in enumerate(patterns):
        assert [bool(pattern.match(title)) for title in titles] == [
            other == number for other in range(3)
        ], pattern.pattern
        assert not pattern.match("Albert Einstein") and not pattern.match("水")


STOPPED = [
    ("en", "See also", "History"), ("en", "Notes and references:", "Notable people"),
    ("zh", "參考文獻", "歷史"), ("zh", "外部链接", "外部结构"), ("de", "Einzelnachweise", "Werke"),
    ("fr", "Notes et références", "Histoire"), ("ja", "関連項目", "歴史"),
    ("es", "Véase también", "Historia"), ("ru", "См. также", "История"),
    ("ko", "외부 링크", "역사"), ("it", "Collegamenti esterni", "Storia"),
    ("uk", "Див. також", "Історія"), ("vi", "Liên kết ngoài", "Lịch sử"),
    ("de", "References", "Leben"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "stopped", "kept"), STOPPED)
def test_sections(code: str, stopped: str, kept: str) -> None:
    """Catches lists of links in the text, and prose that is dropped with them."""
    stops = Site.of(code).stop_sections
    assert section_key(stopped) in stops and section_key(f"1. {stopped.upper()} ") in stops
    assert section_key(kept) not in stops and "" not in stops


SENTENCES = [
    ("de", "{{laS|Mons}}, {{formatnum:12000}} {{Höhe|5}}{{SORTIERUNG:x}}", "Mons, 12.000 5 m"),
    ("de", "{{Zitat|Wort|Autor=Goethe}}", "„Wort“ — Goethe"),
    ("fr", "le {{1er mai}} du {{XXe siècle}}, {{unité|5000|m|2}}",
     "le 1er mai du XXe siècle, 5 000 m²"),
    ("fr", "{{lien|langue=en|fr=Foo|trad=Bar}} né {{date|14|juillet|1789}}",
     "Foo né 14 juillet 1789"),
    ("es", "en el {{siglo|XX}}{{cita requerida}}, 3 {{ac}}", "en el siglo XX, 3 a. C."),
    ("it", "{{Bio|Nome=Anna|Cognome=Bianchi|Sesso=F|LuogoNascita=Roma|GiornoMeseNascita=1 maggio"
     "|AnnoNascita=1950|Attività=attrice|Nazionalità=italiana}}",
     "Anna Bianchi (Roma, 1 maggio 1950), attrice italiana."),
    ("ru", "{{нп5|Слово|слова|en|Word}} {{s|10 км}}{{нет АИ|1|2}}", "слова 10 км"),
    ("uk", "{{Не перекладено|Слово|слова|en|Word}} {{nobr|10 км}}", "слова 10 км"),
    ("ja", "{{読み仮名|東京|とうきょう}}は{{仮リンク|都市|en|city}}{{要出典}}。",
     "東京（とうきょう）は都市。"),
    ("ko", "{{llang|en|Seoul}} {{출생일|1950|1|2}}", "Seoul 1950년 1월 2일"),
    ("vi", "sinh {{ngày sinh|1950|1|2}}{{cần chú thích}}.", "sinh 2 tháng 1 năm 1950."),
]  # fmt: skip


@pytest.mark.parametrize(("code", "text", "expected"), SENTENCES)
def test_templates_of_each_language(code: str, text: str, expected: str) -> None:
    """Catches a form that does not compile, and words of a sentence that are lost."""
    found = parse_page(text, title="T", site=Site.of(code)).text.removeprefix("# T\n\n")
    assert " ".join(found.split()) == expected


def test_the_header_and_the_file_are_joined() -> None:
    """Catches names that only one of the two has."""
    names = {"0": "", "6": "Ficheiro", "14": "Categoria", "10": "Predefinição", "102": "Anexo"}
    site = Site.of("pt", names)
    assert site.files == {"ficheiro", "file", "image"}
    assert site.categories == {"categoria", "category"}
    assert site.template_prefixes == {"predefinição", "template"}
    assert site.namespaces >= {"anexo", "ficheiro", "user", "special", "category"}
    assert "" not in site.namespaces
    assert site.link_trail.match("es") and site.decimal == "."
    assert not site.is_cjk and site.converter is None
    assert section_key("See also") in site.stop_sections
    assert "user talk" in Site.of("en", {"3": "User_talk"}).namespaces


def test_stop_sections_are_replaced() -> None:
    """Catches a list of the user's that is only added to ours."""
    site = Site.of("en", stop_sections=["My 1st"])
    assert site.stop_sections == {"myst"} and not site.stop_if_links


def test_codes_of_wikis() -> None:
    """Catches wikis that get the words of another script, and scripts converted where none is."""
    for code, base in [("simple", "simple"), ("zh-min-nan", "nan"), ("zh_yue", "yue"),
                       ("zh-cn", "zh"), ("DE", "de"), ("be-x-old", "be")]:  # fmt: skip
        assert base_code(code) == base
    assert Language.load("simple") == Language.load("en")
    assert Site.of("zh-classical").is_cjk and not Site.of("zh-min-nan").is_cjk
    assert Site.of("zh").converter is not None and Site.of("zh-yue").converter is None
    assert Site.of("../../etc").files == {"file", "image"}


def test_a_chinese_site_converts() -> None:
    """Catches a variant or a group of rules that does not reach the converter."""
    modules = {"Module:CGroup/IT": "Item('x', 'zh-cn:软件;zh-tw:軟體')"}
    for variant, expected in [("zh-hans", "软件"), ("zh-hant", "軟體"), ("keep", "軟體")]:
        converter = Site.of("zh", variant=variant, modules=modules).converter  # type: ignore[arg-type]
        assert converter is not None
        _, rules = converter.resolve("")
        rules = converter.with_note(rules, (), {"G1": "IT"})
        assert converter.convert("軟體", rules) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("language: qq\nstop_section: [a]", "qq.yaml has stop_section; known: .*stop_sections"),
        ("language: qq\nnamespaces: {files: [a]}", "names the namespaces files; known: .*file"),
    ],
)
def test_a_mistake_in_a_file_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    """Catches a misspelt key that is silently without effect."""
    monkeypatch.setattr(languages, "FOLDER", tmp_path)
    (tmp_path / "qq.yaml").write_text(text)
    with pytest.raises(BadInput, match=message):
        Language.load("qq")
    languages._read.cache_clear()


@pytest.mark.parametrize(("code", "file"), [("en", "enwiki"), ("zh", "zhwiki")])
def test_words_of_the_wiki_itself(shared_data: Path, code: str, file: str) -> None:
    """Catches aliases and redirect words that the wiki has and we do not."""
    path = shared_data / "parser" / "parsoid" / f"{file}-baseconfig.json"
    if not path.exists():
        pytest.skip(f"{file}-baseconfig.json is not there")
    query = json.loads(path.read_text())["query"]
    names = {id: one["name"] for id, one in query["namespaces"].items()}
    site = Site.of(code, names)
    aliases = [(one["id"], one["alias"].casefold()) for one in query["namespacealiases"]]
    for number, words in [(6, site.files), (14, site.categories), (10, site.template_prefixes)]:
        given = {alias for id, alias in aliases if id == number and len(alias) > 1}
        assert given - {"cat"} <= words
    redirect = next(one for one in query["magicwords"] if one["name"] == "redirect")
    assert {word.lstrip("#") for word in redirect["aliases"]} <= {
        word.lstrip("#") for word in site.redirect_words
    }
