"""The outbox against a model: whatever workers, operators and crashes do, no task is lost or finished twice."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import examples
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from outboxes import LEASE, WANTED, Clock, OutboxNode

from pacs_server.index.task_overview import TaskFilter
from pacs_server.index.task_values import PATIENCE, Priority, Task, TaskState
from pacs_server.index.tasks import MOST_LOST_LEASES
from pacs_server.services.tasks import RetryPolicy

POLICY = RetryPolicy(first=20, longest=80, jitter=0.0, attempts=3, lasts=400)
KINDS = st.sampled_from(["send", "look"])
TARGETS = st.sampled_from(["A", "B"])
KEYS = st.sampled_from([None, "x", "y"])
LIVE = (TaskState.READY, TaskState.RUNNING)


@dataclass
class Expected:
    """A task as it has to be."""

    id: int
    kind: str
    target: str
    priority: Priority
    due: datetime
    key: str | None
    deadline: datetime | None
    state: TaskState = TaskState.READY
    attempts: int = 0
    lost: int = 0
    again: bool = False
    owner: str = ""
    until: datetime | None = None

    def turn(self) -> tuple[datetime, int]:
        return self.due + PATIENCE[self.priority], self.id

    def end(self, state: TaskState) -> None:
        self.state, self.owner, self.until, self.again = state, "", None, False


class OutboxMachine(RuleBasedStateMachine):
    """Two nodes and an operator on one database, and what has to come of it."""

    nodes: tuple[OutboxNode, OutboxNode]
    clock: Clock

    def __init__(self) -> None:
        super().__init__()
        self.nodes[0].clear()
        self.model: dict[int, Expected] = {}
        # Every claim that ever was: a worker that hangs may come back after its lease has run out.
        self.claims: list[Task] = []

    def node(self, number: int) -> OutboxNode:
        return self.nodes[number % 2]

    def drawn(self, data: st.DataObject) -> Task:
        """A claim: mostly one that is in force."""
        held = [claim for claim in self.claims if self.held(claim)]
        return data.draw(st.sampled_from(held if held and data.draw(st.integers(0, 3)) else self.claims))

    def held(self, claim: Task) -> Expected | None:
        expected = self.model[claim.id]
        return expected if expected.state == TaskState.RUNNING and expected.owner == claim.owner else None

    # ---------------------------------------------------------------- callers

    @initialize(tasks=st.lists(st.tuples(KINDS, TARGETS, st.sampled_from(Priority), KEYS), min_size=3, max_size=8))
    def begin(self, tasks: list[tuple[str, str, Priority, str | None]]) -> None:
        for number, (kind, receiver, priority, key) in enumerate(tasks):
            self.add(number, kind, receiver, priority, 0, key)
            self.clock.advance(1)

    def add(self, number: int, kind: str, receiver: str, priority: Priority, later: int, key: str | None) -> None:
        due = self.clock() + timedelta(seconds=later)
        added = self.node(number).add(receiver, priority, kind, due=due, dedupe_key=key)
        twin = next((one for one in self.model.values() if key and one.key == key and one.state in LIVE), None)
        if twin is None:
            assert added not in self.model
            deadline = self.clock() + timedelta(seconds=400) if kind == "send" else None
            self.model[added] = Expected(added, kind, receiver, priority, due, key, deadline)
        else:
            assert added == twin.id
            twin.again = twin.again or twin.state == TaskState.RUNNING

    @rule(
        number=st.integers(0, 1), kind=KINDS, receiver=TARGETS, priority=st.sampled_from(Priority),
        later=st.sampled_from([0, 0, 30, 300]), key=KEYS,
    )  # fmt: skip
    def add_one(self, number: int, kind: str, receiver: str, priority: Priority, later: int, key: str | None) -> None:
        self.add(number, kind, receiver, priority, later, key)

    @precondition(lambda self: any(one.key and one.state == TaskState.RUNNING for one in self.model.values()))
    @rule(number=st.integers(0, 1), data=st.data())
    def add_what_runs(self, number: int, data: st.DataObject) -> None:
        running = [one for one in self.model.values() if one.key and one.state == TaskState.RUNNING]
        one = data.draw(st.sampled_from(running))
        self.add(number, one.kind, one.target, one.priority, 0, one.key)

    # ---------------------------------------------------------------- workers

    @rule(
        number=st.integers(0, 1), urgent_only=st.booleans(),
        busy=st.sets(st.tuples(KINDS, TARGETS), max_size=1),
    )  # fmt: skip
    def claim(self, number: int, urgent_only: bool, busy: set[tuple[str, str]]) -> None:
        now = self.clock()
        due = [
            one
            for one in sorted(self.model.values(), key=Expected.turn)
            if one.state == TaskState.READY
            and one.due <= now
            and (one.kind, one.target) not in busy
            and (one.priority == Priority.URGENT or not urgent_only)
        ]
        batch = [one for one in due if (one.kind, one.target) == (due[0].kind, due[0].target)]
        expected = batch[: WANTED.kinds[batch[0].kind]] if batch else []
        claimed = self.node(number).claim(urgent_only=urgent_only, busy=busy)
        assert [task.id for task in claimed] == [one.id for one in expected]
        owners = {task.owner for task in claimed}
        assert len(owners) == (1 if claimed else 0)
        assert not owners & {task.owner for task in self.claims}
        for one, task in zip(expected, claimed, strict=True):
            one.state, one.owner, one.until = TaskState.RUNNING, task.owner, now + timedelta(seconds=LEASE)
        self.claims += claimed

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 1), data=st.data(), seconds=st.sampled_from([None, None, 15, 300]))
    def renew(self, number: int, data: st.DataObject, seconds: int | None) -> None:
        claim = self.drawn(data)
        expected = self.held(claim)
        assert self.node(number).service.renew([claim], seconds) == ({claim.id} if expected else set())
        if expected and expected.until:
            until = self.clock() + timedelta(seconds=seconds or LEASE)
            expected.until = until if seconds else max(until, expected.until)

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 1), data=st.data())
    def finish(self, number: int, data: st.DataObject) -> None:
        claim = self.drawn(data)
        expected = self.held(claim)
        assert self.node(number).service.done(claim) == (expected is not None)
        if expected is None:
            return
        expected.lost = 0
        if expected.again:
            expected.attempts, expected.due = 0, self.clock()
            expected.end(TaskState.READY)
        else:
            expected.attempts = claim.attempts + 1
            expected.end(TaskState.DONE)

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 1), data=st.data(), how=st.sampled_from(["fail", "give up", "busy", "release"]))
    def leave(self, number: int, data: st.DataObject, how: str) -> None:
        claim = self.drawn(data)
        expected, service, now = self.held(claim), self.node(number).service, self.clock()
        settled = {
            "fail": lambda: service.fail(claim, "no"),
            "give up": lambda: service.give_up(claim, "never"),
            "busy": lambda: service.postpone(claim, "busy", 50),
            "release": lambda: service.release(claim),
        }[how]()
        assert bool(settled) == (expected is not None)
        if expected is None:
            return
        policy = POLICY if expected.kind == "send" else RetryPolicy()
        late = expected.deadline is not None and now >= expected.deadline
        expected.lost = 0
        expected.attempts = claim.attempts + (how in ("fail", "give up") or (how == "busy" and late))
        exhausted = how == "fail" and expected.attempts >= (policy.attempts or 99)
        if how == "give up" or exhausted or (late and how != "release"):
            # What was added while the task ran may fare better.
            if expected.again:
                expected.attempts, expected.due = 0, now
            expected.end(TaskState.READY if expected.again else TaskState.DEAD)
            return
        if how != "release":
            wait = 50 if how == "busy" else policy.delay(expected.attempts, 0)
            expected.due = min(
                now + timedelta(seconds=wait), expected.deadline or datetime.max.replace(tzinfo=now.tzinfo)
            )
        expected.end(TaskState.READY)

    @rule(seconds=st.sampled_from([1, 20, 61, 500]))
    def wait(self, seconds: int) -> None:
        """Time passes; a worker that crashed, or hangs, does not renew its lease meanwhile."""
        self.clock.advance(seconds)

    @rule(number=st.integers(0, 1))
    def expire(self, number: int) -> None:
        expired = {task.id for task in self.node(number).service.expire(WANTED.kinds)}
        assert expired == {one.id for one in self.model.values() if one.until and one.until <= self.clock()}
        for key in expired:
            one = self.model[key]
            one.lost += 1
            over = one.deadline is None or one.deadline <= self.clock()
            one.end(TaskState.DEAD if over and one.lost >= MOST_LOST_LEASES else TaskState.READY)

    # ---------------------------------------------------------------- operators

    @precondition(lambda self: self.model)
    @rule(number=st.integers(0, 1), data=st.data())
    def cancel(self, number: int, data: st.DataObject) -> None:
        expected = self.model[data.draw(st.sampled_from(sorted(self.model)))]
        open_ = expected.state in (*LIVE, TaskState.DEAD)
        assert self.node(number).service.cancel(expected.id) == open_
        if open_:
            expected.end(TaskState.CANCELLED)

    @precondition(lambda self: self.model)
    @rule(number=st.integers(0, 1), data=st.data())
    def retry(self, number: int, data: st.DataObject) -> None:
        expected = self.model[data.draw(st.sampled_from(sorted(self.model)))]
        node = self.node(number)
        twins = [
            one
            for one in self.model.values()
            if one is not expected and expected.key and one.key == expected.key and one.state in LIVE
        ]
        possible = expected.state in (TaskState.READY, TaskState.DEAD, TaskState.CANCELLED) and not twins
        assert node.service.retry(node.task(expected.id)) == possible
        if possible:
            expected.state, expected.due, expected.attempts, expected.lost = TaskState.READY, self.clock(), 0, 0
            expected.deadline = self.clock() + timedelta(seconds=400) if expected.kind == "send" else None

    # ---------------------------------------------------------------- what always holds

    @invariant()
    def the_database_is_as_expected(self) -> None:
        found = {task.id: task for task in self.nodes[0].service.tasks(TaskFilter(tuple(TaskState)), 10_000)}
        assert found.keys() == self.model.keys()
        for key, one in self.model.items():
            task = found[key]
            assert (task.state, task.attempts, task.lost_leases, task.owner, task.claimed_until) == (
                one.state, one.attempts, one.lost, one.owner, one.until
            )  # fmt: skip
            assert (task.due, task.deadline) == (one.due, one.deadline)
            assert (task.finished is None) == (one.state not in (TaskState.DONE, TaskState.CANCELLED))
        live = [task.dedupe_key for task in found.values() if task.dedupe_key and task.state in LIVE]
        assert len(live) == len(set(live))

    @invariant()
    def whoever_sleeps_wakes_in_time(self) -> None:
        moments = [one.due for one in self.model.values() if one.state == TaskState.READY]
        moments += [one.until for one in self.model.values() if one.until]
        seconds = self.nodes[1].service.seconds_to_next(WANTED)
        wait = max(0.0, (min(moments) - self.clock()).total_seconds()) if moments else None
        assert seconds == wait

    def teardown(self) -> None:
        """Work goes on until nothing waits: then every task is done, dead or cancelled, and none was lost."""
        node = self.nodes[0]
        for _ in range(200):
            node.service.expire(WANTED.kinds)
            while tasks := node.claim():
                for task in tasks:
                    assert node.service.done(task)
            if node.service.seconds_to_next(WANTED) is None:
                break
            self.clock.advance(node.service.seconds_to_next(WANTED) or 1)
        states = {task.id: task.state for task in node.service.tasks(TaskFilter(tuple(TaskState)), 10_000)}
        assert states.keys() == self.model.keys()
        for key, one in self.model.items():
            expected = TaskState.DONE if one.state in LIVE else one.state
            assert states[key] == expected


@pytest.fixture
def nodes(database_url: str) -> Iterator[tuple[OutboxNode, OutboxNode]]:
    clock = Clock()
    both = OutboxNode(database_url, clock, POLICY), OutboxNode(database_url, clock, POLICY)
    yield both
    for node in both:
        node.database.close()


@pytest.mark.slow
@pytest.mark.hypothesis
def test_the_outbox_and_its_model_agree(nodes: tuple[OutboxNode, OutboxNode]) -> None:
    clock = nodes[0].service.now

    class Machine(OutboxMachine):
        pass

    Machine.nodes, Machine.clock = nodes, clock  # type: ignore[assignment]
    run_state_machine_as_test(Machine, settings=settings(max_examples=examples.of(50), stateful_step_count=40))
