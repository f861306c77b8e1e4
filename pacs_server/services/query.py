"""The query service: the matches of a query as rows, which each door encodes in its own way."""

from collections.abc import Generator
from dataclasses import dataclass

from pacs_server.dicom.identifier import Query
from pacs_server.dicom.json_codec import ReturnKey
from pacs_server.dicom.page import WHOLE, Page
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.index.queries import QueryIndex

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matches:
    """The matches of one query.

    Each row is one match: for every attribute of `columns`, in that order, the text of its values. Backslashes
    separate several values. The text of a sequence holds items, which `Query.answered_items` reads. Rows are read from
    the index one after the other while `rows` is iterated over, which raises IndexUnavailable; closing `rows` gives the
    index its connection back.
    """

    query: Query
    rows: Generator[Row, None, None]

    @property
    def columns(self) -> tuple[ReturnKey, ...]:
        """The attributes that the query asks for, in the order of their tags."""
        return self.query.returns


class QueryService:
    """Answers queries from the index; may be shared by all threads."""

    def __init__(self, index: QueryIndex) -> None:
        self._index = index

    def find(self, query: Query, scope: Scope = EVERYTHING, page: Page = WHOLE) -> Matches:
        """The matches of a query in what `scope` shows that belong to the page, in its order."""
        return Matches(query, self._index.find(query, scope, page))

    def count_after(self, query: Query, scope: Scope, page: Page) -> int | None:
        """How many matches follow those of a page; None if there are very many, or it takes long to tell.

        Raises IndexUnavailable.
        """
        return self._index.count_after(query, scope, page)
