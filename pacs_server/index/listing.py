"""Lists of what is stored, page by page, the newest first.

A page ends with the id of its last row, and the next page begins behind that id (keyset pagination). So a page costs
the same however far down the list it is, and rows that arrive meanwhile neither repeat nor hide others.
"""

from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from sqlalchemy import select

from pacs_server.dicom.identifier import Query
from pacs_server.dicom.levels import Level
from pacs_server.dicom.page import Page
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.index.database import Database
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.mark_filter import NOTHING, MarkFilter, condition_of
from pacs_server.index.matching import Clause
from pacs_server.index.models import TABLES, instance
from pacs_server.index.queries import find_statement, fulfils
from pacs_server.index.scope import joined_from, limited, seen

_EXTENT = "count(*), coalesce(sum(instance.size), 0), min(instance.received_at), max(instance.received_at)"
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
    move_originator: str
    peer: str


class ListingIndex:
    """Reads lists from one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, query: Query, place: Place, scope: Scope = EVERYTHING, marks: MarkFilter = NOTHING) -> list[Listed]:
        """The rows that match a query and that `scope` shows, the newest first; `marks` is for studies only."""
        key = _KEY[query.level]
        page = Page(limit=place.limit, newest_first=True)
        also = _behind(key, place) + ([condition_of(marks, self._database)] if marks else [])
        statement, residual = find_statement(query, scope, page, first=(key,), also=also)
        width = len(query.returns)
        told = limited(statement, scope, embedded=self._database.is_sqlite)
        # What the database alone decides is no more than a page.
        with self._database.rows(*told, few=not residual) as rows:
            matching = (row for row in rows if fulfils(residual, row, width + 1))
            return [Listed(int(row[0]), row[1 : width + 1]) for row in islice(matching, place.limit)]

    def extent(self, level: Level, key: int, scope: Scope = EVERYTHING) -> Extent:
        """How much that `scope` shows is stored of the row of that id."""
        wanted = f"{_KEY[level]} = {int(key)}" + (f" AND {seen(Level.IMAGE, scope)}" if scope.is_limited else "")
        sql = f"SELECT {_EXTENT} FROM {joined_from(Level.IMAGE)} WHERE {wanted}"  # noqa: S608 - values are not in it
        told = limited(Clause(sql, ()), scope, embedded=self._database.is_sqlite)
        with self._database.rows(*told, few=True) as rows:
            count, size, first, last = next(rows)
        return Extent(int(count), int(size), _moment(first), _moment(last))

    def file(self, key: int) -> InstanceFile | None:
        """The file of the instance of that id."""
        columns = [instance.c[name] for name in InstanceFile.__dataclass_fields__]
        with self._database.connect() as connection:
            row = connection.execute(select(*columns).where(instance.c.id == key)).one_or_none()
        if row is None:
            return None
        return InstanceFile(**(dict(row._mapping) | {"received_at": in_utc(row.received_at)}))


def _moment(value: datetime | str | None) -> datetime | None:
    """A moment as the driver has it: SQLite has it as text."""
    return in_utc(datetime.fromisoformat(value) if isinstance(value, str) else value) if value else None


def _behind(key: str, place: Place) -> list[Clause]:
    # Numbers, never texts of a caller.
    after = [] if place.after is None else [Clause(f"{key} < {int(place.after)}", ())]
    only = [] if place.only is None else [Clause(f"{key} = {int(place.only)}", ())]
    return [*after, *only]
