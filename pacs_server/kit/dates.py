"""Dates and times as people write them."""

import re
from datetime import date as Date
from datetime import timedelta
from typing import Final

DATE_FORMATS: Final = "2026-01-31, 31.01.2026 or 20260131"
TIME_FORMATS: Final = "9:30, 09:30:15 or 0930"
_DAYS_FROM_TODAY: Final = {"yesterday": -1, "today": 0, "tomorrow": 1}
_YEAR_FIRST = re.compile(r"(?P<year>\d{4})(-?)(?P<month>\d\d)\2(?P<day>\d\d)", re.ASCII)
# 01/02/2026 is another day in some countries than in others, so that slashes are not taken.
_DAY_FIRST = re.compile(r"(?P<day>\d\d?)\.(?P<month>\d\d?)\.(?P<year>\d{4})", re.ASCII)
_WITH_COLONS = re.compile(r"(\d\d?):(\d\d)(?::(\d\d))?", re.ASCII)
_DIGITS_ONLY = re.compile(r"(\d\d)(\d\d)(\d\d)?", re.ASCII)


def day_of(text: str, *, today: Date | None = None) -> Date:
    """The day that `text` names; with `today`, also as a word: yesterday, today, tomorrow. Raises ValueError."""
    text = text.strip()
    days = None if today is None else _DAYS_FROM_TODAY.get(text.lower())
    if today is not None and days is not None:
        return today + timedelta(days=days)
    found = _YEAR_FIRST.fullmatch(text) or _DAY_FIRST.fullmatch(text)
    if found is None:
        raise ValueError("not a date")
    return Date(*(int(found[part]) for part in ("year", "month", "day")))


def clock_time_of(text: str) -> str:
    """A time of day as HHMM or HHMMSS, without seconds if `text` has none. Raises ValueError."""
    found = _WITH_COLONS.fullmatch(text.strip()) or _DIGITS_ONLY.fullmatch(text.strip())
    if found is None:
        raise ValueError("not a time")
    hour, minute, second = (int(part or 0) for part in found.groups())
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError("not a time")
    return f"{hour:02}{minute:02}" + (f"{second:02}" if found[3] else "")
