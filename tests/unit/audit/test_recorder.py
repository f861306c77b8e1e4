"""The recorder: it refuses while the trail fails, and writes few alerts."""

from dataclasses import replace

import pytest
from trails import Kept

from pacs_server.audit.events import Action, Event, EventID, EventType, Participant, Role
from pacs_server.audit.recorder import Recorder
from pacs_server.errors import AuditUnavailable

PEER = Participant("CT1", "CT1", "10.0.0.7", Role.SOURCE, requestor=True)
ALERT = Event(EventID.SECURITY_ALERT, Action.EXECUTE, (PEER,), detail="rejected")
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def trail() -> Kept:
    return Kept()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorder(trail: Kept, clock: Clock) -> Recorder:
    return Recorder(trail, lambda: "PACS", clock=clock)


def test_a_trail_that_fails_refuses_until_it_works_again(
    recorder: Recorder, trail: Kept, caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    recorder.ensure_writable()
    assert trail.events == []
    trail.full = True
    for _ in range(3):
        with pytest.raises(AuditUnavailable):
            recorder.write(ALERT)
    recorder.note(ALERT)
    with pytest.raises(AuditUnavailable):
        recorder.ensure_writable()
    assert recorder.problem() == "the audit trail cannot be written: no space left on device"
    # Once a minute.
    assert len(caplog.records) == 1
    clock.now += 61
    assert recorder.problem() is not None
    assert len(caplog.records) == 2
    trail.full = False
    assert recorder.problem() is None
    (again,) = trail.events
    assert (again.event_type, again.detail) == (EventType.AUDIT_RECORDING_STARTED, "works again, 1 events were lost")
    recorder.ensure_writable()
    assert len(trail.events) == 1


def test_a_flood_of_alerts_is_one_a_minute(recorder: Recorder, trail: Kept, clock: Clock) -> None:
    for _ in range(50):
        recorder.alert(ALERT, peer="10.0.0.7", kind="calling_ae_title")
    recorder.alert(ALERT, peer="10.0.0.8", kind="calling_ae_title")
    recorder.alert(ALERT, peer="10.0.0.7", kind="tls")
    assert [event.detail for event in trail.events] == ["rejected"] * 3
    clock.now += 61
    recorder.alert(ALERT, peer="10.0.0.7", kind="calling_ae_title")
    assert trail.events[-1].detail == "rejected; 49 more like it were left out"
    assert trail.durable == 0


@pytest.mark.slow
def test_a_flood_from_everywhere_fills_no_memory(recorder: Recorder, trail: Kept, clock: Clock) -> None:
    for number in range(5000):
        recorder.alert(ALERT, peer=f"10.0.{number >> 8}.{number & 255}", kind="tls")
    assert len(recorder._alerts) <= 2001
    assert len(trail.events) == 2001
    clock.now += 61
    recorder.alert(ALERT, peer="10.1.0.1", kind="tls")
    # Those that shared the last place are told too.
    told = "rejected; 2998 more like it were left out"
    assert [event.detail for event in trail.events[2001:]] == [told, "rejected"]
    assert len(recorder._of_peer) == 1


def test_a_flood_from_one_address_hides_nothing_but_itself(recorder: Recorder, trail: Kept, clock: Clock) -> None:
    for number in range(1400):
        recorder.alert(ALERT, peer="10.0.0.7", kind=f"login failed user{number}")
    assert len(trail.events) == 101
    other, same = replace(ALERT, detail="other"), replace(ALERT, detail="same", event_type=EventType.LOGIN)
    recorder.alert(other, peer="10.0.0.8", kind="one")
    recorder.alert(other, peer="10.0.0.8", kind="two")
    # Of the same address another type of event.
    recorder.alert(same, peer="10.0.0.7", kind="login")
    assert [event.detail for event in trail.events[101:]] == ["other", "other", "same"]
    clock.now += 61
    recorder.alert(ALERT, peer="10.0.0.7", kind="new")
    told = "rejected; 1298 more like it were left out"
    assert [event.detail for event in trail.events[104:]] == [told, "rejected"]


def test_what_was_left_out_is_told_at_the_end(recorder: Recorder, trail: Kept) -> None:
    recorder.begin()
    for _ in range(3):
        recorder.alert(ALERT, peer="10.0.0.7", kind="tls")
    recorder.end()
    kinds = [event.event_type for event in trail.events]
    assert kinds == [
        *(EventType.AUDIT_RECORDING_STARTED, EventType.APPLICATION_START),
        *(None, None),
        *(EventType.APPLICATION_STOP, EventType.AUDIT_RECORDING_STOPPED),
    ]
    assert trail.events[3].detail == "rejected; 1 more like it were left out"
    assert trail.events[0].participants == (Participant("PACS", "PACS", role=Role.APPLICATION),)


def test_the_end_of_a_failing_trail_raises_nothing(recorder: Recorder, trail: Kept) -> None:
    trail.full = True
    recorder.end()
    with pytest.raises(AuditUnavailable):
        recorder.begin()
