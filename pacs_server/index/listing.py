"""Lists of what is stored, page by page, the newest first.

A page ends with the id of its last row, and the next page begins behind that id (keyset pagination). So a page costs
the same however far down the list it is, and rows that arrive meanwhile neither repeat nor hide others.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import func, select

from pacs_server.dicom.identifier import MatchingKey, Query
from pacs_server.dicom.levels import Level
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.errors import NotAuthorised
from pacs_server.index.database import Database
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.matching import Clause
from pacs_server.index.models import TABLES, instance, series, study
from pacs_server.index.queries import find_statement

_ORDER = " ORDER BY "
_KEY = {level: f"{table.name}.id" for level, table in TABLES.items()}


@dataclass(frozen=True, slots=True)
class Listed:
    """One row of a list: its id, and the texts of what the query returns."""

    id: int
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Which rows of a list to read: those behind the id `after`, or only the row `only`, and `limit` at most."""

    limit: int
    after: int | None = None
    only: int | None = None


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is stored of something: instances, bytes, and when the first and the last of them were received."""

    instances: int
    bytes: int
    first_received_at: datetime | None
    last_received_at: datetime | None


@dataclass(frozen=True, slots=True)
class InstanceFile:
    """The file of an instance; `path` is below the archive's root, `size` in bytes, `digest` its SHA-256."""

    path: str
    version: int
    size: int
    digest: str
    transfer_syntax_uid: str
    received_at: datetime
    calling_ae: str
    peer: str


class ListingIndex:
    """Reads lists from one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, query: Query, place: Place, scope: Scope = EVERYTHING) -> list[Listed]:
        """The rows that match a query and that `scope` shows, the newest first."""
        _refuse_limits(scope)
        statement, residual = _page_statement(query, place)
        width = len(query.returns)
        with self._database.rows(*statement) as rows:
            matching = (row for row in rows if not residual or _matches(residual, row[1:], width))
            return [Listed(int(row[0]), row[1 : width + 1]) for row in islice(matching, place.limit)]

    def extent(self, level: Level, key: int, scope: Scope = EVERYTHING) -> Extent:
        """How much that `scope` shows is stored of the row of that id at PATIENT, STUDY or SERIES level."""
        _refuse_limits(scope)
        column = {Level.PATIENT: study.c.patient_fk, Level.STUDY: series.c.study_fk, Level.SERIES: instance.c.series_fk}
        received = instance.c.received_at
        values = (func.count(), func.coalesce(func.sum(instance.c.size), 0), func.min(received), func.max(received))
        joined = instance.join(series).join(study)
        with self._database.connect() as connection:
            row = connection.execute(select(*values).select_from(joined).where(column[level] == key)).one()
        return Extent(int(row[0]), int(row[1]), row[2] and in_utc(row[2]), row[3] and in_utc(row[3]))

    def file(self, key: int) -> InstanceFile | None:
        """The file of the instance of that id."""
        columns = [instance.c[name] for name in InstanceFile.__dataclass_fields__]
        with self._database.connect() as connection:
            row = connection.execute(select(*columns).where(instance.c.id == key)).one_or_none()
        if row is None:
            return None
        return InstanceFile(**(dict(row._mapping) | {"received_at": in_utc(row.received_at)}))


def _refuse_limits(scope: Scope) -> None:
    if scope.is_limited:
        raise NotAuthorised("limited callers cannot be served yet")


def _page_statement(query: Query, place: Place) -> tuple[Clause, list[MatchingKey]]:
    (sql, values), residual = find_statement(query)
    key = _KEY[query.level]
    # The statement of a query begins with its columns and ends with its order.
    found = sql.rpartition(_ORDER)[0]
    conditions = f"{found.replace('SELECT ', f'SELECT {key}, ', 1)}{_behind(key, place)}"
    # What Python has to match cannot be counted by the database.
    limit = "" if residual else f" LIMIT {int(place.limit)}"
    return Clause(f"{conditions}{_ORDER}{key} DESC{limit}", values), residual


def _behind(key: str, place: Place) -> str:
    # Numbers, never texts of a caller.
    after = "" if place.after is None else f" AND {key} < {int(place.after)}"
    only = "" if place.only is None else f" AND {key} = {int(place.only)}"
    return after + only


def _matches(residual: Iterable[MatchingKey], row: tuple[Any, ...], start: int) -> bool:
    for key in residual:
        end = start + len(key.attributes)
        if not key.matches(*row[start:end]):
            return False
        start = end
    return True
