"""An archive whose feed is read, and consumers that write down what they are shown when their cursor moves."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import postgres
import pytest
import schema
from datasets import encoded, make_ct
from sqlalchemy import Connection, insert, inspect, select, text

from pacs_server.archive.archive import Archive, StoreOutcome
from pacs_server.archive.changes import Batch, Feed
from pacs_server.audit.events import NoAudit
from pacs_server.audit.recorder import Recorder
from pacs_server.dicom.caller import Door
from pacs_server.dicom.origin import Origin
from pacs_server.index import archive_models, models
from pacs_server.index.database import Database
from pacs_server.index.deletions import DeletionIndex
from pacs_server.index.feed import Change, Consumer
from pacs_server.index.instances import InstanceIndex
from pacs_server.index.state import StateIndex
from pacs_server.index.worklist import WorklistIndex
from pacs_server.services.deletion import DeletionService
from pacs_server.services.patients import PatientService
from pacs_server.services.store import StoreRequest, StoreService
from pacs_server.storage.filesystem.archive_directory import archive_directory

MakeDatabase = Callable[[], str]
_EXPLICIT = "1.2.840.10008.1.2.1"
_SEEN = "CREATE TABLE IF NOT EXISTS seen (consumer TEXT, n INTEGER, line TEXT)"


class Place:
    """An archive in a directory with its index, the services on it and its feed; nothing is synced."""

    def __init__(self, root: Path, url: str) -> None:
        self.url = url
        self.database = Database(url, fsync=False)
        with self.database.begin() as connection:
            connection.execute(text(_SEEN))
        self.root = root
        self.files = archive_directory(root, fsync=False)
        self.files.spool.prepare()
        index = InstanceIndex(self.database)
        storage, spool = self.files.storage, self.files.spool
        self.archive = Archive(storage, spool, index, naming="hierarchical", duplicate_policy="replace")
        self._store = StoreService(self.archive)
        audit = Recorder(NoAudit(), lambda: "PACS")
        self.deletions = DeletionService(DeletionIndex(self.database), self.files, self.archive.checkpoints, audit)
        self.patients = PatientService(self.database, self.files.decisions, audit, lambda: "PACS")
        self.worklist = WorklistIndex(self.database)
        self.state = StateIndex(self.database)
        self.feed = Feed(self.database)

    def close(self) -> None:
        self.files.spool.close()
        self.database.close()

    def store(self, study: str, series: str, sop: str, *, move_originator: str = "", **attributes: Any) -> StoreOutcome:
        """Store an instance; other attributes make other bytes."""
        ds = make_ct(study, series, sop, rows=2, columns=2, **attributes)
        origin = Origin("CT1", "PACS", "10.0.0.7", Door.DIMSE, move_originator)
        request = StoreRequest(ds.SOPClassUID, sop, _EXPLICIT, origin)
        return self._store.store(request, [encoded(ds)])

    def instances(self) -> list[tuple[int, str]]:
        """Id and SOP Instance UID of all instances, by id."""
        columns = models.instance.c.id, models.instance.c.sop_instance_uid
        with self.database.connect() as connection:
            return [(key, uid) for key, uid in connection.execute(select(*columns).order_by(columns[0]))]

    def take(self, consumer: Consumer, limit: int = 500) -> list[str]:
        """What the next batch shows, written down."""
        with self.feed.batch(consumer, limit) as batch:
            batch.then(write_down(consumer.name, batch))
        return lines_of(batch)

    def take_all(self, consumer: Consumer, limit: int = 500) -> list[str]:
        """What all batches show until there is nothing more, written down."""
        found: list[str] = []
        while more := self.take(consumer, limit):
            found += more
        return found

    def seen(self, consumer: str) -> list[str]:
        """All that a consumer has written down."""
        query = text("SELECT line FROM seen WHERE consumer = :consumer ORDER BY n")
        with self.database.connect() as connection:
            return [str(line) for line in connection.scalars(query, {"consumer": consumer})]


def write_down(consumer: str, batch: Batch | Sequence[str]) -> Callable[[Connection], None]:
    """The effect that keeps the lines of a batch."""
    lines = lines_of(batch) if isinstance(batch, Batch) else list(batch)

    def write(connection: Connection) -> None:
        query = text("SELECT count(*) FROM seen WHERE consumer = :consumer")
        known = int(connection.scalar(query, {"consumer": consumer}) or 0)
        rows = [{"consumer": consumer, "n": known + n, "line": line} for n, line in enumerate(lines)]
        if rows:
            connection.execute(text("INSERT INTO seen (consumer, n, line) VALUES (:consumer, :n, :line)"), rows)

    return write


def add_consumer(connection: Connection) -> None:
    """A consumer of the feed, so that changes are recorded."""
    values = {"consumer": "some", "epoch": 1, "instance_id": 0, "change_id": 0, "moved_at": datetime.now(UTC)}
    connection.execute(insert(archive_models.feed_cursor).values(**values))


def lines_of(batch: Batch) -> list[str]:
    return [line_of(change) for change in batch]


def line_of(change: Change) -> str:
    uids = (change.study_instance_uid, change.series_instance_uid, change.sop_instance_uid)
    number = "" if change.number is None else str(change.number)
    return " ".join(part for part in (change.kind, *uids, number, change.detail) if part)


@contextmanager
def databases(kind: str, directory: Path, request: pytest.FixtureRequest) -> Iterator[MakeDatabase]:
    """Makes databases with an empty index; of those on PostgreSQL the last two are there at a time."""
    if kind == "sqlite":
        numbers = itertools.count()

        def copy() -> str:
            path = directory / f"index-{next(numbers)}.db"
            schema.prepare(path)
            return f"sqlite:///{path}"

        yield copy
        return
    server, template = map(request.getfixturevalue, ("postgres_server", "postgres_template"))
    with postgres.fresh_database(server, template) as one, postgres.fresh_database(server, template) as other:
        # To make a database takes longer than to empty one, and nobody needs more than two at a time.
        turns = itertools.cycle((one, other))

        def empty() -> str:
            url = next(turns)
            with closing(Database(url)) as database, database.begin() as connection:
                tables = inspect(connection).get_table_names()
                names = ", ".join(name for name in tables if name != "alembic_version")
                connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY"))
            return url

        yield empty
