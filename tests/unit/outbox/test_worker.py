"""The worker: runs due tasks, keeps their leases, leaves nothing unsettled, and stops in time."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest
import schema
from outboxes import OutboxNode

from pacs_server.errors import IndexUnavailable, StorageUnavailable
from pacs_server.index.presence import Presence
from pacs_server.index.task_values import Priority, Task
from pacs_server.index.tasks import MOST_LOST_LEASES
from pacs_server.outbox import worker as module
from pacs_server.outbox.handler import Handler, Work
from pacs_server.outbox.worker import Worker
from pacs_server.services.tasks import RetryPolicy

QUICK = RetryPolicy(first=0.05, longest=0.1, attempts=3)
PATIENCE = 20.0


class Recording:
    """A handler that does what it is told, and remembers which tasks it was given."""

    def __init__(self, act: Callable[[Work], None] | None = None, together: int = 10) -> None:
        self.together = together
        self.act = act or (lambda work: [work.done(task) for task in work.tasks])
        self.batches: list[list[int]] = []
        self.began = threading.Semaphore(0)
        self.stopped = threading.Event()

    def run(self, work: Work) -> None:
        self.batches.append([task.id for task in work.tasks])
        self.began.release()
        self.act(work)

    def at_once(self, target: str) -> int:
        return 4

    def stop(self) -> None:
        self.stopped.set()


@pytest.fixture
def node(tmp_path: Any) -> Iterator[OutboxNode]:
    schema.prepare(tmp_path / "pacs.db")
    node = OutboxNode(f"sqlite:///{tmp_path}/pacs.db", policy=QUICK)
    yield node
    node.database.close()


@contextmanager
def working(
    node: OutboxNode,
    handlers: Handler | Mapping[str, Handler],
    stop_within: float = 10.0,
    slots: int = 8,
    presence: Presence | None = None,
) -> Iterator[Worker]:
    by_kind = handlers if isinstance(handlers, dict) else {"send": handlers}
    worker = Worker(node.service, by_kind, stop_within=lambda: stop_within, slots=slots, presence=presence)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


def eventually(condition: Callable[[], object]) -> bool:
    ends = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True


def hang(handler: Recording) -> Callable[[Work], None]:
    return lambda work: handler.stopped.wait(PATIENCE) and None


# ------------------------------------------------------------------------------------ running


def test_due_tasks_are_run_at_once(node: OutboxNode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pacs_server.outbox")
    keys = [node.add() for _ in range(3)]
    handler = Recording()
    with working(node, handler):
        assert eventually(lambda: node.states() == ["done"] * 3)
        assert handler.batches == [keys]
        began = time.monotonic()
        late = node.add("B")
        assert eventually(lambda: node.states() == ["done"] * 4)
        # Not at the next look in a minute.
        assert time.monotonic() - began < PATIENCE / 2
    assert handler.batches[1] == [late]
    done = [record for record in caplog.records if record.message == "task done"]
    assert [(record.kind, record.target, record.task) for record in done][:1] == [("send", "A", keys[0])]


@pytest.mark.slow
def test_a_task_is_run_when_it_becomes_due(node: OutboxNode) -> None:
    handler = Recording()
    with working(node, handler):
        node.add(due=datetime.now(UTC) + timedelta(seconds=0.5))
        assert handler.began.acquire(timeout=PATIENCE)
        assert eventually(lambda: node.states() == ["done"])


@pytest.mark.slow
def test_a_task_that_fails_is_run_again_until_it_is_dead(node: OutboxNode, caplog: pytest.LogCaptureFixture) -> None:
    handler = Recording(lambda work: work.failed(work.tasks[0], "no answer"))
    key = node.add()
    with working(node, handler):
        assert eventually(lambda: node.states() == ["dead"])
    assert handler.batches == [[key]] * 3
    assert (node.task(key).attempts, node.task(key).last_error) == (3, "no answer")
    messages = [(record.message, record.reason) for record in caplog.records if hasattr(record, "reason")]
    assert messages == [("task put off", "no answer")] * 2 + [("task dead", "no answer")]


@pytest.mark.slow
def test_what_a_handler_can_make_of_a_task(node: OutboxNode) -> None:
    def act(work: Work) -> None:
        done, dead, busy = work.tasks
        assert all(work.is_held(task) for task in work.tasks)
        assert not work.is_interrupted()
        work.done(done)
        assert not work.is_held(done)
        work.give_up(dead, "0xA900")
        work.busy(busy, "rejected: 2,3,2", 300)

    keys = [node.add() for _ in range(3)]
    with working(node, Recording(act)):
        assert eventually(lambda: node.states() == ["done", "dead", "ready"])
    assert [node.task(key).attempts for key in keys] == [1, 1, 0]
    assert node.counted == [("send", "done"), ("send", "dead"), ("send", "busy")]


@pytest.mark.slow
def test_a_handler_that_forgets_a_task_has_failed(node: OutboxNode) -> None:
    first, second = node.add(), node.add()
    with working(node, Recording(lambda work: work.done(work.tasks[0]))):
        assert eventually(lambda: node.task(first).state == node.task(second).state == "done")
    assert node.task(second).attempts == 2


@pytest.mark.slow
def test_a_handler_that_raises_has_failed(node: OutboxNode) -> None:
    def act(work: Work) -> None:
        # What an error of this program says may quote patients.
        raise ValueError("Doe^Jane")

    key = node.add()
    with working(node, Recording(act)):
        assert eventually(lambda: node.states() == ["dead"])
    reason = "internal error (ValueError), see the server's log"
    assert (node.task(key).attempts, node.task(key).last_error) == (3, reason)
    assert node.counted == [("send", "failed"), ("send", "failed"), ("send", "dead")]


def test_a_disk_that_is_away_is_no_failure_of_the_tasks(node: OutboxNode, caplog: pytest.LogCaptureFixture) -> None:
    def act(work: Work) -> None:
        work.done(work.tasks[0])
        raise StorageUnavailable("the disk is away")

    keys = [node.add(), node.add()]
    began = datetime.now(UTC)
    with working(node, Recording(act)):
        assert eventually(lambda: node.states() == ["done", "ready"])
    task = node.task(keys[1])
    assert (task.attempts, task.last_error) == (0, "the disk is away")
    assert 59 < (task.due - began).total_seconds() < 60 + PATIENCE
    assert node.counted == [("send", "done"), ("send", "released")]
    assert [(record.message, record.reason) for record in caplog.records] == [("tasks not run yet", "the disk is away")]


def test_it_works_without_further_threads(node: OutboxNode, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("task-"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    node.add()
    with working(node, Recording()):
        assert eventually(lambda: node.states() == ["done"])


# ------------------------------------------------------------------------------------ who goes first


@pytest.mark.slow
def test_one_slot_is_kept_for_urgent_tasks(node: OutboxNode) -> None:
    slow = Recording(together=1)
    slow.act = hang(slow)
    quick = Recording()
    for number in range(5):
        node.add(f"T{number}", kind="look")
    with working(node, {"look": slow, "send": quick}, slots=3):
        for _ in range(3):
            assert slow.began.acquire(timeout=PATIENCE)
        # Two more are due, and the last slot is not for them.
        assert not slow.began.acquire(timeout=0.5)
        medium = node.add("M")
        urgent = node.add("U", Priority.URGENT)
        assert eventually(lambda: node.task(urgent).state == "done")
        assert (len(slow.batches), node.task(medium).state) == (3, "ready")
        slow.stopped.set()
        assert eventually(lambda: node.task(medium).state == "done")


@pytest.mark.slow
def test_a_target_that_hangs_leaves_room_for_others(node: OutboxNode) -> None:
    def act(work: Work) -> None:
        if work.tasks[0].target == "dead":
            handler.stopped.wait(PATIENCE)
        else:
            work.done(work.tasks[0])

    handler = Recording(act, together=1)
    for _ in range(20):
        node.add("dead")
    with working(node, handler):
        for _ in range(4):
            assert handler.began.acquire(timeout=PATIENCE)
        other = node.add("other")
        assert eventually(lambda: node.task(other).state == "done")
        assert len(handler.batches) == 5


@pytest.mark.slow
def test_a_full_worker_sleeps(node: OutboxNode, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def count(real: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return real(*arguments)

    for name in ("seconds_to_next", "claim", "expire"):
        real = getattr(node.service, name)
        monkeypatch.setattr(node.service, name, lambda *arguments, real=real: count(real, *arguments))
    handler = Recording(together=1)
    handler.act = hang(handler)
    for number in range(5):
        node.add(f"T{number}")
    with working(node, handler, slots=2):
        for _ in range(2):
            assert handler.began.acquire(timeout=PATIENCE)
        time.sleep(0.2)
        before = asked
        time.sleep(0.6)
        # Five tasks are due, and no slot is free that may take them.
        assert asked - before <= 1


# ------------------------------------------------------------------------------------ leases


@pytest.fixture
def hasty(tmp_path: Any) -> Iterator[OutboxNode]:
    """A node whose leases end soon."""
    schema.prepare(tmp_path / "pacs.db")
    node = OutboxNode(f"sqlite:///{tmp_path}/pacs.db", policy=QUICK, lease_seconds=0.6)
    yield node
    node.database.close()


@pytest.mark.slow
def test_a_lease_is_kept_while_the_handler_runs(hasty: OutboxNode) -> None:
    ready = threading.Event()

    def act(work: Work) -> None:
        ready.wait(PATIENCE)
        work.done(work.tasks[0])

    handler = Recording(act)
    key = hasty.add()
    with working(hasty, handler):
        assert handler.began.acquire(timeout=PATIENCE)
        first = hasty.task(key).claimed_until
        # Three times as long as the lease.
        time.sleep(1.8)
        assert hasty.task(key).state == "running"
        assert hasty.task(key).claimed_until > first
        ready.set()
        assert eventually(lambda: hasty.states() == ["done"])
    assert len(handler.batches) == 1
    assert hasty.task(key).attempts == 1


@pytest.mark.slow
def test_a_handler_hears_that_its_task_was_cancelled(hasty: OutboxNode) -> None:
    heard = threading.Event()

    def act(work: Work) -> None:
        if eventually(work.is_interrupted):
            heard.set()

    handler = Recording(act)
    key = hasty.add()
    with working(hasty, handler):
        assert handler.began.acquire(timeout=PATIENCE)
        assert hasty.service.cancel(key)
        assert heard.wait(PATIENCE)
    assert hasty.states() == ["cancelled"]


@pytest.mark.slow
def test_what_a_dead_process_has_left_is_taken_over(hasty: OutboxNode, caplog: pytest.LogCaptureFixture) -> None:
    key = hasty.add()
    (left,) = hasty.claim()
    with working(hasty, Recording()):
        assert eventually(lambda: hasty.task(key).state == "done")
    assert not hasty.service.done(left)
    assert "task taken over" in [record.message for record in caplog.records]


@pytest.mark.slow
def test_what_runs_here_is_not_taken_over_after_an_outage_of_the_index(
    hasty: OutboxNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, back = threading.Semaphore(0), threading.Event()
    renew = hasty.service.renew

    def sometimes(*arguments: Any) -> Any:
        if not back.is_set():
            away.release()
            raise IndexUnavailable("away")
        return renew(*arguments)

    monkeypatch.setattr(hasty.service, "renew", sometimes)
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    monkeypatch.setattr(module, "_INDEX_PAUSE", 0.05)
    handler = Recording()
    handler.act = hang(handler)
    key = hasty.add()
    with working(hasty, handler):
        assert handler.began.acquire(timeout=PATIENCE)
        first = hasty.task(key).claimed_until
        assert first is not None
        # No renewal comes for longer than the lease lasts, although several are tried.
        assert eventually(lambda: datetime.now(UTC) > first + timedelta(seconds=0.2))
        for _ in range(3):
            assert away.acquire(timeout=PATIENCE)
        back.set()
        assert eventually(lambda: (hasty.task(key).claimed_until or first) > first)
        assert len(handler.batches) == 1
    assert set(hasty.counted) == {("send", "released")}


def test_a_renewal_that_failed_is_tried_again_at_once(node: OutboxNode, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(node.service, {"send": Recording()}, stop_within=lambda: 1.0)
    node.add()
    worker._batches.add(module._Batch("send", "A", Work(node.claim(), node.service, lambda: False)))
    renew = Mock(side_effect=[IndexUnavailable("away"), set()])
    monkeypatch.setattr(node.service, "renew", renew)
    worker._renewed -= node.service.lease_seconds
    with pytest.raises(IndexUnavailable):
        worker._keep_leases()
    for _ in range(2):
        worker._keep_leases()
        assert renew.call_count == 2


def test_a_clock_that_jumps_takes_no_task_from_its_owner(tmp_path: Any) -> None:
    schema.prepare(tmp_path / "pacs.db")
    jump = [timedelta(0)]
    node = OutboxNode(f"sqlite:///{tmp_path}/pacs.db", clock=lambda: datetime.now(UTC) + jump[0], policy=QUICK)
    handler = Recording()
    handler.act = hang(handler)
    node.add("A")
    with working(node, handler):
        assert handler.began.acquire(timeout=PATIENCE)
        jump[0] = timedelta(hours=1)
        # This one wakes the worker.
        node.add("B")
        assert handler.began.acquire(timeout=PATIENCE)
        assert node.states() == ["running", "running"]
    assert set(node.counted) == {("send", "released")}
    node.database.close()


def test_the_only_worker_runs_at_once_what_another_process_left(node: OutboxNode) -> None:
    key, handler = node.add(), Recording()
    node.claim()
    running = Presence(node.database.file)
    running.enter(lambda: None)
    with working(node, handler, presence=Presence(node.database.file)):
        assert not handler.began.acquire(timeout=0.1)
    running.leave()
    with working(node, handler, presence=Presence(node.database.file)):
        assert eventually(lambda: node.task(key).state == "done")
    assert node.counted == [("send", "lost"), ("send", "done")]
    # Whoever has stopped is not there any more.
    node.add()
    node.claim()
    with working(node, handler, presence=Presence(node.database.file)):
        assert eventually(lambda: node.states() == ["done", "done"])


@pytest.mark.slow
def test_the_log_says_which_tasks_died_with_their_processes(
    hasty: OutboxNode, caplog: pytest.LogCaptureFixture
) -> None:
    key = hasty.add()
    for _ in range(MOST_LOST_LEASES - 1):
        hasty.claim()
        hasty.service._index.expire(["send"], [], datetime.now(UTC) + timedelta(hours=1))
    hasty.claim()
    with working(hasty, Recording()):
        assert eventually(lambda: hasty.task(key).state == "dead")
        assert eventually(lambda: caplog.records)
    (dead,) = caplog.records
    assert (dead.message, dead.levelname, dead.task, dead.kind) == ("task dead", "ERROR", key, "send")
    assert dead.reason.endswith("did not finish in time, or ended")


# ------------------------------------------------------------------------------------ stopping


def test_a_stop_gives_tasks_back_at_once(node: OutboxNode) -> None:
    handler = Recording()
    handler.act = hang(handler)
    key = node.add()
    began = time.monotonic()
    with working(node, handler):
        assert handler.began.acquire(timeout=PATIENCE)
        began = time.monotonic()
    assert time.monotonic() - began < PATIENCE / 4
    task = node.task(key)
    assert (task.state, task.attempts, task.owner, task.lost_leases) == ("ready", 0, "", 0)
    # Who was about to claim when it stopped may have claimed what was just given back, and given it back too.
    assert set(node.counted) == {("send", "released")}


@pytest.mark.slow
def test_a_handler_that_does_not_stop_is_not_waited_for(node: OutboxNode, caplog: pytest.LogCaptureFixture) -> None:
    ends = threading.Event()
    late: list[bool] = []

    def act(work: Work) -> None:
        ends.wait(PATIENCE)
        late.append(node.service.done(work.tasks[0]))

    handler = Recording(act)
    key = node.add()
    with working(node, handler, stop_within=0.2):
        assert handler.began.acquire(timeout=PATIENCE)
        began = time.monotonic()
    assert time.monotonic() - began < PATIENCE / 4
    assert (node.task(key).state, node.task(key).attempts) == ("ready", 0)
    assert "task not stopped in time" in [record.message for record in caplog.records]
    ends.set()
    # It is too late for it.
    assert eventually(lambda: late == [False])
    assert node.task(key).state == "ready"


def test_nothing_is_claimed_after_the_stop(node: OutboxNode) -> None:
    handler = Recording()
    with working(node, handler):
        pass
    node.add()
    assert handler.batches == []
    assert node.states() == ["ready"]


# ------------------------------------------------------------------------------------ an index that fails


@pytest.mark.slow
def test_an_index_that_takes_nothing_is_not_asked_without_end(
    node: OutboxNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = threading.Semaphore(0)

    def fail(*_: object) -> list[Task]:
        asked.release()
        raise IndexUnavailable("attempt to write a readonly database")

    node.add()
    monkeypatch.setattr(node.service, "claim", fail)
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    monkeypatch.setattr(module, "_INDEX_PAUSE", 600.0)
    with working(node, Recording()):
        assert asked.acquire(timeout=PATIENCE)
        assert not asked.acquire(timeout=0.5)
    assert [record.message for record in caplog.records] == ["tasks not run yet"]


@pytest.mark.slow
def test_it_goes_on_when_the_index_is_back(node: OutboxNode, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, failures = node.service.claim, iter([True] * 3)

    def sometimes(*arguments: Any) -> list[Task]:
        if next(failures, False):
            raise IndexUnavailable("away")
        return claim(*arguments)

    monkeypatch.setattr(node.service, "claim", sometimes)
    monkeypatch.setattr(module, "_INDEX_PAUSE", 0.05)
    node.add()
    with working(node, Recording()):
        assert eventually(lambda: node.states() == ["done"])


@pytest.mark.slow
def test_a_fault_of_this_program_does_not_end_the_worker(
    node: OutboxNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expire, failures = node.service.expire, iter([True] * 2)

    def sometimes(*arguments: Any) -> list[Task]:
        if next(failures, False):
            raise ValueError("'critical' is not a valid Priority")
        return expire(*arguments)

    monkeypatch.setattr(node.service, "expire", sometimes)
    monkeypatch.setattr(module, "_INDEX_PAUSE", 0.05)
    node.add()
    with working(node, Recording()):
        assert eventually(lambda: node.states() == ["done"])
    told = [(record.message, record.reason) for record in caplog.records if record.levelno == logging.ERROR]
    assert told == [("tasks not run yet", "internal error (ValueError)")] * 2


@pytest.mark.slow
def test_a_task_that_cannot_be_settled_is_left_to_its_lease(hasty: OutboxNode, monkeypatch: pytest.MonkeyPatch) -> None:
    settle, failures = hasty.service._index.settle, iter([True] * 2)

    def sometimes(*arguments: Any) -> Any:
        if next(failures, False):
            raise IndexUnavailable("away")
        return settle(*arguments)

    monkeypatch.setattr(hasty.service._index, "settle", sometimes)
    handler = Recording()
    key = hasty.add()
    with working(hasty, handler):
        assert eventually(lambda: hasty.states() == ["done"])
    assert handler.batches == [[key], [key]]
    with suppress(StopIteration):
        next(failures)


# ------------------------------------------------------------------------------------ targets


class PerTarget(Recording):
    """Each target may have another number of batches at a time."""

    def __init__(self, limits: Mapping[str, int], act: Callable[[Work], None]) -> None:
        super().__init__(act, together=1)
        self.limits = limits

    def at_once(self, target: str) -> int:
        return self.limits[target]


def test_a_target_has_as_many_batches_at_a_time_as_it_takes(node: OutboxNode) -> None:
    limits, running = {"A": 1, "B": 3}, {"A": 0, "B": 0}
    most = dict(running)
    lock = threading.Lock()

    def act(work: Work) -> None:
        target = work.tasks[0].target
        with lock:
            running[target] += 1
            most[target] = max(most[target], running[target])
        # Nobody goes on before all have begun that may.
        eventually(lambda: most == limits)
        time.sleep(0.02)
        with lock:
            running[target] -= 1
        work.done(work.tasks[0])

    for number in range(16):
        node.add("AB"[number % 2])
    with working(node, PerTarget(limits, act)):
        assert eventually(lambda: node.states() == ["done"] * 16)
    assert most == limits


def test_tasks_for_what_is_closed_wait_until_it_opens(node: OutboxNode) -> None:
    closed: dict[tuple[str, str], float] = {("send", "A"): 0.3}
    handler = Recording()
    first, second = node.add("A"), node.add("B")
    worker = Worker(node.service, {"send": handler}, stop_within=lambda: 10.0, closed=lambda: closed)
    worker.start()
    try:
        assert eventually(lambda: node.task(second).state == "done")
        assert node.task(first).state == "ready"
        # Nobody wakes the worker: it looks by itself when the target opens.
        closed.clear()
        assert eventually(lambda: node.task(first).state == "done")
    finally:
        worker.stop()
    assert handler.batches == [[second], [first]]
