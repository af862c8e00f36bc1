"""Links, names in other languages, lists and quotations -> their words."""

from __future__ import annotations

import re
from dataclasses import replace

from tasks.clean.call import Call, Renderer, Wording
from tasks.clean.forms import protect
from tasks.clean.markup import BREAK

_HAS_HAN_SCRIPT = re.compile(r"(?:ja|ko|vi|zh-|lzh|yue|och|ltc|ojp)", re.IGNORECASE)
_HAN = re.compile("[\u3400-\u9fff]")
_PROGRAMMING = re.compile(r"[A-Za-z][\w+#-]{0,20}", re.ASCII)
_CODE_OPTIONS = ("code", "lang", "class", "style", "id", "inline", "line")
_PLACES = re.compile(r"left|right|cent(?:er|re)|\d+(?:px|em|%)", re.IGNORECASE)
_WIDTH = re.compile(r"[\d.]+ *(?:em|ex|rem|px|%)?")
_LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,10})?|simple|zh-[a-z-]+", re.ASCII)


def _last(call: Call, wording: Wording) -> str:
    return next((one for one in reversed(call.positional) if one), "")


def _concatenated(call: Call, wording: Wording) -> str:
    return "".join(call.positional)


def _title(call: Call, wording: Wording) -> str:
    return call.title


def _quotation(call: Call, wording: Wording) -> str:
    """A quotation, its author and source behind a dash on the next line."""
    told = tuple(one for one in call.positional if not _PLACES.fullmatch(one))
    call = replace(call, positional=told)  # {{rquote|right|Words|Author}}
    words = call.value("text", "quote", "content", "1", "quotetext")
    author = call.value("author", "by", "sign", "2", "char", "character")
    source = call.value("source", "title", "cite", "3")
    origin = wording.comma.join(one for one in (author, source) if one)
    return f"{words}{BREAK + '— ' + origin if origin else ''}" if words else ""


def _verse(call: Call, wording: Wording) -> str:
    """A poem: its line breaks stay."""
    text = _quotation(call, wording)
    return text.replace("\n", BREAK)


def _verse_translation(call: Call, wording: Wording) -> str:
    """`{{verse translation|in its language|in ours|attr1=author}}`."""
    verses = [call.value(number).replace("\n", BREAK) for number in ("1", "2")]
    authors = [call.first(f"attr{number}") for number in (1, 2)]
    pairs = zip(verses, authors, strict=True)
    told = [f"{verse}{BREAK}— {name}" if name else verse for verse, name in pairs if verse]
    return "\n\n".join(told)


def _track_listing(call: Call, wording: Wording) -> str:
    """`{{track listing|title1=One|title2=Two|length2=3:45}}`: the titles, a list."""
    titles = [value for name, value in call.named.items() if re.fullmatch(r"title\d{1,3}", name)]
    return _list(replace(call, positional=tuple(titles)), "#")


def _code(call: Call, wording: Wording) -> str:
    """`{{code|lang=c|f(x)}}`; a `=` in the code, `{{code|x=1}}`, has cut it in two."""
    code, other = call.arg(1), call.arg(2)
    if other and _PROGRAMMING.fullmatch(code) and not _PROGRAMMING.fullmatch(other):
        return other  # {{code|python|print(x)}}; most wikis have the language behind the code
    cut = [f"{name}={value}" for name, value in call.named.items() if name not in _CODE_OPTIONS]
    return call.first("code") or code or "|".join(cut)


def _list(call: Call, mark: str) -> str:
    items = [one for one in call.positional if one]
    return "\n" + "\n".join(f"{mark} {one}" for one in items) + "\n" if items else ""


def _bulleted(call: Call, wording: Wording) -> str:
    return _list(call, "*")


def _numbered(call: Call, wording: Wording) -> str:
    return _list(call, "#")


def _inner_list(call: Call, wording: Wording) -> str:
    """`{{plainlist|* a * b}}`: the list that is its argument begins on a line of its own.

    It may stand behind a number or width of columns, or be cut into `col1`, `col2` and so on.
    """
    text = call.value("1", "content", "list")
    if not text or _WIDTH.fullmatch(text):
        columns = [call.first(f"col{number}", f"content{number}") for number in range(1, 11)]
        text = call.value("2", "content", "list") or "\n".join(filter(None, columns)) or text
    return f"\n{text}\n" if text[:1] in ("*", "#", ";", ":") else text


def _labelled(call: Call, wording: Wording) -> str:
    """Link templates: their label, else the page."""
    return call.first("lt", "d", "display", "label", "alias", "text", "nl") or call.arg(1)


def _link_by_local(call: Call, wording: Wording) -> str:
    """`{{link-en|local|foreign|label}}`."""
    return call.first("d", "lt", "label", "alias") or call.arg(3) or call.arg(1)


def _link_after_code(call: Call, wording: Wording) -> str:
    """`{{tsl|en|foreign|local|label}}`."""
    return call.first("d", "lt", "label", "alias") or call.arg(4) or call.arg(3) or call.arg(2)


def _link_helper(call: Call, wording: Wording) -> str:
    """`{{ilh|lang-code=en|lang=…|1=local|2=foreign|d=label}}`; older calls put the code first."""
    label = call.first("d", "lt", "label", "alias", "nl")
    return label or call.arg(3) or call.arg(1)


def _interlanguage(call: Call, wording: Wording) -> str:
    """`{{ill|local|de|foreign}}`; some wikis put the code first."""
    is_code = _LANGUAGE_CODE.fullmatch(call.arg(1)) and call.arg(2)
    is_first = is_code and not _LANGUAGE_CODE.fullmatch(call.arg(2))
    return call.first("lt", "display", "label", "alias") or call.arg(2 if is_first else 1)


def _quoted(call: Call, wording: Wording) -> str:
    """`{{lang|ja|東京}}` in a Chinese wiki: the text stays in the script it is quoted in."""
    text = call.arg(2)
    return protect(text) if _HAS_HAN_SCRIPT.match(call.arg(1)) else text


def _foreign(call: Call, wording: Wording) -> str:
    """`{{langx|ru|Москва|Moskva|lit=Moscow}}` Москва, Moskva, lit. 'Moscow'; so `{{lang-ru|…}}`."""
    name = call.name.casefold()
    is_in_name = name.startswith("lang-")
    code = name[5:] if is_in_name else call.arg(1)
    arguments = call.positional if is_in_name else call.positional[1:]
    text, translit, meaning = (*arguments, "", "", "")[:3]
    if wording.language == "zh" and _HAS_HAN_SCRIPT.match(code):
        text = protect(text)
    meaning = call.first("lit", "translation") or meaning
    if meaning:
        meaning = f"lit. '{meaning}'" if wording.language == "en" else f"“{meaning}”"
    told = [text, call.first("translit") or translit, meaning]
    return wording.comma.join(one for one in told if one)


def _chinese(call: Call, wording: Wording) -> str:
    """`{{zh|s=北京|p=Běijīng}}` Chinese: 北京; pinyin: Běijīng; `labels=no` without the names."""
    simplified, traditional = call.first("s"), call.first("t")
    is_same = not simplified or not traditional or simplified == traditional
    forms = (
        ("Chinese", call.first("c") or (is_same and (simplified or traditional)) or ""),
        ("simplified Chinese", "" if is_same else simplified),
        ("traditional Chinese", "" if is_same else traditional),
        ("pinyin", call.first("p", "hp")),
        ("Wade–Giles", call.first("w")),
        ("Jyutping", call.first("j")),
        ("Pe̍h-ōe-jī", call.first("poj")),
    )
    has_labels = wording.language == "en" and call.named.get("labels") != "no"
    told = [f"{name}: {form}" if has_labels else form for name, form in forms if form]
    meaning = call.first("l", "tr")
    told += [f"lit. '{meaning}'"] if meaning else []
    return "; ".join(told) or call.arg(1)


def _nihongo(call: Call, wording: Wording) -> str:
    """`{{nihongo|Tokyo Tower|東京タワー|Tōkyō tawā|lit.|extra2=…}}`."""
    inside = ", ".join(
        one for one in (call.arg(2), call.arg(3), call.arg(4) or call.first("extra")) if one
    )
    after = call.arg(5) or call.first("extra2")
    english = call.arg(1)
    text = f"{english} ({inside})" if english and inside else english or inside
    return f"{text} {after}" if after and text else text


def _korean(call: Call, wording: Wording) -> str:
    """`{{Korean|hangul=한국|hanja=韓國|rr=Hanguk}}` Korean: 한국; Hanja: 韓國; RR: Hanguk."""
    hangul = call.first("hangul", "k", "h", "hg", "context") or call.arg(1)
    forms = (
        ("Korean", hangul),
        ("Hanja", call.first("hanja", "hj") or (call.arg(2) if call.arg(1) else "")),
        ("RR", call.first("rr", "rm") or call.arg(3)),
        ("MR", call.first("mr")),
    )
    has_labels = wording.language == "en" and call.named.get("labels") != "no"
    told = [f"{name}: {form}" if has_labels else form for name, form in forms if form]
    if wording.language == "zh":  # Hanja stay in the script they are written in
        told = [protect(one) if _HAN.search(one) else one for one in told]
    return ("; " if has_labels else wording.comma).join(told)


def _author_year(call: Call, wording: Wording) -> str:
    """`{{harvtxt|Lee|Ray|1990|p=5}}` Lee & Ray (1990): the subject of many a sentence."""
    *authors, year = call.positional or ("",)
    names = [one for one in authors if one]
    if len(names) > 3:
        names = [f"{names[0]} et al."]
    text = ", ".join(names[:-1]) + (" & " if len(names) > 1 else "") + "".join(names[-1:])
    return f"{text} ({year})" if text and year else text or year


def _country(call: Call, wording: Wording) -> str:
    """`{{flag|GER}}` Germany: the name of a code, another name as it stands."""
    name = call.first("name") or call.arg(1)
    return wording.countries.get(name.upper(), name) if len(name) <= 6 else name


def _youth_team(call: Call, wording: Wording) -> str:
    """`{{fbu|21|GER}}` Germany U21."""
    country = _country(replace(call, positional=call.positional[1:]), wording)
    space = "" if wording.is_full_width else " "
    return f"{country}{space}U{call.arg(1)}" if country else ""


def _country_code(call: Call, wording: Wording) -> str:
    """`{{GER}}`: the template's own name is the code."""
    return call.first("name") or wording.countries.get(call.name.upper(), "")


def _section_link(call: Call, wording: Wording) -> str:
    """`{{section link|Page|One|Two}}` Page § One and § Two."""
    page, *sections = call.positional or ("",)
    words = ", ".join(f"§ {one}" for one in sections if one)
    return f"{page} {words}".strip()


def _line_break(call: Call, wording: Wording) -> str:
    return BREAK


def _releases(call: Call, wording: Wording) -> str:
    """`{{vgrelease|NA|May 1, 2004|EU|June 3, 2004}}`: places and dates in turn."""
    pairs = zip(call.positional[::2], call.positional[1::2], strict=False)
    found = [*pairs, *((place, date) for place, date in call.named.items() if place.isupper())]
    return ", ".join(f"{place}: {date}" for place, date in found if place and date)


WORDS: dict[str, Renderer] = {
    "author_year": _author_year,
    "bulleted": _bulleted,
    "chinese": _chinese,
    "code": _code,
    "concatenated": _concatenated,
    "country": _country,
    "country_code": _country_code,
    "foreign": _foreign,
    "inner_list": _inner_list,
    "interlanguage": _interlanguage,
    "korean": _korean,
    "labelled": _labelled,
    "last": _last,
    "line_break": _line_break,
    "link_after_code": _link_after_code,
    "link_by_local": _link_by_local,
    "link_helper": _link_helper,
    "nihongo": _nihongo,
    "numbered": _numbered,
    "quotation": _quotation,
    "quoted": _quoted,
    "releases": _releases,
    "section_link": _section_link,
    "title": _title,
    "track_listing": _track_listing,
    "verse": _verse,
    "verse_translation": _verse_translation,
    "youth_team": _youth_team,
}
