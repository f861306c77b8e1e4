"""Pages of the lists of people and their work, on both databases: the newest first, and each row once."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from sqlalchemy import insert
from worklists import numbered

from pacs_server.dicom.worklist import ItemStatus
from pacs_server.errors import WorklistItemChanged, WorklistItemNotFound
from pacs_server.index.archive_models import deletion, feed_cursor
from pacs_server.index.database import Database
from pacs_server.index.deletions import DeletionIndex
from pacs_server.index.feed import Consumer, FeedIndex
from pacs_server.index.mpps import ProcedureStepIndex
from pacs_server.index.task_overview import TaskFilter, TaskOverview
from pacs_server.index.task_values import NewTask
from pacs_server.index.tasks import TaskIndex
from pacs_server.index.worklist import WorklistIndex

T = TypeVar("T")
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, fsync=False)
    database.migrate()
    yield database
    database.close()


def all_pages(page: Callable[[Any], Sequence[T]], key: Callable[[T], Any]) -> list[T]:
    """The rows of all pages, each behind the one before."""
    found: list[T] = []
    while rows := page(key(found[-1]) if found else None):
        found += rows
    return found


def test_worklist_items(database: Database) -> None:
    index = WorklistIndex(database)
    index.put([numbered(number, {"ScheduledStationAETitle": f"CT{number % 2}"}) for number in range(1, 6)])
    rows = all_pages(lambda after: index.page(2, after), lambda row: row.id)
    assert [row.item.accession_number for row in rows] == ["A5", "A4", "A3", "A2", "A1"]
    rows = all_pages(lambda after: index.page(1, after, station="CT1"), lambda row: row.id)
    assert [row.item.accession_number for row in rows] == ["A5", "A3", "A1"]
    index.set_status([rows[0].id], ItemStatus.CANCELLED)
    assert [row.id for row in index.page(9, status=ItemStatus.CANCELLED)] == [rows[0].id]
    assert [row.item.accession_number for row in index.page(9, accession_number="A2")] == ["A2"]


def test_an_item_is_put_only_if_it_is_as_it_was_read(database: Database) -> None:
    index = WorklistIndex(database)
    index.put([numbered(1)])
    row = index.get("1")
    assert row is not None
    index.put([numbered(1, PatientName="Else")], unchanged=row)
    with pytest.raises(WorklistItemChanged):
        index.put([numbered(1, PatientName="Mine")], unchanged=row)
    changed = index.get("1")
    assert changed is not None
    assert changed.item.data_set["00100010"]["Value"] == [{"Alphabetic": "Else"}]
    index.remove(row.id)
    with pytest.raises(WorklistItemNotFound):
        index.put([numbered(1)], unchanged=changed)


def test_procedure_steps(database: Database) -> None:
    index = ProcedureStepIndex(database)
    for number in range(5):
        step = {"00400252": {"vr": "CS", "Value": ["IN PROGRESS" if number else "COMPLETED"]}}
        index.create(f"1.{number}", step, "CT1", discontinued_returns=False)
    rows = all_pages(lambda after: index.page(2, after), lambda row: row.id)
    assert [row.sop_instance_uid for row in rows] == ["1.4", "1.3", "1.2", "1.1", "1.0"]
    assert [row.sop_instance_uid for row in index.page(9, status="COMPLETED")] == ["1.0"]
    assert index.page(9, study="1.2.3") == []


def test_tasks(database: Database) -> None:
    index, overview = TaskIndex(database), TaskOverview(database)
    keys = [index.add(NewTask("send", "a test"), NOW) for _ in range(5)]
    rows = all_pages(lambda after: overview.tasks(TaskFilter(), 2, after)[::-1], lambda task: task.id)
    assert [task.id for task in rows] == keys[::-1]


def test_deletions(database: Database) -> None:
    index = DeletionIndex(database)
    row = {"level": "STUDY", "uid": "1", "study_instance_uid": "1", "status": "KEPT", "reason": "", "deleted_by": "ann"}
    with database.begin() as connection:
        for number in (2, 0, 4, 1, 3):
            values = row | {"folder": f"2026030{number}T", "deleted_at": NOW, "instances": 1, "bytes": 1}
            connection.execute(insert(deletion).values(values))
    rows = all_pages(lambda after: index.page(2, after), lambda each: each.folder)
    assert [each.folder for each in rows] == [f"2026030{number}T" for number in (4, 3, 2, 1, 0)]


def test_consumers_that_are_gone_are_forgotten(database: Database) -> None:
    index = FeedIndex(database)
    for name in ("events-a", "events-b", "events%", "routing"):
        index.read(Consumer(name), 1)
    with database.begin() as connection:
        connection.execute(feed_cursor.update().values(moved_at=datetime.now(UTC) - timedelta(hours=2)))
    index.touch("events-b")
    index.leave_stale("events-", datetime.now(UTC) - timedelta(hours=1))
    with database.connect() as connection:
        assert set(connection.scalars(feed_cursor.select())) == {"events-b", "events%", "routing"}
