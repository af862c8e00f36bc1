"""The constructs of wikitext, one by one: what a reader of a Chinese article should see of each."""

from __future__ import annotations

import pytest

from tasks.clean.languages import Site
from tasks.clean.wikitext import Document, parse_page

SITE = Site.of("zh", {"6": "文件", "14": "分类", "10": "模板", "2": "用户"})


def parse(text: str, title: str = "T", site: Site = SITE) -> Document:
    """Parse a page of the Chinese wiki."""
    return parse_page(text, title=title, site=site)


def body(text: str) -> str:
    """The text below the title."""
    return parse(text).text.removeprefix("# T").lstrip("\n")


CONSTRUCTS = [
    (1, "{{lang|de|München}}和{{lang-fr|Paris}}", "München和Paris"),
    (2, "巴黎（{{IPA|paʁi}}；{{IPAc-en|p}}）是", "巴黎是"),
    (5, "长{{convert|5|km|mi}}。", "长5公里（3.1英里）。"),
    (6, "{{formatnum:18000}}人", "18,000人"),
    (8, "甲{{cite web|url=x}}乙{{来源请求}}丙", "甲乙丙"),
    (10, "{{主条目|甲}}\n:''关于其他用法，请见[[乙]]。''\n正文", "正文"),
    (13, "正文{{小作品}}{{Authority control}}", "正文"),
    (14, "{{nowrap|{{lang|ja|東}}}}", "東"),
    (16, "{{Infobox\n| a = b\n\n正文。\n== 历史 ==\n甲", "正文。\n\n## 历史\n\n甲"),
    (19, "-{zh-hans:计算机;zh-hant:電腦}-用-{zh-tw:軟體;zh-cn:软件;}-", "计算机用软件"),
    (20, "甲-{H|zh-cn:乙;zh-tw:丙}-丁-{R|電腦}--{原文}-", "甲丁電腦原文"),
    (21, "{{NoteTA|G1=IT|1=zh-cn:信息;zh-tw:資訊}}資訊", "信息"),
    (22, "{{link-en|深度学习|Deep learning}}和{{tsl|en|Foo|本地}}，{{le|甲|A|乙}}",
         "深度学习和本地，乙"),
    (23, "{{jpn|j=東京|hg=とうきょう|rm=Tōkyō}}", "東京"),
    (24, "電腦和软件", "电脑和软件"),
    (25, "甲<ref>x</ref>乙<ref name=q />丙", "甲乙丙"),
    (28, "{|\n! 名 !! 数\n|-\n| 甲 || 1\n|}", "| 名 | 数 |\n| --- | --- |\n| 甲 | 1 |"),
    (32, "[[文件:a.jpg|缩略图|一隻[[貓]]]]正文[[檔案:x|right]][[File:y.png]]", "正文"),
    (34, "正文[[分类:猫]][[Category:狗]][[分類:鸟|*]]", "正文"),
    (35, "见[[:分类:猫]]", "见猫"),
    (36, "正文[[en:Cat]]", "正文"),
    (38, "[[星际迷航：下一代]] [[2001: 太空漫游]]", "星际迷航：下一代 2001: 太空漫游"),
    (40, "[[苹果（水果）|]]", "苹果（水果）"),
    (41, "甲[[乙[[丙|丁]]", "甲乙丁"),
    (43, "'''粗体'''和''斜体''", "粗体和斜体"),
    (44, "甲\n==历史==\n乙\n=== 近代 ===\n丙", "甲\n\n## 历史\n\n乙\n\n### 近代\n\n丙"),
    (45, "甲\n== 參考資料 ==\n乙\n== 外部链接 ==\n* [http://x y]\n== 注释 ==\n丙", "甲"),
    (46, "* 甲\n** 乙\n# 丙\n# 丁", "- 甲\n  - 乙\n1. 丙\n2. 丁"),
    (47, "; 山区 : 石块\n: 缩进", "山区：石块\n缩进"),
    (48, "<math>a-{b}-c</math>是", "$a-{b}-c$是"),
    (50, "调用<code>電腦()</code>", "调用`電腦()`"),
    (53, "<nowiki>-{甲}-</nowiki>乙", "-{甲}-乙"),
    (57, "10<sup>6</sup>米", "10⁶米"),
    (59, "<ruby>漢<rt>ㄏㄢˋ</rt></ruby>字", "汉字"),
    (61, "甲&nbsp;乙\u200b丙", "甲 乙丙"),
    (63, "__目录__甲__NOTOC__", "甲"),
    (65, "甲（，；）乙（；丙）丁（（）；）戊( ; )", "甲乙（丙）丁戊"),
    (66, "有{{不存在的模板|x=1}}，{{来源请求}}、乙。", "有，乙。"),
    (67, "#重定向 [[甲]]", ""),
    (0, "第一行\n第二行", "第一行第二行"),
    (0, "他说：“好！”（１２３）", "他说：“好！”（１２３）"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [one[1:] for one in CONSTRUCTS],
    ids=[f"{one[0]}-{number}" for number, one in enumerate(CONSTRUCTS)],
)
def test_construct(text: str, expected: str) -> None:
    """Catches markup in the text, and text that is lost with the markup."""
    assert body(text) == expected


def test_columns() -> None:
    """Catches (11) facts, (24) the variant, (34) categories that are lost or unconverted."""
    document = parse("{{Infobox|名稱=電腦|人口={{formatnum:1234}}}}正文[[貓]][[分类:動物]]")
    assert document.facts == {"名稱": "电脑", "人口": "1,234"}
    assert document.variant == "zh-hans"
    assert document.categories == ["動物"]
    assert document.links == ["貓"]


def test_other_variants_can_be_chosen() -> None:
    """Catches a text that is converted where it should stay, or into the wrong script."""
    text = "软件和電腦-{zh-hans:计算机;zh-hant:電腦}-"
    hant = Site.of("zh", variant="zh-hant")
    assert parse(text, site=hant).text == "# T\n\n軟件和電腦電腦"
    assert parse(text, site=hant).variant == "zh-hant"
    assert "软件和電腦" in parse(text, site=Site.of("zh", variant="keep")).text


@pytest.mark.parametrize(
    ("text", "title", "kind"),
    [
        ("{{消歧义}}", "甲", "disambiguation"),
        ("x", "中国城市列表", "list"),
        ("x", "1984年", "year"),
        ("{{小作品}}", "甲", "stub"),
    ],
)
def test_kinds(text: str, title: str, kind: str) -> None:
    """Catches word lists and lists of dates among the articles."""
    assert parse(text, title).kind == kind
