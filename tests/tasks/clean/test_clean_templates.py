"""What a reader sees in place of a template, in English and Chinese, and how its rule is found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import BadInput
from tasks.clean import templates
from tasks.clean.call import Call, Wording
from tasks.clean.forms import compile_form
from tasks.clean.markup import BREAK
from tasks.clean.templates import FOLDER, Rule, TemplateTable, guess, is_fact
from tasks.clean.variants import PROTECT_CLOSE, PROTECT_OPEN

KEPT = f"{PROTECT_OPEN}東京{PROTECT_CLOSE}"  # Japanese, which is not converted
EN, ZH = TemplateTable.of("en"), TemplateTable.of("zh")


def render(source: str, table: TemplateTable = EN, language: str = "en") -> str:
    """Render one call without calls in it, as the parser would; what is no text shows its role."""
    name, *arguments = source.strip("{}").split("|")
    rule = table.look_up(name)
    if rule.is_function:
        name, colon, first = name.partition(":")
        positional = [first, *arguments] if colon else arguments
        call = Call(rule.name, tuple(one.strip() for one in positional), {}, language, "T")
    else:
        plain = [one.strip() for one in arguments if "=" not in one]
        pairs = [one.partition("=") for one in arguments if "=" in one]
        named = {key.strip(): value.strip() for key, _, value in pairs}
        call = Call(rule.name, tuple(plain), named, language, "T")
    return rule.function(call) if rule.function else f"<{rule.role}>"


ENGLISH = [
    # words
    ("nowrap|a b", "a b"), ("small|x", "x"), ("abbr|c.|circa", "c."),
    ("lang|de|München", "München"),
    ("langx|ru|Москва|Moskva|lit=Moscow", "Москва, Moskva, lit. 'Moscow'"), ("lang-el|α", "α"),
    ("lang-ru|Москва|Moskva|Moscow", "Москва, Moskva, lit. 'Moscow'"),
    ("langx|el|α|translit=a", "α, a"), ("langx|el", ""),
    ("lang-sr-cyrl|Ђ", "Ђ"), ("tooltip|a|b", "a"),
    ("transliteration|ja|Tōkyō", "Tōkyō"), ("translit|ja|Hepburn|Tōkyō", "Tōkyō"),
    ("script/Hebrew|א", "א"), ("visible anchor|word", "word"), ("linktext|word", "word"),
    ("linktext|中|文", "中文"), ("key press|Ctrl|Alt|Del", "Ctrl+Alt+Del"), ("key|Enter", "Enter"),
    ("not a typo|thru", "thru"), ("color|red|text", "text"), ("font color|red|text", "text"),
    ("font color|blue|white|words", "words"), ("nihongo foot|A|B|C", "A"), ("centered|a", "a"),
    ("code|f(x)", "f(x)"), ("code|f(x)|c", "f(x)"), ("codenowiki|lang=c|f(x)", "f(x)"),
    ("code|x=1", "x=1"), ("code|x=1|lang=c", "x=1"), ("code|python|print(x)", "print(x)"),
    ("code|code=f(x)|lang=c", "f(x)"), ("pre|a  b", "a  b"),
    ("polytonic|λόγος", "λόγος"), ("unicode|ḥ", "ḥ"), ("okina", "ʻ"), ("hamza", "ʼ"),
    ("ill|Foo|de|Bar", "Foo"), ("ill|Foo|de|Bar|lt=foos", "foos"), ("ill|de|Bar", "Bar"),
    ("interlanguage link|Foo|fr", "Foo"), ("section link|Page|One", "Page § One"),
    ("slink||One", "§ One"), ("sclass|Nimitz|aircraft carrier", "Nimitz-class aircraft carrier"),
    ("HMS|Victory", "HMS Victory"), ("USS|Enterprise|CV-6", "USS Enterprise (CV-6)"),
    ("ship|HMS|Hood|51", "HMS Hood (51)"), ("PAGENAME", "T"), ("gloss|water", "'water'"),
    ("bibleverse||Genesis|1:1", " Genesis 1:1"), ("ISBN|1-2-3", "ISBN 1-2-3"),
    ("MS|Estonia", "MS Estonia"), ("langnf||French|new wave", "French for 'new wave'"),
    ("awd|Academy Award|1999|Film", "Academy Award (1999, Film)"),
    # languages
    ("lang-zh|s=北京|p=Běijīng", "Chinese: 北京; pinyin: Běijīng"), ("lang-zh|北京", "北京"),
    ("zh|s=北京|p=Běijīng", "Chinese: 北京; pinyin: Běijīng"), ("zh|c=北京|labels=no", "北京"),
    ("zh|s=汉字|t=漢字|p=hànzì|l=Han characters",
     "simplified Chinese: 汉字; traditional Chinese: 漢字; pinyin: hànzì; lit. 'Han characters'"),
    ("nihongo|Tokyo Tower|東京タワー|Tōkyō tawā", "Tokyo Tower (東京タワー, Tōkyō tawā)"),
    ("nihongo|T|東京||x", "T (東京, x)"), ("nihongo||東京|Tōkyō", "東京, Tōkyō"),
    ("nihongo3|Tokyo|東京|Tōkyō", "Tōkyō (東京, Tokyo)"), ("nihongo2|東京", "東京"),
    ("korean|hangul=한국|hanja=韓國|rr=Hanguk", "Korean: 한국; Hanja: 韓國; RR: Hanguk"),
    ("ruby|漢|かん", "漢"),
    # numbers
    ("formatnum:18000", "18,000"), ("formatnum:18,000.5|R", "18000.5"),
    ("num|1234567", "1,234,567"),
    ("nts|1234", "1,234"), ("val|5|0.2|u=kg", "5 ± 0.2 kg"), ("val|12345.6", "12,345.6"),
    ("val|1.5|e=6|u=m2", "1.5 × 10⁶ m²"), ("val|1|2|e=3", "(1 ± 2) × 10³"),
    ("val|9|+1|-2", "9 +1−2"), ("val|6.02|e=23|u=mol-1", "6.02 × 10²³ mol⁻¹"),
    ("val|6.6|e=-34|u=J.s", "6.6 × 10⁻³⁴ J⋅s"), ("val|3|u=kg.m2.s-2", "3 kg⋅m²⋅s⁻²"),
    ("val|5|u=U.S. tons", "5 U.S. tons"), ("±|5", "±5"), ("±", "±"), ("pm|5|4", "+5−4"),
    ("frac|1|2", "1/2"), ("sfrac|a + b|2c", "(a + b)/(2c)"), ("sfrac|−1|x2", "−1/x2"),
    ("frac|3|1|2", "3 1/2"), ("frac|4", "1/4"), ("sfrac|a|b", "a/b"), ("sup|2", "²"),
    ("sub|2", "₂"), ("e|6", "×10⁶"), ("10^|-3", "10⁻³"), ("gaps|1|234|567", "1 234 567"),
    ("ordinal|21", "21st"), ("ordinal|112", "112th"), ("percentage|1|3|1", "33.3%"),
    ("percentage|1|0", ""), ("USD|1200", "US$1,200"), ("£|1200", "£1,200"), ("EUR|5", "€5"),
    ("INRConvert|5|c", "₹5 crore"), ("INRConvert|1234", "₹1,234"),
    ("JPYConvert|15|b", "¥15 billion"),
    ("KRWConvert|3|t", "₩3 trillion"), ("INRConvert|2|lc", "₹2 lakh crore"),
    ("DM|5000", "DM 5,000"), ("crore|5", "5 crore"), ("crore", "crore"),
    ("roman numeral|1994", "MCMXCIV"), ("roman|4000", "4000"), ("spellnum|0", "zero"),
    ("number to words|-21", "minus twenty-one"), ("spellnum|113", "one hundred and thirteen"),
    ("spellnum|1240000", "one million two hundred and forty thousand"), ("spellnum|x", "x"),
    ("mset|1|2|x", "{1, 2, x}"), ("vec|v", "v"),
    ("JPY|15000", "¥15,000"), ("INR|1.5 crore", "₹1.5 crore"), ("currency|1200|EUR", "€1,200"),
    ("currency|7|XAF", "XAF 7"), ("deg|5", "5°"),
    ("height|ft=6|in=2", "6 ft 2 in (1.88 m)"), ("height|m=1.83", "1.83 m (6 ft 0 in)"),
    ("track gauge|1435mm", "1,435 mm"), ("track gauge|sg", "1,435 mm"),
    # dates
    ("birth date|1950|1|2", "January 2, 1950"),
    ("birth date and age|1950|1|2|df=y", "2 January 1950"),
    ("death date and age|2000|1|2|1950|3|4", "January 2, 2000 (aged 49)"),
    ("death date and age|2000|5|2|1950|5|2|df=y", "2 May 2000 (aged 50)"),
    ("dda|2000|1|2", "January 2, 2000"),
    ("death year and age|2000|1950", "2000 (aged 49–50)"), ("age|1950|3|4|2000|3|4", "50"),
    ("harvtxt|Lee|Ray|1990|p=5", "Lee & Ray (1990)"), ("harvtxt|A|B|C|D|1990", "A et al. (1990)"),
    ("yes", "Yes"), ("yes|Sure", "Sure"), ("n/a", "N/A"), ("nom", "Nominated"),
    ("start date|2004|5", "May 2004"), ("duration|h=1|m=2|s=3", "1:02:03"),
    ("duration|m=4|s=5", "4:05"), ("duration|0|3|45", "3:45"), ("duration|3:45", "3:45"),
    ("duration|s=9", "0:09"), ("duration", ""), ("century|19", "19th century"),
    ("century|1850", "19th century"), ("century|1900", "19th century"), ("century|x", "x"),
    ("decade|1985", "1980s"), ("AH|1260", "AH 1260"),
    ("age in years and days|2000|1|1|2010|3|5", "10 years, 63 days"),
    ("age in years and days|2000|2|29|2001|2|28", "0 years, 365 days"),
    ("age in years and days|1 May 1999|2 May 2000", "1 year, 1 day"),
    ("age in years and months|2000|1|20|2010|3|5", "10 years, 1 month"),
    ("age in years and days|2000|1|1", ""), ("age in years and days|2010|1|1|2000|1|1", ""),
    ("age in years and days|2000|1|0|2010|1|1", ""),
    ("start date|2004", "2004"), ("birth year and age|1950", "1950"),
    ("birth-date|7 December 1941", "7 December 1941"), ("dts|1950-01-02", "January 2, 1950"),
    ("film date|2010|7|8|London|2010|7|16", "July 8, 2010 (London), July 16, 2010"),
    ("start and end dates|1939|9|1|1945|9|2|df=y", "1 September 1939 – 2 September 1945"),
    ("circa|1800", "c. 1800"), ("circa|1800|1850", "c. 1800 – c. 1850"), ("circa", "c."),
    ("floruit|1100|1120", "fl. 1100–1120"), ("reign|1066|1087", "r. 1066–1087"),
    ("OldStyleDate|9 April|1707|29 March", "9 April 1707 (O.S. 29 March)"), ("BCE|44", "44 BCE"),
    ("term|word", "\n\nword\n\n"), ("defn|A sense.", "\n\nA sense.\n\n"),
    ("as of|2020", "As of 2020"), ("as of|2020|5|lc=y", "as of May 2020"),
    ("as of|2020|5|3", "As of 3 May 2020"), ("as of|2020|alt=in 2020", "in 2020"),
    ("round|3.14159|2", "3.14"), ("round|12345|-2", "12,300"), ("sigfig|3.14159|2", "3.1"),
    ("round|x|2", "x"), ("sigfig|1234|2", "1,200"), ("((", "{"), ("hs|5", "<drop>"),
    ("marriage|Ann|1950", "Ann (m. 1950)"), ("marriage|Ann|1950|1960", "Ann (m. 1950–1960)"),
    ("marriage|Ann|1950|1960|end=div", "Ann (m. 1950; div. 1960)"), ("dts||08|06", "August 6"),
    ("sort|06|Nov", "Nov"), ("URL|https://www.x.org/", "x.org"), ("URL|x.org|X", "X"),
    ("p.|1|2", "p. 1–2"),
    ("solar mass|1.2", "1.2 M☉"), ("solar mass", "M☉"), ("music|flat", "♭"), ("br", BREAK),
    ("nuclide|Uranium|235", "Uranium-235"), ("su|p=2|b=i", "²_i"),
    ("zh-stp|t=漢字", "Chinese: 漢字"),
    ("vgrelease|NA|May 1|EU|June 3", "NA: May 1, EU: June 3"),
    ("post-nominals|KBE|OBE", "KBE, OBE"),
    ("BRA", "Brazil"), ("bra|x", "⟨x|"), ("native name|fr|Paris", "Paris"), ("extinct", "†"),
    # places
    ("flag|GER", "Germany"), ("flag|United States", "United States"), ("flagu|SUI", "Switzerland"),
    ("GER", "Germany"), ("ITA", "Italy"), ("ger", "<unknown>"), ("fb|FRA", "France"),
    ("fb-rt|GER", "Germany"), ("ru|ENG", "England"), ("fbu|21|GER", "Germany U21"), ("fbu|21", ""),
    ("flagathlete|Ann Lee|USA", "Ann Lee"), ("flagicon|USA", "<drop>"),
    # lists and quotations
    ("hlist|a|b||c", "a, b, c"), ("ubl|a|b", "a, b"), ("bulleted list|a|b", "\n\n\n* a\n* b\n\n\n"),
    ("ordered list|a|b", "\n\n\n# a\n# b\n\n\n"), ("plainlist|* a\n* b", "\n\n\n* a\n* b\n\n\n"),
    ("quote|Be good.|Joe", f"\n\nBe good.{BREAK}— Joe\n\n"),
    ("blockquote|text=Be.|author=Joe|source=Book", f"\n\nBe.{BREAK}— Joe, Book\n\n"),
    ("rquote|right|Words|Joe|Book", f"\n\nWords{BREAK}— Joe, Book\n\n"),
    ("cquote|Words|20px|20px|Joe", f"\n\nWords{BREAK}— Joe\n\n"),
    ("lyrics|one\ntwo", f"\n\none{BREAK}two\n\n"),
    ("verse translation|un\ndeux|one\ntwo|attr2=Joe",
     f"\n\nun{BREAK}deux\n\none{BREAK}two{BREAK}— Joe\n\n"),
    ("track listing|title1=A|length1=3:45|title2=B", "\n\n\n# A\n# B\n\n\n"),
    ("episode list|EpisodeNumber=1|ShortSummary=He runs.", "\n\nHe runs.\n\n"),
    ("episode list|Title=X", ""), ("episode table|episodes=He runs.", "\n\nHe runs.\n\n"),
    ("quote|", ""), ("poemquote|one\ntwo|Joe", f"\n\none{BREAK}two{BREAK}— Joe\n\n"),
    # formulas
    ("math|x + 1", "$x + 1$"), ("mvar|x", "$x$"), ("chem2|H2SO4", "$\\ce{H2SO4}$"),
    ("chem|H|2|O", "H₂O"), ("chem|SO|4|2-", "SO₄²⁻"), ("abs|x", "|x|"), ("floor|x", "⌊x⌋"),
    ("sqrt|2", "√2"), ("math|(1/2)", "$1/2$"), ("math|(1/2)x", "$(1/2)x$"),
    # marks
    ("ndash", "–"), ("snd", " – "), ("mdash", "—"), ("·", " · "), ("bull", " • "), ("!", "|"),
    ("=", "="), ("nbsp", " "), ("'", "'"), ("'s", "'s"), ("(", "{"), ("...", "..."),
    ("shy", "<drop>"),
    # nothing to read
    ("IPA|x", "<drop>"), ("IPAc-en|x", "<drop>"), ("IPA-fr|x", "<drop>"), ("respell|x", "<drop>"),
    ("audio|a.ogg|b", "<drop>"), ("coord|51|N", "<drop>"), ("cn|date=x", "<drop>"),
    ("who?", "<drop>"), ("clear", "<drop>"), ("-", "<drop>"), ("anchor|x", "<drop>"),
    ("age|1950|1|2", ""), ("inflation|US|1|1900", "<drop>"), ("Navbox physics", "<drop>"),
    ("authority control", "<drop>"), ("increase", "<drop>"), ("good article", "<drop>"),
    ("use dmy dates|date=x", "<drop>"), ("pp-semi-indef", "<drop>"), ("s-ttl|x", "<drop>"),
    ("reflist|30em", "<section>"), ("Infobox city", "<facts>"), ("Taxobox", "<facts>"),
    ("no such template|x", "<unknown>"), ("[[x]]|y", "<drop>"),
]  # fmt: skip
CHINESE = [
    ("link-en|深度学习|Deep learning", "深度学习"), ("link-ja|丙|B|d=丁", "丁"),
    ("le|甲|A|乙", "乙"), ("tsl|en|Foo|本地", "本地"), ("tsl|en|Foo|本地|标签", "标签"),
    ("tsl|en|Foo", "Foo"), ("ilh|甲|A|lang-code=en", "甲"), ("internal link helper/en|甲|A", "甲"),
    ("translink|en|Foo|本地", "本地"), ("lang-en|Water", "Water"), ("lang|ja|東京", KEPT),
    ("jpn|j=東京|hg=とうきょう", KEPT), ("lang-ja|東京", KEPT), ("lang|de|Köln", "Köln"),
    ("langx|ja|東京|Tōkyō", f"{KEPT}，Tōkyō"), ("lang-ru|Москва|lit=莫斯科", "Москва，“莫斯科”"),
    ("lang-zh|s=北京|p=Běijīng", "北京"), ("kor|k=한국", "한국"),
    ("ko-hhrm|서울|首爾", f"서울，{PROTECT_OPEN}首爾{PROTECT_CLOSE}"),
    ("hlist|甲|乙", "甲、乙"), ("ubl|甲|乙", "甲、乙"), ("linktext|中|文", "中文"),
    ("quote|好|孔子|论语", f"\n\n好{BREAK}— 孔子，论语\n\n"),
    ("曲目|title1=甲", "\n\n\n# 甲\n\n\n"),
    ("分数|1|2", "1/2"), ("約|1800", "约1800"), ("约", "约"), ("circa|1800|1850", "约1800－1850"),
    ("duration|m=4|s=5", "4:05"), ("century|19", "19世纪"), ("decade|1985", "1980年代"),
    ("age in years and days|2000|1|1|2010|3|5", "10年63天"), ("fbu|21|GER", "德国U21"),
    ("age in years and months|2000|1|1|2010|3|5", "10年2个月"), ("INRConvert|5|c", "₹5千万"),
    ("val|6.02|e=23|u=mol-1", "6.02 × 10²³ mol⁻¹"), ("MS|Estonia", "MS Estonia"),
    ("spellnum|1200", "1,200"), ("key|Ctrl|C", "Ctrl+C"), ("code|f(x)", "f(x)"),
    ("vie|v=Hà Nội", "Hà Nội"),
    ("bd|1866年|11月12日|1925年|3月12日|", "（1866年11月12日－1925年3月12日）"),
    ("bd|1950年|1月2日||", "（1950年1月2日－）"), ("bd||||", ""),
    ("convert|1300|mi|km", "1,300英里（2,100公里）"), ("cvt|1300|mi|km", "1,300 mi（2,100 km）"),
    ("convert|5|to|10|km2", "5至10平方公里（1.9至3.9平方英里）"), ("convert|20|C", "20°C（68°F）"),
    ("formatnum:18000", "18,000"), ("格式化数字:18000", "18,000"),
    ("生日|1950|1|2", "1950年1月2日"),
    ("birth date and age|1950|1|2", "1950年1月2日"), ("won", "获奖"),
    ("death date and age|2000|1|2|1950|3|4", "2000年1月2日（49岁）"),
    ("as of|2020|5", "截至2020年5月"),
    ("旗|CHN", "中国"), ("flag|JPN", "日本"), ("GER", "德国"), ("flagicon|USA", "<drop>"),
    ("RMB|1200", "人民币1,200元"), ("HK$|5", "HK$5"), ("quote|好|孔子", f"\n\n好{BREAK}— 孔子\n\n"),
    ("引用|好", "\n\n好\n\n"), ("NoteTA|G1=IT", "<rules>"), ("NoteTA-lite", "<rules>"),
    ("ruby|漢|かん", "漢"), ("拼音|běi", "běi"), ("字體|楷體|字", "字"), ("破折號", "—"),
    ("Infobox 人物", "<facts>"), ("某某信息框", "<facts>"), ("艺人", "<facts>"),
    ("参考资料", "<section>"), ("reflist", "<section>"), ("来源请求", "<drop>"), ("坐标", "<drop>"),
    ("#若: a | 是 | 否", "是"), ("页面名称", "T"), ("默认排序:x", ""), ("nowrap|甲", "甲"),
    ("中国行政区划", "<drop>"), ("ill|甲|en|A", "甲"), ("绿链|甲|A", "甲"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), ENGLISH, ids=[one[0] for one in ENGLISH])
def test_english(source: str, expected: str) -> None:
    """Catches words lost with their template, and templates left in the text."""
    assert render(source) == expected


@pytest.mark.parametrize(("source", "expected"), CHINESE, ids=[one[0] for one in CHINESE])
def test_chinese(source: str, expected: str) -> None:
    """Catches nouns that vanish from Chinese sentences: links to other wikis, units, names."""
    assert render(source, ZH, "zh") == expected


@pytest.mark.parametrize(
    ("table", "names", "mark"),
    [
        (EN, "stub|Germany-geo-stub|UK bio stub", "stub"),
        (EN, "disambig|Geodis|Human name disambiguation|hndis", "disambiguation"),
        (EN, "unreferenced|POV|multiple issues|Advert|cleanup-rewrite|blp sources", "maintenance"),
        (EN, "main|About|see also|for|other uses|Distinguish|Korean name", "hatnote"),
        (EN, "Cite web|cite_book|sfn|r|efn|harvnb|citation|refn", "citation"),
        (EN, "featured article|link FA", "featured"),
        (EN, "good article", "good"),
        (ZH, "小作品|中国地理小作品|Asia-bio-stub", "stub"),
        (ZH, "消歧义|地名消歧義|disambig|人名消歧义页", "disambiguation"),
        (ZH, "来源不足|refimprove|中立|扩充|关注度|维基化", "maintenance"),
        (ZH, "主条目|main|另見|重定向至此|日本人名", "hatnote"),
        (ZH, "来源|cite web|notefoot|efn", "citation"),
        (ZH, "典范条目|特色条目", "featured"),
        (ZH, "優良條目", "good"),
    ],
)
def test_marks(table: TemplateTable, names: str, mark: str) -> None:
    """Catches stubs, word lists and boxes of complaint that nobody notices."""
    for name in names.split("|"):
        rule = table.look_up(name)
        assert (rule.role, rule.marks) == ("drop", {mark}), name


@pytest.mark.parametrize(
    "name", ["disambiguation needed", "citation needed", "stub row", "pov inline"]
)
def test_inline_tags_say_nothing_of_the_page(name: str) -> None:
    """Catches an article dropped as a word list because of a footnote mark in it."""
    assert ZH.look_up(name).role == "drop"
    assert not ZH.look_up(name).marks


@pytest.mark.parametrize(
    "raw",
    ["nowrap", "Nowrap", " nowrap\n", "Template:Nowrap", "template: nowrap", "subst:nowrap",
     "safesubst:nowrap", "subst:Template:nowrap", "msg:nowrap", "_nowrap_",
     f"nowrap{BREAK}"],
)  # fmt: skip
def test_one_template_has_many_spellings(raw: str) -> None:
    """Catches a name that is missed for its case, spaces, underscores or namespace."""
    rule = EN.look_up(raw)
    assert (rule.name, rule.role) == ("Nowrap", "argument")
    assert EN.look_up(raw) is rule  # found again, not made again


def test_namespaces_of_other_languages() -> None:
    """Catches `{{模板:…}}` and `{{Vorlage:…}}`, which are not in the table."""
    assert ZH.look_up("模板:nowrap").role == "argument"
    assert TemplateTable.of("xx", prefixes=["Paraugs"]).look_up("paraugs:nowrap").role == "argument"


def test_the_dump_knows_redirects_and_categories() -> None:
    """Catches thousands of names that are in no table, but are redirects to some that are."""
    table = TemplateTable.of(
        "en",
        redirects={"Zwrap": "Nowrap", "Physbox": "Boxes of physics", "Mine": "Mine too"},
        categories={
            "Boxes of physics": ["Physics", "Physics navigational boxes"],
            "Warden": ["Building infobox templates"],
            "Note well": ["Hatnote templates for names"],
            "Nowrap": ["Navigational boxes"],
        },
    )
    assert (table.look_up("zwrap").name, table.look_up("zwrap").role) == ("Nowrap", "argument")
    assert (table.look_up("physbox").name, table.look_up("physbox").role) == (
        "Boxes of physics", "drop",
    )  # fmt: skip
    assert table.look_up("warden").role == "facts"
    assert table.look_up("Note_well").marks == {"hatnote"}
    assert table.look_up("nowrap").role == "argument"  # the table is surer than a category
    redirected = TemplateTable.of("en", redirects={"Lang-cmn": "Zh", "Cite-q": "Nowrap"})
    assert render("lang-cmn|s=北京", redirected) == "Chinese: 北京"  # and a name than a family
    assert redirected.look_up("cite-q").role == "argument"
    assert table.look_up("mine") == Rule("Mine too", "unknown")
    chinese = TemplateTable.of(
        "zh", categories={"某某": ["中国导航模板"], "乙": ["地理小作品模板"]}
    )
    assert chinese.look_up("某某").role == "drop"
    assert chinese.look_up("乙").marks == {"stub"}


def test_names_are_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a worker that fills its memory with the names in hostile pages."""
    monkeypatch.setattr(templates, "MAX_KNOWN_NAMES", 10)
    table = TemplateTable.of("en")
    for number in range(50):
        assert table.look_up(f"name {number}").role == "unknown"
    assert len(table._known) <= 10
    assert table.look_up("x" * 100_000).role == "drop"
    assert len(table.look_up("#if:" + "x" * 100_000).name) == 3
    assert table.look_up(" " * 100_000 + "nowrap").role == "argument"
    assert all(len(name) < 1000 for name in table._known)
    assert table.look_up("").role == table.look_up("/sub").role == table.look_up(":Page").role


@pytest.mark.parametrize(
    ("word", "before", "after", "expected"),
    [
        ("nouns", "the ", " are", "nouns"), ("和", "甲", "，乙", "和"), ("x", "(see ", ").", "x"),
        ("x", "", " at the start", ""), ("x", "at the end ", "", ""), ("12", "of ", " and", ""),
        ("http://a.b", "see ", " now", ""), ("a=b", "see ", " now", ""), ("x" * 41, "a ", " b", ""),
        ("a\nb", "see ", " now", ""), ("", "see ", " now", ""), ("x", "* ", " item", ""),
    ],
)  # fmt: skip
def test_guess(word: str, before: str, after: str, expected: str) -> None:
    """Catches nouns lost from sentences, and boxes that spill into the text."""
    assert guess(Call("Foo", ("first", word), {}, "en", "T"), before, after) == expected


def test_many_arguments_are_no_word() -> None:
    """Catches a table of which one cell is taken for a word."""
    assert guess(Call("Foo", ("a", "b", "c"), {}, "en", "T"), "the ", " is") == ""
    assert guess(Call("Foo", (), {"a": "b"}, "en", "T"), "the ", " is") == ""


FACTS = [
    ("long_name", "City of Bonn"), ("alt_name", "B"), ("class_size", "20"), ("width", "30 m"),
    ("frame", "steel"), ("color", "brown"), ("flag carrier", "Air X"), ("size", "12 ha"),
    ("population", "1,200"), ("name", "Bonn"), ("architectural_style", "Gothic"), ("state", "Ohio"),
    ("birth_place", "Ulm"), ("photographer", "Ann"), ("eye_color", "blue"), ("class", "Mammalia"),
    ("flagship", "Victory"), ("面积", "12平方公里"), ("seat", "Bonn"), ("country", "Germany"),
    ("longest_river", "Rhine"), ("latest_release", "2.0"), ("children", "2"), ("colors", "Blue"),
    ("mapped_by", "X"), ("alternative_names", "Y"), ("references_in_art", "many"),
    ("genre", "rock"),
]  # fmt: skip
LAYOUT = [
    ("lat_deg", "50"), ("long_deg", "7"), ("map size", "x"), ("seal_alt", "x"), ("size", "200px"),
    ("coat_of_arms", "x"), ("link", "x"), ("notes", "x"), ("label_style", "x"), ("bgcolor", "red"),
    ("image", "x.jpg"), ("image_size", "200"), ("caption", "A view"), ("coat", "y.png"),
    ("logo_alt", "red"), ("map_caption", "Bonn in Germany"), ("pushpin_map", "Germany"),
    ("imagesize", "250px"), ("latd", "50"), ("long_m", "7"), ("coordinates", "50 N"), ("alt", "x"),
    ("bodystyle", "a"), ("population", "#fff"), ("embed", "yes"), ("module", "x"),
    ("arms", "a.SVG"),
    ("圖片", "某圖"), ("图像说明", "某图"), ("signature", "s.svg"), ("zoom", "9"), ("name", ""),
    ("1", "x"), ("population_ref", "[1]"), ("population_footnotes", "x"), ("header_color", "red"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), FACTS)
def test_facts_are_kept(name: str, value: str) -> None:
    """Catches facts thrown away because a picture's name is a part of theirs."""
    assert is_fact(name, value)


@pytest.mark.parametrize(("name", "value"), LAYOUT)
def test_layout_is_no_fact(name: str, value: str) -> None:
    """Catches colours, sizes and captions in the facts."""
    assert not is_fact(name, value)


@pytest.mark.parametrize(
    ("form", "positional", "named", "expected"),
    [
        ("c. {1}", ("5",), {}, "c. 5"), ("c. {1}", (), {}, ""), ("–", (), {}, "–"),
        ("{1}[ ({2}[, {3}])]", ("a", "b", "c"), {}, "a (b, c)"),
        ("{1}[ ({2}[, {3}])]", ("a", "b"), {}, "a (b)"), ("{1}[ ({2})]", ("a",), {}, "a"),
        ("{text|1}", ("a",), {"text": "b"}, "b"), ("{text|1}", ("a",), {"text": ""}, "a"),
        (r"\[{1}\]", ("a",), {}, "[a]"), ("{1|=Yes}", (), {}, "Yes"), ("{1|=Yes}", ("a",), {}, "a"),
        ("{1:number}", ("1234",), {}, "1,234"),
        ("10{1:sup}", ("6",), {}, "10⁶"), ("{9}", ("a",), {}, ""),
    ],
)  # fmt: skip
def test_forms(
    form: str, positional: tuple[str, ...], named: dict[str, str], expected: str
) -> None:
    """Catches brackets without content, and alternatives taken in the wrong order."""
    assert compile_form(form, Wording())(Call("X", positional, named, "en", "T")) == expected


@pytest.mark.parametrize("form", ["a]", "[a", "{1}[ ({2})"])
def test_broken_forms(form: str) -> None:
    """Catches a slip in the table that would show as brackets in the text."""
    with pytest.raises(ValueError, match="without its"):
        compile_form(form, Wording())


def test_a_renderer_that_is_none_is_told() -> None:
    """Catches a misspelt renderer, which would be printed as a word."""
    with pytest.raises(BadInput, match="nihongoo is no renderer"):
        list(templates._entries({"render": {"nihongoo": ["x"]}}, Wording()))


def names_by_role(table: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield every (name, role) of a file's table."""

    def flat(names: Any) -> Iterator[str]:
        for name in names:
            if isinstance(name, list):
                yield from flat(name)
            else:
                yield name

    for role in ("drop", "section", "facts", "rules", "code", "pre", "formula", "fraction"):
        yield from ((name.casefold(), role) for name in flat(table.get(role, [])))
    for role in ("marks", "argument", "join", "render", "block"):
        for form, names in table.get(role, {}).items():
            yield from ((name.casefold(), f"{role}: {form}") for name in flat(names))


def repeated_keys(node: yaml.Node | None) -> Iterator[str]:
    """Yield the keys that stand twice in a mapping: YAML forgets the first."""
    if isinstance(node, yaml.MappingNode):
        counts = Counter(key.value for key, _ in node.value)
        yield from (key for key, number in counts.items() if number > 1)
        for _, value in node.value:
            yield from repeated_keys(value)


FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_files_are_sound(path: Path) -> None:
    """Catches a name that stands in two roles, where only one of them can hold."""
    assert TemplateTable.of(path.stem).look_up("lang|x").role
    text = path.read_text(encoding="utf-8")
    assert list(repeated_keys(yaml.compose(text))) == []
    table = yaml.load(text, yaml.BaseLoader).get("templates", {})
    counts = Counter(name for name, _ in names_by_role(table))
    assert [name for name, number in counts.items() if number > 1] == []


def test_en_and_zh_are_complete() -> None:
    """Catches a table cut in half."""
    for code, least in (("en", 2000), ("zh", 500)):
        text = (FOLDER / f"{code}.yaml").read_text(encoding="utf-8")
        table = yaml.load(text, yaml.BaseLoader)["templates"]
        assert len(list(names_by_role(table))) > least


RENDERED = sorted(
    {name: rule for name, rule in ZH._rules.names.items() if rule.function}
    | {f"{name}:": rule for name, rule in ZH._rules.functions.items()}
)
WORDS = st.text(st.sampled_from([*"a1 .,-+/=|{}[]()'\n\\%e9甲年", BREAK]), max_size=12)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(RENDERED),
    st.lists(WORDS | st.sampled_from(["5", "km", "1950", "mi", "to", "0", "1e99"]), max_size=6),
    st.dictionaries(st.sampled_from(["abbr", "df", "u", "e", "ft", "in", "m", "lt"]), WORDS),
)
def test_anything_is_rendered(name: str, positional: list[str], named: dict[str, str]) -> None:
    """Catches a page that is lost because of one odd argument."""
    for language, table in (("en", EN), ("zh", ZH), ("de", TemplateTable.of("de"))):
        rule = table.look_up(name)
        call = Call(rule.name, tuple(positional), named, language, "T")
        if rule.function:
            assert isinstance(rule.function(call), str)


@pytest.mark.parametrize("word", ["1", "a", " ", "''", "-", "1.", "/", "km ", ",", "http://", "é"])
def test_long_arguments_take_no_time(word: str) -> None:
    """Catches a renderer whose time grows with the square of an argument's length."""
    long = word * (200_000 // len(word))
    began = time.process_time()
    for rule in dict.fromkeys(ZH._rules.names.values()):
        if rule.function:
            rule.function(Call(rule.name, (long, "5", long), {"text": long}, "zh", "T"))
            rule.function(Call(rule.name, ("5", long, "5", long), {"ft": long}, "zh", "T"))
    assert not is_fact(long, "x") or len(long) < 200
    assert time.process_time() - began < 5
