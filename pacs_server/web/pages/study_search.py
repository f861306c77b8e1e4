"""What the address of the list of studies says: words, filters, the column that it is sorted by, and where it begins.

Words such as `today` stay words in the address, so that a bookmark means today tomorrow as well.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from pacs_server.web.pages.languages import marked

# The words for days, each as the reader knows it.
DAYS: Final = {
    "today": marked("Today"),
    "yesterday": marked("Yesterday"),
    "7days": marked("Last 7 days"),
    "30days": marked("Last 30 days"),
    "month": marked("This month"),
    "year": marked("This year"),
}
RECEIVED: Final = {"hour": marked("Last hour"), **{word: DAYS[word] for word in ("today", "yesterday", "7days")}}
SORTS: Final = (
    "date", "name", "patient_id", "accession", "description", "physician", "received", "modality", "labels", "series",
    "images",
)  # fmt: skip
# By these the last or the most comes first, unless somebody says otherwise.
_LAST_FIRST: Final = ("date", "received", "series", "images")
_SEVERAL: Final = ("modality", "label")
_FILTERS: Final = ("q", "date", "from", "to", "received", "modality", "station", "label", "reading")
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_MOST: Final = 10


@dataclass(frozen=True, slots=True)
class Chip:
    """A filter that is set: its name and value, and the query of the list without it."""

    name: str
    value: str
    without: str


class StudySearch:
    """One address of the list. What makes no sense in it counts as not given."""

    def __init__(self, query: QueryParams, today: date | None = None) -> None:
        now = datetime.now().astimezone()
        self._today, self._now = today or now.date(), now
        self.given: dict[str, list[str]] = {}
        for name in _FILTERS:
            several = query.getlist(name) if name in _SEVERAL else [query.get(name, "")]
            values = [each.strip() for each in several if each.strip() and _is_known(name, each.strip())][:_MOST]
            if values:
                self.given[name] = values
        sort = query.get("sort", "")
        self.sort = sort if sort in SORTS else "date"
        direction = query.get("dir", "")
        self.ascending = direction == "asc" if direction in ("asc", "desc") else self.sort not in _LAST_FIRST
        self.after = query.get("after", "")

    def one(self, name: str) -> str:
        """The value of a filter, '' if it is not set."""
        return next(iter(self.given.get(name, ())), "")

    def several(self, name: str) -> list[str]:
        """The values of a filter that may have several."""
        return self.given.get(name, [])

    @property
    def has_more(self) -> bool:
        """Whether one of the filters is set that are not seen at once."""
        return any(name in self.given for name in ("from", "to", "received", "station", "label"))

    def asked(self) -> dict[str, Any]:
        """The parameters of the operation `search_studies`."""
        first, last = self._days()
        since, until = self._received()
        return {
            "text": self.one("q")[:200], "date_from": first, "date_to": last, "received_from": since,
            "received_to": until, "modality": self.several("modality"), "station": self.one("station"),
            "label": self.several("label"), "reading": self.one("reading"), "sort": self.sort,
            "ascending": self.ascending or None, "after": self.after,
        }  # fmt: skip

    def query(self, **changes: str) -> str:
        """The query of this list with other values for some names, from its beginning unless they say otherwise."""
        pairs = [(name, value) for name, values in self.given.items() for value in values if name not in changes]
        if (self.sort, self.ascending) != ("date", False):
            kept = {"sort": self.sort, "dir": "asc" if self.ascending else "desc"}
            pairs += [(name, value) for name, value in kept.items() if name not in changes]
        return urlencode([*pairs, *((name, value) for name, value in changes.items() if value)])

    def sorted_by(self, column: str) -> str:
        """The query of the same list sorted by a column: the other way round if it is sorted by it already."""
        ascending = not self.ascending if column == self.sort else column not in _LAST_FIRST
        return self.query(sort=column, dir="asc" if ascending else "desc")

    def chips(self) -> list[Chip]:
        """The filters that are set, but for the words."""
        found = []
        for name, values in self.given.items():
            for value in values if name != "q" else ():
                others = {each: [*rest] for each, rest in self.given.items()}
                others[name].remove(value)
                pairs = [(each, text) for each, rest in others.items() for text in rest]
                sorting = [("sort", self.sort), ("dir", "asc" if self.ascending else "desc")]
                plain = (self.sort, self.ascending) == ("date", False)
                found.append(Chip(name, value, urlencode(pairs + ([] if plain else sorting))))
        return found

    def _days(self) -> tuple[str, str]:
        if word := self.one("date"):
            first, last = _days_of(word, self._today)
            return first.strftime("%Y%m%d"), last.strftime("%Y%m%d")
        return self.one("from").replace("-", ""), self.one("to").replace("-", "")

    def _received(self) -> tuple[str, str]:
        word = self.one("received")
        if not word:
            return "", ""
        if word == "hour":
            return (self._now - timedelta(hours=1)).isoformat(), ""
        first, last = _days_of(word, self._today)
        return _start(first), (_start(last + timedelta(days=1)) if last < self._today else "")


def _start(day: date) -> str:
    """The first moment of a day, where the server is."""
    return datetime.combine(day, time()).astimezone().isoformat()


def _days_of(word: str, today: date) -> tuple[date, date]:
    yesterday = today - timedelta(days=1)
    found: Mapping[str, tuple[date, date]] = {
        "today": (today, today),
        "yesterday": (yesterday, yesterday),
        "7days": (today - timedelta(days=6), today),
        "30days": (today - timedelta(days=29), today),
        "month": (today.replace(day=1), today),
        "year": (today.replace(month=1, day=1), today),
    }
    return found[word]


def _is_known(name: str, value: str) -> bool:
    if name in ("date", "received"):
        return value in (DAYS if name == "date" else RECEIVED)
    if name in ("from", "to"):
        return _DAY.fullmatch(value) is not None
    return len(value) <= 64 or name == "q"
