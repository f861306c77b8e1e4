"""The worklist service: items in, response identifiers for a worklist query out."""

from collections.abc import Callable, Generator, Iterator, Sequence

from pacs_server.dicom.worklist import ItemStatus, WorklistItem
from pacs_server.dicom.worklist_query import WorklistEncoder, WorklistQuery
from pacs_server.index.worklist import ItemRow, PutResult, WorklistIndex


class WorklistService:
    """Keeps the worklist and answers queries from it; may be shared by all threads."""

    def __init__(self, index: WorklistIndex, *, only_own_station: Callable[[], bool]) -> None:
        """With `only_own_station` a query finds the steps of the station that asks, and no others."""
        self._index = index
        self._only_own_station = only_own_station

    def put(self, items: Sequence[WorklistItem]) -> PutResult:
        """Add or update all items or none, by their identity; raises InvalidWorklistItem, IndexUnavailable.

        A known item keeps its status, and its Study Instance UID unless another one is given.
        """
        return self._index.put(items)

    def get(self, key: str) -> ItemRow | None:
        """The item of that id, accession number or Scheduled Procedure Step ID; raises IndexUnavailable."""
        return self._index.get(key)

    def list(
        self, *, status: ItemStatus | None = None, date: str | None = None, station: str | None = None,
        accession_number: str | None = None, limit: int | None = None,
    ) -> Iterator[ItemRow]:  # fmt: skip
        """Items by start date and time; `date` is YYYYMMDD. Raises IndexUnavailable."""
        return self._index.list(
            status=status, date=date, station=station, accession_number=accession_number, limit=limit
        )

    def cancel(self, item_id: int) -> None:
        """Take an item off the worklist for good; raises WorklistItemNotFound, IndexUnavailable."""
        self._index.set_status([item_id], ItemStatus.CANCELLED)

    def remove(self, item_id: int) -> None:
        """Forget an item; raises WorklistItemNotFound, IndexUnavailable."""
        self._index.remove(item_id)

    def set_status(self, item_ids: Sequence[int], status: ItemStatus) -> None:
        """Set the status of all items or none; raises WorklistItemNotFound, IndexUnavailable."""
        self._index.set_status(item_ids, status)

    def find(self, query: WorklistQuery, transfer_syntax_uid: str, calling_ae: str) -> Generator[bytes, None, None]:
        """The encoded response identifier of each match, as the index gives them.

        Close the iterator when no more are wanted. Raises IndexUnavailable.
        """
        encoder = WorklistEncoder(query, transfer_syntax_uid)
        found = self._index.find(query, calling_ae if self._only_own_station() else None)
        try:
            for data_set in found:
                yield encoder.encode(data_set)
        finally:
            found.close()
