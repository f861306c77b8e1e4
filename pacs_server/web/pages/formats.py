"""Values as people read them, in their language: DICOM's dates, times and names, sizes, and moments."""

from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from typing import Any

from babel import Locale
from babel.dates import format_date, format_datetime, format_skeleton, format_time, format_timedelta
from babel.numbers import format_decimal

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")


class Formats:
    """The filters of templates for one language."""

    def __init__(self, locale: Locale) -> None:
        self._locale = locale

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by the names that templates use."""
        return {
            "da": self.da, "tm": self.tm, "person": person, "size": self.size, "number": self.number,
            "moment": self.moment, "ago": self.ago, "day": self.day, "month": self.month,
        }  # fmt: skip

    def da(self, text: str) -> str:
        """A date of the VR DA; what is none stays as it is."""
        try:
            return format_date(date(int(text[:4]), int(text[4:6]), int(text[6:8])), "medium", self._locale)
        except (ValueError, TypeError):
            return text or ""

    def day(self, when: date) -> str:
        """A date."""
        return format_date(when, "medium", self._locale)

    def month(self, when: date) -> str:
        """The month of a date."""
        return format_skeleton("yMMMM", when, locale=self._locale)

    def tm(self, text: str) -> str:
        """A time of the VR TM, hours and minutes; what is none stays as it is."""
        try:
            return format_time(time(int(text[:2]), int(text[2:4] or 0)), "short", locale=self._locale)
        except (ValueError, TypeError):
            return text or ""

    def number(self, value: float | None) -> str:
        """A number with the separators of the language."""
        return "" if value is None else format_decimal(value, locale=self._locale)

    def size(self, octets: float | None) -> str:
        """A number of bytes with three digits and a unit, by thousands."""
        if octets is None:
            return ""
        value, unit = float(octets), 0
        while value >= 999.5 and unit < len(_UNITS) - 1:
            value, unit = value / 1000, unit + 1
        digits = 0 if unit == 0 or value >= 99.5 else 1
        return f"{format_decimal(round(value, digits), locale=self._locale)} {_UNITS[unit]}"

    def moment(self, when: datetime | None) -> str:
        """A moment, in the time zone of the server."""
        return "" if when is None else format_datetime(when.astimezone(), "medium", locale=self._locale)

    def ago(self, when: datetime | None) -> str:
        """How long ago a moment is, or how far ahead."""
        if when is None:
            return ""
        # Six days are six days, not a week.
        ago = when - datetime.now(when.tzinfo)
        return format_timedelta(ago, threshold=1.0, add_direction=True, locale=self._locale, format="long")


def person(names: str | Sequence[str]) -> str:
    """A person name of the VR PN as people write it: `Doe^Jane^^Dr` is `Doe, Jane Dr`; several with semicolons."""
    return _person(names) if isinstance(names, str) else "; ".join(filter(None, map(_person, names or ())))


def _person(name: str) -> str:
    """One person name; the first group that is not empty counts (PS3.5 6.2.1.2)."""
    groups = [group for group in (name or "").split("=") if group.strip("^ ")]
    if not groups:
        return ""
    family, _, rest = groups[0].partition("^")
    others = [part.strip() for part in rest.split("^") if part.strip()]
    given = " ".join(others)
    return f"{family.strip()}, {given}" if given else family.strip()
