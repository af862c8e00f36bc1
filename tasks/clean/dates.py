"""Years, months and days -> a date as the language writes it."""

from __future__ import annotations

import datetime
import re

from tasks.clean.call import Call, Wording

Date = tuple[int, int, int]
"""Year, month and day; month and day are 0 where they are not known."""

_ISO = re.compile(r"(\d{3,4})-(\d{1,2})(?:-(\d{1,2}))?(?:[T ].*)?", re.ASCII)
_CHINESE = re.compile(r"(\d{1,4})年(?:(\d{1,2})月(?:(\d{1,2})[日号號])?)?", re.ASCII)
_DAY_FIRST = re.compile(r"(\d{1,2}) ([^\W\d_]{3,12})\.?,? (\d{3,4})")
_MONTH_FIRST = re.compile(r"([^\W\d_]{3,12})\.? (\d{1,2}), ?(\d{3,4})")
_MONTH = re.compile(r"([^\W\d_]{3,12})\.? (\d{3,4})")
_ENGLISH = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_SWITCHES = ("df", "mf")


def parse_date(text: str, wording: Wording) -> Date | None:
    """Read a date; None for what is none, or is relative to now."""
    text = text.strip()
    if match := _ISO.fullmatch(text) or _CHINESE.fullmatch(text):
        return _date(match[1], match[2] or "0", match[3] or "0", wording)
    if match := _DAY_FIRST.fullmatch(text):
        return _date(match[3], match[2], match[1], wording)
    if match := _MONTH_FIRST.fullmatch(text):
        return _date(match[3], match[1], match[2], wording)
    if match := _MONTH.fullmatch(text):
        return _date(match[2], match[1], "0", wording)
    return None


def _date(year: str, month: str, day: str, wording: Wording) -> Date | None:
    number = int(month) if month.isdecimal() else _month_number(month, wording)
    if not year.isdecimal() or not day.isdecimal() or number is None:
        return None
    found = int(year), number, int(day)
    return found if 0 < found[0] < 10_000 and found[1] <= 12 and found[2] <= 31 else None


def _month_number(name: str, wording: Wording) -> int | None:
    name = name.casefold().rstrip(".")
    for months in (wording.months, _ENGLISH):
        for number, month in enumerate(months, 1):
            if len(name) >= 3 and month.casefold().startswith(name):
                return number
    return None


def show_date(date: Date, wording: Wording, *, is_day_first: bool = False) -> str:
    """Return a date in words: January 2, 1950; 2 January 1950; 1950年1月2日; else 1950-01-02."""
    year, month, day = date
    if not month:
        return f"{year}年" if wording.language in ("zh", "ja") else str(year)
    if wording.language in ("zh", "ja"):
        return f"{year}年{month}月" + (f"{day}日" if day else "")
    if not wording.months:
        return f"{year:04}-{month:02}" + (f"-{day:02}" if day else "")
    if not day:
        return f"{wording.months[month - 1]} {year}"
    comma = "," if wording.language == "en" and not is_day_first else ""
    return f"{show_day(date, wording, is_day_first=is_day_first)}{comma} {year}"


def show_day(date: Date, wording: Wording, *, is_day_first: bool = False) -> str:
    """Return the day of a date without its year: January 2, 1月2日."""
    _, month, day = date
    if wording.language in ("zh", "ja"):
        return f"{month}月{day}日"
    if not wording.months:
        return f"{month:02}-{day:02}"
    name = wording.months[month - 1]
    return f"{name} {day}" if wording.language == "en" and not is_day_first else f"{day} {name}"


def read_date(call: Call, wording: Wording, start: int = 1) -> Date | None:
    """Return the date of three positional arguments from `start` on, or of one in words."""
    year, month, day = (call.arg(start + place) for place in range(3))
    if year.isdecimal() and len(year) <= 4:
        is_known = (month.isdecimal() and len(month) <= 2) or (month and month[0].isalpha())
        day = day if day.isdecimal() and len(day) <= 2 else "0"
        return _date(year, month if is_known else "0", day if is_known else "0", wording)
    return parse_date(year, wording)


def render_date(call: Call, wording: Wording, start: int = 1) -> str:
    """The date of `{{birth date and age|1950|1|2|df=y}}`, without the age: that asks the clock."""
    first = call.arg(start)
    month, day = call.arg(start + 1), call.arg(start + 2)
    if not first and month.isdecimal() and day.isdecimal():  # {{dts||8|6}}: every year
        date = _date("4", month, day, wording)
        return show_day(date, wording, is_day_first=call.says("df")) if date else ""
    date = read_date(call, wording, start)
    if date is None or not (first.isdecimal() or _ISO.fullmatch(first)):
        return first  # words stay as they are
    return show_date(date, wording, is_day_first=call.says("df"))


def years_between(start: Date, end: Date) -> tuple[int, int]:
    """Return the least and the most whole years between two dates, known more or less exactly."""
    years = end[0] - start[0]
    if start[1] and end[1] and start[1] != end[1]:
        return (years, years) if end[1] > start[1] else (years - 1, years - 1)
    if start[1] and end[1] and start[2] and end[2]:
        return (years, years) if end[2] >= start[2] else (years - 1, years - 1)
    return years - 1, years


def format_date(form: str, date: Date, wording: Wording) -> str:
    """Return a date by the letters of PHP's `date`, as in `{{#time: j F Y | 2004-05-06}}`."""
    year, month, day = date[0], date[1] or 1, date[2] or 1
    try:
        weekday = datetime.date(year, month, day)
    except ValueError:
        return ""
    months = wording.months or _ENGLISH
    letters = {
        "Y": f"{year:04}", "y": f"{year % 100:02}", "n": str(month), "m": f"{month:02}",
        "F": months[month - 1], "M": months[month - 1][:3], "j": str(day), "d": f"{day:02}",
        "N": str(weekday.isoweekday()), "w": str(weekday.isoweekday() % 7),
        "z": str(weekday.timetuple().tm_yday - 1), "t": str(_days(year, month)),
        "L": str(int(_days(year, 2) == 29)), "D": weekday.strftime("%a"),
        "l": weekday.strftime("%A"), "H": "00", "i": "00", "s": "00", "G": "0",
    }  # fmt: skip
    quoted = re.compile(r'"([^"]*)"|\\(.)|x[a-z]+|(.)', re.DOTALL)
    return "".join(
        match[1] or match[2] or letters.get(match[3] or "", match[3] or "")
        for match in quoted.finditer(form)
    )


def _days(year: int, month: int) -> int:
    following = datetime.date(year + month // 12, month % 12 + 1, 1) if year < 9999 else None
    return (following - datetime.date(year, month, 1)).days if following else 31
