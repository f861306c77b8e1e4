"""The list of studies: searched, filtered and sorted, page by page.

A page ends with the values that its last row is sorted by and the row's id, and the next page begins behind them
(keyset pagination), so that a page costs the same however far down the list it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pacs_server.dicom.attributes import Attribute
from pacs_server.dicom.levels import Level
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.index.database import Database
from pacs_server.index.matching import Clause, all_of
from pacs_server.index.queries import as_text
from pacs_server.index.scope import joined_from, limited, seen
from pacs_server.index.study_terms import StudyFilter, StudyTerms

# Up to so many studies are looked up one by one and sorted.
FEW: Final = 5000
_FROM: Final = joined_from(Level.STUDY)
# The other way round, in this order: CROSS JOIN tells SQLite to begin with the patients, which the list is sorted by.
_FROM_PATIENTS: Final = "patient CROSS JOIN study ON study.patient_fk = patient.id"


class StudyOrder(StrEnum):
    """What the list is sorted by."""

    DATE = "date"
    NAME = "name"
    PATIENT_ID = "patient_id"
    ACCESSION = "accession"
    DESCRIPTION = "description"
    PHYSICIAN = "physician"
    RECEIVED = "received"


# Each of them begins an index.
_COLUMNS: Final = {
    StudyOrder.DATE: ("study.study_date", "study.study_time_match"),
    StudyOrder.NAME: ("patient.patient_name_match",),
    StudyOrder.PATIENT_ID: ("patient.patient_id",),
    StudyOrder.ACCESSION: ("study.accession_number",),
    StudyOrder.DESCRIPTION: ("study.study_description",),
    StudyOrder.PHYSICIAN: ("study.referring_physician_name_match",),
    StudyOrder.RECEIVED: ("study.received_at",),
}


@dataclass(frozen=True, slots=True)
class ListPlace:
    """Which rows of the list to read: at most `limit`, those behind the row of these values and this id, if given."""

    limit: int
    order: StudyOrder = StudyOrder.DATE
    descending: bool = True
    after: tuple[tuple[str, ...], int] | None = None


@dataclass(frozen=True, slots=True)
class StudyLine:
    """One study of the list: its id, what it is sorted by, when it was received, and the texts that were asked for."""

    id: int
    sorted_by: tuple[str, ...]
    received_at: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListedPage:
    """The studies of one page; `total` is how many there are on all pages, on the first page if that is known."""

    lines: list[StudyLine]
    total: int | None


@dataclass(frozen=True, slots=True)
class StudyChoices:
    """What the studies can be filtered by."""

    modalities: list[str]
    stations: list[str]
    labels: list[str]


class StudyListIndex:
    """Reads the list of studies from one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self, wanted: StudyFilter, place: ListPlace, returned: Sequence[Attribute], scope: Scope = EVERYTHING
    ) -> ListedPage:
        """The studies of one page that `scope` shows, with the texts of these attributes."""
        terms = list(StudyTerms(self._database, scope).of(wanted, by_date=place.order is StudyOrder.DATE))
        known = [term.ids for term in terms if term.ids is not None]
        ids = frozenset.intersection(*known) if known else None
        if ids is not None and not ids:
            return ListedPage([], 0)
        conditions = [term.clause for term in terms if term.ids is None]
        if scope.is_limited:
            conditions.append(Clause(seen(Level.STUDY, scope), ()))
        with self._rows(self._statement(place, returned, ids, conditions), scope) as rows:
            found = [_line(row, len(_COLUMNS[place.order])) for row in rows]
        if place.after is not None:
            return ListedPage(found, None)
        if len(found) < place.limit:
            return ListedPage(found, len(found))
        # What many studies fulfil is not counted: each of them would be looked at.
        total = len(ids) if ids is not None and not conditions else None
        return ListedPage(found, total)

    def _statement(
        self, place: ListPlace, returned: Sequence[Attribute], ids: frozenset[int] | None, conditions: list[Clause]
    ) -> Clause:
        keys = _COLUMNS[place.order]
        columns = ["study.id", "study.received_at", *keys, *map(as_text, returned)]
        order = ", ".join(f"{key}{' DESC' if place.descending else ''}" for key in (*keys, "study.id"))
        conditions = [*conditions, *_behind(place)]
        if ids is not None:
            conditions.append(self._among(ids))
        where = all_of(conditions) if conditions else Clause("1 = 1", ())
        sql = (
            f"SELECT {', '.join(columns)} FROM {self._tables(place, ids)} WHERE {where.sql}"  # noqa: S608
            f" ORDER BY {order} LIMIT {int(place.limit)}"
        )
        return Clause(sql, where.values)

    def _among(self, ids: frozenset[int]) -> Clause:
        """The condition that a study is one of these."""
        listed = str(list(ids))
        if not self._database.is_sqlite:
            return Clause("study.id = ANY(CAST(? AS bigint[]))", (f"{{{listed[1:-1]}}}",))
        # With a sign before it, it is no key to look studies up by: the list is read in its order.
        key = "study.id" if len(ids) <= FEW else "+study.id"
        return Clause(f"{key} IN (SELECT value FROM json_each(?))", (listed,))  # noqa: S608

    def choices(self, limit: int) -> StudyChoices:
        """What all studies can be filtered by, at most `limit` of each."""
        terms = StudyTerms(self._database, EVERYTHING)
        return StudyChoices(
            terms.distinct("series", "modality", limit),
            terms.distinct("series", "station_name", limit),
            terms.distinct("study_label", "label", limit),
        )

    def _tables(self, place: ListPlace, ids: frozenset[int] | None) -> str:
        by_patient = _COLUMNS[place.order][0].startswith("patient.")
        in_order = ids is None or len(ids) > FEW
        return _FROM_PATIENTS if self._database.is_sqlite and by_patient and in_order else _FROM

    def _rows(self, statement: Clause, scope: Scope) -> Any:
        return self._database.rows(*limited(statement, scope, embedded=self._database.is_sqlite), few=True)


def _behind(place: ListPlace) -> list[Clause]:
    """The conditions for the rows behind the page before."""
    if place.after is None:
        return []
    values, key = place.after
    columns, sign = _COLUMNS[place.order], "<" if place.descending else ">"
    row = Clause(
        f"({', '.join((*columns, 'study.id'))}) {sign} ({', '.join('?' * len(columns))}, {int(key)})", tuple(values)
    )
    # This is what the databases use the index for.
    return [Clause(f"{columns[0]} {sign}= ?", (values[0],)), row]


def _line(row: tuple[Any, ...], keys: int) -> StudyLine:
    return StudyLine(int(row[0]), tuple(row[2 : 2 + keys]), row[1], tuple(row[2 + keys :]))
