"""The handler of fetch tasks: a remote that is away costs no attempt, and a study that fails alone does."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from archives import SmallArchive
from outbound import Outbound

from pacs_server.audit.outgoing import OutgoingAuditor
from pacs_server.audit.recorder import Recorder
from pacs_server.config import RemoteAEConfig
from pacs_server.dicom.json_model import DataSet
from pacs_server.dicom.levels import Level
from pacs_server.errors import RemoteBusy, RemoteError, RemoteUnreachable
from pacs_server.index.remote_studies import RemoteStudyIndex
from pacs_server.index.task_values import Task, TaskState
from pacs_server.index.tasks import TaskIndex, Wanted
from pacs_server.outbox.fetch import FetchHandler
from pacs_server.outbox.forward import probe_by
from pacs_server.outbox.handler import Work
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.remotes import Remotes
from pacs_server.scu.search import Search
from pacs_server.services.fetching import FETCH, Fetching, FetchService, fetch_task
from pacs_server.services.retrieve import RetrieveService
from pacs_server.services.store import StoreService

GIVE_UP_AFTER = timedelta(days=3)


class Peer:
    """A remote that has one instance of every study, all of which are here, unless it is away or fails at a study."""

    def __init__(self) -> None:
        self.is_away = False
        self.breaks_at: set[str] = set()
        self.asked = 0

    def probe(self, remote: RemoteAEConfig) -> None:
        if self.is_away:
            raise RemoteUnreachable("A: connection refused")

    def known(self, name: str) -> RemoteAE:
        return RemoteAE("A", "127.0.0.1", 104, 1, 1, name=name)

    def find(self, name: str, search: Search) -> Iterator[DataSet]:
        self.asked += 1
        if self.is_away or search.keys["StudyInstanceUID"] in self.breaks_at:
            raise RemoteUnreachable("A: no answer within 1 s")
        tag = "0020000E" if search.level is Level.SERIES else "00080018"
        yield {tag: {"vr": "UI", "Value": ["1.9"]}}

    def present(self, uids: list[str]) -> set[str]:
        return set(uids)


class Fetches:
    """A handler of fetch tasks with its peer, and what it told."""

    def __init__(self, out: Outbound) -> None:
        self.out, self.peer, self.ended = out, Peer(), list[str]()
        recorder = Recorder(out.trail, lambda: "PACS")
        self.index = TaskIndex(out.database)
        self.service = FetchService(out.tasks, lambda: out.remotes, RemoteStudyIndex(out.database))
        self.handler = FetchHandler(
            cast(Remotes, self.peer),
            cast(StoreService, None),
            cast(RetrieveService, self.peer),
            OutgoingAuditor(recorder),
            tasks=out.tasks,
            breakers=out.breakers,
            probe=probe_by(cast(Any, self.peer)),
            ae_title=lambda: "PACS",
            ended=self.ended.append,
        )

    def add(self, *uids: str) -> list[int]:
        """Have studies fetched as polling does."""
        now = self.out.clock()
        return [self.index.add(fetch_task("A", Fetching(uid), "a test"), now) for uid in uids]

    def order(self, *uids: str) -> list[int]:
        """Have studies fetched as people do."""
        return [self.service.fetch("A", Fetching(uid), "ann") for uid in uids]

    def work(self) -> int:
        """Run what is due; how many tasks were run."""
        count = 0
        while tasks := self.out.tasks.claim(Wanted({FETCH: 1}, busy=self.handler.closed().keys())):
            self.handler.run(Work(tasks, self.out.tasks, lambda: False))
            count += 1
            assert count < 100
        return count

    def task(self, key: int) -> Task:
        return self.out.task(key)


@pytest.fixture
def fetches(database_url: str, tmp_path: Path) -> Iterator[Fetches]:
    small = SmallArchive(tmp_path, database_url)
    yield Fetches(Outbound(small))
    small.close()


def test_a_remote_that_is_away_for_days_costs_no_attempt_and_goes_on_when_it_is_back(fetches: Fetches) -> None:
    fetches.peer.is_away = True
    keys = fetches.add(*(f"1.{number}" for number in range(1, 7)))
    # After three failures it is left alone, and the others are not even tried.
    assert fetches.work() == 3
    assert fetches.handler.closed() == {("fetch", "A"): 30.0}
    asked = fetches.peer.asked
    for _ in range(500):
        fetches.out.clock.advance(601)
        assert fetches.work() <= 1
    assert fetches.peer.asked == asked, "one test in ten minutes, and no search"
    assert {(fetches.task(key).state, fetches.task(key).attempts) for key in keys} == {(TaskState.READY, 0)}
    assert fetches.ended == [], "no others are begun meanwhile"
    fetches.peer.is_away = False
    fetches.out.clock.advance(601)
    fetches.work()
    assert {fetches.task(key).state for key in keys} == {TaskState.DONE}
    assert fetches.out.breakers.state("A").is_clean


def test_what_somebody_has_ordered_is_given_up_in_the_end_and_can_be_resumed(fetches: Fetches) -> None:
    fetches.peer.is_away = True
    (polled,) = fetches.add("1.1")
    ordered = fetches.order(*(f"2.{number}" for number in range(1, 6)))
    fetches.work()
    for _ in range(3 * 144 - 1):
        fetches.out.clock.advance(600)
        fetches.work()
    assert {fetches.task(key).state for key in (polled, *ordered)} == {TaskState.READY}
    for _ in range(2):
        fetches.out.clock.advance(600)
        fetches.work()
    # Also those that nobody has tried, because the remote was left alone all the time.
    said = {(task.state, task.last_error) for task in map(fetches.task, ordered)}
    assert said == {(TaskState.DEAD, "not fetched within fetching.give_up_after: A fails: A: connection refused")}
    assert fetches.task(polled).state == TaskState.READY, "polling has its own rules"
    fetches.peer.is_away = False
    assert fetches.out.tasks.retry(fetches.task(ordered[0]))
    deadline = fetches.task(ordered[0]).deadline
    assert deadline == fetches.out.clock() + GIVE_UP_AFTER, "all its time is before it again"
    assert fetches.out.tasks.retry(fetches.task(polled))
    assert fetches.task(polled).deadline is None
    fetches.out.clock.advance(601)
    fetches.work()
    assert [fetches.task(key).state for key in (polled, *ordered[:2])] == [
        TaskState.DONE, TaskState.DONE, TaskState.DEAD
    ]  # fmt: skip


def test_one_that_is_busy_at_the_end_of_its_time_is_given_up(fetches: Fetches, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, search: Search) -> Iterator[DataSet]:
        raise RemoteBusy("A: rejected: by the peer (2,3,1)")

    monkeypatch.setattr(fetches.peer, "find", find)
    (key,) = fetches.order("1.1")
    fetches.work()
    assert fetches.task(key).last_error == "A: rejected: by the peer (2,3,1)"
    fetches.out.clock.advance(GIVE_UP_AFTER.total_seconds())
    fetches.work()
    task = fetches.task(key)
    assert (task.state, task.last_error) == (
        TaskState.DEAD, "not fetched within fetching.give_up_after: A: rejected: by the peer (2,3,1)"
    )  # fmt: skip


def test_a_study_at_which_the_remote_fails_alone_is_given_up(fetches: Fetches) -> None:
    """The remote says that it is there, so that the others are fetched, and nothing is sent to its backups."""
    fetches.peer.breaks_at = {"1.1"}
    (bad,) = fetches.add("1.1")
    for _ in range(9):
        fetches.work()
        assert fetches.task(bad).state == TaskState.READY
        assert fetches.out.breakers.states() == {}
        (good,) = fetches.add("1.2")
        fetches.work()
        assert fetches.task(good).state == TaskState.DONE
        fetches.out.clock.advance(4000)
    fetches.work()
    assert (fetches.task(bad).state, fetches.task(bad).attempts) == (TaskState.DEAD, 10)
    assert fetches.task(bad).last_error == "A: no answer within 1 s"
    assert fetches.ended.count("A") == 10 + 9


def test_one_that_is_no_remote_any_more_is_given_up(fetches: Fetches, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> RemoteAE:
        raise RemoteError(f"{name} is not in remote_aes")

    monkeypatch.setattr(fetches.peer, "known", unknown)
    fetches.out.remotes.clear()
    (key,) = fetches.add("1.1")
    fetches.work()
    assert (fetches.task(key).attempts, fetches.task(key).last_error) == (1, "A is not in remote_aes")


def test_a_remote_that_was_away_is_tested_although_the_clock_was_set_back(fetches: Fetches) -> None:
    fetches.peer.is_away = True
    (key,) = fetches.add("1.1")
    for _ in range(3):
        fetches.work()
        fetches.out.clock.advance(10)
    assert fetches.handler.closed()
    fetches.out.clock.advance(-timedelta(days=1).total_seconds())
    assert fetches.handler.closed() == {}
    # It is still away: another pause begins, by the clock as it is now.
    fetches.out.tasks.hasten(fetches.task(key).dedupe_key or "")
    assert fetches.work() == 1
    assert fetches.handler.closed() == {("fetch", "A"): 60.0}
    fetches.peer.is_away = False
    fetches.out.clock.advance(61)
    fetches.work()
    assert fetches.task(key).state == TaskState.DONE
