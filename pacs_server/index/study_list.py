"""The list of studies: searched, filtered and sorted, page by page.

A page ends with the values that its last row is sorted by and the row's id, and the next page begins behind them
(keyset pagination), so that a page costs the same however far down the list it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pacs_server.dicom.attributes import Attribute
from pacs_server.dicom.levels import Level
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.index.database import Database
from pacs_server.index.matching import Clause, all_of
from pacs_server.index.queries import as_text
from pacs_server.index.scope import limited, seen
from pacs_server.index.study_order import ListPlace, Section, StudyOrder
from pacs_server.index.study_terms import StudyFilter, StudyTerms

_OF_PATIENT: Final = " JOIN patient ON patient.id = study.patient_fk"


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
        found: list[StudyLine] = []
        for section in place.sections():
            if len(found) < place.limit:
                rest = replace(place, limit=place.limit - len(found))
                statement = self._statement(section, rest, returned, ids, conditions)
                with self._rows(statement, scope) as rows:
                    found += [_line(row, len(section.keys)) for row in rows]
        if place.after is not None:
            return ListedPage(found, None)
        if len(found) < place.limit:
            return ListedPage(found, len(found))
        # What many studies fulfil is not counted: each of them would be looked at.
        total = len(ids) if ids is not None and not conditions else None
        return ListedPage(found, total)

    def _statement(
        self, section: Section, place: ListPlace, returned: Sequence[Attribute], ids: frozenset[int] | None,
        conditions: list[Clause],
    ) -> Clause:  # fmt: skip
        conditions = [*conditions, *place.behind(section)]
        if section.condition:
            conditions.append(Clause(section.condition, ()))
        if ids is not None:
            conditions.append(self._among(ids))
        where = all_of(conditions) if conditions else Clause("1 = 1", ())
        columns = ", ".join(["study.id", "study.received_at", *section.keys, *map(as_text, returned)])
        ordered = f"ORDER BY {section.order(descending=place.descending)}"
        found = f"WHERE {where.sql} {ordered} LIMIT {int(place.limit)}"
        tables = f"study{_OF_PATIENT}{section.joined}"
        if ids is None and not section.are_numbers:
            tables = section.walked if self._database.is_sqlite else tables
            return Clause(f"SELECT {columns} FROM {tables} {found}", where.values)  # noqa: S608
        # What is sorted is as narrow as possible.
        of_patients = "patient." in f"{where.sql} {ordered}"
        chosen = f"SELECT study.id FROM study{_OF_PATIENT if of_patients else ''}{section.joined} {found}"  # noqa: S608
        again = f"study.id IN ({chosen}){f' AND {section.condition}' if section.joined else ''}"
        return Clause(f"SELECT {columns} FROM {tables} WHERE {again} {ordered}", where.values)  # noqa: S608

    def _among(self, ids: frozenset[int]) -> Clause:
        """The condition that a study is one of these."""
        listed = str(list(ids))
        if not self._database.is_sqlite:
            return Clause("study.id = ANY(CAST(? AS bigint[]))", (f"{{{listed[1:-1]}}}",))
        return Clause("study.id IN (SELECT value FROM json_each(?))", (listed,))

    def choices(self, limit: int) -> StudyChoices:
        """What all studies can be filtered by, at most `limit` of each."""
        terms = StudyTerms(self._database, EVERYTHING)
        return StudyChoices(
            terms.distinct("series", "modality", limit),
            terms.distinct("series", "station_name", limit),
            terms.distinct("study_label", "label", limit),
        )

    def _rows(self, statement: Clause, scope: Scope) -> Any:
        return self._database.rows(*limited(statement, scope, embedded=self._database.is_sqlite), few=True)


def _line(row: tuple[Any, ...], keys: int) -> StudyLine:
    return StudyLine(int(row[0]), tuple(map(str, row[2 : 2 + keys])), row[1], tuple(row[2 + keys :]))
