"""What a cleaner must know of each language: a table, no code.

Namespaces come from the dump's header; here are only the aliases that headers do not list. The
section titles are matched without case, digits, punctuation and spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Language:
    """One language's names for the things of a wiki."""

    files: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    disambiguations: tuple[str, ...] = ()
    list_titles: str = r"(?!)"
    is_cjk: bool = False


_ENGLISH = Language(
    files=("file", "image"),
    categories=("category",),
    sections=(
        "see also", "references", "notes", "footnotes", "citations", "sources", "bibliography",
        "works cited", "further reading", "external links", "external link", "gallery",
        "notes and references", "references and notes", "explanatory notes", "links",
        "references and further reading", "literature cited", "related topics", "related pages",
        "other websites", "weblinks",
    ),
    disambiguations=(
        "disambig", "disambiguation", "disamb", "dab", "hndis", "geodis", "hospitaldis",
        "schooldis", "numberdis", "letter-number combination disambiguation", "roaddis",
        "callsigndis", "mathdab", "given name disambiguation", "human name disambiguation",
        "2ccdis", "3ccdis", "tla",
    ),
    list_titles=r"(?:lists?|index|outline|timeline) of |.*\(list\)$",
)  # fmt: skip

LANGUAGES: dict[str, Language] = {
    "en": _ENGLISH,
    "zh": Language(
        files=("文件", "档案", "檔案", "图像", "圖像", "图片", "圖片"),
        categories=("分类", "分類"),
        sections=(
            "参考文献", "參考文獻", "参考资料", "參考資料", "参考", "參考", "参考书目", "參考書目",
            "参考来源", "參考來源", "注释", "註釋", "注釋", "注解", "註解", "脚注", "腳註", "附注",
            "资料来源", "資料來源", "来源", "來源", "引用", "引文", "外部链接", "外部連結",
            "外部連接", "外部鏈接", "外部连接", "外部参考", "链接", "連結", "参见", "參見",
            "参看", "參看", "另见", "另見", "相关条目", "相關條目", "相关链接", "相關連結",
            "延伸阅读", "延伸閱讀", "扩展阅读", "擴展閱讀", "备注", "備註", "参考文献及注释",
            "注释与参考文献", "參考資料與註釋",
        ),
        disambiguations=("消歧义", "消歧義", "人名消歧义", "人名消歧義", "地名消歧义", "地名消歧義",
                         "消歧义页", "分歧义"),
        list_titles=r".*(?:列表|一览|一覽|年表)$",
        is_cjk=True,
    ),
    "de": Language(
        files=("datei", "bild"),
        categories=("kategorie",),
        sections=("siehe auch", "einzelnachweise", "literatur", "weblinks", "quellen",
                  "anmerkungen", "belege", "fußnoten", "einzelnachweise und anmerkungen"),
        disambiguations=("begriffsklärung",),
        list_titles=r"liste (?:der|des|von|aller) ",
    ),
    "fr": Language(
        files=("fichier",),
        categories=("catégorie",),
        sections=("voir aussi", "notes et références", "références", "notes", "bibliographie",
                  "liens externes", "lien externe", "annexes", "articles connexes",
                  "article connexe"),
        disambiguations=("homonymie", "patronymie"),
        list_titles=r"listes? (?:de|des|du|d') ?",
    ),
    "ja": Language(
        files=("ファイル", "画像"),
        categories=("カテゴリ",),
        sections=("脚注", "注釈", "出典", "参考文献", "関連項目", "外部リンク", "注釈・出典",
                  "関連文献", "参照"),
        disambiguations=("aimai", "曖昧さ回避", "人名の曖昧さ回避"),
        list_titles=r".*(?:一覧|年表)$",
        is_cjk=True,
    ),
    "es": Language(
        files=("archivo", "imagen"),
        categories=("categoría",),
        sections=("véase también", "referencias", "enlaces externos", "bibliografía", "notas",
                  "notas y referencias", "fuentes"),
        disambiguations=("desambiguación", "desambiguacion"),
        list_titles=r"anexo:",
    ),
    "ru": Language(
        files=("файл", "изображение"),
        categories=("категория",),
        sections=("см. также", "примечания", "литература", "ссылки", "источники", "сноски"),
        disambiguations=("неоднозначность", "однофамильцы"),
        list_titles=r"список ",
    ),
    "ko": Language(
        files=("파일", "그림"),
        categories=("분류",),
        sections=("같이 보기", "각주", "참고 문헌", "참고 자료", "외부 링크", "주석", "출처"),
        disambiguations=("동음이의", "동명이인"),
        list_titles=r".* 목록$",
        is_cjk=True,
    ),
}  # fmt: skip
_FALLBACK = Language()


@dataclass(frozen=True, slots=True)
class Site:
    """A wiki's words, ready to compare: all lower case, section titles reduced by `section_key`."""

    language: str
    is_cjk: bool
    files: frozenset[str]
    categories: frozenset[str]
    namespaces: frozenset[str]
    stop_sections: frozenset[str]
    disambiguations: frozenset[str]
    list_titles: re.Pattern[str]

    @staticmethod
    def of(
        language: str,
        namespaces: dict[str, str] | None = None,
        stop_sections: Iterable[str] | None = None,
    ) -> Site:
        """Join the dump's header (`{"6": "Datei", …}`) with what is known of the language.

        English names hold in every wiki. `stop_sections` replaces the language's own list.
        """
        own = LANGUAGES.get(language.split("-")[0], _FALLBACK)
        given = namespaces or {}
        stops = (*_ENGLISH.sections, *own.sections) if stop_sections is None else stop_sections
        files = {given.get("6", "").casefold(), *own.files, *_ENGLISH.files} - {""}
        categories = {given.get("14", "").casefold(), *own.categories, *_ENGLISH.categories} - {""}
        names = {name.casefold() for name in given.values() if name}
        return Site(
            language=language,
            is_cjk=own.is_cjk,
            files=frozenset(files),
            categories=frozenset(categories),
            namespaces=frozenset(names | files | categories | _COMMON_NAMESPACES),
            stop_sections=frozenset(section_key(title) for title in stops),
            disambiguations=frozenset((*_ENGLISH.disambiguations, *own.disambiguations)),
            list_titles=re.compile(f"{_ENGLISH.list_titles}|{own.list_titles}", re.IGNORECASE),
        )


_COMMON_NAMESPACES = frozenset(
    {
        "media", "special", "talk", "user", "wikipedia", "wp", "project", "template", "help",
        "portal", "draft", "module", "mediawiki",
    }
)  # fmt: skip


def section_key(title: str) -> str:
    """Return a section's title as it is compared: letters only, no case."""
    return re.sub(r"[\W\d_]+", "", title.casefold())
