"""The matches of one search, encoded while they are read from the index."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Final

from pacs_server.dicom.caller import Caller
from pacs_server.dicom.json_rows import RowEncoder
from pacs_server.dicom.web_query import Search
from pacs_server.services.query import Row
from pacs_server.web.dicomweb.search_formats import Format
from pacs_server.web.services import WebServices

# How many matches are read and sent at a time.
_CHUNK_ROWS: Final = 500
# The query of DIMSE with the same meaning, for the audit trail: Study Root Query/Retrieve - FIND.
_SOP_CLASS_UID: Final = "1.2.840.10008.5.1.4.1.2.2.1"


class SearchResults:
    """Reads and encodes the matches of one search, some at a time.

    The methods wait for the database, so they belong into a thread. After the first `read`, `warnings` tells what of
    the request was not done, and `complete` whether that was the whole body.
    """

    def __init__(
        self,
        services: WebServices,
        caller: Caller,
        parse: Callable[[], Search],
        service_url: str,
        written: Format,
    ) -> None:
        """`parse` reads the request; it is called when the audit trail is ready to record that it failed."""
        self._services = services
        self._caller = caller
        self._parse = parse
        self._service_url = service_url
        self._format = written
        self._chunks = self._read_all()
        self.warnings: list[str] = []
        self.count = 0
        self.complete = False

    def read(self) -> bytes:
        """The next part of the body, empty at the end; raises InvalidIdentifier and what the services raise."""
        chunk = next(self._chunks, b"")
        if self.complete:
            self.close()
        return chunk

    def close(self) -> None:
        """Give the index its connection back, and end the record in the audit trail."""
        self._chunks.close()

    def _read_all(self) -> Generator[bytes, None, None]:
        with self._services.auditor.query(self._caller, _SOP_CLASS_UID) as record:
            search = self._parse()
            record.keys(search.query.texts)
            self.warnings += search.warnings
            encode = RowEncoder(search.query, self._service_url).encode
            try:
                with closing(self._batches(search)) as batches:
                    for rows, last in batches:
                        first = self.count == 0
                        self.count += len(rows)
                        self.complete = last
                        record.matched(self.count, complete=last)
                        yield self._format.chunk([encode(row) for row in rows], first=first, last=last)
            finally:
                self._services.metrics.matches(self.count)

    def _batches(self, search: Search) -> Generator[tuple[list[Row], bool], None, None]:
        """The matches in batches, and whether each batch is the last one; there is one batch at least."""
        page = search.page
        small = page.limit is not None and page.limit < _CHUNK_ROWS
        if page.limit is not None and not small and self._has_matches_after(search):
            self.warnings.append(self._more(search))
        # Of a small page, one match more than asked for shows that there are more.
        asked = replace(page, limit=page.limit + 1) if page.limit is not None and small else page
        with closing(self._services.queries.find(search.query, self._caller.scope, asked).rows) as rows:
            batch = _batch(rows)
            if small and len(batch) > (page.limit or 0):
                self.warnings.append(self._more(search))
                batch = batch[: page.limit]
            following = _batch(rows) if not small else []
            while following:
                yield batch, False
                batch, following = following, _batch(rows)
            yield batch, True

    def _more(self, search: Search) -> str:
        """PS3.18 8.3.4.4: how many matches follow, without the number if it would take long to count them."""
        count = self._services.queries.count_after(search.query, self._caller.scope, search.page)
        return f"There are {f'{count} ' if count else ''}additional results that can be requested"

    def _has_matches_after(self, search: Search) -> bool:
        page = search.page
        after = replace(page, limit=1, offset=page.offset + (page.limit or 0))
        with closing(self._services.queries.find(search.query, self._caller.scope, after).rows) as rows:
            return next(rows, None) is not None


def _batch(rows: Iterator[Row]) -> list[Row]:
    return list(islice(rows, _CHUNK_ROWS))
