"""Deliveries against a model: whatever remotes, people, clocks and crashes do, nothing is forgotten or sent twice."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from archives import SmallArchive
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from outbound import ANN, BAD, FULL, OK, Outbound, remote
from outboxes import LEASE, Clock
from sqlalchemy import select

from pacs_server.errors import RemoteBusy, RemoteUnreachable
from pacs_server.index.changes import ChangeKind
from pacs_server.index.deliveries import FORWARD, DeliveryIndex, Note
from pacs_server.index.feed import Change
from pacs_server.index.instances import StoredInstance
from pacs_server.index.outgoing_models import delivery
from pacs_server.index.task_models import task
from pacs_server.index.task_overview import TaskFilter
from pacs_server.index.task_values import TaskState
from pacs_server.outbox.notes import MOST_LOST
from pacs_server.scu.sending import Answer, Outgoing
from pacs_server.services import breakers as breakers_module

STUDIES, EACH = 2, 2
# Answers that may not be noted when a process is killed.
LOST = MOST_LOST
REMOTES = st.sampled_from(["A", "B"])
LIVE = ("ready", "running")


class Killed(BaseException):
    """The process is gone."""


class Forgetful(DeliveryIndex):
    """An index that a process which was killed does not reach any more."""

    killed = False

    def note(self, notes: Sequence[Note], *told: Any) -> None:
        if not self.killed:
            super().note(notes, *told)


def refused(error: Exception) -> Callable[[Outgoing], Answer]:
    def mood(instance: Outgoing) -> Answer:
        raise error

    return mood


MOODS: dict[str, Callable[[Outgoing], Answer]] = {
    "works": lambda instance: OK,
    "full": lambda instance: FULL,
    "refuses": lambda instance: BAD,
    "aborts": lambda instance: Answer(0x0110, detail="aborted"),
    "away": refused(RemoteUnreachable("no connection")),
    "busy": refused(RemoteBusy("2,3,2")),
}


class DeliveryMachine(RuleBasedStateMachine):
    """One archive, two remotes, of which B is the backup of A, and what has to come of it."""

    out: Outbound
    studies: list[list[StoredInstance]]
    ids: dict[str, int]

    def __init__(self) -> None:
        super().__init__()
        self.out.clear()
        self.out.senders.moods.clear()
        self.out.senders.sent.clear()
        self.out.senders.taken.clear()
        self.wanted: set[tuple[str, str, int]] = set()
        self.requests = self.kills = 0

    # ---------------------------------------------------------------- causes

    @rule(name=REMOTES, number=st.integers(0, STUDIES - 1))
    def person(self, name: str, number: int) -> None:
        study = self.studies[number]
        self.out.send(study[0].uids.study, name)
        self.wanted |= {(name, "", self.ids[each.uids.sop]) for each in study}
        self.requests += len(study)

    @rule(name=REMOTES, number=st.integers(0, STUDIES - 1), upto=st.integers(1, EACH))
    def arrivals(self, name: str, number: int, upto: int) -> None:
        """A rule: the same instances may come again, and late ones after the first."""
        some = self.studies[number][:upto]
        forwarding = self.out.forwarding.forwarding(name, "r", some[0].uids.study, "rule r")
        changes = [
            Change(
                ChangeKind.ARRIVED, self.out.clock(), self.ids[each.uids.sop],
                each.uids.study, each.uids.series, each.uids.sop,
            )
            for each in some
        ]  # fmt: skip
        effect = self.out.forwarding.plan(forwarding, changes)
        with self.out.database.begin() as connection:
            effect(connection)
        new = {(name, "r", self.ids[each.uids.sop]) for each in some} - self.wanted
        self.wanted |= new
        self.requests += len(new)

    # ---------------------------------------------------------------- what happens

    @rule(name=REMOTES, mood=st.sampled_from(sorted(MOODS)))
    def mood(self, name: str, mood: str) -> None:
        self.out.senders.moods[name] = MOODS[mood]

    @rule(seconds=st.sampled_from([1, 31, 61, 700, 4000, -600]))
    def wait(self, seconds: int) -> None:
        """Time passes, or the clock is put back."""
        self.out.clock.advance(seconds)

    @rule()
    def days(self) -> None:
        self.out.clock.advance(260_000)

    @rule()
    def work(self) -> None:
        if tasks := self.out.claim():
            self.out.run(tasks)

    @rule(name=REMOTES, number=st.integers(0, STUDIES - 1), rule_=st.booleans())
    def work_while_more_comes(self, name: str, number: int, rule_: bool) -> None:
        """More is added when the handler has looked for the last time, before its task is settled."""
        given_up = self.out.index.given_up

        def late(key: int) -> str | None:
            found = given_up(key)
            self.out.index.given_up = given_up  # type: ignore[method-assign]
            self.arrivals(name, number, EACH) if rule_ else self.person(name, number)
            return found

        self.out.index.given_up = late  # type: ignore[method-assign]
        self.work()
        if self.out.index.given_up is given_up and not rule_:
            # They are not given up with what was sent before they came.
            ids = {self.ids[each.uids.sop] for each in self.studies[number]}
            assert "dead" not in {row[3] for row in self.rows() if row[:2] == (name, "") and row[2] in ids}
        self.out.index.given_up = given_up  # type: ignore[method-assign]

    @rule(after=st.integers(0, EACH))
    def kill(self, after: int) -> None:
        """A process is killed after so many answers, and its leases run out."""
        tasks = self.out.claim()
        if not tasks:
            return
        begun, answered = len(self.out.senders.sent), self.out.senders.answered

        def dying(name: str, instance: Outgoing) -> Answer:
            if len(self.out.senders.sent) - begun >= after:
                self.out.index.killed = True  # type: ignore[attr-defined]
                raise Killed
            return answered(name, instance)

        self.out.senders.answered = dying  # type: ignore[method-assign]
        try:
            self.out.run(tasks)
        except Killed:
            self.kills += 1
        finally:
            self.out.senders.answered = answered  # type: ignore[method-assign]
            self.out.index.killed = False  # type: ignore[attr-defined]

    @rule()
    def leases_end(self) -> None:
        self.out.clock.advance(LEASE + 1)
        self.out.tasks.expire([FORWARD])

    @precondition(lambda self: self.out.states())
    @rule(data=st.data(), retry=st.booleans())
    def decide(self, data: st.DataObject, retry: bool) -> None:
        """Somebody retries or cancels a task, or pauses a remote."""
        chosen = data.draw(st.sampled_from(self.tasks()))
        if retry:
            self.out.tasks.retry(chosen)
            # What was cancelled while it was on its way may go once more.
            self.requests += EACH
        else:
            before = self.rows()
            self.out.tasks.cancel(chosen.id)
            if chosen.state == TaskState.DEAD:
                # What waits is another task's.
                still = {row[:3] for row in self.rows() if row[3] == "waiting"}
                assert {row[:3] for row in before if row[3] == "waiting"} == still

    @rule(name=REMOTES, pause=st.booleans())
    def pause(self, name: str, pause: bool) -> None:
        (self.out.breakers.pause if pause else self.out.breakers.resume)(name, ANN)

    @rule(back=st.booleans())
    def retarget(self, back: bool) -> None:
        source, target = ("B", "A") if back else ("A", "B")
        open_ = [row for row in self.rows() if row[0] == source and row[3] in ("waiting", "dead")]
        moved = {(target, rule_, key) for _, rule_, key, _ in open_}
        self.out.forwarding.retarget(source, target, ANN)
        self.wanted |= moved
        self.requests += len(moved)

    def tasks(self) -> list[Any]:
        return list(self.out.tasks.tasks(TaskFilter(tuple(TaskState)), 1000))

    def rows(self) -> list[tuple[str, str, int, str]]:
        return self.out.deliveries("remote", "rule", "instance_id", "state")

    # ---------------------------------------------------------------- what always holds

    @invariant()
    def nothing_is_forgotten(self) -> None:
        rows = self.rows()
        assert {row[:3] for row in rows} == self.wanted
        assert len(rows) == len(self.wanted)
        with self.out.database.connect() as connection:
            keys = set(connection.scalars(select(task.c.dedupe_key).where(task.c.state.in_(LIVE))))
            waiting = connection.execute(
                select(delivery.c.remote, delivery.c.rule, delivery.c.study_instance_uid).where(
                    delivery.c.state == "waiting"
                )
            ).all()
            dead = set(connection.scalars(select(delivery.c.task_id).where(delivery.c.state == "dead")))
            given_up = set(connection.scalars(select(task.c.id).where(task.c.state != "done")))
        # What waits has a task that sends it; what is dead has one that can be retried.
        assert {f"{FORWARD}:{name}:{rule_}:{study}" for name, rule_, study in waiting} <= keys
        assert dead <= given_up

    @invariant()
    def nothing_is_sent_twice(self) -> None:
        taken = Counter(self.out.senders.taken)
        assert sum(taken.values()) <= self.requests + LOST * self.kills
        with self.out.database.connect() as connection:
            noted = connection.execute(
                select(delivery.c.answered_by, delivery.c.sop_instance_uid).where(delivery.c.state == "delivered")
            ).all()
        assert {tuple(row) for row in noted} <= set(taken)

    def teardown(self) -> None:
        """All is well again: what waits is delivered, and nothing is left over."""
        for name in ("A", "B"):
            self.out.senders.moods.pop(name, None)
            self.out.breakers.resume(name, ANN)
        for _ in range(100):
            self.out.clock.advance(4000)
            self.out.tasks.expire([FORWARD])
            self.out.work()
            if not any(each.state in LIVE for each in self.tasks()):
                break
        states = {row[3] for row in self.rows()}
        assert states <= {"delivered", "dead", "cancelled"}, states


@pytest.mark.slow
def test_deliveries_and_their_model_agree(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Time passes in steps here, so what was read a step ago is old.
    monkeypatch.setattr(breakers_module, "_KNOWN_SECONDS", 0.0)
    small = SmallArchive(tmp_path, database_url)
    studies = [small.study(EACH) for _ in range(STUDIES)]
    clock = Clock()
    out = Outbound(small, [remote("A", backups=("B",)), remote("B")], clock)
    out.index = out.handler.index = out.forwarding._index = Forgetful(small.database)

    class Machine(DeliveryMachine):
        pass

    Machine.out, Machine.studies = out, studies
    Machine.ids = dict(out.index.ids([each.uids.sop for study in studies for each in study]))
    run_state_machine_as_test(Machine, settings=settings(max_examples=15, stateful_step_count=40))
    small.close()
