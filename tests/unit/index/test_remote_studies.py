"""Studies of remotes in the index: found, begun by one, kept while they are fetched, followed to their end."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from feeds import Place
from outboxes import Clock, OutboxNode
from sqlalchemy import update
from worklists import numbered

from pacs_server.dicom.worklist import ItemStatus
from pacs_server.index.fetching_models import remote_study
from pacs_server.index.models import instance
from pacs_server.index.prefetching import PrefetchIndex, Prior, Priors
from pacs_server.index.remote_studies import RemoteStudy, RemoteStudyFilter, RemoteStudyIndex, follow
from pacs_server.index.remote_studies import RemoteStudyState as State
from pacs_server.index.task_overview import TaskOverview
from pacs_server.index.task_values import Priority, Task, TaskState
from pacs_server.index.tasks import TaskIndex, Wanted
from pacs_server.services.fetching import FETCH, Fetching, fetch_task
from pacs_server.services.polling import Finder, PollingService, Taken
from pacs_server.services.tasks import TaskService

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def match(uid: str, instances: int | None = 10, patient_id: str = "P1") -> dict[str, object]:
    counts = {} if instances is None else {"00201208": {"vr": "IS", "Value": [instances]}}
    return {
        "0020000D": {"vr": "UI", "Value": [uid]}, "00100020": {"vr": "LO", "Value": [patient_id]}, **counts,
    }  # fmt: skip


@dataclass
class Polled:
    """The index of an archive that polls, its tasks, and a clock."""

    node: OutboxNode
    clock: Clock

    def __post_init__(self) -> None:
        self.index = RemoteStudyIndex(self.node.database)
        self.tasks = TaskService(
            TaskIndex(self.node.database, {FETCH: follow}), TaskOverview(self.node.database), {}, clock=self.clock
        )
        self.polling = PollingService(self.index, self.tasks, lambda remote: 2)

    def take(self, *matches: dict[str, object], priority: Priority = Priority.MEDIUM, name: str = "polling") -> int:
        return self.polling.take(Finder("WS1", name, "WS1", priority, is_cache=True), matches).to_fetch

    def one(self, uid: str) -> RemoteStudy:
        return self.index.known("WS1", [uid])[uid]

    def states(self) -> list[str]:
        rows = self.polling.studies(RemoteStudyFilter(), 100)
        return [each.state for each in sorted(rows, key=lambda each: each.study_instance_uid)]

    def claim(self) -> Task:
        (task,) = self.tasks.claim(Wanted({FETCH: 1}))
        return task

    def fetch(self, uid: str, listed: int = 10) -> None:
        """Have a study fetched that is next."""
        task = self.claim()
        assert Fetching.of(task).study_instance_uid == uid
        self.tasks.progress(task, {"expected": listed})
        assert self.tasks.done(task)


@pytest.fixture
def polled(database_url: str) -> Iterator[Polled]:
    clock = Clock()
    node = OutboxNode(database_url, clock)
    with closing(node.database):
        yield Polled(node, clock)


def test_a_study_is_found_fetched_and_complete(polled: Polled) -> None:
    assert polled.take(match("1.1"), match("1.2"), match("1.3")) == 3
    assert polled.polling.start_waiting("WS1") == 2
    assert polled.states() == ["fetching", "fetching", "found"]
    assert polled.polling.start_waiting("WS1") == 0
    polled.fetch("1.1", listed=11)
    known = polled.one("1.1")
    assert (known.state, known.listed_instances, known.completed_at) == (State.COMPLETE, 11, polled.clock())
    assert polled.polling.start_waiting("WS1") == 1
    assert polled.polling.counts() == {("WS1", "complete"): 1, ("WS1", "fetching"): 2}
    dead, cancelled = polled.claim(), polled.one("1.3").task_id
    polled.tasks.give_up(dead, "it has nothing of that")
    assert cancelled is not None
    polled.tasks.cancel(cancelled)
    assert polled.states() == ["complete", "failed", "failed"]
    assert [polled.one(uid).last_error for uid in ("1.2", "1.3")] == [
        "it has nothing of that",
        "somebody has cancelled it",
    ]
    polled.tasks.retry(replace(dead, state=TaskState.DEAD))
    assert polled.states() == ["complete", "fetching", "failed"]


def test_a_count_that_no_column_takes_keeps_no_other_study_away(polled: Polled) -> None:
    assert polled.take(match("1.1", instances=10**11), match("1.2")) == 2
    assert polled.states() == ["found", "found"]


def test_what_is_said_while_it_is_fetched_is_compared_with_what_was_said_before(
    polled: Polled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polled.index, "here", lambda uids: dict.fromkeys(uids, 10))
    polled.take(match("1.1", 10))
    polled.polling.start_waiting("WS1")
    polled.clock.advance(60)
    assert polled.take(match("1.1", 12, "P9")) == 0
    known = polled.one("1.1")
    assert (known.state, known.remote_instances) == (State.FETCHING, 10)
    assert (known.patient_id, known.seen_at) == ("P9", polled.clock())
    polled.fetch("1.1")
    assert polled.take(match("1.1", 12)) == 1
    assert polled.one("1.1").remote_instances == 12


def test_a_fetch_that_ends_between_the_look_and_the_note_stays_ended(polled: Polled) -> None:
    """Otherwise the state that was read would be written back: it would be fetched for ever, or forget to compare."""
    polled.take(match("1.1", 10))
    polled.polling.start_waiting("WS1")
    read = polled.one("1.1")
    polled.fetch("1.1")
    polled.index.put([replace(read, remote_instances=12)])
    known = polled.one("1.1")
    assert (known.state, known.remote_instances) == (State.COMPLETE, 10)
    read = known
    polled.index.put([replace(read, state=State.FAILED, last_error="two patients")])
    polled.index.put([replace(read, remote_instances=11)])
    assert (polled.one("1.1").state, polled.one("1.1").last_error) == (State.FAILED, "two patients")


def test_what_waits_is_given_up_when_it_turns_out_to_be_of_several_patients(polled: Polled) -> None:
    polled.take(match("1.1"))
    assert polled.take(match("1.1"), match("1.1", patient_id="P2")) == 0
    assert polled.one("1.1").state is State.FAILED
    assert polled.polling.start_waiting("WS1") == 0
    polled.clock.advance(60)
    # Each alone, in parts of one answer.
    began = polled.clock()
    finder = Finder("WS1", "polling", "WS1")
    found = [polled.polling.take(finder, [match("1.2", 3, patient)], began) for patient in ("P1", "P2")]
    # It is one study, in whichever part of the answer it is named again.
    assert found == [Taken(1, 1), Taken(0, 0)]
    polled.clock.advance(60)
    assert polled.polling.take(finder, [match("1.2", 3, "P1"), match("1.2", 3, "P2")], polled.clock()) == Taken(1, 0)
    known = polled.one("1.2")
    assert (known.state, known.patient_id, known.remote_instances) == (State.FAILED, "P1\\P2", 6)


def test_the_more_urgent_first_and_a_less_urgent_one_not_for_ever(polled: Polled) -> None:
    polled.take(match("1.1"), priority=Priority.LOW)
    polled.clock.advance(60)
    polled.take(match("1.2"), priority=Priority.MEDIUM)
    polled.clock.advance(60)
    polled.take(match("1.3"), priority=Priority.URGENT)

    def order() -> list[str]:
        return [each.study_instance_uid for each in polled.index.waiting("WS1", 10)]

    assert order() == ["1.3", "1.2", "1.1"]
    polled.clock.advance(3500)
    polled.take(match("1.4"), priority=Priority.URGENT)
    assert order() == ["1.3", "1.2", "1.1", "1.4"]
    assert [each.study_instance_uid for each in polled.index.waiting("WS1", 1)] == ["1.3"]
    assert polled.index.waiting("WS2", 10) == []


def test_what_waits_is_hastened_by_whoever_needs_it_sooner(polled: Polled) -> None:
    polled.take(match("1.1"), match("1.2"), priority=Priority.LOW)
    needed = polled.clock() + timedelta(hours=20)
    finder = Finder("WS1", "prefetch", "WS1", Priority.HIGH, deadline=needed)
    polled.polling.take(finder, [match("1.2")])
    first, second = polled.index.waiting("WS1", 10)
    assert (first.study_instance_uid, first.priority, first.found_by) == ("1.2", Priority.HIGH, "prefetch")
    assert (first.deadline, first.is_cache) == (needed, False)
    # The polling sees it again, and takes nothing back.
    polled.take(match("1.1"), match("1.2"), priority=Priority.LOW)
    assert polled.index.waiting("WS1", 10) == [
        replace(first, seen_at=polled.clock()),
        replace(second, seen_at=polled.clock()),
    ]


def test_a_study_whose_task_is_gone_is_found_again(polled: Polled) -> None:
    polled.take(match("1.1"), match("1.2"))
    polled.polling.start_waiting("WS1")
    assert polled.polling.take_back("WS1") == 0
    polled.node.clear()
    assert polled.polling.take_back("WS2") == 0
    assert polled.polling.take_back("WS1") == 2
    assert polled.states() == ["found", "found"]
    assert polled.polling.start_waiting("WS1") == 2


def test_what_failed_a_day_ago_is_found_again_although_the_remote_names_it_no_more(polled: Polled) -> None:
    """Unless it is of several patients, or somebody has cancelled it, or the remote has nothing of it."""
    polled.polling = PollingService(polled.index, polled.tasks, lambda remote: 9)
    polled.take(match("1.1"), match("1.2"), match("1.3"), match("1.3", patient_id="P2"), match("1.4"), match("1.5"))
    assert polled.polling.start_waiting("WS1") == 4
    cancelled, needed = polled.one("1.2").task_id, replace(polled.one("1.4"), deadline=NOW)
    assert cancelled is not None
    polled.tasks.cancel(cancelled)
    for reason in ("WS1 has lost its disk", "WS1 has lost its disk", "WS1 has nothing of that"):
        polled.tasks.give_up(polled.claim(), reason)
    polled.index.put([replace(needed, state=State.FAILED)])
    assert set(polled.states()) == {"failed"}
    # What has become of a task is noted by the clock of the machine.
    with polled.node.database.begin() as connection:
        connection.execute(update(remote_study).values(changed_at=polled.clock(), seen_at=polled.clock()))
    polled.clock.advance(23 * 3600)
    assert polled.polling.try_again("WS1") == 0
    polled.clock.advance(2 * 3600)
    assert polled.polling.try_again("WS2") == 0
    assert polled.polling.try_again("WS1") == 1
    assert polled.states() == ["found", "failed", "failed", "failed", "failed"]
    assert polled.polling.start_waiting("WS1") == 1
    polled.tasks.give_up(polled.claim(), "it still has")
    with polled.node.database.begin() as connection:
        connection.execute(update(remote_study).values(changed_at=polled.clock()))
    polled.clock.advance(8 * 86_400)
    assert polled.polling.try_again("WS1") == 0, "not for ever"


def test_a_task_that_does_the_same_already_is_the_one(polled: Polled) -> None:
    limited = replace(fetch_task("WS1", Fetching("1.1"), "ann"), deadline=polled.clock() + timedelta(days=3))
    by_hand = polled.tasks.add(limited)
    polled.take(match("1.1"))
    polled.polling.start_waiting("WS1")
    assert polled.one("1.1").task_id == by_hand
    # What polling wants as well is not given up because the remote is away.
    ordered = polled.tasks.find(by_hand)
    assert ordered is not None
    assert ordered.deadline is None
    polled.fetch("1.1")
    assert polled.states() == ["complete"]
    # What is fetched of it otherwise is not its end.
    polled.tasks.add(fetch_task("WS1", Fetching("1.1", "1.1.1"), "ann"))
    polled.tasks.give_up(polled.claim(), "no such series")
    assert polled.states() == ["complete"]


def test_of_two_at_once_one_begins(polled: Polled) -> None:
    polled.take(match("1.1"))
    (found,) = polled.index.waiting("WS1", 10)
    ready, begun = threading.Barrier(2), list[bool]()

    def begin() -> None:
        ready.wait(10)
        begun.append(polled.index.begin(found, fetch_task("WS1", Fetching("1.1"), "polling"), polled.clock(), 9))

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(begun) == [False, True]
    assert polled.node.states() == ["ready"]


def test_no_more_are_begun_than_may_be_whichever_server_begins_them(polled: Polled) -> None:
    """Another server on the same database begins studies between the look of one and what that begins then."""
    polled.take(*(match(f"1.{number}") for number in range(1, 9)))
    other = PollingService(RemoteStudyIndex(polled.node.database), polled.tasks, lambda remote: 2)
    room, others = polled.index.room, list[int]()

    def seen(remote: str, places: int) -> int:
        found = room(remote, places)
        others.append(other.start_waiting(remote))
        return found

    polled.index.room = seen  # type: ignore[method-assign]
    assert polled.polling.start_waiting("WS1") == 0
    assert others == [2]
    assert polled.polling.counts() == {("WS1", "fetching"): 2, ("WS1", "found"): 6}


def test_what_has_failed_waits_without_a_place(polled: Polled) -> None:
    polled.take(*(match(f"1.{number}") for number in range(1, 9)))
    polled.polling.start_waiting("WS1")
    for _ in range(2):
        polled.tasks.fail(polled.claim(), "the remote sent half of it")
    assert polled.states()[:2] == ["fetching"] * 2
    assert polled.polling.start_waiting("WS1") == 2
    # What is busy or away has not failed, and keeps its place.
    polled.tasks.postpone(polled.claim(), "busy", 30)
    assert polled.polling.start_waiting("WS1") == 0
    # What has failed and runs again holds a place like the others.
    polled.fetch("1.4")
    polled.clock.advance(20)
    assert Fetching.of(polled.claim()).study_instance_uid in ("1.1", "1.2")
    assert polled.polling.start_waiting("WS1") == 0
    assert polled.index.room("WS1", 3) == 1


def test_where_everything_fails_not_all_that_a_remote_has_is_tried(polled: Polled) -> None:
    polled.take(*(match(f"1.{number}") for number in range(1, 40)))
    begun = 0
    while started := polled.polling.start_waiting("WS1"):
        begun += started
        for _ in range(started):
            polled.tasks.fail(polled.claim(), "the remote has lost its disk")
    assert begun == 22, "ten times the places wait, and the last two of them hold these"
    assert polled.polling.counts() == {("WS1", "fetching"): 22, ("WS1", "found"): 17}


# ------------------------------------------------------------------------------------ what may be dropped, and priors


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    with closing(Place(tmp_path / "archive", database_url)) as place:
        yield place


def test_cache_is_what_came_from_there_alone_and_no_planned_examination_wants(place: Place) -> None:
    index, prefetching = RemoteStudyIndex(place.database), PrefetchIndex(place.database)
    known = RemoteStudy(
        "WS1", "1.1", "CT1", State.COMPLETE, Priority.LOW, "polling", NOW, NOW, NOW, is_cache=True, completed_at=NOW
    )
    studies = [replace(known, study_instance_uid=uid) for uid in ("1.1", "1.2", "1.3", "1.4", "1.5")]
    studies[1] = replace(studies[1], source_ae="WS1")
    studies[2] = replace(studies[2], is_cache=False)
    studies[3] = replace(studies[3], state=State.FETCHING)
    for each in studies[:4]:
        uid = each.study_instance_uid
        place.store(uid, f"{uid}.1", f"{uid}.1.1", move_originator="PACS")
    # This one the remote sent by itself, so it came here first.
    pushed = replace(known, study_instance_uid="1.6")
    place.store("1.6", "1.6.1", "1.6.1.1")
    index.put([*studies, pushed])

    def cached(today: str) -> list[str]:
        return [each.study_instance_uid for each in index.cached(today) if not each.is_needed]

    assert cached("20260302") == ["1.1"], "of the others something came otherwise, or they are no cache, or not here"
    place.worklist.put([numbered(7, {"ScheduledProcedureStepStartDate": "20260302"})])
    item = place.worklist.get("A7")
    assert item is not None
    prefetching.ask(item.id, "as planned")
    # It was here when the remotes were asked, so nothing was fetched for the examination.
    prefetching.answer(item.id, [Prior("1.1")], NOW, "")
    assert cached("20260302") == []
    assert [each.study_instance_uid for each in index.cached("20260302")] == ["1.1"], "it takes room all the same"
    assert cached("20260303") == ["1.1"]
    place.worklist.set_status([item.id], ItemStatus.COMPLETED)
    assert cached("20260302") == ["1.1"]
    place.worklist.set_status([item.id], ItemStatus.IN_PROGRESS)
    assert cached("20260302") == []
    prefetching.forget(item.id)
    assert cached("20260302") == ["1.1"]


def test_cache_is_as_old_as_what_came_last_however_often_it_was_asked_for_since(place: Place) -> None:
    index = RemoteStudyIndex(place.database)
    known = RemoteStudy("WS1", "1.1", "CT1", State.COMPLETE, Priority.LOW, "polling", NOW, NOW, NOW, is_cache=True)
    came = [datetime(2026, 3, 1, hour, tzinfo=UTC) for hour in (9, 8, 11)]
    for number, (uid, at) in enumerate(zip(("1.1", "1.2", "1.1"), came, strict=True)):
        place.store(uid, f"{uid}.1", f"{uid}.1.{number}", move_originator="PACS")
        with place.database.begin() as connection:
            connection.execute(
                update(instance).where(instance.c.sop_instance_uid == f"{uid}.1.{number}").values(received_at=at)
            )
    index.put([replace(known, study_instance_uid=uid, completed_at=NOW) for uid in ("1.1", "1.2")])
    cached = index.cached("20260302")
    assert [(each.study_instance_uid, each.fetched_at) for each in cached] == [("1.2", came[1]), ("1.1", came[2])]
    assert index.cached("20260302", only=cached[0].id) == cached[:1]


def test_what_is_to_stay_for_one_stays_whoever_names_it_next(place: Place) -> None:
    index = RemoteStudyIndex(place.database)
    known = RemoteStudy("WS1", "1.1", "CT1", State.COMPLETE, Priority.LOW, "polling", NOW, NOW, NOW, is_cache=True)
    place.store("1.1", "1.1.1", "1.1.1.1", move_originator="PACS")
    index.put([known])
    assert len(index.cached("20260302")) == 1
    index.put([replace(known, is_cache=False)])
    index.put([known])
    assert index.cached("20260302") == []


def test_what_somebody_has_fetched_is_cache_no_more(place: Place) -> None:
    index = RemoteStudyIndex(place.database)
    known = RemoteStudy("WS1", "1.1", "CT1", State.COMPLETE, Priority.LOW, "polling", NOW, NOW, NOW, is_cache=True)
    index.put([known, replace(known, study_instance_uid="1.2")])
    for uid in ("1.1", "1.2"):
        place.store(uid, f"{uid}.1", f"{uid}.1.1", move_originator="PACS")
    index.end_cache("1.1")
    assert [each.study_instance_uid for each in index.cached("20260302")] == ["1.2"]


def test_what_is_dropped_is_here_for_no_other_remote_either(place: Place) -> None:
    """Otherwise it would be taken for something that a person has deleted here, and never be fetched again."""
    index = RemoteStudyIndex(place.database)
    known = RemoteStudy("WS1", "1.1", "CT1", State.COMPLETE, Priority.LOW, "polling", NOW, NOW, NOW, is_cache=True)
    index.put([known, replace(known, remote="WS2", source_ae="WS2", is_cache=False)])
    place.store("1.1", "1.1.1", "1.1.1.1", move_originator="PACS")
    (cached,) = index.cached("20260302")

    def states() -> list[State]:
        return [index.known(remote, ["1.1"])["1.1"].state for remote in ("WS1", "WS2")]

    index.drop(cached, NOW)
    assert states() == [State.DROPPED, State.DROPPED]
    index.keep(cached, NOW - timedelta(days=1), NOW)
    assert states() == [State.DROPPED, State.DROPPED], "it was another time"
    index.keep(cached, NOW, NOW)
    assert states() == [State.COMPLETE, State.COMPLETE]


def test_an_earlier_study_is_here_when_all_of_it_is(place: Place) -> None:
    index, prefetching = RemoteStudyIndex(place.database), PrefetchIndex(place.database)
    fetching = RemoteStudy("WS1", "1.1", "WS1", State.FETCHING, Priority.HIGH, "prefetch", NOW, NOW, NOW)
    index.put([fetching])
    place.store("1.1", "1.1.1", "1.1.1.1")
    place.store("1.2", "1.2.1", "1.2.1.1")
    prefetching.ask(7, "as planned")
    assert prefetching.counts([7, 8]) == {}
    prefetching.answer(7, [Prior("1.1", "WS1", "20250105"), Prior("1.2"), Prior("1.3", "WS1")], NOW, "WS2: gone")
    assert prefetching.counts([7, 8]) == {7: Priors(3, 1, "WS2: gone")}
    assert [(each.study_instance_uid, each.is_here) for each in prefetching.priors(7)] == [
        ("1.1", False),
        ("1.2", True),
        ("1.3", False),
    ]
    with place.database.begin() as connection:
        connection.execute(update(remote_study).values(state=State.COMPLETE))
    assert prefetching.counts([7]) == {7: Priors(3, 2, "WS2: gone")}
