"""`{{#if:…}}`, `{{lc:…}}`, `{{PAGENAME}}` -> text: what MediaWiki itself computes in a page.

Pure functions of their arguments: what depends on the clock, the wiki's database or a Lua module
is "". Names are in lower case; other languages' names for them are in `languages/*.yaml`.
"""

from __future__ import annotations

import re
import urllib.parse

from tasks.clean.call import Call, Renderer, Wording
from tasks.clean.dates import format_date, parse_date
from tasks.clean.expressions import ExpressionError, evaluate, show
from tasks.clean.numbers import format_number, plain_number

MAX_PADDING, MAX_DIGITS = 500, 50
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d{1,3})?", re.ASCII | re.IGNORECASE)
_VERBATIM_TAGS = {"math": "$%s$", "chem": r"$\ce{%s}$", "ce": r"$\ce{%s}$", "code": "`%s`"}
_DROPPED_TAGS = (
    "ref references gallery imagemap timeline graph score mapframe maplink templatedata hiero "
    "inputbox categorytree templatestyles indicator section dynamicpagelist quiz"
)


def _if(call: Call, wording: Wording) -> str:
    return call.arg(2) if call.arg(1) else call.arg(3)


def _ifeq(call: Call, wording: Wording) -> str:
    return call.arg(3) if _equal(call.arg(1), call.arg(2)) else call.arg(4)


def _equal(one: str, other: str) -> bool:
    return one == other or (_is_number(one) and _is_number(other) and float(one) == float(other))


def _is_number(text: str) -> bool:
    return len(text) <= MAX_DIGITS and _NUMBER.fullmatch(text) is not None


def _ifexpr(call: Call, wording: Wording) -> str:
    try:
        return call.arg(2) if call.arg(1) and evaluate(call.arg(1)) else call.arg(3)
    except ExpressionError:
        return ""


def _iferror(call: Call, wording: Wording) -> str:
    if 'class="error"' in call.arg(1):
        return call.arg(2)
    return call.arg(3) if len(call.positional) > 2 else call.arg(1)


def _expr(call: Call, wording: Wording) -> str:
    try:
        return show(evaluate(call.arg(1))) if call.arg(1) else ""
    except ExpressionError:
        return ""


def _switch(call: Call, wording: Wording) -> str:
    """`{{#switch: x | a | b = for both | c = other | default}}`."""
    asked, *cases = call.positional or ("",)
    can_be_equal = _is_number(asked)
    default = ""
    is_found = is_default = False
    for case in cases:
        label, equals, value = case.partition("=")
        label = label.strip()
        is_asked = label == asked or (can_be_equal and _equal(asked, label))
        if not equals:
            is_found = is_found or is_asked
            is_default = is_default or label == "#default"
            continue
        if is_found or is_asked:
            return value.strip()
        if is_default or label == "#default":
            default = value.strip()
            is_default = False
    if cases and "=" not in cases[-1]:
        return cases[-1].strip()
    return default


def _time(call: Call, wording: Wording) -> str:
    """A date that is written there, in another format; "" for what asks the clock."""
    date = parse_date(call.arg(2), wording)
    return format_date(call.arg(1), date, wording) if date else ""


def _tag(call: Call, wording: Wording) -> str:
    tag, content = call.arg(1).casefold(), call.arg(2)
    if tag in _DROPPED_TAGS.split() or not content:
        return ""
    return _VERBATIM_TAGS.get(tag, "%s").replace("%s", content)


def _formatnum(call: Call, wording: Wording) -> str:
    switch = call.arg(2).casefold()
    if switch in ("r", "nosep"):
        return plain_number(call.arg(1), wording)
    return format_number(call.arg(1), wording)


def _pad(call: Call, wording: Wording, *, is_left: bool) -> str:
    text, length, filling = call.arg(1), call.arg(2), call.arg(3) or "0"
    if not re.fullmatch(r"\d{1,3}", length, re.ASCII) or int(length) > MAX_PADDING:
        return text
    missing = max(0, int(length) - len(text))
    padding = (filling[:missing] * missing)[:missing]
    return padding + text if is_left else text + padding


def _padleft(call: Call, wording: Wording) -> str:
    return _pad(call, wording, is_left=True)


def _padright(call: Call, wording: Wording) -> str:
    return _pad(call, wording, is_left=False)


def _plural(call: Call, wording: Wording) -> str:
    is_one = _is_number(call.arg(1)) and abs(float(call.arg(1))) == 1
    return call.arg(2) if is_one else call.arg(3) or call.arg(2)


def _titleparts(call: Call, wording: Wording) -> str:
    """`{{#titleparts: a/b/c | 2 | 1}}`: so many parts from the first on; 0 is all."""
    parts = call.arg(1).split("/")
    number, first = (_small_int(call.arg(place)) for place in (2, 3))
    start = first - 1 if first > 0 else max(0, len(parts) + first) if first else 0
    parts = parts[start:]
    return "/".join(parts[:number] if number else parts)


def _small_int(text: str) -> int:
    return int(text) if re.fullmatch(r"-?\d{1,4}", text, re.ASCII) else 0


def _page_name(call: Call, wording: Wording) -> str:
    return call.arg(1) or call.title


def _base_name(call: Call, wording: Wording) -> str:
    return _page_name(call, wording).rpartition("/")[0] or _page_name(call, wording)


def _root_name(call: Call, wording: Wording) -> str:
    return _page_name(call, wording).partition("/")[0]


def _subpage_name(call: Call, wording: Wording) -> str:
    return _page_name(call, wording).rpartition("/")[2]


def _first(call: Call, wording: Wording) -> str:
    return call.arg(1)


def _second(call: Call, wording: Wording) -> str:
    return call.arg(2)


def _nothing(call: Call, wording: Wording) -> str:
    return ""


_CLOCK = (
    "month month1 month2 monthname monthnamegen monthabbrev day day2 dayname year time hour week "
    "dow timestamp"
)
_WITHOUT_TEXT = (
    "#invoke #property #statements #lst #lsth #lstx #section #section-h #section-x #language "
    "#coordinates #related #categorytree #target #babel #assessment #mentor #timel "
    "defaultsort defaultsortkey defaultcategorysort displaytitle shortdesc "
    "noexternallanglinks localurl localurle fullurl fullurle canonicalurl canonicalurle filepath "
    "pagesincategory pagesincat pagesize protectionlevel protectionexpiry cascadingsources "
    "numberofpages numberofarticles numberofusers numberofactiveusers numberoffiles numberofadmins "
    "numberofedits numberingroup numingroup numberofwikis namespace namespacee namespacenumber "
    "talkspace talkspacee subjectspace subjectspacee articlespace articlespacee talkpagename "
    "talkpagenamee pageid revisionid revisionday revisionday2 revisionmonth revisionmonth1 "
    "revisionyear revisiontimestamp revisionuser revisionsize currentversion articlepath "
    "scriptpath server servername stylepath directionmark dirmark contentlanguage contentlang "
    "pagelanguage ns nse special speciale #special #speciale wbreponame"
)
FUNCTIONS: dict[str, Renderer] = {
    **dict.fromkeys(_WITHOUT_TEXT.split(), _nothing),
    **{f"{whose}{what}": _nothing for whose in ("current", "local") for what in _CLOCK.split()},
    **dict.fromkeys(("fullpagename", "pagename", "subjectpagename", "articlepagename"), _page_name),
    **dict.fromkeys(("fullpagenamee", "pagenamee", "subjectpagenamee"), _page_name),
    **dict.fromkeys(("basepagename", "basepagenamee"), _base_name),
    **dict.fromkeys(("rootpagename", "rootpagenamee"), _root_name),
    **dict.fromkeys(("subpagename", "subpagenamee"), _subpage_name),
    **dict.fromkeys(("int", "bidi", "anchorencode", "#dateformat", "#formatdate"), _first),
    "gender": _second,
    "grammar": _second,
    "#ifexist": _second,  # the page may be there: most that are asked for are
    "sitename": lambda call, wording: "Wikipedia",
    "!": lambda call, wording: "|",
    "#if": _if,
    "#ifeq": _ifeq,
    "#ifexpr": _ifexpr,
    "#iferror": _iferror,
    "#expr": _expr,
    "#switch": _switch,
    "#time": _time,
    "#tag": _tag,
    "#titleparts": _titleparts,
    "formatnum": _formatnum,
    "lc": lambda call, wording: call.arg(1).lower(),
    "uc": lambda call, wording: call.arg(1).upper(),
    "lcfirst": lambda call, wording: call.arg(1)[:1].lower() + call.arg(1)[1:],
    "ucfirst": lambda call, wording: call.arg(1)[:1].upper() + call.arg(1)[1:],
    "padleft": _padleft,
    "padright": _padright,
    "plural": _plural,
    "urlencode": lambda call, wording: urllib.parse.quote_plus(call.arg(1)),
}
