"""Constructs of wikitext and what a reader should see in their place, in English and Chinese."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.clean.languages import LANGUAGES, Site
from tasks.clean.markup import MARKS
from tasks.clean.tidy import count_residues, drop_quotes, tidy
from tasks.clean.wikitext import Document, parse_page

EN = Site.of("en", {"6": "File", "14": "Category", "2": "User"})
ZH = Site.of("zh", {"6": "文件", "14": "分类", "10": "模板"})


def parse(text: str, site: Site = EN, title: str = "T") -> Document:
    """Parse a page, with the checks that hold for every page."""
    document = parse_page(text, title=title, site=site)
    assert document.text.startswith(f"# {title}")
    end = 0
    for section in document.sections:
        start, stop = section["start"], section["end"]
        assert isinstance(start, int) and isinstance(stop, int) and start == end
        piece = document.text[start:stop]
        assert piece.startswith("#" * int(str(section["level"])) + f" {section['title']}")
        end = stop
    assert end == len(document.text)
    return document


def body(text: str, site: Site = EN) -> str:
    """The text below the title."""
    return parse(text, site).text.removeprefix("# T").lstrip("\n")


ENGLISH = [
    ("plain", "'''Bonn''' is a ''city''.", "Bonn is a city."),
    ("emptied parentheses", "'''Paris''' ({{IPA-fr|paʁi}}; {{audio|x}}) is", "Paris is"),
    ("half-emptied parentheses", "A ({{IPA|x}}; born 1950) is", "A (born 1950) is"),
    ("nested emptied parentheses", "A ({{x}} ({{y}}), ) is", "A is"),
    ("code's parentheses", "call printf() and ( ) now", "call printf() and now"),
    ("link with colon", "[[2001: A Space Odyssey]]", "2001: A Space Odyssey"),
    ("link trail", "[[bus]]es", "buses"),
    ("empty label", "[[Apple (fruit)|]], [[Boston, MA|]]", "Apple (fruit), Boston, MA"),
    ("section link", "see [[#Use|use]] and [[#Use]]", "see use and Use"),
    ("file", "[[File:a.jpg|thumb|200px|A [[cat]]]]text", "text"),
    ("file without end", "[[Image:a.jpg|thumb|A cat\n\ntext [[b]]", "text b"),
    ("file by its ending", "[[Immagine:a b.jpg|thumb|Un [[gatto]]]]x [[Media:a.ogg|b]]", "x b"),
    ("link over two lines", "[[a b\n|c]] d", "c d"),
    ("emptied bold", "* '''''{{x}}''''' (a)", "- (a)"),
    ("file in a list", "* [[File:a.jpg|20px]] item", "- item"),
    ("shown category", "see [[:Category:Cats]]", "see Cats"),
    ("interlanguage", "a[[fr:Chat]] [[:de:Katze|Katze]]", "a Katze"),
    ("interwiki", "[[wikt:word|word]] [[User:Foo]]", "word User:Foo"),
    ("external links", "[http://x.y label] [http://x.y]", "label"),
    ("external label with a link", "[http://x.y see [[A|b]] now] [mailto:x@y z]", "see b now z"),
    ("external without end", "[http://x.y see this", "http://x.y see this"),
    ("references", 'a<ref>x</ref>b<ref name=q />c<ref name="g/1">y</ref>d', "abcd"),
    ("reference without end", "a<ref>cite\n\nnext<ref>x</ref>", "a\n\nnext"),
    ("two references, one end", "a<ref>cite<ref>b</ref> c", "a c"),
    ("comments", "a<!-- x -->b<!-- to the end", "ab"),
    ("table in a table", "a\n{| class=x\n| b\n{|\n| c\n|}\n|}\nd", "a\n\nb\n\nc\n\nd"),
    ("table without end", "a\n{| class=x\n| b\n\nd", "a\n\nb\n\nd"),
    (
        "cells that show nothing",
        "{|\n! A !! B !! C\n|-\n|x=1|{{box}}||y=2|2||3\n|-\n|4||||5\n|}",
        "| A | B | C |\n| --- | --- | --- |\n| | 2 | 3 |\n| 4 | | 5 |",
    ),
    ("a bar without a table", "a\n| class=x | b\n| align=x | c", "a class=x | b c"),
    ("table in a template", "{{box|\n{|\n|a\n|}}}\nd", "d"),
    ("template without end", "{{Infobox\n| a = b\n\nProse.", "Prose."),
    ("template end without start", "a}} b", "a b"),
    ("nested templates", "{{nowrap|{{lang|de|{{small|x}}}}}}", "x"),
    ("lang", "{{lang|de|München}}, {{lang-el|α}}", "München, α"),
    ("nihongo", "{{nihongo|T|東京|Tōkyō}}", "T (東京, Tōkyō)"),
    ("zh", "({{zh|s=北京|p=Běijīng}})", "(Chinese: 北京; pinyin: Běijīng)"),
    ("convert", "{{convert|1300|mi|km}}, {{convert|5|to|10|km2}}",
     "1,300 mi (2,100 km), 5 to 10 km² (1.9 to 3.9 sq mi)"),
    ("numbers", "{{formatnum:18000}} {{val|5|0.2|u=kg}} {{frac|1|2}}", "18,000 5 ± 0.2 kg 1/2"),
    ("circa", "({{circa|1800}})", "(c. 1800)"),
    ("ill", "{{ill|Foo|de|Bar}} {{ill|Foo|de|Bar|lt=foos}}", "Foo foos"),
    ("parser functions", "a{{#if:x|y|z}}b {{{1|c}}}", "ayb c"),
    ("quotation", "a\n{{quote|Be good.|Joe}}\nb", "a\n\nBe good.\n— Joe\n\nb"),
    ("hatnote", "{{main|X}}\n:''For others, see [[Y]].''\nText", "Text"),
    ("lists", "* a\n** b\n# c\n# d\n#* e\n# f", "- a\n  - b\n1. c\n2. d\n  - e\n3. f"),
    ("definitions", "; term : sense\n; b\n: c", "term: sense\nb\nc"),
    ("template in a definition", "; a ({{formatnum:{{ #expr: 1 }}}})", "a (1)"),
    ("hard-wrapped lines", "one\ntwo\n\nthree", "one two\n\nthree"),
    ("br", "one<br>two<br />three", "one\ntwo\nthree"),
    ("poem", "<poem>\none\ntwo\n</poem>", "one\ntwo"),
    ("rule", "a\n----\nb", "a\n\nb"),
    ("scripts", "10<sup>6</sup> H<sub>2</sub>O 19<sup>th</sup> x<sub>i</sub>", "10⁶ H₂O 19th x_i"),
    ("less than", "3 < 5 and 7 > 2", "3 < 5 and 7 > 2"),
    ("entities", "&lt;b&gt; a&nbsp;b &amp;nbsp; R&notation", "<b> a b R&notation"),
    ("invisible", "a\u00adb\u200bc\ufeff", "abc"),
    ("math", "<math>a_1\n< b</math>", "$a_1 < b$"),
    ("math block", 'a\n<math display="block">x</math>\nb', "a\n\n$$x$$\n\nb"),
    ("chem", "<chem>H2O</chem>", "$\\ce{H2O}$"),
    ("braces in math", "<math>{{a}}</math> x", "${{a}}$ x"),
    ("code", "<code>a  &lt; b()</code>", "`a < b()`"),
    ("source", "<syntaxhighlight lang=c>\nint a[[1]];\n  b;\n</syntaxhighlight>",
     "```\nint a[[1]];\n  b;\n```"),
    ("nowiki", "<nowiki>[[x]] ''y''</nowiki>", "`[[x]] ''y''`"),
    ("nowiki in a word", "K<nowiki>[[X]]</nowiki>", "K[[X]]"),
    ("nowiki in code", "<code><nowiki>[[x]]</nowiki></code> y", "`[[x]]` y"),
    ("code with a link", "<code>f([[x]])</code> y", "`f(x)` y"),
    ("sound", "The sound {{IPA|/p/}} is (as {{IPA|p}}) in", "The sound /p/ is (as) in"),
    ("sound of the title", "'''Bonn''' {{IPA|bɔn}} is", "Bonn is"),
    ("formula's last space", r"<math>x\ </math> y", "$x$ y"),
    ("title in italics", "a [[''Stachys'']] b [[''x'' y]]", "a Stachys b ''x'' y"),
    ("label with its space", "[[:category:Cats|Category:Cats]]", "Cats"),
    ("link before a bar", "{|\n|a [[b|c]] | d||e\n|-\n|f||g\n|}",
     "| a c \\| d | e |\n| --- | --- |\n| f | g |"),
    ("dropped tags", "a<gallery>\nFile:x|y\n</gallery>b<references />", "ab"),
    ("small", "a <small>b <span style='x'>c</span></small>", "a b c"),
    ("ruby", "<ruby>漢<rp>(</rp><rt>hàn</rt><rp>)</rp></ruby><ruby>字<rt>z</rt></ruby>",
     "漢(hàn)字"),
    ("magic words", "__NOTOC__a __init__", "a __init__"),
    ("apostrophes", "L'''amour'' est", "L'amour est"),
    ("page name", "{{PAGENAME}} [[{{TALKPAGENAME}}]]", "T"),
    ("commas", "a, {{x}}, {{y}}, b", "a, b"),
    ("space before stops", "a {{x}}, b {{y}}.", "a, b."),
]  # fmt: skip
CHINESE = [
    ("emptied parentheses", "'''巴黎'''（{{IPA|x}}；{{lang|fr|}}）是", "巴黎是"),
    ("half-emptied parentheses", "'''水'''（{{lang-en|Water}}；{{IPA|x}}）是", "水（Water）是"),
    ("file", "[[文件:a.jpg|缩略图|一隻[[貓]]]]正文[[檔案:x|right]]", "正文"),
    ("link-en", "{{link-en|深度学习|Deep learning}}和{{tsl|en|Foo|本地}}", "深度学习和本地"),
    ("labels", "{{le|甲|A|乙}}、{{link-ja|丙|B|d=丁}}", "乙、丁"),
    ("doubled stops", "有{{x}}，{{y}}、{{z}}。", "有。"),
    ("variants", "-{zh-hans:计算机;zh-hant:電腦}-用-{zh-tw:軟體;zh-cn:软件;}-", "计算机用软件"),
    ("hidden variants", "甲-{H|zh-cn:a;zh-tw:b}-{{NoteTA|G1=IT}}乙-{T|zh:T}-", "甲乙"),
    ("raw variants", "-{R|原文}--{平凡}-", "原文平凡"),
    ("template in variants", "-{{{lang|en|X}}}-", "X"),
    ("nested variants", "-{zh-hans:甲;zh-hant:-{zh-cn:乙;zh-tw:丙}-}-", "甲"),
    ("variants in a link", "[[電腦|-{zh-hans:计算机;zh-hant:電腦}-]]", "计算机"),
    ("formula like a variant", "<math>a-{b}-c</math>", "$a-{b}-c$"),
    ("lifetime", "孙{{bd|1866年|11月12日|1925年|}}", "孙（1866年11月12日－1925年）"),
    ("wrapped lines", "第一行\n第二行", "第一行第二行"),
    ("definition", "; 山区 : 石块", "山区：石块"),
    ("punctuation kept", "他说：“好！”（１２３）", "他说：“好！”（１２３）"),
    ("sections", "甲\n== 參考資料 ==\n乙\n== 历史 ==\n丙\n== 注释 ==\n.", "甲\n\n## 历史\n\n丙"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"), [one[1:] for one in ENGLISH], ids=[one[0] for one in ENGLISH]
)
def test_english(text: str, expected: str) -> None:
    """Catches markup in the text, and text lost with the markup."""
    assert body(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [one[1:] for one in CHINESE], ids=[one[0] for one in CHINESE]
)
def test_chinese(text: str, expected: str) -> None:
    """Catches what only Chinese wikis have: full-width marks, local names, script variants."""
    assert body(text, ZH) == expected


def test_variants_are_left_alone_elsewhere() -> None:
    """Catches `-{` read as Chinese in a page about C."""
    assert "-{x}-" in body("a -{x}- b")


@pytest.mark.parametrize(
    ("language", "names", "text"),
    [
        ("de", {"6": "Datei", "14": "Kategorie"}, "[[Datei:x|mini|B]]a[[Kategorie:K]]"),
        ("ja", {"6": "ファイル"}, "[[画像:x|thumb|図]]a[[カテゴリ:K]]"),
        ("fr", {}, "[[Fichier:x|vignette|B [[c]]]]a[[Catégorie:K]]"),
        ("ru", {"6": "Файл", "14": "Категория"}, "[[Изображение:x|мини]]a[[Категория:K]]"),
        ("ltg", {"6": "Fails", "14": "Kategoreja"}, "[[Fails:x]]a[[Kategoreja:K]][[File:y]]"),
    ],
)
def test_local_names(language: str, names: dict[str, str], text: str) -> None:
    """Catches captions and categories of other languages in the text."""
    document = parse(text, Site.of(language, names))
    assert document.text == "# T\n\na"
    assert document.categories == ["K"]


def test_sections_are_found_dropped_and_placed() -> None:
    """Catches stopped sections' children, empty headings, and offsets that are off."""
    document = parse(
        "Lead.\n== History ==\nOld.\n=== War ===\nBad.\n== See also ==\n* [[X]]\n=== More ===\ny\n"
        "== Empty ==\n== {{small|Use}} ==\n=== ''Food'' ===\nEat.\n== References 2 ==\n{{reflist}}"
    )
    titles = [(one["level"], one["title"]) for one in document.sections]
    assert titles == [(1, "T"), (2, "History"), (3, "War"), (2, "Use"), (3, "Food")]
    first = document.sections[1]
    piece = document.text[int(str(first["start"])) : int(str(first["end"]))]
    assert piece == "## History\n\nOld.\n\n"


def test_drop_sections_can_be_chosen() -> None:
    """Catches a config that is not obeyed."""
    site = Site.of("en", stop_sections=["History"])
    text = parse("a\n== History ==\nb\n== See also ==\nc", site).text
    assert text == "# T\n\na\n\n## See also\n\nc"


def test_columns_beside_the_text() -> None:
    """Catches links to categories and files, raw markup in facts, and lost categories."""
    document = parse(
        "{{Infobox city|name=Bonn|area={{convert|141|km2}}|born={{birth date|1950|1|2}}<br>[[Ulm]]"
        "|image=x.jpg|arms=y.png|empty=|website=[http://x.y Bonn.de]|map=[http://x.y/z]}}"
        "'''Bonn''' is in [[germany#West|Germany]], [[germany]], [[:fr:Bonn]]."
        "[[Category:Cities|Bonn]] [[category:Old_towns]]<math>x</math>{{unreferenced}}{{city-stub}}"
    )
    assert document.links == ["Ulm", "Germany"]
    assert document.categories == ["Cities", "Old towns"]
    assert document.facts == {
        "name": "Bonn",
        "area": "141 km² (54 sq mi)",
        "born": "January 2, 1950, Ulm",
        "website": "Bonn.de",
    }
    assert document.flags == ["maintenance", "math", "stub"]
    assert document.kind == "stub"


@pytest.mark.parametrize(
    ("text", "title", "site", "kind"),
    [
        ("{{disambiguation}}", "A", EN, "disambiguation"),
        ("{{Geodis}} x", "A", EN, "disambiguation"),
        ("x", "A (disambiguation)", EN, "disambiguation"),
        ("{{消歧义}}", "甲", ZH, "disambiguation"),
        ("x", "List of x", EN, "list"),
        ("x", "中国城市列表", ZH, "list"),
        ("{{Germany-geo-stub}}", "A", EN, "stub"),
        ("{{disambiguation needed}}", "A", EN, "article"),
    ],
)
def test_kinds(text: str, title: str, site: Site, kind: str) -> None:
    """Catches word lists among the articles."""
    assert parse(text, site, title).kind == kind


def test_deep_nesting_is_no_crash() -> None:
    """Catches a recursion error on hostile pages (the stage turns others into a reason)."""
    assert "end" in body("{{nowrap|" * 60 + "x" + "}}" * 60 + " end")


def test_huge_pages_are_read_roughly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a list page of some megabytes that takes minutes, or that is lost."""
    monkeypatch.setattr("tasks.clean.wikitext.MAX_CHARS", 10)
    document = parse("{{a|{{b}}|\n[[c]]}}'''A''' [[b|see]] [http://x.y this].\n== H ==\n* [[x]]")
    assert document.text == "# T\n\nA see this.\n\n## H\n\n- x"
    assert document.flags == ["rough"]


@pytest.mark.parametrize(("seconds", "flags"), [(0, ["rough"]), (1000, [])])
def test_slow_pages_are_read_roughly(
    seconds: int, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a limit that is not looked at, or that holds for pages in time."""
    monkeypatch.setattr("tasks.clean.wikitext.MAX_SECONDS", seconds)
    document = parse("A {{nowrap|is}} [[b|{{small|c}}]].")
    assert document.flags == flags
    assert document.text == ("# T\n\nA b|." if flags else "# T\n\nA is c.")


def test_a_slow_rendering_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a clock that is only looked at before the rendering: one page takes an hour."""
    seconds = count()
    monkeypatch.setattr("tasks.clean.scanner.time.monotonic", lambda: next(seconds))
    assert parse("{{nowrap|a}} " * 100).flags == []
    assert parse("{{nowrap|a}} " * 100 * 100).flags == ["rough"]


@pytest.mark.parametrize(
    "heading", ["==", "= =", "== <br> ==", "=== &nbsp; ===", "== <nowiki/> =="]
)
def test_a_heading_without_words_begins_no_section(heading: str) -> None:
    """Catches sections that no line of the text begins (found by the test below)."""
    assert parse(f"{heading}\na").text == "# T\n\na"
    document = parse(f"== A ==\nb\n{heading}\nc\n== D ==\ne")
    assert document.text == "# T\n\n## A\n\nb\n\nc\n\n## D\n\ne"
    assert [section["title"] for section in document.sections] == ["T", "A", "D"]


ALPHABET = st.lists(
    st.sampled_from(
        [*"ab甲，（）() \n'[]{}|=*#:;<>&-!/", "<ref", "[[File:", "{{", "}}", "[[", "]]"]
    )
).map("".join)


@settings(max_examples=150, deadline=None)
@given(ALPHABET)
def test_anything_is_parsed(text: str) -> None:
    """Catches crashes, broken offsets, and our own markers in the output."""
    for site in (EN, ZH):
        document = parse(text, site)
        assert not MARKS.search(document.text)


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from(list("ab ,;，；()（）甲。、")), max_size=40))
def test_tidy_is_idempotent_and_leaves_no_parentheses(text: str) -> None:
    """Catches a fixpoint that is none."""
    once = tidy(text, is_cjk=True)
    assert tidy(once, is_cjk=True) == once
    assert count_residues(once)["empty_parentheses"] == 0


def test_residues_are_counted() -> None:
    """Catches a gate that is always green."""
    text = "( ; ) （，） [[a]] {{b}} ''c'' thumb|200px Category:X <ref>\n{| x\n-{y}-"
    found = count_residues(text)
    assert found["empty_parentheses"] == 2
    assert found["link_brackets"] == found["template_braces"] == found["quotes"] == 2
    for name in ("file_options", "categories", "tags", "table_marks"):
        assert found[name] >= 1, name
    assert count_residues("['x''x'] and [`x`''`x`, ''x'")["quotes"] == 2
    assert count_residues("['x''x'] and '`+`''`-`'")["quotes"] == 0
    assert sum(count_residues("`[[a]]` and $x_{{1}}$ and f() (a) don't").values()) == 0


def test_quotes_like_mediawiki() -> None:
    """Catches lost apostrophes."""
    assert drop_quotes("'''''a''''' ''b'' '''c'''") == "a b c"
    assert drop_quotes("L'''homme'' d'or") == "L'homme d'or"
    assert drop_quotes("''''a'''") == "'a"


def test_every_language_is_usable() -> None:
    """Catches a typo in the table of languages."""
    for code in LANGUAGES:
        site = Site.of(code)
        assert site.stop_sections and "" not in site.stop_sections
        assert "file" in site.files and "category" in site.categories


def test_a_page_may_say_its_title() -> None:
    """Catches a title shown in the script of the page's name, where the page gives another."""
    site = Site.of("zh")
    for rule in ("{{NoteTA|T=zh-hans:计算机;zh-hant:電腦}}", "-{T|zh-hans:计算机;zh-hant:電腦}-"):
        assert parse_page(f"{rule}電腦。", title="電腦", site=site).text == "# 计算机\n\n电脑。"
