"""Lists of patients, studies, series and instances, page by page, the newest first; and how much there is of one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pacs_server.dicom.attributes import ATTRIBUTES
from pacs_server.dicom.identifier import Query
from pacs_server.dicom.levels import Level
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.dicom.text_query import query_of
from pacs_server.index.listing import Extent, InstanceFile, Listed, ListingIndex, Place
from pacs_server.index.mark_filter import NOTHING, MarkFilter


@dataclass(frozen=True, slots=True)
class ListedRow:
    """One row of a list: its id, and the text of each attribute by its keyword."""

    id: int
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a list; `after` is where the next page begins, None if this is the last one."""

    rows: tuple[ListedRow, ...]
    after: int | None


class ListingService:
    """Lists what is stored; shared by all threads. Every method raises IndexUnavailable."""

    def __init__(self, index: ListingIndex) -> None:
        self._index = index

    def query(self, level: Level, keys: Mapping[str, str], returned: Iterable[str], *, fuzzy: bool = False) -> Query:
        """The query for what matches `keys`, keyword to text, that returns `returned`. Raises InvalidIdentifier."""
        return query_of(level, keys, returned, fuzzy=fuzzy)

    def page(
        self, query: Query, limit: int, after: int | None = None, scope: Scope = EVERYTHING, *, only: int | None = None,
        marks: MarkFilter = NOTHING,
    ) -> ListPage:  # fmt: skip
        """The `limit` newest matches of a query that `scope` shows, or those behind the row of the id `after`.

        With `only`, just the row of that id, if it is one of them; with `marks`, which is for queries of studies, just
        the studies with these marks.
        """
        rows = self._index.page(query, Place(limit + 1, after, only), scope, marks)
        more = len(rows) > limit
        shown = tuple(_named(query, row) for row in rows[:limit])
        return ListPage(shown, shown[-1].id if more else None)

    def extent(self, level: Level, key: int, scope: Scope = EVERYTHING) -> Extent:
        """How much that `scope` shows is stored of the patient, study or series of that id."""
        return self._index.extent(level, key, scope)

    def file(self, key: int) -> InstanceFile | None:
        """The file of the instance of that id; None if it is no longer there."""
        return self._index.file(key)


def _named(query: Query, row: Listed) -> ListedRow:
    keywords = (ATTRIBUTES[column.tag].keyword for column in query.returns)
    return ListedRow(row.id, dict(zip(keywords, row.texts, strict=True)))
