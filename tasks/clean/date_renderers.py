"""Dates, ages and spans of years -> their words: `{{circa|1800}}` c. 1800."""

from __future__ import annotations

import datetime

from tasks.clean.call import Call, Renderer, Wording
from tasks.clean.dates import Date, read_date, render_date, show_date, years_between

_ENDS = {
    "divorced": "div.", "divorce": "div.", "div": "div.", "died": "died", "d": "died",
    "his death": "died", "her death": "died", "annulled": "ann.", "ann": "ann.",
    "widowed": "wid.", "wid": "wid.", "w": "wid.", "separated": "sep.", "sep": "sep.",
}  # fmt: skip


def _one_date(call: Call, wording: Wording) -> str:
    return render_date(call, wording)


def _death_date(call: Call, wording: Wording) -> str:
    """`{{death date and age|2000|1|2|1950|3|4}}` January 2, 2000 (aged 49)."""
    is_by_year = "year" in call.name.casefold()
    died = read_date(call, wording)
    born = read_date(call, wording, 2 if is_by_year else 4)
    if is_by_year and died:
        died = (died[0], 0, 0)
    text = show_date(died, wording, is_day_first=call.says("df")) if died else call.arg(1)
    if not died or not born:
        return text
    age = _span(born, died)
    if wording.language == "zh":
        return f"{text}（{age}岁）"
    return f"{text} (aged {age})" if wording.language == "en" else text


def _span(start: Date, end: Date) -> str:
    least, most = years_between(start, end)
    return str(least) if least == most else f"{least}–{most}"


def _age(call: Call, wording: Wording) -> str:
    """`{{age|1950|3|4|2000|1|2}}` 49; without an end it would be today's."""
    start, end = read_date(call, wording), read_date(call, wording, 4)
    return _span(start, end) if start and end else ""


def _exact_age(call: Call, wording: Wording) -> str:
    """`{{age in years and days|2000|1|1|2010|3|5}}` 10 years, 63 days; "" without an end."""
    start = read_date(call, wording)
    end = read_date(call, wording, 4 if call.arg(1).isdecimal() else 2)
    if not start or not end or wording.language not in ("en", "zh"):
        return ""
    try:
        first, last = datetime.date(*start), datetime.date(*end)
    except ValueError:  # a day of it is not known
        return ""
    if last < first:
        return ""
    years, _ = years_between(start, end)
    if "months" in call.name.casefold():
        rest, unit = (last.month - first.month - (last.day < first.day)) % 12, "month"
    else:
        birthday = datetime.date(first.year + years, first.month, 1)
        rest, unit = (last - birthday).days - first.day + 1, "day"
    if wording.language == "zh":
        return f"{years}年{rest}{'天' if unit == 'day' else '个月'}"
    return ", ".join(f"{n} {name}{'s' * (n != 1)}" for n, name in ((years, "year"), (rest, unit)))


def _date_span(call: Call, wording: Wording) -> str:
    """`{{start and end dates|1939|9|1|1945|9|2}}`."""
    dates = [read_date(call, wording, start) for start in (1, 4)]
    is_day_first = call.says("df")
    words = [show_date(one, wording, is_day_first=is_day_first) for one in dates if one]
    return " – ".join(words)


def _film_dates(call: Call, wording: Wording) -> str:
    """`{{film date|2010|7|8|London|2010|7|16|United States}}`."""
    found = []
    for start in range(1, len(call.positional) + 1, 4):
        date = read_date(call, wording, start)
        if date:
            words = show_date(date, wording, is_day_first=call.says("df"))
            place = call.arg(start + 3)
            found.append(words + (wording.brackets(place) if place else ""))
    return ", ".join(found)


def _years(call: Call, wording: Wording) -> str:
    """Two years and a dash: `{{reign|1066|1087}}` r. 1066–1087."""
    return "–".join(one for one in call.positional[:2] if one)


def _circa(call: Call, wording: Wording) -> str:
    words = " – ".join(f"c. {one}" for one in call.positional[:2] if one)
    return words or "c."


def _floruit(call: Call, wording: Wording) -> str:
    words = _years(call, wording)
    return f"fl. {words}" if words else "fl."


def _reign(call: Call, wording: Wording) -> str:
    words = _years(call, wording)
    return f"r. {words}" if words and not call.says("lc") else words


def _as_of(call: Call, wording: Wording) -> str:
    """`{{as of|2020|5|lc=y}}` as of May 2020."""
    if alt := call.first("alt"):
        return alt
    date = read_date(call, wording)
    words = (
        show_date(date, wording, is_day_first=call.first("df").upper() != "US")
        if date
        else call.arg(1)
    )
    if wording.language == "zh":
        return f"截至{words}" if words else ""
    start = "since" if call.says("since") else "as of"
    return f"{start if call.says('lc') else start.capitalize()} {words}" if words else ""


def _marriage(call: Call, wording: Wording) -> str:
    """`{{marriage|Ann Lee|1950|1960|end=div}}` Ann Lee (m. 1950; div. 1960)."""
    spouse, begun, ended = call.arg(1), call.arg(2), call.arg(3)
    why = call.first("end", "reason")
    why = _ENDS.get(why.casefold().rstrip("."), why)
    end = f"{why} {ended}".strip() if why else ended
    inside = "; ".join(one for one in (f"m. {begun}" if begun else "", end) if one)
    if begun and ended and not why:
        inside = f"m. {begun}–{ended}"
    return f"{spouse} ({inside})" if inside and spouse else spouse


def _lifetime(call: Call, wording: Wording) -> str:
    """Birth and death of a Chinese biography: `{{bd|1893年|12月26日|1976年|9月9日}}`."""
    born, died = call.arg(1) + call.arg(2), call.arg(3) + call.arg(4)
    return f"（{born}－{died}）" if born or died else ""


DATES: dict[str, Renderer] = {
    "age": _age,
    "as_of": _as_of,
    "circa": _circa,
    "date": _one_date,
    "date_span": _date_span,
    "death_date": _death_date,
    "exact_age": _exact_age,
    "film_dates": _film_dates,
    "floruit": _floruit,
    "lifetime": _lifetime,
    "marriage": _marriage,
    "reign": _reign,
    "years": _years,
}
