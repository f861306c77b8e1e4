"""What the doors write to the audit trail: the recorder, and arrivals told study by study."""

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orders import order
from trails import Kept, recorder_of
from worklists import item

from pacs_server.audit.events import Action, Event, EventID, EventType, Outcome, Participant, Role
from pacs_server.audit.recorder import Recorder
from pacs_server.audit.transfers import Arrivals
from pacs_server.config import Config, RemoteAEConfig
from pacs_server.config.model import changed
from pacs_server.dicom.subject import Subject
from pacs_server.dicom.worklist import ItemStatus
from pacs_server.errors import AuditUnavailable
from pacs_server.hl7.orders import OrderService
from pacs_server.index.database import Database
from pacs_server.index.worklist import WorklistIndex
from pacs_server.services.worklist import WorklistService

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


def arrivals_on(trail: Kept) -> Arrivals:
    return Arrivals(recorder_of(trail), (PEER,), EventID.INSTANCES_TRANSFERRED)


def study(number: int) -> Subject:
    return Subject(f"P{number}", "", f"1.2.{number}", f"A{number}")


# ------------------------------------------------------------------------------------ the recorder


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


def test_a_flood_from_everywhere_fills_no_memory(recorder: Recorder, trail: Kept, clock: Clock) -> None:
    for number in range(5000):
        recorder.alert(ALERT, peer=f"10.0.{number >> 8}.{number & 255}", kind="tls")
    assert len(recorder._alerts) <= 1001
    assert len(trail.events) == 1001
    clock.now += 61
    recorder.alert(ALERT, peer="10.1.0.1", kind="tls")
    # Those that shared the last place are told too.
    told = "rejected; 3998 more like it were left out"
    assert [event.detail for event in trail.events[1001:]] == [told, "rejected"]


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


def test_which_keys_a_reload_changed() -> None:
    old = Config()
    remote = RemoteAEConfig(ae_title="WS", host="ws", port=104)
    new = old.model_copy(
        update={
            "server": old.server.model_copy(update={"port": 104}),
            "tls": old.tls.model_copy(update={"require_client_cert": True}),
            "remote_aes": (remote,),
        }
    )
    assert changed(old, new) == ["remote_aes", "server.port", "tls.require_client_cert"]
    assert changed(old, old) == []


# ------------------------------------------------------------------------------------ arrivals


def test_a_study_is_two_events(trail: Kept) -> None:
    arrivals = arrivals_on(trail)
    for number in range(100):
        arrivals.begin(study(1), MR if number == 7 else CT)
        arrivals.stored("stored")
    assert trail.durable == len(trail.events) == 1
    arrivals.begin(study(1), CT)
    arrivals.failed("no space")
    arrivals.end()
    arrivals.end()
    begun, transferred = trail.events
    assert (begun.event_id, begun.action, begun.subjects) == (
        *(EventID.BEGIN_TRANSFERRING, Action.EXECUTE),
        (study(1),),
    )
    assert transferred.subjects[0].sop_classes == {CT: 99, MR: 1}
    assert (transferred.outcome, transferred.detail) == (
        Outcome.MINOR_FAILURE,
        "100 stored, 1 failed, the last one: no space",
    )
    assert trail.durable == 1


def test_another_study_ends_the_one_before(trail: Kept) -> None:
    arrivals = arrivals_on(trail)
    for number in (1, 2, 1, 2, 1):
        arrivals.begin(study(number), CT)
        arrivals.stored("stored")
    arrivals.end()
    told = [(event.event_id.name, event.subjects[0].patient_id, event.detail) for event in trail.events]
    assert told == [
        ("BEGIN_TRANSFERRING", "P1", ""),
        ("INSTANCES_TRANSFERRED", "P1", "1 stored"),
        ("BEGIN_TRANSFERRING", "P2", ""),
        ("INSTANCES_TRANSFERRED", "P2", "2 stored"),
        ("INSTANCES_TRANSFERRED", "P1", "2 stored"),
    ]


def test_what_no_study_is_known_of_is_told_without_one(trail: Kept) -> None:
    arrivals = arrivals_on(trail)
    arrivals.failed("no UID")
    arrivals.failed("no UID")
    arrivals.end()
    (event,) = trail.events
    assert (event.subjects, event.outcome) == ((), Outcome.SERIOUS_FAILURE)
    assert event.detail == "2 failed, the last one: no UID"


def test_a_study_is_not_begun_without_a_trace(trail: Kept) -> None:
    trail.full = True
    arrivals = arrivals_on(trail)
    for _ in range(2):
        with pytest.raises(AuditUnavailable):
            arrivals.begin(study(1), CT)
    trail.full = False
    arrivals.begin(study(1), CT)
    assert len(trail.of(EventID.BEGIN_TRANSFERRING)) == 1


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from([CT, MR]), st.booleans()), max_size=60))
def test_nothing_is_lost_and_each_study_syncs_once(sent: list[tuple[int, str, bool]]) -> None:
    trail = Kept()
    arrivals = arrivals_on(trail)
    for number, sop_class, taken in sent:
        arrivals.begin(study(number), sop_class)
        if taken:
            arrivals.stored("stored")
        else:
            arrivals.failed("x")
    arrivals.end()
    counted: Counter[tuple[str, str]] = Counter()
    for event in trail.of(EventID.INSTANCES_TRANSFERRED):
        (subject,) = event.subjects
        counted.update({(subject.patient_id, sop_class): count for sop_class, count in subject.sop_classes.items()})
    assert counted == Counter((f"P{number}", sop_class) for number, sop_class, taken in sent if taken)
    assert trail.durable == len({number for number, _, _ in sent})
    # Never more than a begin and an end for each run of one study.
    assert len(trail.events) <= 2 * len(sent)


# ------------------------------------------------------------------------------------ the worklist


@pytest.fixture
def worklist(tmp_path: object, trail: Kept) -> WorklistService:
    return _worklist(f"sqlite:///{tmp_path}/pacs.db", trail)


def _worklist(url: str, trail: Kept) -> WorklistService:
    database = Database(url, fsync=False)
    database.migrate()
    return WorklistService(WorklistIndex(database), recorder_of(trail), only_own_station=lambda: False)


def test_orders_are_recorded_with_who_and_whose(worklist: WorklistService, trail: Kept) -> None:
    worklist.put([item()])
    worklist.put([item()])
    row = worklist.get("A1")
    assert row is not None
    worklist.set_status([row], ItemStatus.CANCELLED, PEER)
    worklist.remove(row)
    assert [(e.event_id, e.action, e.detail) for e in trail.events] == [
        (EventID.ORDER_RECORD, Action.CREATE, "1 items added, 0 updated"),
        (EventID.ORDER_RECORD, Action.UPDATE, "0 items added, 1 updated"),
        (EventID.ORDER_RECORD, Action.UPDATE, "1 items CANCELLED"),
        (EventID.ORDER_RECORD, Action.DELETE, "1 items removed"),
    ]
    assert trail.durable == 4
    assert trail.events[2].participants[0] == PEER
    assert trail.events[0].participants[0].requestor
    (subject,) = trail.events[0].subjects
    assert (subject.patient_id, subject.accession_number) == (row.item.data_set["00100020"]["Value"][0], "A1")
    assert subject.study_instance_uid == row.item.study_instance_uid


def test_an_order_by_hl7_names_its_sender(worklist: WorklistService, trail: Kept) -> None:
    assert b"|AA|" in OrderService(worklist, taken=lambda _: None).take(order(), "10.0.0.9")
    (event,) = trail.events
    assert event.participants[0].address == "10.0.0.9"
    assert event.participants[0].user_id not in ("", "HL7")


def test_the_worklist_stays_as_it_is_without_a_trail(worklist: WorklistService, trail: Kept) -> None:
    trail.full = True
    service = OrderService(worklist, taken=lambda _: None)
    assert b"|AA|" not in service.take(order(), "10.0.0.9")
    assert list(worklist.list()) == []
    trail.full = False
    assert b"|AA|" in service.take(order(), "10.0.0.9")
    rows = list(worklist.list())
    trail.full = True
    refused: list[Callable[[], object]] = [
        lambda: worklist.put([item()]),
        lambda: worklist.set_status(rows, ItemStatus.CANCELLED),
        lambda: worklist.remove(rows[0]),
    ]
    for change in refused:
        with pytest.raises(AuditUnavailable):
            change()
    assert list(worklist.list()) == rows
