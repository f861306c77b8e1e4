"""The query service: response identifiers for a query."""

from collections.abc import Generator

from pacs_server.dicom.identifier import Query
from pacs_server.dicom.response import ResponseEncoder
from pacs_server.index.queries import QueryIndex


class QueryService:
    """Answers queries from the index; may be shared by all threads."""

    def __init__(self, index: QueryIndex) -> None:
        self._index = index

    def find(self, query: Query, transfer_syntax_uid: str, retrieve_ae_title: str) -> Generator[bytes, None, None]:
        """The encoded response identifier of each match, as the index gives them.

        Close the iterator when no more are wanted. Raises IndexUnavailable.
        """
        encoder = ResponseEncoder(query, transfer_syntax_uid, retrieve_ae_title)
        rows = self._index.find(query)
        try:
            for row in rows:
                yield encoder.encode(row)
        finally:
            rows.close()
