"""The feed of changes against a model: whatever happens, each consumer is shown all of it, in order, exactly once."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import examples
import feeds
import pytest
from feeds import MakeDatabase, Place, write_down
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import text
from worklists import item

from pacs_server.archive.archive import StoreOutcome
from pacs_server.dicom.levels import Level
from pacs_server.dicom.worklist import ItemStatus
from pacs_server.errors import PatientError
from pacs_server.index.changes import ChangeKind, NewChange
from pacs_server.index.database import Database
from pacs_server.index.feed import Consumer
from pacs_server.index.marks import Mark, MarkIndex, MarkKind
from pacs_server.index.rebuilding import take_over
from pacs_server.upkeep.rebuild import rebuild

NAMES = ("routing", "analysis", "pages")
LIMITS = st.sampled_from([1, 2, 3, 500])


@dataclass
class Event:
    """Something that happened; of an instance, what it is and whether it is still there."""

    kind: str
    rest: str
    uids: tuple[str, str, str] | None = None
    is_there: bool = True

    def line(self, kind: str | None = None) -> str:
        return f"{kind or self.kind} {self.rest}"


@dataclass
class Reader:
    """A consumer as the model knows it: it came when so much had happened, and has seen all before `position`."""

    consumer: Consumer
    came: int
    position: int
    seen: list[str] = field(default_factory=list)


class World(RuleBasedStateMachine):
    """An archive, what happened to it, and who has read that."""

    make_database: MakeDatabase

    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.root = Path(self.directory.name, "archive")
        self.place = Place(self.root, self.make_database())
        self.events: list[Event] = []
        self.readers: dict[str, Reader] = {}
        self.decisions = 0
        self.labels: set[tuple[str, str]] = set()

    def teardown(self) -> None:
        try:
            for name in self.readers:
                self._read_all(name)
        finally:
            self.place.close()
            self.directory.cleanup()

    # ---------------------------------------------------------------- what happens

    @rule(sop=st.integers(1, 5), study=st.integers(1, 3), patient=st.integers(1, 2), content=st.integers(1, 2))
    def store(self, sop: int, study: int, patient: int, content: int) -> None:
        uids = (f"1.2.{study}", f"1.2.{study}.{patient}", f"1.9.{sop}")
        outcome = self.place.store(*uids, InstanceNumber=content, PatientID=f"P{patient}", PatientName=f"N{patient}")
        if outcome is StoreOutcome.REPLACED:
            (replaced,) = (event for event in self._there() if event.uids and event.uids[2] == uids[2])
            self._gone([replaced])
            if replaced.uids != uids:
                self.events.append(Event("DELETED", " ".join(replaced.uids or ())))
        if outcome in (StoreOutcome.STORED, StoreOutcome.REPLACED):
            kind = "ARRIVED" if outcome is StoreOutcome.STORED else "REPLACED"
            self.events.append(Event(kind, " ".join(uids), uids))

    @precondition(lambda self: self._there())
    @rule(data=st.data(), level=st.sampled_from([Level.STUDY, Level.SERIES, Level.IMAGE]))
    def delete(self, data: st.DataObject, level: Level) -> None:
        self._delete(data.draw(st.sampled_from(self._there())), level)

    @precondition(lambda self: self._there())
    @rule(read=st.booleans(), again=st.booleans())
    def delete_the_newest(self, read: bool, again: bool) -> None:
        """Its id must not come again, least of all behind the cursors of those that have read it."""
        for name in self.readers if read else ():
            self._read_all(name)
        newest = self._there()[-1]
        self._delete(newest, Level.IMAGE)
        if again:
            study = int(newest.uids[0].split(".")[2])
            self.store(int(newest.uids[2].split(".")[2]), study, int(newest.uids[1].split(".")[3]), 1)

    def _delete(self, chosen: Event, level: Level) -> None:
        at = {Level.STUDY: 0, Level.SERIES: 1, Level.IMAGE: 2}[level]
        taken = [event for event in self._there() if event.uids[at] == chosen.uids[at]]
        self.place.deletions.delete(level, chosen.uids[at], "a test")
        self._gone(taken)
        for study in sorted({event.uids[0] for event in taken}):
            self.events.append(Event("DELETED", " ".join([study, *chosen.uids[1 : at + 1]])))

    @rule(
        study=st.integers(1, 3), label=st.sampled_from("xy"), kind=st.sampled_from([MarkKind.LABEL, MarkKind.UNLABEL])
    )
    def mark(self, study: int, label: str, kind: MarkKind) -> None:
        uid, before = f"1.2.{study}", set(self.labels)
        MarkIndex(self.place.database).apply([Mark(uid, kind, label, datetime.now(UTC), "ann")])
        (self.labels.add if kind is MarkKind.LABEL else self.labels.discard)((uid, label))
        if self.labels != before:
            self.events.append(Event("MARKED", f"{uid} {kind} {label}"))

    @precondition(lambda self: self.place.deletions.contents())
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        deletion = data.draw(st.sampled_from(self.place.deletions.contents()))
        before = dict(self.place.instances())
        restored = self.place.deletions.restore(deletion.folder)
        new = [uid for key, uid in self.place.instances() if key not in before]
        assert len(new) == restored.instances
        for uid in new:
            uids = self._uids_of(uid)
            self.events.append(Event("RESTORED", " ".join(uids), uids))

    def _uids_of(self, sop: str) -> tuple[str, str, str]:
        with self.place.database.connect() as connection:
            row = connection.execute(
                text("""
                SELECT study_instance_uid, series_instance_uid, sop_instance_uid FROM instance
                JOIN series ON series.id = series_fk JOIN study ON study.id = study_fk
                WHERE sop_instance_uid = :uid"""),
                {"uid": sop},
            ).one()
        return (str(row[0]), str(row[1]), str(row[2]))

    @rule(source=st.integers(0, 2), to=st.integers(0, 2), study=st.integers(0, 3))
    def decide(self, source: int, to: int, study: int) -> None:
        """Reassign a study, or merge patients without one."""
        patients, people = self.place.patients, self._people()
        with suppress(PatientError, IndexError):
            if study:
                chosen = patients.study(f"1.2.{study}")
                patients.reassign(chosen, people[to], "a test")
                self._decided("REASSIGNED", [chosen.study_instance_uid])
            else:
                moved = patients.merge(people[source], people[to], "a test")
                self._decided("MERGED", sorted(study.study_instance_uid for study in moved))

    def _people(self) -> list[Any]:
        patients = self.place.patients
        return [person for text in ("P1", "P2") for person in patients.people(text) if not person.merged]

    def _decided(self, kind: str, studies: list[str]) -> None:
        self.decisions += 1
        for study in studies or [""]:
            self.events.append(Event(kind, f"{study} {self.decisions}".strip()))

    @rule(what=st.sampled_from([ItemStatus.SCHEDULED, ItemStatus.CANCELLED, "REMOVED", "finding"]))
    def note(self, what: str) -> None:
        """Something about a worklist item, or a finding."""
        worklist, known = self.place.worklist, self.place.worklist.get("A1")
        if what == "finding":
            found = NewChange(ChangeKind.FINDING, sop_instance_uid="1.9.1", detail="size")
            self.place.state.put({"scrub.finding": "1.9.1"}, [found])
            self.events.append(Event("FINDING", "1.9.1 size"))
            return
        if known is None or what == ItemStatus.SCHEDULED:
            worklist.put([item(AccessionNumber="A1", StudyInstanceUID="1.2.1")])
            known = worklist.get("A1")
            assert known is not None
            what = known.item.status
        elif what == "REMOVED":
            worklist.remove(known.id)
        else:
            worklist.set_status([known.id], ItemStatus.CANCELLED)
        self.events.append(Event("WORKLIST", f"1.2.1 {known.id} {what}"))

    # ---------------------------------------------------------------- who reads it

    @rule(name=st.sampled_from(NAMES), from_beginning=st.booleans(), limit=LIMITS)
    def come_or_read(self, name: str, from_beginning: bool, limit: int) -> None:
        if name not in self.readers:
            came = len(self.events)
            consumer = Consumer(name, from_beginning=from_beginning)
            self.readers[name] = Reader(consumer, came, 0 if from_beginning else came)
        self._expect(name, limit, self.place.take(self.readers[name].consumer, limit))

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), limit=LIMITS, where=st.sampled_from(["before", "in an effect"]))
    def crash(self, data: st.DataObject, limit: int, where: str) -> None:
        """Nothing is written down, and the same comes again."""
        reader = self.readers[data.draw(st.sampled_from(sorted(self.readers)))]

        def fail(_: object) -> None:
            raise ZeroDivisionError

        with suppress(ZeroDivisionError), self.place.feed.batch(reader.consumer, limit) as batch:
            if where == "before" or not len(batch):
                fail(batch)
            batch.then(write_down(reader.consumer.name, batch))
            batch.then(fail)

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), limit=LIMITS)
    def overtake(self, data: st.DataObject, limit: int) -> None:
        """Two processes are the same consumer: the one that comes second has done nothing."""
        name = data.draw(st.sampled_from(sorted(self.readers)))
        consumer = self.readers[name].consumer
        with self.place.feed.batch(consumer, limit) as batch:
            batch.then(write_down(name, batch))
            mine = self.place.take(consumer)
        assert batch.is_taken == (not mine and len(batch) > 0)
        self._expect(name, 500, mine)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.readers)))
        self._read_all(name)
        self.place.feed.leave(name)
        with self.place.database.begin() as connection:
            connection.execute(text("DELETE FROM seen WHERE consumer = :name"), {"name": name})
        del self.readers[name]

    @rule(anew=st.booleans())
    def restart(self, anew: bool) -> None:
        self.place.close()
        self.place = Place(self.root, self.place.url)
        if anew:
            self._rebuild()

    def _rebuild(self) -> None:
        """A new epoch: what was not read is not shown any more, and everything that follows is."""
        with self._into_another_database() as new:
            rebuild(self.place.files, new, lambda what, done, total: None, jobs=1)
            assert take_over(self.place.database, new) == []
        # These marks are in no journal.
        self.labels.clear()
        order = {uid: key for key, uid in self.place.instances()}
        self.events = sorted(self._there(), key=lambda event: order[event.uids[2]])
        for event in self.events:
            event.kind = "ARRIVED"
        for reader in self.readers.values():
            reader.came = reader.position = len(self.events)

    @contextmanager
    def _into_another_database(self) -> Iterator[Database]:
        seen = {name: self.place.seen(name) for name in self.readers}
        url = self.make_database()
        with closing(Database(url, fsync=False)) as new:
            yield new
        self.place.close()
        self.place = Place(self.root, url)
        with self.place.database.begin() as connection:
            for name, lines in seen.items():
                write_down(name, lines)(connection)

    # ---------------------------------------------------------------- the model

    def _there(self) -> list[Event]:
        return [event for event in self.events if event.uids and event.is_there]

    def _gone(self, events: Any) -> None:
        for event in list(events):
            event.is_there = False

    def _to_show(self, reader: Reader) -> Iterator[tuple[int, str]]:
        """What a consumer is to be shown next, with the position behind it."""
        for number, event in enumerate(self.events):
            if number < reader.position or not event.is_there or (number < reader.came and not event.uids):
                continue
            yield number + 1, event.line("ARRIVED" if number < reader.came else None)

    def _expect(self, name: str, limit: int, shown: list[str]) -> None:
        reader = self.readers[name]
        next_ones = list(islice(self._to_show(reader), limit))
        assert shown == [line for _, line in next_ones][: len(shown)]
        assert bool(shown) == bool(next_ones)
        if shown:
            reader.position = next_ones[len(shown) - 1][0]
        reader.seen += shown

    def _read_all(self, name: str) -> None:
        while shown := self.place.take(self.readers[name].consumer, 2):
            self._expect(name, 2, shown)
        self._expect(name, 2, shown)
        assert self.place.seen(name) == self.readers[name].seen

    @invariant()
    def what_was_written_down_is_what_was_shown(self) -> None:
        for name, reader in self.readers.items():
            assert self.place.seen(name) == reader.seen

    @invariant()
    def nothing_is_kept_that_everybody_has_read(self) -> None:
        """As far as a consumer that has come to the end can tell."""
        with self.place.database.connect() as connection:
            kept = connection.scalar(text("SELECT count(*) FROM change"))
            read = connection.scalar(text("SELECT min(change_id) FROM feed_cursor"))
            unread = connection.scalar(text("SELECT count(*) FROM change WHERE id > :read"), {"read": read or 0})
        assert kept == unread


@pytest.mark.slow
@pytest.mark.hypothesis
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_every_consumer_is_shown_everything_in_order_exactly_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with feeds.databases(kind, tmp_path, request) as make_database:
        world = type("World", (World,), {"make_database": staticmethod(make_database)})
        number = {"sqlite": 12, "postgresql": 7}[kind]
        run_state_machine_as_test(
            world,
            settings=settings(
                max_examples=examples.of(number),
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
