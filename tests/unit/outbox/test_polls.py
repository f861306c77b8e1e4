"""What looks after the polling: fetches that were put off do not wait for a clock that was set back."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from outboxes import Clock, OutboxNode

from pacs_server.config.sections.polling import PollingConfig
from pacs_server.index.task_values import Task
from pacs_server.index.tasks import Wanted
from pacs_server.outbox.polling import Polls, _keys
from pacs_server.services.fetching import FETCH, Fetching, fetch_task

HOUR, DAY = 3600.0, 86_400.0


class Looked:
    """A node with a fetch task that was put off, what looks after it, and the time since, which nobody sets."""

    def __init__(self, node: OutboxNode, clock: Clock) -> None:
        self.node, self.clock, self.passed = node, clock, 0.0
        self.key = node.service.add(fetch_task("A", Fetching("1.1"), "a test"))
        node.service.fail(self.claim()[0], "the remote sent half of it")
        self.polls = self.begun()

    def begun(self) -> Polls:
        return Polls(tuple, self.node.service, monotonic=lambda: self.passed)

    def pass_time(self, seconds: float, *, by_clock: float | None = None) -> None:
        self.passed += seconds
        self.clock.advance(seconds if by_clock is None else by_clock)

    def claim(self) -> list[Task]:
        return self.node.service.claim(Wanted({FETCH: 1}))


@pytest.fixture
def looked(database_url: str) -> Iterator[Looked]:
    clock = Clock()
    node = OutboxNode(database_url, clock)
    with closing(node.database):
        yield Looked(node, clock)


def test_a_fetch_that_was_put_off_waits_as_long_as_it_should(looked: Looked) -> None:
    for _ in range(3):
        looked.pass_time(3)
        looked.polls.look()
        assert looked.claim() == []
    looked.pass_time(3)
    assert len(looked.claim()) == 1


@pytest.mark.parametrize("back", [60, HOUR, 5 * HOUR, DAY])
def test_it_does_not_wait_until_a_clock_that_was_set_back_has_caught_up(looked: Looked, back: float) -> None:
    looked.pass_time(1)
    looked.polls.look()
    looked.pass_time(10, by_clock=10 - back)
    looked.polls.look()
    (task,) = looked.claim()
    assert (task.id, task.attempts) == (looked.key, 1), "it is no new beginning"
    # Once is enough: after another failure it waits as it should.
    looked.node.service.fail(task, "the remote sent half of it")
    looked.pass_time(10)
    looked.polls.look()
    assert looked.claim() == []


@pytest.mark.parametrize("back", [5 * HOUR, DAY])
def test_nor_after_a_restart_meanwhile(looked: Looked, back: float) -> None:
    looked.clock.advance(-back)
    looked.begun().look()
    assert len(looked.claim()) == 1


def test_a_clock_that_is_set_forward_makes_it_due_and_setting_it_right_puts_off_nothing(looked: Looked) -> None:
    looked.pass_time(10, by_clock=DAY)
    looked.polls.look()
    (task,) = looked.claim()
    looked.node.service.fail(task, "the remote sent half of it")
    looked.pass_time(10, by_clock=10 - DAY)
    looked.polls.look()
    assert len(looked.claim()) == 1


def test_what_a_remote_asks_to_wait_is_respected(looked: Looked) -> None:
    looked.pass_time(11)
    (task,) = looked.claim()
    looked.node.service.postpone(task, "come back in an hour", timedelta(hours=1).total_seconds())
    for _ in range(3):
        looked.pass_time(10)
        looked.polls.look()
    looked.begun().look()
    assert looked.claim() == []


@pytest.mark.parametrize("key", ["StudyDate", "0008,0020", "00080020"])
def test_a_study_date_of_the_query_counts_by_keyword_and_by_tag(key: str) -> None:
    entry = PollingConfig.model_validate({"remote": "WS1", "every": "5m", "query": {key: "20200101-"}})
    now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    assert _keys(entry, now, None) == {key: "20200101-"}
    days = _keys(entry.model_copy(update={"query": {"StudyID": "1"}}), now, None)
    assert days == {"StudyID": "1", "StudyDate": "20260227-"}
