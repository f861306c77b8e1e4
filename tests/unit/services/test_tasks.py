"""The life of a task: added, claimed, renewed, settled, lost, retried, cancelled, removed; on both databases."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import postgres
import pytest
from outboxes import LEASE, WANTED, Clock, OutboxNode
from sqlalchemy import event, update

from pacs_server.index.task_models import task as table
from pacs_server.index.task_overview import TaskFilter
from pacs_server.index.task_values import NewTask, Priority, TaskState
from pacs_server.index.tasks import MOST_LOST_LEASES, TaskIndex, Wanted, add_task
from pacs_server.services import tasks as services
from pacs_server.services.tasks import RetryPolicy

POLICY = RetryPolicy(first=10, longest=60, jitter=0.2, attempts=3)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database of each kind for all tests of this file; each of them begins without tasks."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('tasks') / 'pacs.db'}"
        return
    server, template = map(request.getfixturevalue, ("postgres_server", "postgres_template"))
    with postgres.fresh_database(server, template) as url:
        yield url


@pytest.fixture
def node_of(url: str, clock: Clock) -> Iterator[Callable[..., OutboxNode]]:
    nodes: list[OutboxNode] = []

    def start(policy: RetryPolicy = POLICY) -> OutboxNode:
        node = OutboxNode(url, clock, policy)
        if not nodes:
            node.clear()
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        node.database.close()


@pytest.fixture
def node(node_of: Callable[..., OutboxNode]) -> OutboxNode:
    return node_of()


# ------------------------------------------------------------------------------------ adding


def test_a_task_is_there_when_its_cause_is_committed_and_only_then(node: OutboxNode, clock: Clock) -> None:
    new = NewTask("send", "rule 1", "A", {"study": "1.2"}, Priority.LOW)

    def add(then: Callable[[], object]) -> int:
        with node.database.begin() as connection:
            key = add_task(connection, new, clock())
            then()
        return key

    with pytest.raises(ZeroDivisionError):
        add(lambda: 1 // 0)
    assert node.states() == []
    key = add(lambda: None)
    task = node.task(key)
    assert (task.kind, task.target, task.payload, task.created_by) == ("send", "A", {"study": "1.2"}, "rule 1")
    assert (task.priority, task.state, task.due, task.created) == ("low", "ready", clock(), clock())
    assert (task.owner, task.claimed_until, task.deadline, task.attempts) == ("", None, None, 0)


def test_a_task_that_waits_is_not_added_twice(node: OutboxNode, clock: Clock) -> None:
    first = node.add(dedupe_key="x")
    assert node.add(dedupe_key="x") == first
    assert node.add(dedupe_key="y") != first
    assert node.add() != node.add()
    assert node.states() == ["ready"] * 4
    (task, *_) = node.claim()
    assert task.id == first
    assert node.service.done(task)
    # What comes later is new work.
    assert node.add(dedupe_key="x") > first


def test_work_that_is_added_while_it_runs_runs_once_more(node: OutboxNode, clock: Clock) -> None:
    key = node.add(dedupe_key="x")
    (task,) = node.claim()
    clock.advance(1)
    assert node.add(dedupe_key="x") == key
    assert node.service.done(task)
    (again,) = node.claim()
    assert (again.id, again.attempts, again.due, again.finished) == (key, 0, clock(), None)
    assert node.service.done(again)
    assert node.states() == ["done"]


def test_a_retry_that_comes_after_the_addition_is_enough(node: OutboxNode, clock: Clock) -> None:
    node.add(dedupe_key="x")
    (task,) = node.claim()
    node.add(dedupe_key="x")
    assert node.service.fail(task, "no")
    clock.advance(10)
    (again,) = node.claim()
    assert node.service.done(again)
    assert node.states() == ["done"]


@pytest.mark.slow
def test_a_storm_of_additions_makes_one_task(node_of: Callable[..., OutboxNode]) -> None:
    nodes = [node_of(), node_of()]
    keys: list[int] = []

    def add(node: OutboxNode) -> None:
        keys.extend(node.add(dedupe_key="x") for _ in range(5))

    _in_threads(add, nodes, 8)
    assert len(keys) == 40
    assert len(set(keys)) == 1


def _in_threads(work: Callable[[OutboxNode], None], nodes: list[OutboxNode], count: int) -> None:
    threads = [threading.Thread(target=work, args=(nodes[number % len(nodes)],)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# ------------------------------------------------------------------------------------ claiming


@pytest.mark.slow
def test_the_tasks_of_one_target_are_claimed_together(node: OutboxNode, clock: Clock) -> None:
    for number in range(12):
        node.add("A" if number % 2 else "B")
    claims = [[task.id for task in node.claim()] for _ in range(3)]
    assert [len(claim) for claim in claims] == [6, 6, 0]
    assert claims[0] == sorted(claims[0])
    for _ in range(11):
        node.add("A")
    assert len(node.claim()) == WANTED.kinds["send"] == 10


def test_nothing_is_claimed_before_it_is_due(node: OutboxNode, clock: Clock) -> None:
    node.add(due=clock() + timedelta(seconds=30))
    assert node.claim() == []
    assert node.service.seconds_to_next(WANTED) == 30
    clock.advance(30)
    (task,) = node.claim()
    assert task.claimed_until == clock() + timedelta(seconds=LEASE)
    assert node.service.seconds_to_next(WANTED) == LEASE


def test_tasks_of_a_kind_that_nobody_here_knows_are_left_alone(node: OutboxNode) -> None:
    node.add(kind="other")
    assert node.claim() == []
    assert node.service.seconds_to_next(WANTED) is None


def test_a_busy_target_is_left_alone(node: OutboxNode) -> None:
    node.add("A")
    node.add("B")
    busy = {("send", "A"), ("look", "B")}
    assert [task.target for task in node.claim(busy=busy)] == ["B"]
    assert node.claim(busy=busy) == []
    assert [task.target for task in node.claim()] == ["A"]


def test_urgent_tasks_alone(node: OutboxNode) -> None:
    node.add("A")
    urgent = node.add("A", Priority.URGENT)
    assert [task.id for task in node.claim(urgent_only=True)] == [urgent]
    assert node.claim(urgent_only=True) == []


def test_a_more_urgent_task_goes_first(node: OutboxNode) -> None:
    keys = {priority: node.add(f"to {priority}", priority) for priority in reversed(Priority)}
    order = [node.claim()[0].id for _ in Priority]
    assert order == [keys[priority] for priority in Priority]


@pytest.mark.slow
def test_a_low_task_is_not_starved(node: OutboxNode, clock: Clock) -> None:
    """One more urgent task comes each minute, and one task is done each minute: the low one is done all the same."""
    low = node.add("low", Priority.LOW)
    waited = 0
    while True:
        node.add(f"{waited}", (Priority.URGENT, Priority.HIGH, Priority.MEDIUM)[waited % 3])
        (task, *_) = node.claim()
        assert node.service.done(task)
        if task.id == low:
            break
        waited += 1
        clock.advance(60)
        assert waited < 200
    # Of the tasks that came later, only those went first whose turn came within its hour.
    assert 40 <= waited <= 60


@pytest.mark.slow
def test_nodes_never_claim_the_same(node_of: Callable[..., OutboxNode]) -> None:
    nodes = [node_of(), node_of()]
    for number in range(60):
        nodes[0].add(f"T{number % 6}")
    done: list[int] = []

    def work(node: OutboxNode) -> None:
        while tasks := node.claim():
            done.extend(task.id for task in tasks if node.service.done(task))

    _in_threads(work, nodes, 6)
    assert len(done) == len(set(done)) == 60
    assert set(nodes[0].states()) == {"done"}


def test_nothing_is_written_while_nothing_is_due(node: OutboxNode) -> None:
    written: list[str] = []

    @event.listens_for(node.database.engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        written.append(statement)

    node.claim()
    node.service.expire(WANTED.kinds)
    node.service.seconds_to_next(WANTED)
    assert all(statement.lstrip().startswith("SELECT") for statement in written)
    assert len(written) <= 4


# ------------------------------------------------------------------------------------ leases and owners


def test_the_owner_is_another_one_at_each_claim(node: OutboxNode, clock: Clock) -> None:
    node.add()
    (first,) = node.claim()
    assert node.service.release(first)
    (second,) = node.claim()
    assert first.owner != second.owner
    assert (second.attempts, second.due) == (0, first.due)
    for settle in (node.service.done, node.service.release):
        assert not settle(first)
    assert node.service.fail(first, "no") is node.service.give_up(first, "no") is None
    assert node.service.postpone(first, "busy", 1) is None
    assert node.task(second.id) == second
    assert node.service.renew([first]) == set()
    assert node.service.renew([second]) == {second.id}


def test_a_lease_that_ran_out_is_ready_again(node: OutboxNode, clock: Clock) -> None:
    key = node.add()
    (lost,) = node.claim()
    clock.advance(LEASE - 1)
    assert node.service.expire(WANTED.kinds) == []
    clock.advance(1)
    assert node.claim() == []
    (ready,) = node.service.expire(WANTED.kinds)
    assert (ready.id, ready.state, ready.attempts, ready.lost_leases) == (key, "ready", 0, 1)
    assert ready.last_error == f"{node.service.node} did not finish in time, or ended"
    (task,) = node.claim()
    assert not node.service.done(lost)
    assert node.service.done(task)
    assert node.task(key).lost_leases == 0
    assert node.counted == [("send", "lost"), ("send", "done")]


def test_what_nobody_runs_any_more_is_taken_back_before_its_lease_ends(node: OutboxNode) -> None:
    lost, other = node.add(), node.add(kind="elsewhere")
    node.claim()
    node.service.claim(Wanted({"elsewhere": 1}))
    (ready,) = node.service.take_back(WANTED.kinds)
    assert (ready.id, ready.state, ready.lost_leases) == (lost, "ready", 1)
    assert node.task(other).state == "running"
    assert node.counted == [("send", "lost")]


def test_a_lease_is_renewed(node: OutboxNode, clock: Clock) -> None:
    node.add()
    node.add()
    tasks = node.claim()
    for _ in range(5):
        clock.advance(LEASE / 2)
        assert node.service.renew(tasks) == {task.id for task in tasks}
        assert node.service.expire(WANTED.kinds) == []
    assert node.service.done(tasks[0])
    assert node.service.renew(tasks) == {tasks[1].id}
    assert [task.id for task in node.service.unsettled(tasks)] == [tasks[1].id]


def test_a_lease_that_lasts_longer_is_not_shortened_by_a_renewal(node: OutboxNode, clock: Clock) -> None:
    key = node.add()
    tasks = node.claim()
    for seconds, lasts in ((300, 300), (None, 300), (15, 15), (None, LEASE)):
        assert node.service.renew(tasks, seconds) == {key}
        assert node.task(key).claimed_until == clock() + timedelta(seconds=lasts)


def test_who_is_there_is_not_taken_for_dead(node: OutboxNode, clock: Clock) -> None:
    keys = [node.add("A"), node.add("B")]
    (mine,), _ = node.claim(), node.claim()
    clock.advance(3600)
    assert [task.id for task in node.service.expire(WANTED.kinds, {mine.owner})] == keys[1:]
    assert node.service.done(mine)


def test_what_a_newer_version_left_running_is_left_to_it(node: OutboxNode, clock: Clock) -> None:
    node.add()
    node.claim()
    with node.database.begin() as connection:
        connection.execute(update(table).values(kind="new", priority="new"))
    clock.advance(3600)
    assert node.service.seconds_to_next(WANTED) is None
    assert node.service.expire(WANTED.kinds) == []


@pytest.mark.slow
def test_a_task_with_a_deadline_outlives_lost_leases_until_then(
    node_of: Callable[..., OutboxNode], clock: Clock
) -> None:
    node = node_of(RetryPolicy(attempts=None, lasts=2 * MOST_LOST_LEASES * LEASE))
    key = node.add()
    states = []
    for _ in range(2 * MOST_LOST_LEASES):
        assert len(node.claim()) == 1
        clock.advance(LEASE)
        states += [task.state for task in node.service.expire(WANTED.kinds)]
    assert states == ["ready"] * (2 * MOST_LOST_LEASES - 1) + ["dead"]
    assert node.counted == [("send", "lost")] * (2 * MOST_LOST_LEASES - 1) + [("send", "dead")]
    assert node.task(key).lost_leases == 2 * MOST_LOST_LEASES


@pytest.mark.slow
def test_a_task_that_ends_its_process_each_time_is_given_up(node: OutboxNode, clock: Clock) -> None:
    key = node.add()
    for _ in range(MOST_LOST_LEASES):
        assert len(node.claim()) == 1
        clock.advance(LEASE)
        node.service.expire(WANTED.kinds)
    assert (node.task(key).state, node.claim()) == (TaskState.DEAD, [])
    assert node.service.retry(node.task(key))
    assert node.task(key).lost_leases == 0


@pytest.mark.slow
def test_a_task_that_sometimes_loses_its_process_goes_on(node_of: Callable[..., OutboxNode], clock: Clock) -> None:
    node = node_of(RetryPolicy(first=1, longest=1, attempts=None))
    key = node.add()
    for number in range(3 * MOST_LOST_LEASES):
        (task,) = node.claim()
        if number % 3:
            clock.advance(LEASE)
            node.service.expire(WANTED.kinds)
        else:
            node.service.fail(task, "no")
            clock.advance(1)
    assert node.task(key).state == TaskState.READY


# ------------------------------------------------------------------------------------ failures


@pytest.mark.slow
def test_it_waits_twice_as_long_each_time(node_of: Callable[..., OutboxNode], clock: Clock) -> None:
    node = node_of(RetryPolicy(first=10, longest=60, attempts=6))
    key = node.add()
    waits = []
    for _ in range(6):
        (task,) = node.claim()
        node.service.fail(task, "no answer")
        seconds = node.service.seconds_to_next(WANTED)
        if seconds is not None:
            waits.append(seconds)
            clock.advance(seconds)
    assert waits == [10, 20, 40, 60, 60]
    assert (node.task(key).state, node.task(key).attempts) == ("dead", 6)
    assert node.task(key).last_error == "no answer"
    assert node.counted == [("send", "failed")] * 5 + [("send", "dead")]


def test_waits_differ_by_a_fifth_at_most() -> None:
    assert [POLICY.delay(1, spread) for spread in (-1, 0, 1)] == [8, 10, 12]
    assert POLICY.delay(1000, 1) == 72
    assert RetryPolicy(first=10, jitter=0.0).delay(1, 1) == 10


@pytest.mark.slow
def test_waits_are_spread_at_random(node: OutboxNode, clock: Clock) -> None:
    node.service._spread = services.TaskService(node.service._index, node.service._overview, {})._spread
    for _ in range(10):
        node.add()
    waits = set()
    for task in node.claim():
        settled = node.service.fail(task, "no")
        assert settled is not None
        assert settled.due is not None
        waits.add((settled.due - clock()).total_seconds())
    assert len(waits) == 10
    assert 8 <= min(waits) < max(waits) <= 12


def test_the_last_attempt_is_made_at_the_deadline(node_of: Callable[..., OutboxNode], clock: Clock) -> None:
    node = node_of(RetryPolicy(first=10, longest=60, attempts=None, lasts=25))
    key = node.add()
    waits = []
    while tasks := node.claim():
        node.service.fail(tasks[0], "no")
        seconds = node.service.seconds_to_next(WANTED)
        if seconds is None:
            break
        waits.append(seconds)
        clock.advance(seconds)
    assert waits == [10, 15]
    assert (node.task(key).state, node.task(key).attempts) == ("dead", 3)


def test_a_permanent_error_is_the_end(node: OutboxNode) -> None:
    key = node.add()
    (task,) = node.claim()
    assert node.service.give_up(task, "0xA900")
    assert (node.task(key).state, node.task(key).attempts, node.task(key).last_error) == ("dead", 1, "0xA900")
    assert node.claim() == []


@pytest.mark.slow
def test_a_busy_target_is_no_failure(node: OutboxNode, clock: Clock) -> None:
    key = node.add()
    for _ in range(5):
        (task,) = node.claim()
        assert node.service.postpone(task, "busy", 30)
        assert (node.task(key).state, node.task(key).attempts) == ("ready", 0)
        assert node.service.seconds_to_next(WANTED) == 30
        clock.advance(30)
    assert set(node.counted) == {("send", "busy")}


def test_a_target_that_stays_busy_does_not_go_beyond_the_deadline(
    node_of: Callable[..., OutboxNode], clock: Clock
) -> None:
    node = node_of(RetryPolicy(attempts=None, lasts=50))
    key = node.add()
    for wait in (30, 20):
        (task,) = node.claim()
        assert node.service.postpone(task, "busy", 30)
        assert node.service.seconds_to_next(WANTED) == wait
        clock.advance(wait)
    (task,) = node.claim()
    assert node.service.postpone(task, "busy", 30)
    assert node.task(key).state == TaskState.DEAD


def test_what_was_not_tried_comes_again_even_after_its_deadline(
    node_of: Callable[..., OutboxNode], clock: Clock
) -> None:
    node = node_of(RetryPolicy(attempts=None, lasts=50))
    key = node.add()
    for _ in range(2):
        (task,) = node.claim()
        assert node.service.release(task, "the index is away", 60)
        assert (node.task(key).attempts, node.task(key).last_error) == (0, "the index is away")
        assert node.service.seconds_to_next(WANTED) == 60
        clock.advance(60)
    assert node.counted == [("send", "released")] * 2


# ------------------------------------------------------------------------------------ by hand


def test_a_dead_task_can_be_retried(node: OutboxNode, clock: Clock) -> None:
    key = node.add()
    (task,) = node.claim()
    node.service.give_up(task, "no")
    assert node.service.retry(node.task(key))
    (again,) = node.claim()
    assert (again.id, again.attempts, again.last_error) == (key, 0, "no")
    assert not node.service.retry(node.task(key))
    assert node.service.done(again)
    assert not node.service.retry(node.task(key))
    assert node.states() == ["done"]


def test_a_retry_makes_a_waiting_task_due_and_begins_its_time_anew(
    node_of: Callable[..., OutboxNode], clock: Clock
) -> None:
    node = node_of(RetryPolicy(attempts=None, lasts=100))
    key = node.add()
    (task,) = node.claim()
    node.service.fail(task, "no")
    clock.advance(5)
    assert node.claim() == []
    assert node.service.retry(node.task(key))
    (again,) = node.claim()
    # Where attempts are not limited they go on counting.
    assert (again.deadline, again.attempts) == (clock() + timedelta(seconds=100), 1)


def test_a_retry_does_not_make_a_second_task_of_a_key(node: OutboxNode) -> None:
    dead = node.add(dedupe_key="x")
    (task,) = node.claim()
    node.service.give_up(task, "no")
    node.add(dedupe_key="x")
    assert not node.service.retry(node.task(dead))
    assert node.states() == ["dead", "ready"]


def test_what_is_made_due_is_the_task_that_waits_and_not_a_newer_one_that_is_over(node: OutboxNode) -> None:
    first = node.add(dedupe_key="x")
    (task,) = node.claim()
    node.service.give_up(task, "no")
    second = node.add(dedupe_key="x")
    assert node.service.cancel(second)
    assert node.service.retry(node.task(first))
    assert node.service.hasten("x")
    assert node.states() == ["ready", "cancelled"]


def test_what_is_made_due_keeps_its_deadline_and_none_is_made_up_by_a_retry(
    node_of: Callable[..., OutboxNode], clock: Clock
) -> None:
    node = node_of(RetryPolicy(lasts=100))
    key = node.add(dedupe_key="x")
    assert node.service.hasten("x")
    assert node.task(key).deadline == clock() + timedelta(seconds=100)
    without = TaskIndex(node.database).add(NewTask("send", "a test", "A"), clock())
    assert node.service.retry(node.task(without))
    assert node.task(without).deadline is None


@pytest.mark.slow
def test_a_cancelled_task_is_over_for_its_owner_too(node: OutboxNode) -> None:
    waits, runs = node.add("B", dedupe_key="x"), node.add("A")
    (task,) = node.claim(busy=[("send", "B")])
    assert node.service.cancel(runs)
    assert node.service.renew([task]) == set()
    assert not node.service.done(task)
    assert node.service.cancel(waits)
    assert node.claim() == []
    assert node.states() == ["cancelled", "cancelled"]
    assert not node.service.cancel(waits)
    assert not node.service.cancel(9999)
    assert node.add("B", dedupe_key="x") > runs
    assert node.service.retry(node.task(runs))


def test_what_is_over_is_removed_after_a_month(node: OutboxNode, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_REMOVED_AT_ONCE", 2)
    keys = [node.add() for _ in range(7)]
    tasks = node.claim()
    for task in tasks[:4]:
        node.service.done(task)
    node.service.cancel(keys[4])
    node.service.give_up(tasks[5], "no")
    node.service.release(tasks[6])
    clock.advance(timedelta(days=30).total_seconds())
    assert node.service.remove_finished() == 0
    clock.advance(1)
    assert node.service.remove_finished() == 5
    assert node.states() == ["dead", "ready"]


# ------------------------------------------------------------------------------------ for people


def test_tasks_are_listed_by_kind_state_and_target(node: OutboxNode) -> None:
    first, second, third = node.add("A"), node.add("B"), node.add("A", kind="look")
    (task,) = node.claim(busy=[("send", "B"), ("look", "A")])
    node.service.give_up(task, "no")

    def found(limit: int = 10, **wanted: object) -> list[int]:
        return [task.id for task in node.service.tasks(TaskFilter(**wanted), limit)]

    assert found() == [first, second, third]
    assert found(limit=2) == [second, third]
    assert found(states=[TaskState.DEAD]) == [first]
    assert found(kind="send") == [first, second]
    assert found(target="A", kind="send") == [first]
    assert found(target="none") == []


def test_tasks_are_counted(node: OutboxNode, clock: Clock) -> None:
    assert node.service.counts() == ({("send", state): 0 for state in ("ready", "running", "dead")}, {"send": 0.0})
    node.add("A", kind="look")
    node.add("B")
    (look,) = node.claim()
    node.service.give_up(look, "no")
    clock.advance(5)
    node.add("A")
    counts, oldest = node.service.counts()
    assert counts == {("send", "ready"): 2, ("send", "running"): 0, ("send", "dead"): 0, ("look", "dead"): 1}
    assert oldest == {"send": 5.0}
    assert node.service.summary() == {"ready": 2, "running": 0, "dead": 1, "oldest_due_seconds": 5.0}
