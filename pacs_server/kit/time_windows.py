"""Times of day between which something is allowed, such as 22:00-06:00, in local time."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final, Self

_WINDOW: Final = re.compile(r"([01]?\d|2[0-4]):([0-5]\d) *- *([01]?\d|2[0-4]):([0-5]\d)", re.ASCII)
_DAY: Final = 24 * 60


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """From `start` up to `end`, both in minutes after midnight; a window that ends before it starts spans midnight."""

    start: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The window that a text such as 22:00-06:00 names. Raises ValueError."""
        found = _WINDOW.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text[:40]!r} is not a window such as 22:00-06:00")
        start, end = (int(found[n]) * 60 + int(found[n + 1]) for n in (1, 3))
        if start >= _DAY or end > _DAY or start == end:
            raise ValueError(f"{text[:40]!r} is not a window: it lasts no time, or ends after 24:00")
        return cls(start, end)

    def holds(self, moment: time) -> bool:
        """Whether a time of day lies in the window."""
        minute = moment.hour * 60 + moment.minute
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end

    def next_start(self, now: datetime) -> datetime:
        """The next moment after `now` at which the window begins; aware, in the local time zone."""
        local = now.astimezone()
        for days in range(3):
            # A naive date and time is read as local time, so that a change of the clock moves the start with it.
            day = local.date() + timedelta(days=days)
            start = datetime.combine(day, time(self.start // 60, self.start % 60)).astimezone()
            if start > now:
                return start
        raise AssertionError("each window begins once a day")


def is_open(windows: Iterable[str], now: datetime) -> bool:
    """Whether `now` (aware) lies in one of the windows; always if there are none."""
    parsed = [TimeWindow.parse(text) for text in windows]
    moment = now.astimezone().time()
    return not parsed or any(window.holds(moment) for window in parsed)


def next_opening(windows: Iterable[str], now: datetime) -> datetime:
    """When something may begin: `now` if a window is open, otherwise when the next one begins."""
    texts = tuple(windows)
    if is_open(texts, now):
        return now
    return min(TimeWindow.parse(text).next_start(now) for text in texts)
