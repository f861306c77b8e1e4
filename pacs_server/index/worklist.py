"""Worklist items in the index: add, update, remove and find them."""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, delete, insert, select, update

from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.matching import date_key, time_key
from pacs_server.dicom.person_name import fold_name
from pacs_server.dicom.worklist import STUDY_INSTANCE_UID, ItemStatus, WorklistItem
from pacs_server.dicom.worklist_query import WorklistQuery, presented
from pacs_server.errors import InvalidWorklistItem, WorklistItemChanged, WorklistItemNotFound
from pacs_server.index.changes import ChangeKind, NewChange, record
from pacs_server.index.database import Database
from pacs_server.index.matching import Clause, all_of, name_of
from pacs_server.index.workflow_models import IS_SHOWN, worklist_item, worklist_station
from pacs_server.index.worklist_matching import at_stations, narrowing

# Only one transaction in all processes changes items and procedure steps at a time, as on SQLite, so that two
# updates of an item come one after the other.
WORKLIST_LOCK = 0x50414353_574B4C53  # any number, the same everywhere: "PACSWKLS"
# Folding may lengthen a name; PostgreSQL indexes about 2,700 bytes, and a character takes up to 4.
_MAX_MATCH = 512
# What the feed says of an item that was removed, in the place of its status.
REMOVED = "REMOVED"
_CHUNK_ROWS = 256
_columns = worklist_item.c
# The columns that a query reads.
_FOUND = (
    _columns.data_set, _columns.status, _columns.source, _columns.accession_number, _columns.requested_procedure_id,
    _columns.scheduled_procedure_step_id, _columns.study_instance_uid,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ItemRow:
    """A stored item."""

    id: int
    item: WorklistItem
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class PutResult:
    """How many items were added and how many were updated."""

    added: int
    updated: int


class WorklistIndex:
    """The worklist items of one database; may be shared by all threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self,
        items: Sequence[WorklistItem],
        before: Callable[[PutResult], None] = lambda result: None,
        *,
        unchanged: ItemRow | None = None,
    ) -> PutResult:
        """Add or update all items or none; raises InvalidWorklistItem, IndexUnavailable.

        `before` is called just before the commit; if it raises, nothing is changed. Raises WorklistItemChanged if
        `unchanged` is not as it was read.
        """
        added = 0
        with self._database.begin(lock=WORKLIST_LOCK) as connection:
            if unchanged is not None:
                _check_unchanged(connection, unchanged)
            keys = []
            for item in items:
                key, is_new = _put(connection, item)
                keys.append(key)
                added += is_new
            result = PutResult(added, len(items) - added)
            record_items(connection, keys)
            before(result)
        return result

    def get(self, key: str) -> ItemRow | None:
        """The item of that id, accession number or Scheduled Procedure Step ID; raises IndexUnavailable."""
        columns = [_columns.accession_number, _columns.scheduled_procedure_step_id]
        clauses = [column == key for column in columns if key]
        # Larger numbers do not fit into a BIGINT.
        if key.isascii() and key.isdigit() and len(key) < 19:
            clauses.insert(0, _columns.id == int(key))
        with self._database.connect() as connection:
            for clause in clauses:
                row = connection.execute(select(worklist_item).where(clause).order_by(_columns.id).limit(1)).first()
                if row is not None:
                    return _item_row(row)
        return None

    def list(
        self, *, status: ItemStatus | None = None, date: str | None = None, station: str | None = None,
        accession_number: str | None = None, limit: int | None = None,
    ) -> Iterator[ItemRow]:  # fmt: skip
        """Items by start date and time; `date` is YYYYMMDD. Raises IndexUnavailable."""
        start = (_columns.scheduled_procedure_step_start_date, _columns.scheduled_procedure_step_start_time_match)
        statement = select(worklist_item).order_by(*start, _columns.id).limit(limit)
        if status is not None:
            statement = statement.where(_columns.status == status)
        if date is not None:
            statement = statement.where(start[0] == date)
        if accession_number is not None:
            statement = statement.where(_columns.accession_number == accession_number)
        if station is not None:
            statement = statement.where(_columns.id.in_(_at_station(station)))
        with (
            self._database.connect() as connection,
            connection.execution_options(yield_per=_CHUNK_ROWS).execute(statement) as result,
        ):
            for row in result:
                yield _item_row(row)

    def page(
        self, limit: int, after: int | None = None, *, status: ItemStatus | None = None, date: str | None = None,
        station: str | None = None, accession_number: str | None = None, patient_id: str | None = None,
        study_instance_uid: str | None = None,
    ) -> Sequence[ItemRow]:  # fmt: skip
        """The items added last, `limit` at most, or those whose id is below `after`; raises IndexUnavailable."""
        wanted = {
            _columns.status: status,
            _columns.scheduled_procedure_step_start_date: date,
            _columns.accession_number: accession_number,
            _columns.patient_id: patient_id,
            _columns.study_instance_uid: study_instance_uid,
        }
        statement = select(worklist_item).order_by(_columns.id.desc()).limit(limit)
        statement = statement.where(*(column == value for column, value in wanted.items() if value is not None))
        if after is not None:
            statement = statement.where(_columns.id < after)
        if station is not None:
            statement = statement.where(_columns.id.in_(_at_station(station)))
        with self._database.connect() as connection:
            return [_item_row(row) for row in connection.execute(statement)]

    def set_status(self, item_ids: Sequence[int], status: ItemStatus) -> None:
        """Set the status of all items or none; raises WorklistItemNotFound, IndexUnavailable."""
        with self._database.begin(lock=WORKLIST_LOCK) as connection:
            update_status(connection, item_ids, status)
            record_items(connection, item_ids)

    def remove(self, item_id: int) -> None:
        """Remove an item; raises WorklistItemNotFound, IndexUnavailable."""
        with self._database.begin(lock=WORKLIST_LOCK) as connection:
            uid = connection.scalar(select(_columns.study_instance_uid).where(_columns.id == item_id))
            if uid is None:
                raise _not_found(item_id)
            connection.execute(delete(worklist_item).where(_columns.id == item_id))
            record(connection, [NewChange(ChangeKind.WORKLIST, uid, number=item_id, detail=REMOVED)])

    def find(self, query: WorklistQuery, station: str | None = None) -> Generator[WorklistItem, None, None]:
        """The items that match, in the order of arrival; those of one station only if `station` is given.

        Each item has its data set as it is shown: Scheduled Procedure Step Status says which status the item has.
        Items come from the database as they are asked for; closing the generator gives the connection back. Raises
        IndexUnavailable.
        """
        with self._database.rows(*find_statement(query, station)) as rows:
            for text, kept_status, source, accession_number, procedure_id, step_id, study in rows:
                status = ItemStatus(kept_status)
                data_set = presented(json.loads(text), status)
                if query.matches(data_set):
                    yield WorklistItem(accession_number, procedure_id, step_id, study, status, source, data_set)


def find_statement(query: WorklistQuery, station: str | None) -> Clause:
    """The SELECT of the items that a query may find; it excludes as many others as the columns allow."""
    clauses = [Clause(IS_SHOWN, ()), *narrowing(query)]
    if station is not None:
        clauses.append(at_stations((station,)))
    sql, values = all_of(clauses)
    columns = ", ".join(map(name_of, _FOUND))
    return Clause(f"SELECT {columns} FROM {worklist_item.name} WHERE {sql} ORDER BY {name_of(_columns.id)}", values)  # noqa: S608


def update_status(connection: Connection, item_ids: Sequence[int], status: ItemStatus) -> None:
    """Set the status of items within a transaction; raises WorklistItemNotFound."""
    values = {"status": status, "updated_at": datetime.now(UTC)}
    for item_id in item_ids:
        if not connection.execute(update(worklist_item).where(_columns.id == item_id).values(values)).rowcount:
            raise _not_found(item_id)


def record_items(connection: Connection, item_ids: Sequence[int]) -> None:
    """Tell the consumers of the feed, within a transaction, that these items are new or were changed."""
    columns = (_columns.id, _columns.study_instance_uid, _columns.status)
    changes = []
    for start in range(0, len(item_ids), _CHUNK_ROWS):
        some = select(*columns).where(_columns.id.in_(item_ids[start : start + _CHUNK_ROWS])).order_by(_columns.id)
        for key, uid, status in connection.execute(some):
            changes.append(NewChange(ChangeKind.WORKLIST, uid, number=key, detail=status))
    record(connection, changes)


def _not_found(item_id: int) -> WorklistItemNotFound:
    return WorklistItemNotFound(f"there is no worklist item {item_id}")


def _check_unchanged(connection: Connection, row: ItemRow) -> None:
    found = connection.execute(select(worklist_item).where(_columns.id == row.id)).one_or_none()
    if found is None:
        raise _not_found(row.id)
    if _item_row(found) != row:
        raise WorklistItemChanged(f"worklist item {row.id} was changed meanwhile: read it again")


def _at_station(ae_title: str) -> Select[Any]:
    return select(worklist_station.c.worklist_item_fk).where(worklist_station.c.ae_title == ae_title)


def _put(connection: Connection, item: WorklistItem) -> tuple[int, bool]:
    """Write an item; returns its id, and whether it is new. Raises InvalidWorklistItem."""
    known = _known(connection, item)
    key = _insert(connection, item) if known is None else _update(connection, item, known)
    connection.execute(insert(worklist_station), _stations(item, key))
    return key, known is None


def _insert(connection: Connection, item: WorklistItem) -> int:
    now = datetime.now(UTC)
    values = _values(_under(item, _study_of_siblings(connection, item)))
    values |= {"status": item.status, "created_at": now, "updated_at": now}
    key: int = connection.execute(insert(worklist_item).values(values).returning(_columns.id)).scalar_one()
    return key


def _update(connection: Connection, item: WorklistItem, known: Row[Any, Any, Any]) -> int:
    key: int = known.id
    # Without an accession number, the other ids of an order may also be those of another patient's order.
    if not item.accession_number and known.patient_id != text_of(item.data_set, "00100020"):
        raise InvalidWorklistItem("another patient has an item with these ids and no accession number")
    values = _values(_under(item, known.study_instance_uid)) | {"updated_at": datetime.now(UTC)}
    connection.execute(update(worklist_item).where(_columns.id == key).values(values))
    connection.execute(delete(worklist_station).where(worklist_station.c.worklist_item_fk == key))
    return key


def _known(connection: Connection, item: WorklistItem) -> Row[Any, Any, Any] | None:
    columns = (_columns.accession_number, _columns.requested_procedure_id, _columns.scheduled_procedure_step_id)
    identity = and_(*(column == value for column, value in zip(columns, item.identity, strict=True)))
    found = select(_columns.id, _columns.patient_id, _columns.study_instance_uid).where(identity)
    return connection.execute(found).one_or_none()


def _study_of_siblings(connection: Connection, item: WorklistItem) -> str:
    """The Study Instance UID that other steps of the same requested procedure have; '' if there are none."""
    # PS3.3 C.4.11: it identifies the study of the requested procedure, so all steps of that share it.
    same = (
        _columns.accession_number == item.accession_number,
        _columns.requested_procedure_id == item.requested_procedure_id,
        _columns.patient_id == text_of(item.data_set, "00100020"),
    )
    return connection.scalar(select(_columns.study_instance_uid).where(*same).order_by(_columns.id).limit(1)) or ""


def _under(item: WorklistItem, study_instance_uid: str) -> WorklistItem:
    """The item with the Study Instance UID that is known, unless the item came with its own."""
    if not item.generated or not study_instance_uid:
        return item
    data_set = {**item.data_set, STUDY_INSTANCE_UID: {"vr": "UI", "Value": [study_instance_uid]}}
    return replace(item, study_instance_uid=study_instance_uid, data_set=data_set)


def _values(item: WorklistItem) -> dict[str, Any]:
    """The columns of an item that follow from its data set."""
    whole, step = item.data_set, item.step
    name, physician = text_of(whole, "00100010"), text_of(step, "00400006")
    time = text_of(step, "00400003")
    return {
        "source": item.source,
        "accession_number": item.accession_number,
        "requested_procedure_id": item.requested_procedure_id,
        "scheduled_procedure_step_id": item.scheduled_procedure_step_id,
        "study_instance_uid": item.study_instance_uid,
        "patient_id": text_of(whole, "00100020"),
        "issuer_of_patient_id": text_of(whole, "00100021"),
        "patient_name": name,
        "patient_name_match": fold_name(name)[:_MAX_MATCH],
        "scheduled_station_ae_title": f"\\{text_of(step, '00400001')}\\",
        "modality": text_of(step, "00080060"),
        "scheduled_procedure_step_start_date": date_key(text_of(step, "00400002")),
        "scheduled_procedure_step_start_time": time,
        "scheduled_procedure_step_start_time_match": time_key(time),
        "scheduled_performing_physician_name": physician,
        "scheduled_performing_physician_name_match": fold_name(physician)[:_MAX_MATCH],
        "data_set": json.dumps(whole, ensure_ascii=False, separators=(",", ":")),
    }


def _stations(item: WorklistItem, key: int) -> list[dict[str, Any]]:
    start = date_key(text_of(item.step, "00400002"))
    titles = dict.fromkeys(text_of(item.step, "00400001").split("\\"))
    return [{"worklist_item_fk": key, "ae_title": title, "start_date": start} for title in titles]


def _item_row(row: Row[Any]) -> ItemRow:
    item = WorklistItem(
        accession_number=row.accession_number,
        requested_procedure_id=row.requested_procedure_id,
        scheduled_procedure_step_id=row.scheduled_procedure_step_id,
        study_instance_uid=row.study_instance_uid,
        status=ItemStatus(row.status),
        source=row.source,
        data_set=json.loads(row.data_set),
    )
    return ItemRow(row.id, item, row.created_at, row.updated_at)
