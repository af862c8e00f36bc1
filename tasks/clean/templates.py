"""`{{name|…}}` -> the words a reader sees in its place.

A table of the commonest inline templates, by how they are rendered. Everything else is left out:
boxes, citations and maintenance notices are not prose. Names are compared in lower case, with
spaces for underscores.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tasks.clean.markup import BREAK, script


@dataclass(frozen=True, slots=True)
class Call:
    """A template call with its arguments already plain text."""

    name: str
    positional: tuple[str, ...]
    named: dict[str, str]
    language: str
    title: str

    def arg(self, number: int) -> str:
        """Return positional argument `number`, counted from 1; "" if it is not given."""
        return self.positional[number - 1] if len(self.positional) >= number else ""

    def first(self, *names: str) -> str:
        """Return the first of the named arguments that has a value."""
        return next((self.named[name] for name in names if self.named.get(name)), "")

    def label(self) -> str:
        """Return a link template's own text, where it gives one."""
        return self.first("lt", "d", "display", "label")


Rule = Callable[[Call], str]


def render(call: Call) -> str:
    """Return the text of a template call, "" for one that is not prose."""
    rule = RULES.get(call.name)
    if rule is None:
        rule = next((rule for pattern, rule in PATTERNS if pattern.fullmatch(call.name)), None)
    return "" if rule is None else rule(call)


def _pick(number: int) -> Rule:
    return lambda call: call.arg(number)


def _text(text: str) -> Rule:
    return lambda call: text


def _prefixed(prefix: str) -> Rule:
    return lambda call: prefix + call.arg(1) if call.arg(1) else ""


def _joined(separator: str) -> Rule:
    return lambda call: separator.join(one for one in call.positional if one)


def _block(call: Call) -> str:
    """A quotation is a paragraph of its own, its author behind a dash."""
    words = call.first("text", "quote", "content") or call.arg(1)
    author = call.first("author", "by", "sign", "source") or call.arg(2)
    return f"\n\n{words}{BREAK + '— ' + author if author else ''}\n\n" if words else ""


def _list_items(call: Call) -> str:
    return "\n" + "\n".join(f"* {one}" for one in call.positional if one) + "\n"


_UNITS = {
    "sqmi": "sq mi", "sqft": "sq ft", "km2": "km²", "m2": "m²", "m3": "m³", "km3": "km³",
    "cm2": "cm²", "c": "°C", "f": "°F", "C": "°C", "F": "°F", "K": "K", "impgal": "imp gal",
    "usgal": "US gal", "cuft": "cu ft", "ftin": "ft", "deg": "°", "acre": "acres", "foot": "ft",
}  # fmt: skip
_RANGES = {
    "-": "–", "–": "–", "to": " to ", "to(-)": " to ", "and": " and ", "x": " × ", "by": " by ",
    "×": " × ", "or": " or ", "+/-": " ± ", "±": " ± ", "&": " & ", "+": " + ",
}  # fmt: skip


def _convert(call: Call) -> str:
    """Keep the number and the unit it was given in; ranges too. No conversion is computed."""
    values = list(call.positional)
    if not values:
        return ""
    words = _digits(values.pop(0), call.language)
    while len(values) >= 2 and values[0] in _RANGES:
        words += _RANGES[values.pop(0)] + _digits(values.pop(0), call.language)
    unit = values[0] if values else ""
    return f"{words} {_UNITS.get(unit, unit)}".strip()


def _digits(number: str, language: str) -> str:
    """Group a plain number of four digits or more by thousands, as English and Chinese do."""
    number = number.strip()
    if language[:2] in ("en", "zh", "ja", "ko") and re.fullmatch(r"-?\d{4,}(\.\d+)?", number):
        whole, point, rest = number.partition(".")
        return f"{int(whole):,}{point}{rest}"
    return number


def _value(call: Call) -> str:
    words = call.arg(1)
    if call.arg(2):
        words += f" ± {call.arg(2)}"
    if power := call.first("e"):
        words += f" × 10{script(power, 'sup')}"
    unit = call.first("u", "ul")
    return f"{call.first('p')}{words} {unit}".strip()


def _fraction(call: Call) -> str:
    one, two, three = call.arg(1), call.arg(2), call.arg(3)
    if three:
        return f"{one} {two}/{three}"
    return f"{one}/{two}" if two else f"1/{one}"


def _date(call: Call) -> str:
    """Year, month and day of `{{birth date and age|1950|1|2}}`, as 1950-01-02."""
    parts = [one for one in call.positional[:3] if one.isdigit()]
    return "-".join(part.zfill(2) for part in parts) or call.arg(1)


def _nihongo(call: Call) -> str:
    inside = ", ".join(one for one in call.positional[1:4] if one)
    if not call.arg(1):
        return inside
    return f"{call.arg(1)} ({inside})" if inside else call.arg(1)


def _chinese(call: Call) -> str:
    """The characters and the pinyin of `{{zh|s=北京|t=…|p=Běijīng}}`."""
    characters = call.first("c", "s", "t") or call.arg(1)
    traditional = call.first("t")
    words = characters
    if call.first("s") and traditional and traditional != call.first("s"):
        words = f"{call.first('s')}; {traditional}"
    pinyin = call.first("p", "hp")
    return "; ".join(one for one in (words, f"pinyin: {pinyin}" if pinyin else "") if one)


def _foreign(*names: str) -> Rule:
    """The first form given of `{{jpn|j=東京|hg=…}}` or `{{Korean|hangul=…}}`."""
    return lambda call: call.first(*names) or call.arg(1)


def _link_by_local(call: Call) -> str:
    """`{{link-en|local|foreign|label}}`."""
    return call.label() or call.arg(3) or call.arg(1)


def _link_after_code(call: Call) -> str:
    """`{{tsl|en|foreign|local|label}}`."""
    return call.label() or call.arg(4) or call.arg(3) or call.arg(2)


def _interlanguage(call: Call) -> str:
    """`{{ill|local|de|foreign}}`; some wikis put the code first."""
    is_code = re.fullmatch(r"[a-z]{2,3}(-[a-z]+)?", call.arg(1)) and call.arg(2)
    return call.label() or (call.arg(2) if is_code else call.arg(1))


def _lifetime(call: Call) -> str:
    """Birth and death of a Chinese biography: `{{bd|1893年|12月26日|1976年|9月9日}}`."""
    born, died = call.arg(1) + call.arg(2), call.arg(3) + call.arg(4)
    return f"（{born}－{died}）" if born or died else ""


def _formula(call: Call) -> str:
    return f"${call.arg(1)}$" if call.arg(1) else ""


def _group(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys((name.strip() for name in names.split("|")), rule)


RULES: dict[str, Rule] = {
    **_group(
        _pick(1),
        "nowrap|nobr|nobreak|small|smaller|big|larger|resize|em|strong|sic|abbr|tooltip|mono|var|"
        "visible anchor|vanchor|linktext|keypress|samp|kbd|samp|not a typo|notatypo|proper name|"
        "nihongo2|angle bracket|angbr|flag|flagu|flagcountry|country|pslink|ship|hms|uss|noitalic|"
        "normal|allow wrap|formatnum|num|nts|number|lc|uc|ucfirst|lcfirst|flatlist|plainlist|"
        "hlist-item|columns-list|columns|block indent|center|centre|poemquote|verse|unicode|"
        "polytonic|grc|script|code|key|chem|mvar|intmath|pars|bigger|align|nobold|smallcaps|"
        "sc|smallcaps all|ipa link|overset|underline|u|strikethrough|delink|"
        "ruby|rubya|注音|缩写|旗幟|拼音",
    ),
    **_group(
        _pick(2),
        "lang|langx|lang-rtl|color|colour|font color|font colour|fontcolor|background color|"
        "bg|bgcolor|transl|transliteration|section link|script/hebrew|字体|字體",
    ),
    **_group(_convert, "convert|cvt|conv|轉換|转换|換算|换算"),
    **_group(_value, "val|value"),
    **_group(_fraction, "frac|sfrac|fraction"),
    **_group(lambda call: script(call.arg(1), "sup"), "sup|superscript"),
    **_group(lambda call: script(call.arg(1), "sub"), "sub|subscript"),
    **_group(lambda call: f"×10{script(call.arg(1), 'sup')}", "e|esp"),
    **_group(
        _date,
        "birth date|birth date and age|birth-date|birth-date and age|death date|"
        "death date and age|death-date|start date|start date and age|end date|film date|bda|dda|"
        "birth year and age|dob|dod|date|dts|生年月日|"
        "生日|死亡日期|生日与年龄|出生日期与年龄|出生日期",
    ),
    **_group(_prefixed("c. "), "circa|c.|ca.|ca"),
    **_group(_prefixed("fl. "), "floruit|fl."),
    **_group(_prefixed("As of "), "as of"),
    **_group(_prefixed("$"), "usd|us$|us dollar"),
    **_group(_prefixed("€"), "eur|euro|€"),
    **_group(_prefixed("£"), "gbp|£|pound sterling"),
    **_group(_prefixed("¥"), "jpy|¥|cny|rmb"),
    **_group(_prefixed("₹"), "inr|indian rupee"),
    **_group(_joined(", "), "hlist|ubl|unbulleted list|plain list|cslist|comma separated entries"),
    **_group(_list_items, "bulleted list|ordered list|bulletlist|blist"),
    **_group(
        _block,
        "quote|blockquote|cquote|quotation|quoted text|bquote|rquote|centered pull quote|"
        "block quote|quotecn|引用|引文|引言|epigraph",
    ),
    **_group(_nihongo, "nihongo|nihongo title"),
    **_group(lambda call: call.arg(3) or call.arg(1), "nihongo3"),
    **_group(_chinese, "zh|zh-cn|zh-hans|zh-hant|chinese|zhi|zhc|zho|zhp|zh-stp"),
    **_group(_foreign("j", "kanji", "hg", "rm", "romaji"), "jpn|日文|日本語|日语|日語"),
    **_group(_foreign("k", "hangul", "hanja", "hj", "rr"), "korean|kor|ko-hhrm|韩文|朝鲜语"),
    **_group(_foreign("v", "hn"), "vie|越南语|越南語"),
    **_group(_formula, "math|tmath|bigmath"),
    **_group(lambda call: "".join(call.positional), "chem2"),
    **_group(_link_by_local, "le|link-lang|interlanguage link forced"),
    **_group(_link_after_code, "tsl|translink|ilh|internal link helper|liw|多语言链接"),
    **_group(_interlanguage, "ill|illm|ill2|interlanguage link|interlanguage link multi|lien"),
    **_group(_lifetime, "bd|bd2|生卒年|bd-cn"),
    **_group(lambda call: call.title, "pagename|fullpagename|basepagename|subst:pagename"),
    **_group(_text("–"), "ndash|endash|en dash"),
    **_group(_text(" – "), "spaced ndash|snd|spnd|sndash|spndash|spaced en dash"),
    **_group(_text("—"), "mdash|emdash|em dash|spaced mdash|破折號|破折号"),
    **_group(_text(" · "), "·|dot|middot|int:dot-separator"),
    **_group(_text(" • "), "•|bull|bullet"),
    **_group(_text("..."), "...|ellipsis"),
    **_group(_text("'"), "'|-'|apostrophe"),
    **_group(_text("'s"), "'s"),
    **_group(_text("="), "="),
    **_group(_text(" "), "nbsp|space|thinsp|sp|spaces|zwsp|hsp|0ws"),
    **_group(_text("|"), "!"),
    **_group(_text("{"), "(|(("),
    **_group(_text("}"), ")|))"),
    **_group(_text("ʻ"), "okina|ʻokina"),
    **_group(_text("♯"), "sharp|music"),
    **_group(_text(BREAK), "br|break|crlf|-br"),
}
PATTERNS: tuple[tuple[re.Pattern[str], Rule], ...] = (
    (re.compile(r"lang-[a-z-]+"), _pick(1)),
    (re.compile(r"link-[a-z-]+"), _link_by_local),
    (re.compile(r"internal link helper/[a-z-]+"), _link_by_local),
    (re.compile(r"script[/-].+"), lambda call: call.arg(2) or call.arg(1)),
)

_DISAMBIGUATION = re.compile(r"(?:.*[ -])?(?:disambig(?:uation)?|消歧[义義]页?)(?: page)?")
_STUB = re.compile(
    r"(?:.*[ -])?stub|.*小作品|小小作品|.*スタブ|.*토막글|ébauche|.*esbozo|заготовка"
)
_INFOBOX = re.compile(
    r"(?:infobox|taxobox|speciesbox|automatic taxobox|geobox|chembox|elementbox|drugbox|"
    r"信息框|资讯框|資訊框|基礎情報|карточка|정보).*|.*(?: infobox|信息框|資訊框|资讯框|情報)"
)
_MAINTENANCE = re.compile(
    r"(?:unreferenced|refimprove|more citations needed|multiple issues|pov|advert|cleanup|"
    r"original research|no footnotes|expert|update|copy ?edit|notability|disputed|tone|"
    r"需要更多来源|unsourced|bsn|expand|扩充|roughtranslation|维基化|缺少来源)(?:[ |-].*)?"
)


def role(name: str, disambiguations: frozenset[str] = frozenset()) -> str:
    """Return what a template says of its page: disambiguation, stub, infobox, maintenance or ""."""
    if name in disambiguations or _DISAMBIGUATION.fullmatch(name):
        return "disambiguation"
    if _STUB.fullmatch(name):
        return "stub"
    if _INFOBOX.fullmatch(name):
        return "infobox"
    return "maintenance" if _MAINTENANCE.fullmatch(name) else ""
