"""The constructs of wikitext, one by one: what a reader of a Chinese article should see of each.

The numbers and `REASONS` are those of the English file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

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
    (1, "漢城{{ko-hhrm|서울|首爾}}的電腦", "汉城서울，首爾的电脑"),
    (2, "字母{{IPA|fr|paʁi|標籤}}是", "字母paʁi是"),
    (2, "巴黎（{{IPA|paʁi}}；{{IPAc-en|p}}）是", "巴黎是"),
    (3, "北京（{{zh|s=北京|p=Běijīng}}）是", "北京（北京）是"),
    (4, "{{nihongo|東京鐵塔|東京タワー|Tōkyō tawā}}是塔。",
        "东京铁塔（東京タワー，Tōkyō tawā）是塔。"),
    (5, "长{{convert|5|km|mi}}。", "长5公里（3.1英里）。"),
    (6, "{{formatnum:18000}}人", "18,000人"),
    (7, "{{nowrap|1 公里}}、{{small|乙}}、{{abbr|联|联合国}}、{{circa|1800年}}、{{flagicon|FRA}}甲",
        "1 公里、乙、联、约1800年、甲"),
    (7, "{{frac|1|2}}、{{val|1.5|u=kg}}、{{USD|20}}、{{生日|1950|1|2}}",
        "1/2、1.5 kg、US$20、1950年1月2日"),
    (6, "5{{frac|1|2}}和3{{分数|1|2}}", "5 1/2和3 1/2"),
    (8, "甲{{cite web|url=x}}乙{{来源请求}}丙", "甲乙丙"),
    (9, "他说：\n{{quote|知之为知之。|孔子}}\n然后离开。",
        "他说：\n\n知之为知之。\n— 孔子\n\n然后离开。"),
    (10, "{{主条目|甲}}\n:''关于其他用法，请见[[乙]]。''\n正文", "正文"),
    (11, "{{Infobox|名称=甲|人口=5}}\n正文", "正文"),
    (12, "该镇（{{coord|51|30|N|0|7|W|display=inline}}）很小，位于{{coord|51|30|N|0|7|W}}。",
         "该镇很小，位于。"),
    (13, "正文{{小作品}}{{Authority control}}", "正文"),
    (14, "{{nowrap|{{lang|ja|東}}}}", "東"),
    (15, "{{未知框|\n{|\n| 甲\n|}\n}}正文", "正文"),
    (16, "{{Infobox\n| a = b\n\n正文。\n== 历史 ==\n甲", "正文。\n\n## 历史\n\n甲"),
    (17, "{{#if:甲|是|否}}{{#ifeq:a|b|是|否}}{{#switch:乙|甲=1|乙=2}}{{lc:ABC}}{{padleft:7|3|0}}",
         "是否2abc007"),
    (17, "{{#expr: 2 * (3 + 4) }}", "14"),
    (18, "甲{{CURRENTYEAR}}乙", "甲乙"),
    (19, "-{zh-hans:计算机;zh-hant:電腦}-用-{zh-tw:軟體;zh-cn:软件;}-", "计算机用软件"),
    (20, "甲-{H|zh-cn:乙;zh-tw:丙}-丁-{R|電腦}--{原文}-", "甲丁電腦原文"),
    (20, "-{A|zh-cn:乙;zh-tw:丙}-甲丙-{T|zh-cn:标题;zh-tw:標題}-", "# 标题\n\n乙甲乙"),
    (20, "-{H|zh-cn:乙;zh-tw:丙}-甲-{-|zh-cn:乙;zh-tw:丙}-丙", "甲丙"),
    (21, "{{NoteTA|G1=IT|1=zh-cn:信息;zh-tw:資訊}}資訊", "信息"),
    (22, "{{link-en|深度学习|Deep learning}}和{{tsl|en|Foo|本地}}，{{le|甲|A|乙}}",
         "深度学习和本地，乙"),
    (23, "{{jpn|j=東京|hg=とうきょう|rm=Tōkyō}}", "東京"),
    (24, "電腦和软件", "电脑和软件"),
    (25, "甲<ref>x</ref>乙<ref name=q />丙", "甲乙丙"),
    (26, "甲<ref>引文\n\n下一段<ref>x</ref>乙", "甲\n\n下一段乙"),
    (27, "[[File:a.jpg|thumb|图说<ref>x</ref>]]正文", "正文"),
    (28, "{|\n! 名 !! 数\n|-\n| 甲 || 1\n|}", "| 名 | 数 |\n| --- | --- |\n| 甲 | 1 |"),
    (29, "{|\n|\n{|\n! 名 !! 数\n|-\n| 甲 || 1\n|}\n|}", "| 名 | 数 |\n| --- | --- |\n| 甲 | 1 |"),
    (29, "{| style=x\n| 只有一段。\n|}", "只有一段。"),
    (30, "甲\n{| class=wikitable\n| 乙\n\n丙", "甲\n\n乙\n\n丙"),
    (31, "<table><tr><th>名</th><th>数</th></tr><tr><td>甲</td><td>1</td></tr></table>",
         "| 名 | 数 |\n| --- | --- |\n| 甲 | 1 |"),
    (28, "{|\n! 年 !! colspan=2|名\n|-\n|rowspan=2|2020||甲||乙\n|-\n|丙\n|}",
         "| 年 | 名 | 名 |\n| --- | --- | --- |\n| 2020 | 甲 | 乙 |\n| 2020 | 丙 | |"),
    (11, "{| class=infobox\n! 出生\n| 1950\n|-\n! 逝世\n|1999\n|}\n正文", "正文"),
    (32, "[[文件:a.jpg|缩略图|一隻[[貓]]]]正文[[檔案:x|right]][[File:y.png]]", "正文"),
    (33, "[[檔案:b.jpg|縮圖|狗]][[图像:c.png|thumb|鸟]][[圖片:d.svg|20px]]正文", "正文"),
    (34, "正文[[分类:猫]][[Category:狗]][[分類:鸟|*]]", "正文"),
    (35, "见[[:分类:猫]]", "见猫"),
    (36, "正文[[en:Cat]]", "正文"),
    (37, "[[wikt:猫|猫]]、[[s:论语|论语]]、[[:en:Cat|英文]]", "猫、论语、英文"),
    (38, "[[星际迷航：下一代]] [[2001: 太空漫游]]", "星际迷航：下一代 2001: 太空漫游"),
    (40, "[[苹果（水果）|]]", "苹果（水果）"),
    (41, "甲[[乙[[丙|丁]]", "甲乙丁"),
    (42, "[http://x.y 官方网站]，[http://x.y]，http://x.y/z", "官方网站，http://x.y/z"),
    (43, "'''粗体'''和''斜体''", "粗体和斜体"),
    (44, "甲\n==历史==\n乙\n=== 近代 ===\n丙", "甲\n\n## 历史\n\n乙\n\n### 近代\n\n丙"),
    (45, "甲\n== 參考資料 ==\n乙\n== 外部链接 ==\n* [http://x y]\n== 注释 ==\n丙", "甲"),
    (45, "甲\n== 備註 ==\n* 名字是外來語。\n* [http://x y]", 
         "甲\n\n## 备注\n\n- 名字是外来语。\n- y"),
    (45, "甲\n== 来源 ==\n* 乙《丙》，人民出版社，1990年\n* {{cite web|url=x}}\n* [http://x y]", 
         "甲"),
    (46, "* 甲\n** 乙\n# 丙\n# 丁", "- 甲\n  - 乙\n1. 丙\n2. 丁"),
    (46, "{{columns-list|2|* 甲\n* 乙}}{{cast list|* 丙}}", "- 甲\n- 乙\n\n- 丙"),
    (47, "; 山区 : 石块\n: 缩进", "山区：石块\n缩进"),
    (48, "<math>a-{b}-c</math>是", "$a-{b}-c$是"),
    (49, "<chem>H2O</chem>、<ce>CO2</ce>", "$\\ce{H2O}$、$\\ce{CO2}$"),
    (50, "调用<code>電腦()</code>", "调用`電腦()`"),
    (51, "<syntaxhighlight lang=c>\nint 電腦[[1]];\n  b;\n</syntaxhighlight>",
         "```\nint 電腦[[1]];\n  b;\n```"),
    (52, "甲\n<pre>\n電腦  ''y''\n</pre>\n乙\n 一  二\n 三\n丙",
         "甲\n\n```\n電腦  ''y''\n```\n\n乙\n\n```\n一  二\n三\n```\n\n丙"),
    (50, "调用{{code|電腦()}}", "调用`電腦()`"),
    (52, "<pre>x</pre> 是H<sub>2</sub>O，一行<br>二行", "```\nx\n```\n\n是H₂O，一行\n二行"),
    (52, " \u3000（ ﾟωﾟ ）''\n \u3000／-{\n正文", "```\n\u3000（ ﾟωﾟ ）\n\u3000／-{\n```\n\n正文"),
    (53, "以<nowiki>[[檔案:x]]</nowiki>插入", "以`[[檔案:x]]`插入"),
    (53, "<nowiki>-{甲}-</nowiki>乙", "-{甲}-乙"),
    (53, "写作<nowiki>[[乙]]</nowiki>的", "写作`[[乙]]`的"),
    (54, "甲<gallery>\nFile:x.jpg|乙\n</gallery><score>c d</score><timeline>x</timeline>丙",
         "甲丙"),
    (55, "<poem>\n床前明月光，\n　　疑是地上霜。\n</poem>", "床前明月光，\n疑是地上霜。"),
    (56, "一<br>二<br/>三", "一\n二\n三"),
    (56, "* 甲<br>，乙<br>丙", "- 甲，乙 丙"),
    (57, "10<sup>6</sup>米", "10⁶米"),
    (57, "H<sub>2</sub>O，10<sup>−3</sup>", "H₂O，10⁻³"),
    (58, "<small>甲</small><span style=x>乙</span><div>丙</div><abbr title=x>丁</abbr>",
         "甲乙\n丙\n丁"),
    (59, "<ruby>漢<rt>ㄏㄢˋ</rt></ruby>字", "汉字"),
    (60, "甲<!-- x -->乙\n<!-- 整行 -->\n丙<!-- 到底", "甲乙丙"),
    (61, "甲&nbsp;乙\u200b丙", "甲 乙丙"),
    (62, "若3 < 5且x > y则成立", "若3 < 5且x > y则成立"),
    (63, "__目录__甲__NOTOC__", "甲"),
    (64, "<onlyinclude>甲</onlyinclude><noinclude>乙</noinclude><includeonly>丙</includeonly>"
         "<section begin=x />丁<templatestyles src=y />", "甲乙丁"),
    (65, "甲（，；）乙（；丙）丁（（）；）戊( ; )", "甲乙（丙）丁戊"),
    (65, "鲁迅（{{bd|1881年|9月25日|1936年|10月19日}}）", "鲁迅（1881年9月25日－1936年10月19日）"),
    (65, "（（（丁）））（（己）庚）（壬（癸））", "（丁）（（己）庚）（壬（癸））"),
    (65, "（(甲)）（（，））（（乙）", "（(甲)）（（乙）"),
    (66, "有{{不存在的模板|x=1}}，{{来源请求}}、乙。", "有，乙。"),
    (67, "#重定向 [[甲]]", ""),
    (0, "第一行\n第二行", "第一行第二行"),
    (0, "他说：“好！”（１２３）", "他说：“好！”（１２３）"),
]  # fmt: skip
REASONS = {
    30: "differs: the cells of an unclosed table are shown, as MediaWiki does",
    32: "differs: a caption is dropped; there is no option for a column of captions",
    39: "clean/test_clean_constructs_zh.py::test_kinds; as a page of a dump: "
        "extract/test_extract_dump.py::test_every_page_is_a_row_or_a_reason",
    40: "differs: saving resolves pipe tricks; of one that is left the whole name is seen",
    53: "differs: markup that is quoted stands as code, so that no text holds bare markup",
    55: "differs: lines are kept, spaces at their beginnings are not",
    68: "clean/test_clean_constructs_zh.py::test_kinds; dropped: "
        "clean/test_clean_room.py::test_every_page_is_a_document_or_a_reason",
    69: "clean/test_clean_constructs_zh.py::test_kinds",
    70: "extract/test_extract_dump.py::test_every_page_is_a_row_or_a_reason",
    71: "clean/test_clean_constructs_zh.py::test_an_empty_page_has_its_title_once; in a dump: "
        "extract/test_extract_dump.py::test_every_page_is_a_row_or_a_reason",
    72: "clean/test_clean_constructs_zh.py::test_an_empty_page_has_its_title_once",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [one[1:] for one in CONSTRUCTS],
    ids=[f"{one[0]}-{number}" for number, one in enumerate(CONSTRUCTS)],
)
def test_construct(text: str, expected: str) -> None:
    """Catches markup in the text, and text that is lost with the markup."""
    assert body(text) == expected


def test_every_construct_has_a_row_or_a_reason(
    check_constructs: Callable[[Iterable[int], Mapping[int, str]], None],
) -> None:
    """Catches a construct of the study that nobody wrote down, and a reason that is out of date."""
    check_constructs((one[0] for one in CONSTRUCTS), REASONS)


def test_columns() -> None:
    """Catches (11) facts, (24) the variant, (34) categories that are lost or unconverted."""
    document = parse("{{Infobox|名稱=電腦|人口={{formatnum:1234}}}}正文[[貓]][[分类:動物]]")
    assert document.facts == {"名称": "电脑", "人口": "1,234"}
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
        ("x", "2001：太空漫游", "article"),
    ],
)
def test_kinds(text: str, title: str, kind: str) -> None:
    """Catches word lists and lists of dates among the articles."""
    assert parse(text, title).kind == kind


def test_an_empty_page_has_its_title_once() -> None:
    """Catches (71) an empty page that fails, (72) a title that is lost or not converted."""
    assert parse("", "電腦").text == "# 电脑"
    assert parse("正文", "電腦").text == "# 电脑\n\n正文"
    assert parse("", "電腦").num_body_chars == 0
