"""The handler of forward tasks: every answer is noted, and what cannot be sent is shown with its reason."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from archives import SmallArchive
from outbound import ANN, BAD, FULL, OK, Mood, Outbound, remote
from outboxes import Clock

from pacs_server.archive.changes import Feed
from pacs_server.audit.events import EventID
from pacs_server.config import RemoteAEConfig
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.scope import Scope
from pacs_server.errors import Conflict, NotFound, RemoteBusy, RemoteUnreachable
from pacs_server.index.deliveries import FORWARD, DeliveryState
from pacs_server.index.delivery_overview import DeliveryFilter
from pacs_server.index.feed import Consumer
from pacs_server.index.instances import StoredInstance
from pacs_server.index.task_overview import TaskFilter
from pacs_server.index.task_values import Priority, TaskState
from pacs_server.index.tasks import Wanted
from pacs_server.scu.sending import Answer, Outgoing
from pacs_server.services import breakers
from pacs_server.services.breakers import Closed


@pytest.fixture
def small(database_url: str, tmp_path: Path) -> Iterator[SmallArchive]:
    small = SmallArchive(tmp_path, database_url)
    yield small
    small.close()


@pytest.fixture
def study(small: SmallArchive) -> list[StoredInstance]:
    return small.study(3)


@pytest.fixture
def out(small: SmallArchive) -> Outbound:
    return Outbound(small)


def uid(study: list[StoredInstance]) -> str:
    return study[0].uids.study


def only(bad: StoredInstance, answer: Answer) -> Mood:
    return lambda instance: answer if instance.uids.sop == bad.uids.sop else OK


def unreachable(instance: Outgoing) -> Answer:
    raise RemoteUnreachable("A: connection refused")


def busy(instance: Outgoing) -> Answer:
    raise RemoteBusy("A: rejected (2,3,2)")


# ------------------------------------------------------------------------------------ answers


def test_a_study_is_sent_and_every_answer_noted(out: Outbound, study: list[StoredInstance]) -> None:
    key = out.send(uid(study))
    assert out.task(key).priority == Priority.MEDIUM
    assert out.work() == 1
    assert out.senders.sent == [("A", each.uids.sop) for each in study]
    assert (
        out.deliveries("state", "status", "answered_by", "association", "caused_by", "attempts")
        == [("delivered", 0, "A", "A #1", "ann", 1)] * 3
    )
    assert out.task(key).state == TaskState.DONE
    assert out.task(key).progress == {"delivered": 3}
    assert out.counted == [("A", "delivered")] * 3


@pytest.mark.parametrize("changes", [(), ({"remove": ["PatientName"]},)])
def test_the_sender_is_told_what_comes_next_unless_that_is_work(
    out: Outbound, study: list[StoredInstance], changes: tuple[dict[str, object], ...]
) -> None:
    out.send(uid(study), changes=changes)
    out.work()
    _, second, third = (each.uids.sop for each in study)
    assert out.senders.upcoming == ([None] * 3 if changes else [second, third, None])


def test_a_warning_is_a_delivery(out: Outbound, study: list[StoredInstance]) -> None:
    out.senders.moods["A"] = lambda instance: Answer(0xB000)
    out.send(uid(study))
    out.work()
    assert out.deliveries("state", "status") == [("delivered", 0xB000)] * 3


def test_one_that_is_refused_for_good_is_dead_alone(out: Outbound, study: list[StoredInstance]) -> None:
    out.senders.moods["A"] = only(study[1], BAD)
    key = out.send(uid(study))
    out.work()
    assert out.deliveries() == ["delivered", "dead", "delivered"]
    task = out.task(key)
    assert (task.state, task.last_error) == (TaskState.DEAD, f"1 instance given up: {BAD.detail}")
    # A retry by hand is about that one only.
    out.senders.moods.clear()
    out.senders.sent.clear()
    assert out.tasks.retry(task)
    out.work()
    assert out.senders.sent == [("A", study[1].uids.sop)]
    assert out.deliveries() == ["delivered"] * 3
    assert out.task(key).state == TaskState.DONE


@pytest.mark.slow
def test_a_remote_that_is_full_is_tried_again_until_time_is_up(out: Outbound, small: SmallArchive) -> None:
    study = small.study(5)
    out.senders.moods["A"] = lambda instance: FULL
    key = out.send(uid(study))
    assert out.work() == 1
    # After three in a row the rest waits as well.
    assert len(out.senders.sent) == 3
    assert out.task(key).last_error == FULL.detail
    assert out.task(key).due == out.clock() + timedelta(seconds=30)
    for _ in range(300):
        out.clock.advance(1800)
        out.work()
    assert out.task(key).state == TaskState.DEAD
    assert set(out.deliveries("state", "status", "detail")) == {("dead", 0xA700, FULL.detail)}
    # Every instance had its turn, and none of that was a failure of the remote as a whole.
    assert {sop for _, sop in out.senders.sent} == {each.uids.sop for each in study}
    assert out.breakers.states() == {}


def test_room_again_and_the_rest_goes(out: Outbound, study: list[StoredInstance]) -> None:
    out.senders.moods["A"] = only(study[0], FULL)
    key = out.send(uid(study))
    out.work()
    assert out.deliveries() == ["waiting", "delivered", "delivered"]
    assert out.task(key).state == TaskState.READY
    out.senders.moods.clear()
    out.clock.advance(31)
    out.work()
    assert out.deliveries("state", "attempts") == [("delivered", 2), ("delivered", 1), ("delivered", 1)]


def test_busy_is_no_failure(out: Outbound, study: list[StoredInstance]) -> None:
    out.senders.moods["A"] = busy
    key = out.send(uid(study))
    out.work()
    task = out.task(key)
    assert (task.attempts, task.last_error, task.due) == (0, "A: rejected (2,3,2)", out.clock() + timedelta(seconds=10))
    assert out.breakers.states() == {}
    assert out.deliveries("state", "attempts") == [("waiting", 0)] * 3


def test_an_instance_that_breaks_associations_is_dead_alone(out: Outbound, study: list[StoredInstance]) -> None:
    def mood(instance: Outgoing) -> Answer:
        return unreachable(instance) if instance.uids.sop == study[0].uids.sop else OK

    out.senders.moods["A"] = mood
    key = out.send(uid(study))
    out.work()
    # It came first and nothing was sent after it; next time it comes last.
    assert out.deliveries() == ["waiting"] * 3
    out.clock.advance(60)
    out.work()
    assert out.deliveries() == ["waiting", "delivered", "delivered"]
    while out.task(key).state == TaskState.READY:
        out.clock.advance(3600)
        out.send(uid(study))
        out.work()
    assert out.deliveries("state", "attempts", "detail")[0] == (
        "dead", 5, "A: connection refused, each time that it is sent"
    )  # fmt: skip


# ------------------------------------------------------------------------------------ what changes meanwhile


def test_what_was_deleted_is_not_sent(out: Outbound, small: SmallArchive, study: list[StoredInstance]) -> None:
    key = out.send(uid(study))
    small.index.remove(study[1].uids.sop)
    out.work()
    assert out.deliveries("state", "detail") == [
        ("delivered", ""), ("cancelled", "the instance was deleted"), ("delivered", "")
    ]  # fmt: skip
    assert out.task(key).state == TaskState.DONE


def test_late_images_follow_by_the_same_task_or_another(
    out: Outbound, small: SmallArchive, study: list[StoredInstance]
) -> None:
    first = out.send(uid(study))
    (task,) = out.claim()
    assert out.send(uid(study)) == first
    out.run([task])
    # It was added once more while it ran, and has nothing to do then.
    assert out.task(first).state == TaskState.READY
    out.work()
    assert out.task(first).state == TaskState.DONE
    assert out.send(uid(study)) != first
    out.work()
    # A person who sends a study again has it sent again.
    assert len(out.senders.sent) == 6


def test_late_images_do_not_die_with_the_task_that_runs(out: Outbound, study: list[StoredInstance]) -> None:
    key = out.send(uid(study))
    (task,) = out.claim()
    added: list[int] = []

    def late(instance: Outgoing) -> Answer:
        if len(out.senders.sent) == 2:
            added.append(out.send(uid(study)))
        return BAD

    out.senders.moods["A"] = late
    out.run([task])
    assert added == [key]
    assert out.task(key).state == TaskState.READY
    out.senders.moods.clear()
    out.work()
    assert "waiting" not in out.deliveries()


def test_a_cancelled_task_leaves_nothing_that_waits(out: Outbound, study: list[StoredInstance]) -> None:
    key = out.send(uid(study))
    assert out.tasks.cancel(key)
    assert out.deliveries("state", "detail") == [("cancelled", "cancelled")] * 3
    assert out.tasks.retry(out.task(key))
    out.work()
    assert out.deliveries() == ["delivered"] * 3


def test_a_dead_task_that_is_cancelled_leaves_alone_what_another_one_sends(
    out: Outbound, study: list[StoredInstance]
) -> None:
    out.senders.moods["A"] = lambda instance: BAD
    dead = out.send(uid(study))
    out.work()
    assert out.task(dead).state == TaskState.DEAD
    out.senders.moods.clear()
    other = out.send(uid(study))
    assert out.tasks.cancel(dead)
    assert out.deliveries() == ["waiting"] * 3
    out.work()
    assert out.task(other).state == TaskState.DONE
    assert out.deliveries() == ["delivered"] * 3


def test_an_answer_counts_although_the_task_was_cancelled(out: Outbound, study: list[StoredInstance]) -> None:
    key = out.send(uid(study))

    def cancelling(instance: Outgoing) -> Answer:
        out.tasks.cancel(key)
        return OK

    out.senders.moods["A"] = cancelling
    out.run(out.claim())
    assert out.deliveries() == ["delivered"] * 3
    assert out.task(key).state == TaskState.CANCELLED


# ------------------------------------------------------------------------------------ remotes that fail


def test_a_remote_that_fails_is_left_alone_and_asked(small: SmallArchive) -> None:
    out = Outbound(small)
    studies = [small.study(1) for _ in range(6)]
    out.senders.moods["A"] = unreachable
    keys = [out.send(uid(study)) for study in studies]
    assert out.work() == 3
    assert [out.task(key).attempts for key in keys] == [1, 1, 1, 0, 0, 0]
    assert out.handler.closed() == {("forward", "A"): 30.0}
    # Half open: one asks, and nothing is sent.
    out.clock.advance(31)
    assert out.work() == 1
    assert out.senders.probed == ["A"]
    assert out.handler.closed() == {("forward", "A"): 60.0}
    assert sum(out.task(key).attempts for key in keys) == 3
    out.senders.moods.clear()
    out.clock.advance(3600)
    out.work()
    assert out.senders.probed == ["A", "A"]
    assert out.deliveries() == ["delivered"] * 6
    assert out.breakers.state("A").is_clean


@pytest.mark.parametrize("back", [3600, 86_400])
def test_a_remote_that_failed_is_asked_although_the_clock_was_set_back(small: SmallArchive, back: float) -> None:
    """It would be left alone until the clock has caught up."""
    out = Outbound(small, breaker_failures=1)
    out.senders.moods["A"] = unreachable
    key = out.send(uid(small.study(1)))
    out.work()
    assert out.handler.closed()
    out.clock.advance(-back)
    assert out.handler.closed() == {}
    # Somebody who asked it when the clock was set back asks no more.
    out.breakers._index.take_probe(
        "A", "another", out.clock(), out.clock() + timedelta(days=2), ahead=(out.clock(),) * 2
    )
    out.breakers._forget()
    assert out.handler.closed() == {}
    assert isinstance(out.breakers.choose("A", lambda remote: "still away"), Closed)
    assert out.handler.closed() == {("forward", "A"): 60.0}
    out.senders.moods.clear()
    out.clock.advance(61)
    assert out.breakers.choose("A", lambda remote: None) == out.remotes[0]
    assert out.tasks.retry(out.task(key))
    out.work()
    assert out.deliveries() == ["delivered"]


def test_a_remote_that_ends_every_association_is_left_alone(small: SmallArchive) -> None:
    out = Outbound(small)
    studies = [small.study(2) for _ in range(6)]
    # The sender tells that the association ended while the instance was sent.
    out.senders.moods["A"] = lambda instance: Answer(0x0110, detail="the association ended", association="A #1")
    keys = [out.send(uid(study)) for study in studies]
    assert out.work() == 3
    # Nothing more was sent of a study whose first instance ended the association.
    assert len(out.senders.sent) == 3
    assert [out.task(key).attempts for key in keys] == [1, 1, 1, 0, 0, 0]
    assert out.breakers.state("A").last_error == "the association ended"
    assert ("waiting", None, "A #1") in out.deliveries("state", "status", "association")


def test_one_process_asks_while_the_others_wait(small: SmallArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breakers, "_KNOWN_SECONDS", 0.0)
    clock = Clock()
    first, second = (Outbound(small, clock=clock, breaker_failures=1) for _ in range(2))
    study = small.study(1)
    first.senders.moods["A"] = unreachable
    first.send(uid(study))
    first.work()
    clock.advance(31)
    found: list[object] = []

    def asked(remote: RemoteAEConfig) -> str | None:
        # While the first one asks, the second one neither asks nor sends, and its worker claims nothing.
        found.append(second.breakers.choose("A", lambda remote: pytest.fail("asked twice")))
        found.append(second.handler.closed())
        return None

    assert first.breakers.choose("A", asked) == first.remotes[0]
    closed, claims = found
    assert isinstance(closed, Closed)
    assert closed.fails
    assert claims == {("forward", "A"): 60.0}
    assert second.handler.closed() == {}
    assert second.work() == 1


@pytest.mark.parametrize(("response_timeout", "seconds"), [(60.0, 60.0), (5.0, 30.0)])
def test_a_process_that_dies_while_it_asks_costs_a_minute_at_most(
    small: SmallArchive, monkeypatch: pytest.MonkeyPatch, response_timeout: float, seconds: float
) -> None:
    class Killed(BaseException):
        pass

    def killed(instance: Outgoing) -> Answer:
        raise Killed

    monkeypatch.setattr(breakers, "_KNOWN_SECONDS", 0.0)
    clock, remotes = Clock(), [remote(response_timeout=response_timeout)]
    first, second = (Outbound(small, remotes, clock, breaker_failures=1) for _ in range(2))
    first.senders.moods["A"] = unreachable
    key = first.send(uid(small.study(1)))
    first.work()
    clock.advance(31)
    first.senders.moods["A"] = killed
    with pytest.raises(Killed):
        first.run(first.claim())
    clock.advance(seconds - 1)
    assert second.handler.closed() == {("forward", "A"): 1.0}
    clock.advance(61 - seconds)
    assert second.handler.closed() == {}
    # The lease of the task ends just then.
    assert [task.id for task in second.tasks.expire([FORWARD])] == [key]
    assert second.work() == 1
    assert second.senders.probed == ["A"]
    assert second.deliveries() == ["delivered"]


def test_after_the_time_what_waits_for_a_dead_remote_is_dead(small: SmallArchive) -> None:
    out = Outbound(small)
    studies = [small.study(1) for _ in range(6)]
    out.senders.moods["A"] = unreachable
    for study in studies:
        out.send(uid(study))
    out.work()
    out.clock.advance(259_200)
    out.work()
    out.clock.advance(3600)
    out.work()
    assert out.states() == [TaskState.DEAD] * 6
    assert {detail for _, detail in out.deliveries("state", "detail")} <= {
        "A: connection refused", "A fails: A: connection refused"
    }  # fmt: skip
    assert out.deliveries() == ["dead"] * 6


def test_backups_stand_in_and_the_primary_is_used_again(small: SmallArchive) -> None:
    out = Outbound(small, [remote("A", backups=("B", "C")), remote("B"), remote("C")], breaker_failures=1)
    out.senders.moods |= {"A": unreachable, "B": unreachable}
    first = out.send(uid(small.study(1)))
    out.work()
    out.clock.advance(29)
    out.send(uid(small.study(1)))
    out.work()
    out.send(uid(small.study(1)))
    out.work()
    assert out.senders.sent == [("C", sop) for _, sop in out.senders.sent]
    out.senders.moods.clear()
    out.clock.advance(3600)
    out.work()
    out.send(uid(small.study(1)))
    out.work()
    assert out.senders.sent[-1][0] == "A"
    assert out.task(first).state == TaskState.DONE
    assert set(out.deliveries("remote", "state")) == {("A", "delivered")}


def test_a_paused_remote_waits_and_loses_no_time(out: Outbound, study: list[StoredInstance]) -> None:
    out.breakers.pause("A", ANN)
    key = out.send(uid(study))
    out.clock.advance(1_000_000)
    assert out.work() == 0
    # Another process may have claimed it before.
    out.run(out.tasks.claim(Wanted({"forward": 1})))
    assert out.task(key).last_error == "A is paused by ann"
    out.breakers.resume("A", ANN)
    out.clock.advance(61)
    out.work()
    assert out.task(key).state == TaskState.DONE


def test_a_remote_that_is_gone_from_the_settings(out: Outbound, study: list[StoredInstance]) -> None:
    key = out.send(uid(study))
    out.remotes.clear()
    out.run(out.claim())
    assert (out.task(key).state, out.task(key).last_error) == (
        TaskState.READY,
        "A is not in remote_aes; if it was added, reload the server",
    )
    with pytest.raises(NotFound, match="A is not in remote_aes"):
        out.send(uid(study))


def test_times_of_day(small: SmallArchive, study: list[StoredInstance]) -> None:
    clock = Clock()
    local = clock().astimezone()
    hour = (local.hour + 2) % 24
    out = Outbound(small, [remote("A", windows=(f"{hour:02}:00-{(hour + 1) % 24:02}:00",))], clock)
    key = out.send(uid(study))
    assert out.work() == 0
    (seconds,) = out.handler.closed().values()
    clock.advance(seconds)
    assert out.work() == 1
    assert out.task(key).state == TaskState.DONE


# ------------------------------------------------------------------------------------ who may know


def test_a_disclosure_is_audited_with_who_caused_it(out: Outbound, study: list[StoredInstance]) -> None:
    out.senders.moods["A"] = only(study[2], BAD)
    out.send(uid(study))
    out.work()
    begun, sent = out.trail.events
    assert (begun.event_id, sent.event_id) == (EventID.BEGIN_TRANSFERRING, EventID.INSTANCES_TRANSFERRED)
    assert [(each.user_id, each.requestor) for each in begun.participants if each.user_id != "PACS"] == [
        ("A", False), ("ann", True)
    ]  # fmt: skip
    assert sent.detail == "2 of 3 sent, 1 failed"
    assert [subject.study_instance_uid for subject in sent.subjects] == [uid(study)]


# ------------------------------------------------------------------------------------ processes that end


def test_a_stop_leaves_the_rest_to_the_next_one(out: Outbound, study: list[StoredInstance]) -> None:
    key = out.send(uid(study))
    (task,) = out.claim()
    out.run([task], stopping=lambda: bool(out.senders.sent))
    assert out.deliveries() == ["delivered", "waiting", "waiting"]
    out.tasks.release(task)
    out.work()
    assert sorted(sop for _, sop in out.senders.sent) == sorted(each.uids.sop for each in study)
    assert out.task(key).state == TaskState.DONE


def test_what_was_answered_is_noted_although_the_handler_fails(out: Outbound, study: list[StoredInstance]) -> None:
    class Fault(Exception):
        pass

    def mood(instance: Outgoing) -> Answer:
        if instance.uids.sop == study[2].uids.sop:
            raise Fault
        return OK

    out.senders.moods["A"] = mood
    out.send(uid(study))
    with pytest.raises(Fault):
        out.run(out.claim())
    assert out.deliveries() == ["delivered", "delivered", "waiting"]
    assert out.tasks.tasks(TaskFilter(), 10)[0].state == TaskState.RUNNING


# ------------------------------------------------------------------------------------ people


def test_another_remote_gets_what_was_given_up(small: SmallArchive, study: list[StoredInstance]) -> None:
    out = Outbound(small, [remote("A"), remote("B")])
    out.senders.moods["A"] = only(study[1], BAD)
    first = out.send(uid(study))
    other = out.send(uid(small.study(1)))
    out.work()
    (moved,) = out.forwarding.retarget("A", "B", ANN, uid(study))
    assert out.task(first).state == TaskState.CANCELLED
    assert out.task(other).state == TaskState.DONE
    out.senders.sent.clear()
    out.work()
    assert out.senders.sent == [("B", study[1].uids.sop)]
    assert out.task(moved).state == TaskState.DONE
    assert out.deliveries("remote", "state", "detail")[1] == ("A", "cancelled", "sent to B instead")
    assert out.trail.events[-3].detail == f"what waits for A of study {uid(study)} goes to B"
    # And back again, although A's delivery had been cancelled for that.
    out.senders.moods = {"B": lambda instance: BAD}
    out.forwarding.forward(RetrieveKeys(Level.STUDY, study_instance_uids=(uid(study),)), ["B"], ANN)
    out.work()
    out.senders.sent.clear()
    out.forwarding.retarget("B", "A", ANN)
    out.work()
    assert out.senders.sent == [("A", study[1].uids.sop)]
    with pytest.raises(Conflict):
        out.forwarding.retarget("A", "A", ANN)


def test_what_is_where(small: SmallArchive, study: list[StoredInstance]) -> None:
    out = Outbound(small, [remote("A"), remote("B")])
    out.senders.moods |= {"A": only(study[1], BAD), "B": busy}
    out.send(uid(study), "A", "B")
    out.work()
    groups = [
        (each.remote, each.state, each.instances, each.detail)
        for each in out.forwarding.groups(DeliveryFilter(tuple(DeliveryState)), 10)
    ]
    assert sorted(groups) == [
        ("A", "dead", 1, BAD.detail), ("A", "delivered", 2, ""), ("B", "waiting", 3, "")
    ]  # fmt: skip
    assert [each.sop_instance_uid for each in out.forwarding.deliveries(DeliveryFilter(remote="A"), 10)] == [
        study[1].uids.sop
    ]
    found = out.forwarding.deliveries(DeliveryFilter(), 10)
    assert [each.id for each in found] == sorted((each.id for each in found), reverse=True)
    assert out.forwarding.deliveries(DeliveryFilter(), 10, before=found[1].id) == found[2:]
    # Who sees no CT knows nothing of it, and sends nothing of it.
    assert out.forwarding.deliveries(DeliveryFilter(), 10, scope=Scope(modalities=("MR",))) == []
    assert len(out.forwarding.deliveries(DeliveryFilter(), 10, scope=Scope(modalities=("CT",)))) == 4
    with pytest.raises(NotFound):
        out.send(uid(study), scope=Scope(modalities=("MR",)))
    remotes = {each.name: each for each in out.forwarding.remotes(out.breakers)}
    assert (remotes["A"].waiting, remotes["A"].dead, remotes["B"].waiting, remotes["B"].state) == (0, 1, 3, "ready")
    out.clock.advance(60)
    assert out.forwarding.remotes(out.breakers)[1].oldest_seconds == 60
    out.breakers.pause("B", ANN)
    paused = out.forwarding.remotes(out.breakers)[1]
    assert (paused.state, paused.reason) == ("paused", "B is paused by ann")
    with pytest.raises(NotFound):
        out.breakers.pause("C", ANN)


# ------------------------------------------------------------------------------------ rules


def test_a_rule_has_arrivals_sent_once_in_the_transaction_of_its_cursor(
    out: Outbound, small: SmallArchive, study: list[StoredInstance]
) -> None:
    feed, consumer = Feed(small.database), Consumer("router", from_beginning=True)

    def plan() -> None:
        with feed.batch(consumer) as batch:
            forwarding = out.forwarding.forwarding("A", "ct-to-a", uid(study), "rule ct-to-a")
            batch.then(out.forwarding.plan(forwarding, batch.changes))
            batch.then(out.forwarding.plan(forwarding, batch.changes))

    plan()
    assert out.deliveries("rule", "caused_by", "state") == [("ct-to-a", "rule ct-to-a", "waiting")] * 3
    assert out.work() == 1
    # What comes late follows by the same rule, and nothing else.
    (late,) = small.study(1)
    plan()
    out.work()
    assert [sop for _, sop in out.senders.sent] == [*(each.uids.sop for each in study), late.uids.sop]

    class Crash(Exception):
        pass

    def crash(connection: object) -> None:
        raise Crash

    small.study(1)
    with pytest.raises(Crash), feed.batch(consumer) as batch:
        batch.effects = [
            out.forwarding.plan(out.forwarding.forwarding("A", "r", uid(study), "rule r"), batch.changes),
            crash,
        ]
    assert len(out.deliveries()) == 4
