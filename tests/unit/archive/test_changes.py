"""The feed of changes: what protects its order, who is woken and when, and what is kept for whom."""

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from feeds import Place, lines_of, write_down
from patients import add, header
from servers import eventually
from sqlalchemy import event, select, text
from worklists import item, numbered

from pacs_server.archive.changes import Batch, Feed
from pacs_server.dicom.levels import Level
from pacs_server.dicom.worklist import ItemStatus
from pacs_server.index import archive_models, models
from pacs_server.index.changes import ChangeKind, NewChange, record
from pacs_server.index.copying import restore_snapshot, take_snapshot
from pacs_server.index.database import WRITER_LOCK, Database
from pacs_server.index.feed import Consumer, FeedIndex
from pacs_server.index.instances import InstanceIndex
from pacs_server.index.mpps import ProcedureStepIndex
from pacs_server.index.rebuilding import take_over
from pacs_server.index.worklist import WorklistIndex

ROUTING, PAGES = Consumer("routing"), Consumer("pages", from_beginning=True)
PATIENT_SECONDS = 30.0


@pytest.fixture
def url(database_url: str) -> str:
    with closing(Database(database_url)) as database:
        database.migrate()
    return database_url


@pytest.fixture
def place(tmp_path: Path, url: str) -> Iterator[Place]:
    with closing(Place(tmp_path / "archive", url)) as opened:
        yield opened


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with closing(Database(url, fsync=False)) as database:
        yield database


def drained(feed: Feed, consumer: Consumer) -> list[str]:
    found: list[str] = []
    while True:
        with feed.batch(consumer) as batch:
            found += lines_of(batch)
        if not len(batch):
            return found


# ------------------------------------------------------------------------------------ order


@pytest.mark.slow
def test_an_instance_that_comes_after_the_newest_was_deleted_is_shown(place: Place) -> None:
    """Its id would be the one of the deleted instance, and that is behind the cursor already."""
    assert place.take_all(ROUTING) == []
    place.store("1.1", "1.1.1", "1.1.1.1")
    assert place.take_all(ROUTING) == ["ARRIVED 1.1 1.1.1 1.1.1.1"]
    place.deletions.delete(Level.IMAGE, "1.1.1.1", "a test")
    place.store("1.1", "1.1.1", "1.1.1.2")
    assert place.take_all(ROUTING) == ["DELETED 1.1 1.1.1 1.1.1.1", "ARRIVED 1.1 1.1.1 1.1.1.2"]


@pytest.mark.slow
def test_what_was_replaced_or_restored_is_no_arrival(place: Place) -> None:
    place.take_all(ROUTING)
    place.store("1.1", "1.1.1", "1.1.1.1")
    place.store("1.1", "1.1.1", "1.1.1.2")
    place.store("1.1", "1.1.1", "1.1.1.1", InstanceNumber=9)
    folder = place.deletions.delete(Level.STUDY, "1.1", "a test").folder
    place.store("1.2", "1.2.1", "1.2.1.1")
    place.deletions.restore(folder)
    place.store("1.2", "1.2.1", "1.2.1.2")
    # The first two are gone and came back under other ids.
    assert place.take_all(ROUTING, limit=1) == [
        "DELETED 1.1",
        "ARRIVED 1.2 1.2.1 1.2.1.1",
        "RESTORED 1.1 1.1.1 1.1.1.2",
        "RESTORED 1.1 1.1.1 1.1.1.1",
        "ARRIVED 1.2 1.2.1 1.2.1.2",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("new", [("1.2", "1.2.1"), ("1.1", "1.1.9")])
def test_a_place_that_loses_an_instance_to_another_one_is_told_so(place: Place, new: tuple[str, str]) -> None:
    """A study or series of which nothing else changes has one instance less."""
    place.take_all(ROUTING)
    place.store("1.1", "1.1.1", "1.1.1.1")
    place.store("1.1", "1.1.1", "1.1.1.2")
    assert len(place.take_all(ROUTING)) == 2
    place.store(*new, "1.1.1.2", InstanceNumber=9)
    place.store(*new, "1.1.1.3")
    assert place.take_all(ROUTING, limit=1) == [
        "DELETED 1.1 1.1.1 1.1.1.2",
        f"REPLACED {' '.join(new)} 1.1.1.2",
        f"ARRIVED {' '.join(new)} 1.1.1.3",
    ]


@pytest.mark.slow
def test_a_change_comes_between_the_arrivals_before_and_after_it(place: Place) -> None:
    place.take_all(ROUTING)
    place.store("1.1", "1.1.1", "1.1.1.1")
    place.worklist.put([item(AccessionNumber="A1", StudyInstanceUID="1.1")])
    place.store("1.1", "1.1.1", "1.1.1.2")
    key = place.worklist.get("A1")
    assert key is not None
    place.worklist.set_status([key.id], ItemStatus.CANCELLED)
    assert place.take_all(ROUTING) == [
        "ARRIVED 1.1 1.1.1 1.1.1.1",
        f"WORKLIST 1.1 {key.id} SCHEDULED",
        "ARRIVED 1.1 1.1.1 1.1.1.2",
        f"WORKLIST 1.1 {key.id} CANCELLED",
    ]


class Hold:
    """Holds a writer at its commit, until it is let go."""

    def __init__(self, database: Database) -> None:
        self.reached, self.let_go = threading.Event(), threading.Event()
        self._done = False
        # Whoever commits, SQLAlchemy or the writer of instances, does it by this.
        self._commit = database.engine.dialect.do_commit
        vars(database.engine.dialect)["do_commit"] = self._held

    def _held(self, connection: Any) -> None:
        if not self._done:
            self._done = True
            self.reached.set()
            assert self.let_go.wait(PATIENT_SECONDS)
        self._commit(connection)


@pytest.mark.slow
def test_no_instance_is_seen_before_one_of_a_lower_id(url: str, database: Database) -> None:
    """A writer that has its id and is slow to commit is not overtaken: a cursor would go past it."""
    feed = Feed(database)
    assert drained(feed, ROUTING) == []
    with closing(Database(url)) as slow, closing(Database(url)) as fast, ThreadPoolExecutor(2) as threads:
        hold = Hold(slow)
        first = threads.submit(add, InstanceIndex(slow), header(sop="1"))
        assert hold.reached.wait(PATIENT_SECONDS)
        # Of another patient: nothing else makes it wait.
        second = threads.submit(add, InstanceIndex(fast), header("1.2", "1.2.1", "2", patient_id="P2"))
        # As long as it could take to come through.
        threading.Event().wait(0.5)
        seen = drained(feed, ROUTING)
        hold.let_go.set()
        first.result(PATIENT_SECONDS)
        second.result(PATIENT_SECONDS)
        assert seen + drained(feed, ROUTING) == ["ARRIVED 1.1 1.1.1 1", "ARRIVED 1.2 1.2.1 2"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["worklist", "step", "state"])
def test_no_change_is_seen_before_one_of_a_lower_number(url: str, database: Database, kind: str) -> None:
    """Whoever writes a change holds the same lock, whatever other locks there are."""
    feed = Feed(database)
    assert drained(feed, ROUTING) == []
    with closing(Database(url)) as slow, closing(Database(url)) as fast, ThreadPoolExecutor(2) as threads:
        hold = Hold(slow)
        first = threads.submit(_change, slow)
        assert hold.reached.wait(PATIENT_SECONDS)
        writers: dict[str, Callable[[], object]] = {
            "worklist": lambda: WorklistIndex(fast).put([item(AccessionNumber="A1", StudyInstanceUID="1.9")]),
            "step": lambda: ProcedureStepIndex(fast).create("1.8", STEP, "CT1", discontinued_returns=False),
            "state": lambda: _change(fast, "later"),
        }
        second = threads.submit(writers[kind])
        threading.Event().wait(0.5)
        seen = drained(feed, ROUTING)
        hold.let_go.set()
        first.result(PATIENT_SECONDS)
        second.result(PATIENT_SECONDS)
        seen += drained(feed, ROUTING)
        assert len(seen) == 2
        assert seen[0] == "FINDING first"


@pytest.mark.parametrize("kind", ["worklist", "step"])
def test_without_a_consumer_nobody_waits_for_the_writer_of_instances(
    on_postgresql: str, database: Database, kind: str
) -> None:
    """SQLite has one writer anyway."""
    writers: dict[str, Callable[[Database], object]] = {
        "worklist": lambda other: WorklistIndex(other).put([numbered(1)]),
        "step": lambda other: ProcedureStepIndex(other).create("1.8", STEP, "CT1", discontinued_returns=False),
    }
    with closing(Database(on_postgresql)) as other, database.begin(lock=WRITER_LOCK):
        # It would wait for longer than a statement may wait for a lock.
        writers[kind](other)


@pytest.mark.slow
def test_a_consumer_does_not_come_while_a_change_is_made_that_it_would_miss(url: str, database: Database) -> None:
    with closing(Database(url)) as other, ThreadPoolExecutor(1) as thread:
        with database.begin() as connection:
            record(connection, [NewChange(ChangeKind.FINDING, detail="first")])
            comes = thread.submit(FeedIndex(other).read, ROUTING, 1)
            threading.Event().wait(0.5)
            assert not comes.done()
        comes.result(PATIENT_SECONDS)
    assert drained(Feed(database), ROUTING) == []


@pytest.mark.slow
def test_a_change_that_waits_for_a_new_consumer_is_shown_to_it(url: str, database: Database) -> None:
    with closing(Database(url)) as slow, ThreadPoolExecutor(2) as threads:
        hold = Hold(slow)
        comes = threads.submit(FeedIndex(slow).read, ROUTING, 1)
        assert hold.reached.wait(PATIENT_SECONDS)
        changes = threads.submit(_change, database)
        threading.Event().wait(0.5)
        assert not changes.done()
        hold.let_go.set()
        comes.result(PATIENT_SECONDS)
        changes.result(PATIENT_SECONDS)
    assert drained(Feed(database), ROUTING) == ["FINDING first"]


@pytest.mark.slow
def test_a_batch_is_of_one_moment(place: Place, url: str) -> None:
    """What is replaced while a batch is being read is not taken for an arrival, because its change was read before."""
    place.take_all(ROUTING)
    place.store("1.1", "1.1.1", "1.1.1.1")
    with closing(Place(place.root, url)) as other:
        done: list[object] = []

        def come_in_between(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "FROM instance" in statement and not done:
                done.append(other.store("1.1", "1.1.1", "1.1.1.1", InstanceNumber=9))

        event.listen(place.database.engine, "before_cursor_execute", come_in_between)
        seen = place.take(ROUTING)
        event.remove(place.database.engine, "before_cursor_execute", come_in_between)
    assert done
    assert seen + place.take_all(ROUTING) == ["ARRIVED 1.1 1.1.1 1.1.1.1", "REPLACED 1.1 1.1.1 1.1.1.1"]


STEP = {
    "00400252": {"vr": "CS", "Value": ["IN PROGRESS"]},
    "00400270": {"vr": "SQ", "Value": [{"0020000D": {"vr": "UI", "Value": ["1.9"]}}]},
}


def _change(database: Database, detail: str = "first") -> None:
    with database.begin() as connection:
        record(connection, [NewChange(ChangeKind.FINDING, detail=detail)])


def test_steps_and_the_items_that_follow_them_are_shown(database: Database) -> None:
    feed = Feed(database)
    drained(feed, ROUTING)
    WorklistIndex(database).put([item(StudyInstanceUID="1.9", RequestedProcedureID="RP1", AccessionNumber="A1")])
    scheduled = {
        "0020000D": {"vr": "UI", "Value": ["1.9"]},
        "00400009": {"vr": "SH", "Value": ["SPS1"]},
        "00401001": {"vr": "SH", "Value": ["RP1"]},
    }
    step = STEP | {"00400270": {"vr": "SQ", "Value": [scheduled]}}
    steps = ProcedureStepIndex(database)
    assert steps.create("1.8", step, "CT1", discontinued_returns=False) == 1
    completed = step | {"00400252": {"vr": "CS", "Value": ["COMPLETED"]}}
    steps.update("1.8", lambda _: completed, discontinued_returns=False)
    # The same again changes the step and no item.
    steps.update("1.8", lambda _: completed, discontinued_returns=False)
    assert drained(feed, ROUTING) == [
        "WORKLIST 1.9 1 SCHEDULED",
        "WORKLIST 1.9 1 IN PROGRESS",
        "STEP 1.9 1.8 IN PROGRESS",
        "WORKLIST 1.9 1 COMPLETED",
        "STEP 1.9 1.8 COMPLETED",
        "STEP 1.9 1.8 COMPLETED",
    ]


# ------------------------------------------------------------------------------------ consumers


@pytest.mark.slow
def test_a_new_consumer_begins_with_what_is_there_or_with_what_comes(place: Place) -> None:
    place.take_all(Consumer("other"))
    for number in (1, 2, 3):
        place.store("1.1", "1.1.1", f"1.1.1.{number}")
    place.store("1.1", "1.1.1", "1.1.1.1", InstanceNumber=9)
    place.deletions.delete(Level.IMAGE, "1.1.1.2", "a test")
    assert place.take_all(ROUTING) == []
    # Whatever happened to them before, and nothing of what was deleted before.
    assert place.take_all(PAGES, limit=1) == ["ARRIVED 1.1 1.1.1 1.1.1.3", "ARRIVED 1.1 1.1.1 1.1.1.1"]
    place.store("1.1", "1.1.1", "1.1.1.4")
    assert place.take_all(ROUTING) == place.take_all(PAGES) == ["ARRIVED 1.1 1.1.1 1.1.1.4"]


@pytest.mark.parametrize("where", ["block", "effect"])
def test_a_batch_in_which_something_fails_comes_again(place: Place, where: str) -> None:
    place.take_all(ROUTING)
    place.store("1.1", "1.1.1", "1.1.1.1")

    def fail(_: object) -> None:
        raise ZeroDivisionError

    with suppress(ZeroDivisionError), place.feed.batch(ROUTING) as batch:
        batch.then(write_down("routing", batch))
        if where == "block":
            fail(batch)
        batch.then(fail)
    assert not batch.is_taken
    assert place.seen("routing") == []
    assert place.take_all(ROUTING) == place.seen("routing") == ["ARRIVED 1.1 1.1.1 1.1.1.1"]


def test_effects_and_the_move_of_the_cursor_are_one_commit(place: Place, url: str) -> None:
    """Nobody sees the one without the other at any time, so that no crash can come in between."""
    place.take_all(ROUTING)
    place.store("1.1", "1.1.1", "1.1.1.1")
    cursor = archive_models.feed_cursor.c.instance_id
    states: list[tuple[bool, bool]] = []
    with closing(Database(url)) as other:

        def look(*_: object) -> None:
            with other.connect() as connection:
                written = connection.scalar(text("SELECT count(*) FROM seen"))
                states.append((written == 1, connection.scalar(select(cursor)) == 1))

        # Just before each commit, and after each transaction.
        for moment in ("commit", "checkin"):
            event.listen(place.database.engine, moment, look)
        place.take(ROUTING)
        for moment in ("commit", "checkin"):
            event.remove(place.database.engine, moment, look)
    assert (states[0], states[-1]) == ((False, False), (True, True))
    assert set(states) == {states[0], states[-1]}


def test_what_happens_is_in_the_value(place: Place) -> None:
    place.take_all(ROUTING)
    before = datetime.now(UTC)
    place.store("1.1", "1.1.1", "1.1.1.1")
    place.deletions.delete(Level.SERIES, "1.1.1", "a test")
    place.store("1.1", "1.1.1", "1.1.1.2")
    with place.feed.batch(ROUTING) as batch:
        deleted, arrived = batch
    assert (deleted.kind, deleted.instance_id, deleted.number) == (ChangeKind.DELETED, None, None)
    assert arrived.instance_id == place.instances()[0][0]
    assert all(before <= change.at <= datetime.now(UTC) for change in batch)


def test_two_processes_that_take_the_same_batch_do_it_once(place: Place, url: str) -> None:
    place.take_all(ROUTING)
    place.store("1.1", "1.1.1", "1.1.1.1")
    with closing(Database(url)) as other, place.feed.batch(ROUTING) as mine:
        mine.then(write_down("routing", mine))
        with Feed(other).batch(ROUTING) as theirs:
            theirs.then(write_down("routing", theirs))
    assert (theirs.is_taken, mine.is_taken) == (True, False)
    assert place.seen("routing") == ["ARRIVED 1.1 1.1.1 1.1.1.1"]


def _take_for_ever(root: str, url: str, kill_at: int) -> None:
    """A consumer that is killed at one of its commits, before or after it."""
    with closing(Place(Path(root), url)) as place:
        count = 0

        def killed(_: object) -> None:
            nonlocal count
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(place.database.engine, "commit" if kill_at % 2 else "checkin", lambda *_: killed(None))
        while place.take(ROUTING, limit=2):
            pass


@pytest.mark.slow
def test_a_consumer_that_is_killed_goes_on_where_it_was(place: Place, tmp_path: Path) -> None:
    place.take_all(ROUTING)
    for number in range(20):
        place.store("1.1", "1.1.1", f"1.1.1.{number}")
    context = multiprocessing.get_context("spawn")
    for kill_at in (2, 3, 5):
        arguments = (str(tmp_path / "archive"), place.url, kill_at)
        process = context.Process(target=_take_for_ever, args=arguments)
        process.start()
        process.join(PATIENT_SECONDS * 2)
        assert process.exitcode == -signal.SIGKILL
    place.take_all(ROUTING)
    assert place.seen("routing") == [f"ARRIVED 1.1 1.1.1 1.1.1.{number}" for number in range(20)]


def follow(feed: Feed, consumer: Consumer, ended: threading.Event) -> list[str]:
    """What a consumer is shown until it is at the end after everything has `ended`."""
    found: list[str] = []
    while True:
        is_last = ended.is_set()
        with feed.batch(consumer, limit=7) as batch:
            pass
        found += lines_of(batch)
        if not len(batch):
            if is_last:
                return found
            feed.wait(batch, 0.2)


@pytest.mark.slow
def test_several_writers_and_consumers_at_once_lose_nothing(url: str, database: Database) -> None:
    """Writers with databases of their own, as in processes of their own; consumers that never stop reading."""
    writers, each = range(3), 25
    consumers = [Consumer("one"), Consumer("two")]
    for consumer in consumers:
        drained(Feed(database), consumer)
    ended = threading.Event()
    with ExitStack() as stack:
        databases = [stack.enter_context(closing(Database(url, fsync=False))) for _ in range(6)]
        threads = stack.enter_context(ThreadPoolExecutor(20))

        def store(writer: int, number: int) -> None:
            index = InstanceIndex(databases[writer])
            add(index, header(study=f"1.{writer}", series=f"1.{writer}.1", sop=f"1.{writer}.{number}"))
            if number % 10 == 0:
                index.remove(f"1.{writer}.{number}")

        reading = [
            threads.submit(follow, Feed(own), consumer, ended)
            for consumer, own in zip(consumers, databases[4:], strict=True)
        ]
        writing = [threads.submit(store, writer, number) for number in range(each) for writer in writers]
        writing += [threads.submit(WorklistIndex(databases[3]).put, [numbered(number)]) for number in range(each)]
        for job in writing:
            job.result(PATIENT_SECONDS * 4)
        ended.set()
        found = [job.result(PATIENT_SECONDS * 2) for job in reading]
    there = [f"ARRIVED {uids}" for uids in in_the_order_of_ids(database)]
    for lines in found:
        assert [line for line in lines if line in there] == there
        assert sum(line.startswith("WORKLIST") for line in lines) == each
        assert sum(line.startswith("DELETED") for line in lines) == len(writers) * len(range(0, each, 10))
        assert len(lines) == len(set(lines))


def in_the_order_of_ids(database: Database) -> list[str]:
    uids = models.study.c.study_instance_uid, models.series.c.series_instance_uid, models.instance.c.sop_instance_uid
    joined = models.instance.join(models.series).join(models.study)
    with database.connect() as connection:
        rows = connection.execute(select(*uids).select_from(joined).order_by(models.instance.c.id))
        return [" ".join(row) for row in rows]


# ------------------------------------------------------------------------------------ what is kept


def rows_of_changes(database: Database) -> int:
    with database.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM change").scalar_one())


@pytest.mark.slow
def test_nothing_is_kept_for_nobody(place: Place) -> None:
    place.store("1.1", "1.1.1", "1.1.1.1")
    place.worklist.put([numbered(1)])
    place.deletions.delete(Level.STUDY, "1.1", "a test")
    assert rows_of_changes(place.database) == 0
    place.take_all(ROUTING)
    place.worklist.put([numbered(2)])
    assert rows_of_changes(place.database) == 1
    place.feed.leave("routing")
    assert rows_of_changes(place.database) == 0


@pytest.mark.slow
def test_what_every_consumer_has_read_is_removed_and_nothing_else(place: Place) -> None:
    late = Consumer("late")
    place.take_all(ROUTING)
    place.take_all(late)
    for number in range(20):
        place.worklist.put([numbered(number)])
        place.take_all(ROUTING)
    assert rows_of_changes(place.database) == 20
    assert len(place.take(late, limit=15)) == 15
    assert rows_of_changes(place.database) == 5
    # The last number was removed with its row, and none comes again.
    assert len(place.take_all(late)) == 5
    assert rows_of_changes(place.database) == 0
    place.worklist.put([numbered(21)])
    assert len(place.take_all(ROUTING)) == len(place.take_all(late)) == 1


@pytest.mark.slow
def test_lag_is_known_while_there_is_a_consumer(place: Place) -> None:
    place.store("1.1", "1.1.1", "1.1.1.1")
    assert place.feed.gauges() == {}
    place.take_all(ROUTING)
    assert place.feed.gauges() == {"pacs_feed_lag": 0}
    place.take_all(PAGES)
    place.store("1.1", "1.1.1", "1.1.1.2")
    place.worklist.put([numbered(1)])
    place.take_all(PAGES)
    assert place.feed.gauges() == {"pacs_feed_lag": 2}
    place.deletions.delete(Level.STUDY, "1.1", "a test")
    place.take_all(ROUTING)
    place.take_all(PAGES)
    assert place.feed.gauges() == {"pacs_feed_lag": 0}


# ------------------------------------------------------------------------------------ another index


@pytest.mark.slow
def test_a_rebuilt_index_is_a_new_epoch_with_all_cursors_at_its_end(place: Place, tmp_path: Path) -> None:
    place.take_all(ROUTING)
    place.take_all(PAGES)
    for number in (1, 2, 3):
        place.store("1.1", "1.1.1", f"1.1.1.{number}")
    place.take_all(ROUTING)
    epoch = epoch_of(place.database)
    # The rebuilt index has fewer instances, so that the old cursor would hide what comes.
    new = Database(f"sqlite:///{tmp_path}/rebuilt.db")
    with closing(new):
        new.migrate()
        add(InstanceIndex(new), header(sop="1.1.1.1"))
        assert take_over(place.database, new) == []
        add(InstanceIndex(new), header(sop="1.1.1.2"))
        for consumer in (ROUTING, PAGES):
            with Feed(new).batch(consumer) as batch:
                assert lines_of(batch) == ["ARRIVED 1.1 1.1.1 1.1.1.2"]
                assert batch.epoch != epoch


def epoch_of(database: Database) -> int:
    with Feed(database).batch(ROUTING) as batch:
        return batch.epoch


@pytest.mark.slow
def test_each_restored_index_is_a_new_epoch(database: Database, tmp_path: Path) -> None:
    """Ids that were given after the backup are given again, and again if it is restored once more."""
    epochs = [epoch_of(database)]
    index = InstanceIndex(database)
    take_snapshot(database, tmp_path / "snapshot.db")
    for number in (1, 2):
        add(index, header(sop=f"1.{number}"))
        assert drained(Feed(database), ROUTING) == [f"ARRIVED 1.1 1.1.1 1.{number}"]
        snapshot = shutil.copy(tmp_path / "snapshot.db", tmp_path / f"copy-{number}.db")
        with closing(Database(f"sqlite:///{tmp_path}/restored-{number}.db")) as restored:
            restore_snapshot(Path(snapshot), restored)
            epochs.append(epoch_of(restored))
    assert epochs[0] == epoch_of(database)
    assert len(set(epochs)) == 3


def test_a_batch_of_an_earlier_epoch_is_not_taken(database: Database) -> None:
    """Even if the numbers are the same by chance."""
    feed = Feed(database)
    drained(feed, ROUTING)
    add(InstanceIndex(database), header(sop="1"))
    with feed.batch(ROUTING) as batch, database.begin() as connection:
        assert len(batch) == 1
        connection.execute(archive_models.feed_cursor.update().values(epoch=archive_models.feed_cursor.c.epoch - 1))
    assert not batch.is_taken
    assert drained(feed, ROUTING) == ["ARRIVED 1.1 1.1.1 1"]


@pytest.mark.slow
def test_consumers_of_a_restored_index_go_on(database: Database, tmp_path: Path) -> None:
    """The newest instance and change were deleted before the backup; what comes next is behind the cursors."""
    feed = Feed(database)
    index = InstanceIndex(database)
    drained(feed, ROUTING)
    for number in (1, 2, 3):
        add(index, header(sop=f"1.{number}"))
    assert len(drained(feed, ROUTING)) == 3
    index.remove("1.3")
    assert len(drained(feed, ROUTING)) == 1
    # Its number is that of a change which was read and removed, unless numbers go on.
    take_snapshot(database, tmp_path / "snapshot.db")
    with closing(Database(f"sqlite:///{tmp_path}/restored.db")) as restored:
        restore_snapshot(tmp_path / "snapshot.db", restored)
        add(InstanceIndex(restored), header(sop="1.4"))
        _change(restored, "second")
        assert drained(Feed(restored), ROUTING) == ["ARRIVED 1.1 1.1.1 1.4", "FINDING second"]


@pytest.mark.slow
def test_an_index_is_restored_into_postgresql_with_its_consumers(url: str, tmp_path: Path, request: Any) -> None:
    import postgres

    if url.startswith("postgresql"):
        pytest.skip("the other way round")
    with (
        postgres.fresh_database(request.getfixturevalue("postgres_server")) as into,
        closing(Database(url)) as database,
        closing(Database(into)) as restored,
    ):
        drained(Feed(database), ROUTING)
        add(InstanceIndex(database), header(sop="1.1"))
        add(InstanceIndex(database), header(sop="1.2"))
        drained(Feed(database), ROUTING)
        InstanceIndex(database).remove("1.2")
        drained(Feed(database), ROUTING)
        take_snapshot(database, tmp_path / "snapshot.db")
        restore_snapshot(tmp_path / "snapshot.db", restored)
        add(InstanceIndex(restored), header(sop="1.3"))
        _change(restored)
        assert drained(Feed(restored), ROUTING) == ["ARRIVED 1.1 1.1.1 1.3", "FINDING first"]


# ------------------------------------------------------------------------------------ waking


def at_rest(feed: Feed, consumer: Consumer) -> Batch:
    """An empty batch of a consumer that nothing wakes: to join the feed and to begin to listen are over."""
    drained(feed, consumer)
    while True:
        with feed.batch(consumer) as batch:
            assert len(batch) == 0
        if not feed.wait(batch, 0.5):
            return batch


@contextmanager
def waiting(feed: Feed, consumer: Consumer) -> Iterator[Any]:
    """A consumer that waits in a thread; the result says whether it was woken."""
    batch = at_rest(feed, consumer)
    with ThreadPoolExecutor(1) as thread:
        waits = thread.submit(feed.wait, batch, PATIENT_SECONDS)
        yield waits


def causes(database: Database) -> dict[str, Callable[[], object]]:
    return {
        "an arrival": lambda: add(InstanceIndex(database), header(sop="1")),
        "an item": lambda: WorklistIndex(database).put([numbered(1)]),
        "a finding": lambda: _change(database),
    }


@pytest.mark.slow
@pytest.mark.parametrize("cause", ["an arrival", "an item", "a finding"])
def test_a_consumer_is_woken_by_every_commit_that_concerns_it(database: Database, cause: str) -> None:
    feed = Feed(database)
    with waiting(feed, ROUTING) as woken:
        causes(database)[cause]()
        assert woken.result(PATIENT_SECONDS)
    assert len(drained(feed, ROUTING)) == 1


@pytest.mark.slow
def test_nobody_sleeps_over_what_came_between_reading_and_waiting(database: Database) -> None:
    feed = Feed(database)
    batch = at_rest(feed, ROUTING)
    add(InstanceIndex(database), header(sop="1"))
    assert feed.wait(batch, 0)


@pytest.mark.slow
def test_a_consumer_that_has_to_stop_is_woken(database: Database) -> None:
    feed = Feed(database)
    with waiting(feed, ROUTING) as woken:
        feed.wake()
        assert woken.result(PATIENT_SECONDS)


def listening(database: Database) -> list[int]:
    query = text("SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()")
    with database.connect() as connection:
        return list(connection.scalars(query))


@pytest.fixture
def on_postgresql(url: str) -> str:
    if not url.startswith("postgresql"):
        pytest.skip("SQLite tells nobody in other processes")
    return url


@pytest.mark.parametrize("cause", ["an arrival", "an item", "a finding"])
def test_a_consumer_is_woken_by_other_processes(on_postgresql: str, database: Database, cause: str) -> None:
    feed = Feed(database)
    with closing(Database(on_postgresql)) as other, waiting(feed, ROUTING) as woken:
        assert len(listening(other)) == 1
        causes(other)[cause]()
        assert woken.result(PATIENT_SECONDS)
        with feed.batch(ROUTING) as batch:
            assert len(batch) == 1


def test_a_process_has_one_connection_that_listens_if_somebody_waits(on_postgresql: str, database: Database) -> None:
    with closing(Database(on_postgresql)) as other:
        feed = Feed(database)
        drained(feed, ROUTING)
        add(InstanceIndex(database), header(sop="1"))
        assert listening(other) == []
        for consumer in (ROUTING, PAGES):
            drained(feed, consumer)
            with feed.batch(consumer) as batch:
                pass
            feed.wait(batch, 0.1)
        assert eventually(lambda: len(listening(other)) == 1)
        database.close()
        assert eventually(lambda: listening(other) == [])
        assert [thread.name for thread in threading.enumerate() if thread.name == "notifications"] == []


def test_a_connection_that_listens_and_is_lost_is_made_anew(on_postgresql: str, database: Database) -> None:
    with closing(Database(on_postgresql)) as other:
        feed = Feed(database)
        with waiting(feed, ROUTING) as woken:
            (before,) = listening(other)
            with other.begin() as connection:
                connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": before})
            # Something may have been missed: whoever waits looks.
            assert woken.result(PATIENT_SECONDS)
        assert eventually(lambda: listening(other) not in ([], [before]))
        with waiting(feed, ROUTING) as woken:
            add(InstanceIndex(other), header(sop="1"))
            assert woken.result(PATIENT_SECONDS)


def test_nobody_is_told_while_there_is_no_consumer(on_postgresql: str, database: Database) -> None:
    with closing(Database(on_postgresql)) as other, other.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.autocommit = True
        driver.execute("LISTEN pacs_server_feed")
        add(InstanceIndex(database), header(sop="1"))
        assert list(driver.notifies(timeout=0.2)) == []
        FeedIndex(database).read(ROUTING, 1)
        add(InstanceIndex(database), header(sop="2"))
        assert len(list(driver.notifies(timeout=5, stop_after=1))) == 1


# ------------------------------------------------------------------------------------ what it costs


@contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    statements: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", count)
    try:
        yield statements
    finally:
        event.remove(database.engine, "before_cursor_execute", count)


def test_a_stored_instance_needs_no_more_statements_with_consumers(database: Database) -> None:
    index = InstanceIndex(database)
    add(index, header(sop="1.0"))
    found = []
    for number in (1, 2):
        with counted(database) as statements:
            add(index, header(sop=f"1.{number}"))
        found.append(statements)
        # From now on somebody is told of it.
        drained(Feed(database), ROUTING)
    assert found[0] == found[1]


def test_the_lock_of_the_writers_is_the_one_of_the_feed(database: Database) -> None:
    """What waits for the one waits for the other."""
    with database.begin(lock=WRITER_LOCK) as connection:
        assert connection.info["holds_writer_lock"]
    with database.begin() as connection:
        assert "holds_writer_lock" not in connection.info
