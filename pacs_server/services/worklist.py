"""The worklist service: items in, and the items that match a worklist query out."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

from pacs_server.audit.events import Action, Event, EventID, Participant
from pacs_server.audit.recorder import Recorder, local_user
from pacs_server.dicom.caller import Caller
from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.dicom.subject import Subject
from pacs_server.dicom.worklist import ItemStatus, WorklistItem
from pacs_server.dicom.worklist_query import WorklistQuery
from pacs_server.index.worklist import ItemRow, PutResult, WorklistIndex
from pacs_server.kit.words import counted


class WorklistService:
    """Keeps the worklist and answers queries from it; may be shared by all threads.

    Methods that change the worklist take `by`, the participant who asks for the change; without it, that is the user
    who runs this process. Each change is in the audit trail before it is made, or else AuditUnavailable is raised.
    """

    def __init__(self, index: WorklistIndex, recorder: Recorder, *, only_own_station: Callable[[], bool]) -> None:
        """With `only_own_station`, a query finds only the steps that are scheduled for the calling station."""
        self._index = index
        self._recorder = recorder
        self._only_own_station = only_own_station

    def put(
        self, items: Sequence[WorklistItem], by: Participant | None = None, *, unchanged: ItemRow | None = None
    ) -> PutResult:
        """Add or update items by their identity, all or none; raises InvalidWorklistItem, IndexUnavailable.

        A known item keeps its status, and its Study Instance UID unless the new item has another one. Raises
        WorklistItemChanged, and changes nothing, if the item `unchanged` is not as it was read.
        """

        def record(result: PutResult) -> None:
            action = Action.UPDATE if result.updated else Action.CREATE
            self._record(items, action, f"{counted(result.added, 'item')} added, {result.updated} updated", by)

        return self._index.put(items, record, unchanged=unchanged)

    def get(self, key: str) -> ItemRow | None:
        """The item with that id, accession number or Scheduled Procedure Step ID; raises IndexUnavailable."""
        return self._index.get(key)

    def list(
        self, *, status: ItemStatus | None = None, date: str | None = None, station: str | None = None,
        accession_number: str | None = None, limit: int | None = None,
    ) -> Iterator[ItemRow]:  # fmt: skip
        """Items in the order of their start; `date` is YYYYMMDD. Raises IndexUnavailable."""
        return self._index.list(
            status=status, date=date, station=station, accession_number=accession_number, limit=limit
        )

    def page(  # noqa: PLR0913 - a column each
        self, limit: int, after: int | None = None, *, status: ItemStatus | None = None, date: str | None = None,
        station: str | None = None, accession_number: str | None = None, patient_id: str | None = None,
        study_instance_uid: str | None = None, scope: Scope = EVERYTHING,
    ) -> Sequence[ItemRow]:  # fmt: skip
        """The items added last, `limit` at most, or those whose id is below `after`; raises IndexUnavailable.

        The other arguments narrow them to what `scope` shows, among others; `date` is YYYYMMDD.
        """
        found: list[ItemRow] = []
        while True:
            rows = self._index.page(
                limit, after, status=status, date=date, station=station, accession_number=accession_number,
                patient_id=patient_id, study_instance_uid=study_instance_uid,
            )  # fmt: skip
            found += [row for row in rows if is_seen(row.item, scope)]
            if len(rows) < limit or len(found) >= limit:
                return found[:limit]
            after = rows[-1].id

    def set_status(self, rows: Sequence[ItemRow], status: ItemStatus, by: Participant | None = None) -> None:
        """Set the status of items, all or none; raises WorklistItemNotFound, IndexUnavailable."""
        self._record([row.item for row in rows], Action.UPDATE, f"{counted(len(rows), 'item')} {status}", by)
        self._index.set_status([row.id for row in rows], status)

    def remove(self, row: ItemRow, by: Participant | None = None) -> None:
        """Remove an item; raises WorklistItemNotFound, IndexUnavailable."""
        self._record([row.item], Action.DELETE, "1 item removed", by)
        self._index.remove(row.id)

    def find(self, query: WorklistQuery, caller: Caller) -> Generator[WorklistItem, None, None]:
        """The items that match the query of `caller`, as they are shown; see `WorklistIndex.find`.

        Items are read from the index one after the other; closing the generator gives the index its connection back.
        Raises IndexUnavailable.
        """
        found = self._index.find(query, caller.ae_title if self._only_own_station() else None)
        return _within(found, caller.scope) if caller.scope.is_limited else found

    def _record(self, items: Sequence[WorklistItem], action: Action, detail: str, by: Participant | None) -> None:
        """Write one Order Record for each patient (PS3.15 A.5.3.9), and make them durable together."""
        patients: dict[tuple[str, str], dict[str, Subject]] = {}
        for item in items:
            who = text_of(item.data_set, "00100020"), text_of(item.data_set, "00100021")
            subject = Subject(*who, item.study_instance_uid, item.accession_number)
            patients.setdefault(who, {})[item.study_instance_uid] = subject
        participants = (by or local_user(), self._recorder.own())
        for number, studies in enumerate(patients.values(), 1):
            event = Event(EventID.ORDER_RECORD, action, participants, subjects=tuple(studies.values()), detail=detail)
            self._recorder.write(event, durable=number == len(patients))


def _within(items: Generator[WorklistItem, None, None], scope: Scope) -> Generator[WorklistItem, None, None]:
    """The items that a caller with limits sees."""
    with closing(items):
        yield from (item for item in items if is_seen(item, scope))


def is_seen(item: WorklistItem, scope: Scope) -> bool:
    """Whether `scope` shows an item: by patient, modality and stations of the scheduled step."""
    if not scope.is_limited:
        return True
    patient = text_of(item.data_set, "00100020"), text_of(item.data_set, "00100021")
    stations = text_of(item.step, "00400001").split("\\")
    return any(scope.shows(text_of(item.step, "00080060"), station, patient) for station in stations)
