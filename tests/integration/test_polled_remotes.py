"""Polled remotes that are late, away, crowded or wrong, and a clock that jumps: in the end everything is here."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from datasets import make_ct
from pairs import stored
from proxy import Proxy
from servers import eventually, free_port
from weeks import Week, into, lie, weeks_of

from pacs_server.config import RemoteAEConfig
from pacs_server.dicom.levels import Level
from pacs_server.errors import StorageFull, StorageUnavailable
from pacs_server.index.instances import StoredInstance
from pacs_server.index.remote_studies import RemoteStudyState as State
from pacs_server.index.task_overview import TaskFilter
from pacs_server.index.task_values import Task, TaskState
from pacs_server.services.fetching import FETCH
from pacs_server.testing import temporary_pacs
from pacs_server.testing.faults import Request
from pacs_server.testing.temporary import TemporaryPacs

pytestmark = pytest.mark.slow

# What a remote allows so that instances come by C-GET or by C-MOVE.
BY_GET, BY_MOVE = ("find", "get"), ("find", "move")
MOST = 4


@contextmanager
def polled(
    tmp_path: Path, url: str, *, allow: tuple[str, ...] = BY_GET, through: Callable[[int], int] = int, **remote: Any
) -> Iterator[tuple[Week, TemporaryPacs]]:
    """A server that polls another one, which takes as many associations as this one opens; `remote` are settings."""
    port = free_port()
    peers = [{"ae_title": "HERE", "allow": allow}]
    # Without the web it reads its instances for nobody else.
    settings = {"access_control": {"peers": peers}, "server": {"max_associations": MOST}, "web": {"enabled": False}}
    with temporary_pacs(ae_title="THERE", settings=settings) as there:
        there.add_destination("HERE", port)
        known = RemoteAEConfig(name="there", ae_title="THERE", host="127.0.0.1", port=through(there.port), **remote)
        with weeks_of(
            tmp_path, url, [known], {"there": into(there)}, port=port, max_associations=MOST, max_connections=100
        ) as week:
            yield week, there


def slow(there: TemporaryPacs, patch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> list[float]:
    """Have a remote take so many seconds before it sends its first, second, ... instance; those that it has taken."""
    taken, retrieve = list[float](), there.server.archive.retrieve
    original = retrieve.open

    def opened(*args: Any) -> Any:
        taken.append(seconds(len(taken)))
        time.sleep(taken[-1])
        return original(*args)

    patch.setattr(retrieve, "open", opened)
    return taken


def fetches(week: Week, *states: TaskState) -> list[Task]:
    return list(week.here.archive.tasks.tasks(TaskFilter(states or tuple(TaskState), FETCH), 1000))


def complete(week: Week) -> bool:
    return all(each.state is State.COMPLETE for each in week.studies())


# ------------------------------------------------------------------------------------ late


def test_a_search_that_is_answered_later_than_the_server_waits(tmp_path: Path, database_url: str) -> None:
    with polled(tmp_path, database_url, response_timeout=1.0) as (week, there):
        week.study("there", 1, 2)
        with there.faults.delay("C-FIND", 2.5, times=1) as late:
            week.poll("there")
        state = week.here.archive.polling.state("there")
        assert (late.hits, state.failures) == (1, 1)
        assert "no answer within 1 s" in state.last_error
        # The next time the remote is in time with its studies, and late with the series of one of them.
        with there.faults.delay("C-FIND", 2.5, times=1, skip=1) as late:
            week.day("there")
        assert late.hits == 1
        assert complete(week)
        assert (week.missing(), week.twice()) == ({}, {})
        assert [each.attempts for each in fetches(week)] == [2], "a failed one, and the one that brought it"


@pytest.mark.parametrize("allow", [BY_GET, BY_MOVE], ids=["C-GET", "C-MOVE"])
def test_instances_that_come_later_than_the_server_waits(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, allow: tuple[str, ...]
) -> None:
    with polled(tmp_path, database_url, allow=allow, response_timeout=1.0) as (week, there):
        week.study("there", 1, 6)
        taken = slow(there, monkeypatch, lambda number: 2.5 if number == 3 else 0.0)
        week.poll("there")
        assert eventually(lambda: [each.attempts for each in fetches(week, TaskState.READY)] == [1])
        (task,) = fetches(week)
        assert (task.progress["expected"], "1 s" in task.last_error) == (6, True)
        # What was late may come after all, before it is asked for again.
        assert eventually(lambda: taken.count(2.5) == 1)
        time.sleep(2.0)
        week.settle()
        assert complete(week)
        assert (week.missing(), week.twice()) == ({}, {})


@pytest.mark.parametrize("allow", [BY_GET, BY_MOVE], ids=["C-GET", "C-MOVE"])
def test_a_remote_that_is_slow_with_each_instance_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow: tuple[str, ...]
) -> None:
    """All of them together take longer than an answer may take."""
    with polled(tmp_path, "sqlite://", allow=allow, response_timeout=3.0) as (week, there):
        week.study("there", 1, 5)
        taken = slow(there, monkeypatch, lambda number: 1.0)
        week.poll("there")
        assert eventually(lambda: complete(week))
        assert (week.missing(), week.twice(), len(taken)) == ({}, {}, 5)
        assert [each.attempts for each in fetches(week)] == [1]


# ------------------------------------------------------------------------------------ many


@pytest.mark.parametrize("allow", [BY_GET, BY_MOVE], ids=["C-GET", "C-MOVE"])
def test_fifty_at_a_time_within_the_associations_of_both(
    tmp_path: Path, database_url: str, allow: tuple[str, ...]
) -> None:
    with polled(tmp_path, database_url, allow=allow, max_associations=MOST) as (week, there):
        for _ in range(60):
            week.study("there", 1, 2)
        # How many associations there were when another one was proposed. One that was released a moment ago may count.
        at_once = list[int]()

        def proposed(request: Request) -> bool:
            at_once.append(len(there.server.open_associations()) + 1)
            return True

        # The searches of the first fetches take a moment, so that the whole queue can be seen.
        with there.faults.delay("C-FIND", 3.0, times=MOST, skip=1), there.faults.delay("A-ASSOCIATE", 0, when=proposed):
            week.poll("there")
            assert week.here.archive.polling.counts() == {("there", "fetching"): 50, ("there", "found"): 10}
            assert eventually(lambda: complete(week), 120)
        assert (week.missing(), week.twice()) == ({}, {})
        assert max(at_once) >= MOST
        for recent in (there.server.recent_associations, week.here.recent_associations):
            assert recent.list(refused=True) == []
        # None was put off or lost either.
        assert {(each.attempts, each.lost_leases, each.last_error) for each in fetches(week)} == {(1, 0, "")}


def test_studies_that_fail_keep_no_others_from_coming(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with polled(tmp_path, database_url) as (week, there):
        retrieve = there.server.archive.retrieve
        original, broken = retrieve.open, set[str]()

        def opened(instance: StoredInstance) -> Any:
            if instance.uids.sop in broken:
                raise StorageUnavailable("the disk is broken")
            return original(instance)

        monkeypatch.setattr(retrieve, "open", opened)
        bad = [week.study("there", 1, 1) for _ in range(50)]
        broken |= {str(each[0].SOPInstanceUID) for each in bad}
        week.poll("there")
        assert eventually(lambda: len(fetches(week, TaskState.READY)) == 50, 60)
        assert eventually(lambda: all(each.attempts for each in fetches(week)), 60)
        good = week.study("there", 1, 3)
        week.poll("there")
        assert eventually(lambda: week.state(good) is State.COMPLETE)
        assert week.here.archive.polling.counts() == {("there", "fetching"): 50, ("there", "complete"): 1}
        broken.clear()
        week.settle()
        assert (week.missing(), week.twice()) == ({}, {})


# ------------------------------------------------------------------------------------ away


def test_after_days_without_the_remote_what_was_begun_goes_on(tmp_path: Path, database_url: str) -> None:
    proxies: list[Proxy] = []

    def through(port: int) -> int:
        proxies.append(Proxy(("127.0.0.1", port)))
        return proxies[0].port

    try:
        with polled(tmp_path, database_url, through=through) as (week, there):
            for _ in range(6):
                week.study("there", 1, 2)
            # It goes while it is asked for the first series.
            with there.faults.delay("C-FIND", 5.0, skip=1):
                week.poll("there")
                proxies[0].cut()
            for _ in range(20):
                assert eventually(lambda: fetches(week, TaskState.RUNNING) == [])
                week.pass_time(hours=4)
                time.sleep(0.1)
            assert week.here.archive.breakers.state("there").failures >= 3
            assert {(each.state, each.attempts) for each in fetches(week)} == {(TaskState.READY, 0)}
            proxies[0].restore()
            # Nobody polls: what was begun goes on by itself, ten minutes later at the latest.
            week.pass_time(minutes=11)
            assert eventually(lambda: complete(week))
            assert (week.missing(), week.twice()) == ({}, {})
    finally:
        for proxy in proxies:
            proxy.end()


# ------------------------------------------------------------------------------------ the clock


@pytest.mark.parametrize("jump", [{"days": 1}, {"hours": -5}, {"days": -1}], ids=["day on", "hours back", "day back"])
def test_the_clock_jumps(tmp_path: Path, database_url: str, jump: dict[str, float]) -> None:
    with polled(tmp_path, database_url) as (week, there):
        first = week.study("there", 1, 2)
        week.day("there")
        # While one waits after a failure, which costs ten seconds by any clock.
        late = week.study("there", 1, 2)
        with there.faults.abort("C-GET", times=1):
            week.poll("there")
            assert eventually(lambda: [each.attempts for each in fetches(week, TaskState.READY)] == [1])
        week.pass_time(**jump)
        week.here._parts.reload()
        assert eventually(lambda: week.state(late) is State.COMPLETE)
        # While the remote is asked: what it says counts, and what grows comes.
        week.add("there", [make_ct(first[0].StudyInstanceUID, first[0].SeriesInstanceUID)])
        with there.faults.delay("C-FIND", 0.5, times=1) as asked:
            week.here.archive.polling.ask_now("there", "there")
            assert eventually(lambda: asked.hits == 1)
            week.pass_time(**jump)
        assert eventually(lambda: week.missing() == {})
        last = week.study("there", 1, 2)
        week.poll("there")
        assert eventually(lambda: week.state(last) is State.COMPLETE)
        assert (week.missing(), week.twice()) == ({}, {})


# ------------------------------------------------------------------------------------ no room here


@pytest.mark.parametrize("allow", [BY_GET, BY_MOVE], ids=["C-GET", "C-MOVE"])
def test_a_disk_that_is_full_here_costs_no_attempt(tmp_path: Path, database_url: str, allow: tuple[str, ...]) -> None:
    """However long it is full: the remote has not failed, and nothing is given up."""
    with polled(tmp_path, database_url, allow=allow) as (week, _):
        week.study("there", 1, 3)
        spool = week.here.archive.files.spool
        before, spool.min_free_space = spool.min_free_space, 1 << 60
        week.poll("there")
        assert eventually(lambda: [each.last_error for each in fetches(week, TaskState.READY)] not in ([], [""]))
        (task,) = fetches(week)
        assert (task.attempts, "storage.min_free_space" in task.last_error) == (0, True)
        assert not week.received, "nothing is sent in vain"
        spool.min_free_space = before
        week.settle()
        assert complete(week)
        assert (week.missing(), week.twice()) == ({}, {})


def test_a_disk_that_is_full_while_a_study_comes(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with polled(tmp_path, database_url) as (week, _):
        week.study("there", 1, 5)
        store, refused = week.here.archive.store, list[str]()
        original = store.store

        def full_at_the_third(request: Any, *rest: Any) -> Any:
            if len(week.received) == 2 and not refused:
                refused.append(request.sop_instance_uid)
                raise StorageFull("no space left on the storage")
            return original(request, *rest)

        monkeypatch.setattr(store, "store", full_at_the_third)
        week.poll("there")
        assert eventually(lambda: [each.last_error for each in fetches(week, TaskState.READY)] not in ([], [""]))
        (task,) = fetches(week)
        assert (task.attempts, "no space left" in task.last_error) == (0, True)
        week.settle()
        assert complete(week)
        assert (week.missing(), week.twice()) == ({}, {})


# ------------------------------------------------------------------------------------ wrong


def test_a_remote_that_counts_wrong(tmp_path: Path, database_url: str) -> None:
    with polled(tmp_path, database_url) as (week, there):
        few, many, none = (week.study("there", 1, 3) for _ in range(3))
        for study, count in ((few, 1), (many, 99), (none, 0)):
            lie(there, str(study[0].StudyInstanceUID), count)
        # It counts its sub-operations wrong too: it says to have failed, or to have sent more or fewer than it has.
        faults = there.faults
        with (
            faults.counts("C-GET", failed=3, times=1),
            faults.counts("C-GET", completed=5, times=1, skip=1),
            faults.counts("C-GET", completed=-2, times=1, skip=2),
        ):
            week.poll("there")
            assert eventually(lambda: complete(week))
        assert {each.attempts for each in fetches(week)} == {1}
        assert (week.missing(), week.twice()) == ({}, {})
        # It grows, and goes on saying that it has one: its instances are looked at once a day all the same.
        uid = str(few[0].StudyInstanceUID)
        week.add("there", [make_ct(uid, few[0].SeriesInstanceUID, StudyDate=few[0].StudyDate)])
        lie(there, uid, 1)
        week.poll("there")
        assert week.missing().keys() == {uid}
        week.pass_time(hours=25)
        week.day("there")
        assert (week.missing(), week.twice()) == ({}, {})


@pytest.mark.parametrize("ever", [False, True], ids=["for a moment", "ever"])
def test_a_remote_that_does_not_list_what_it_has(tmp_path: Path, database_url: str, ever: bool) -> None:
    """What is here comes again only from a remote that never lists its instances, when it has something new."""
    with polled(tmp_path, database_url) as (week, there):

        def day(times: int) -> None:
            # The first search of a day is for studies.
            with there.faults.status("C-FIND", 0xA700, skip=1, times=times):
                week.day("there")

        study = week.study("there", 1, 3)
        day(100 if ever else 0)
        assert (week.missing(), week.twice()) == ({}, {})
        day(100 if ever else 1)
        assert week.twice() == {}
        week.add(
            "there", [make_ct(study[0].StudyInstanceUID, study[0].SeriesInstanceUID, StudyDate=study[0].StudyDate)]
        )
        day(100 if ever else 2)
        assert week.missing() == {}
        assert set(week.twice()) == ({str(each.SOPInstanceUID) for each in study} if ever else set())
        assert complete(week)


def test_the_same_study_under_two_patients(tmp_path: Path, database_url: str) -> None:
    with polled(tmp_path, database_url) as (week, there):
        other = week.study("there", 1, 1)
        mine = make_ct(PatientID="P1", StudyDate=other[0].StudyDate)
        theirs = make_ct(mine.StudyInstanceUID, PatientID="P2", StudyDate=mine.StudyDate)
        uid = str(mine.StudyInstanceUID)
        week.add("there", [mine, theirs], wanted=False)
        week.day("there")
        state = week.here.archive.polling.state("there")
        assert state.matches == 2, "a study counts once, whoever it is of"
        assert (week.state([mine]), week.state(other)) == (State.FAILED, State.COMPLETE)
        assert stored(week.here, uid) == []
        # When somebody has found out there whose it is, it comes.
        there.server.archive.deletions.delete(Level.IMAGE, str(theirs.SOPInstanceUID), "a test")
        week.wanted[uid] = [mine]
        week.day("there")
        week.day("there")
        assert week.state([mine]) is State.COMPLETE
        assert (week.missing(), week.twice()) == ({}, {})
