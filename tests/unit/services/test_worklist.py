"""Changes of the worklist are in the audit trail before they are made, with who asked for them."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import schema
from feeds import add_consumer
from orders import order
from sqlalchemy import text
from trails import Kept, recorder_of
from worklists import item

from pacs_server.audit.events import Action, Event, EventID, Participant, Role
from pacs_server.dicom.worklist import ItemStatus
from pacs_server.errors import AuditUnavailable, IndexUnavailable
from pacs_server.hl7.orders import OrderService
from pacs_server.index.database import Database
from pacs_server.index.worklist import WorklistIndex
from pacs_server.services.worklist import WorklistService

PEER = Participant("CT1", "CT1", "10.0.0.7", Role.SOURCE, requestor=True)
ALERT = Event(EventID.SECURITY_ALERT, Action.EXECUTE, (PEER,), detail="rejected")
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture
def trail() -> Kept:
    return Kept()


@pytest.fixture
def worklist(tmp_path: Path, trail: Kept) -> WorklistService:
    schema.prepare(tmp_path / "pacs.db")
    return _worklist(Database(f"sqlite:///{tmp_path}/pacs.db", fsync=False), trail)


def _worklist(database: Database, trail: Kept) -> WorklistService:
    database.migrate()
    return WorklistService(WorklistIndex(database), recorder_of(trail), only_own_station=lambda: False)


def test_orders_are_recorded_with_who_and_whose(worklist: WorklistService, trail: Kept) -> None:
    worklist.put([item()])
    worklist.put([item()])
    row = worklist.get("A1")
    assert row is not None
    worklist.set_status([row], ItemStatus.CANCELLED, PEER)
    worklist.remove(row)
    assert [(e.event_id, e.action, e.detail) for e in trail.events] == [
        (EventID.ORDER_RECORD, Action.CREATE, "1 item added, 0 updated"),
        (EventID.ORDER_RECORD, Action.UPDATE, "0 items added, 1 updated"),
        (EventID.ORDER_RECORD, Action.UPDATE, "1 item CANCELLED"),
        (EventID.ORDER_RECORD, Action.DELETE, "1 item removed"),
    ]
    assert trail.durable == 4
    assert trail.events[2].participants[0] == PEER
    assert trail.events[0].participants[0].requestor
    (subject,) = trail.events[0].subjects
    assert (subject.patient_id, subject.accession_number) == (row.item.data_set["00100020"]["Value"][0], "A1")
    assert subject.study_instance_uid == row.item.study_instance_uid


def test_items_that_cannot_be_kept_are_not_in_the_audit_trail(database_url: str, trail: Kept) -> None:
    """The index fails at the last thing that it writes before the commit."""
    with closing(Database(database_url, fsync=False)) as database:
        worklist = _worklist(database, trail)
        with database.begin() as connection:
            add_consumer(connection)
            connection.execute(text("ALTER TABLE change RENAME TO not_there"))
        with pytest.raises(IndexUnavailable):
            worklist.put([item()])
        assert list(worklist.list()) == []
    assert trail.events == []


def test_an_order_by_hl7_names_its_sender(worklist: WorklistService, trail: Kept) -> None:
    assert b"|AA|" in OrderService(worklist, taken=lambda _: None).take(order(), "10.0.0.9")
    (event,) = trail.events
    assert event.participants[0].address == "10.0.0.9"
    assert event.participants[0].user_id not in ("", "HL7")


def test_the_worklist_stays_as_it_is_without_a_trail(worklist: WorklistService, trail: Kept) -> None:
    trail.full = True
    service = OrderService(worklist, taken=lambda _: None)
    assert b"|AA|" not in service.take(order(), "10.0.0.9")
    assert list(worklist.list()) == []
    trail.full = False
    assert b"|AA|" in service.take(order(), "10.0.0.9")
    rows = list(worklist.list())
    trail.full = True
    refused: list[Callable[[], object]] = [
        lambda: worklist.put([item()]),
        lambda: worklist.set_status(rows, ItemStatus.CANCELLED),
        lambda: worklist.remove(rows[0]),
    ]
    for change in refused:
        with pytest.raises(AuditUnavailable):
            change()
    assert list(worklist.list()) == rows
