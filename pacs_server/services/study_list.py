"""The list of studies that people look at: searched by what they type, filtered, sorted, page by page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pacs_server.dicom.attributes import Attribute
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.index.study_list import StudyChoices, StudyLine, StudyListIndex
from pacs_server.index.study_order import ListPlace
from pacs_server.index.study_terms import StudyFilter

_MOST_CHOICES = 200


@dataclass(frozen=True, slots=True)
class ListedStudy:
    """One study: its id, when its first instance was received, and the text of each attribute by its keyword."""

    id: int
    received_at: datetime | None
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StudyPage:
    """One page; `after` is where the next one begins, None if this is the last one.

    `total` is the number of all studies that were found, None if it takes long to tell, and on later pages.
    """

    rows: tuple[ListedStudy, ...]
    after: tuple[tuple[str, ...], int] | None
    total: int | None


class StudyListService:
    """Lists studies; shared by all threads. Every method raises IndexUnavailable."""

    def __init__(self, index: StudyListIndex) -> None:
        self._index = index

    def page(
        self, wanted: StudyFilter, place: ListPlace, returned: Sequence[Attribute], scope: Scope = EVERYTHING
    ) -> StudyPage:
        """The page at `place` of the studies that `scope` shows; the first page also tells how many there are."""
        found = self._index.page(wanted, replace(place, limit=place.limit + 1), returned, scope)
        last = found.lines[place.limit - 1] if len(found.lines) > place.limit else None
        after = (last.sorted_by, last.id) if last else None
        return StudyPage(tuple(_named(line, returned) for line in found.lines[: place.limit]), after, found.total)

    def choices(self) -> StudyChoices:
        """What all studies can be filtered by: modalities, stations and labels, the first of each if there are many."""
        return self._index.choices(_MOST_CHOICES)


def _named(row: StudyLine, returned: Sequence[Attribute]) -> ListedStudy:
    keywords = (attribute.keyword for attribute in returned)
    at = datetime.strptime(row.received_at, "%Y%m%d%H%M%S").replace(tzinfo=UTC) if row.received_at else None
    return ListedStudy(row.id, at, dict(zip(keywords, row.texts, strict=True)))
