"""What callers do becomes events: by whom, at which door, whose data, and with which outcome."""

from collections import Counter

import pytest
from trails import Kept, recorder_of

from pacs_server.audit.auditor import Auditor
from pacs_server.audit.events import Action, Event, EventID, EventType, Outcome, Participant, Role
from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.subject import Subject
from pacs_server.errors import AuditUnavailable, InvalidIdentifier

CT, FIND, STEP = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.3.1.2.3.3"
VIEWER = Caller(Door.DIMSE, "10.0.0.7", "VIEWER", "ARCHIVE")
# No AE titles, as at a door that has none.
USER = Caller(Door.IMPORT, "10.0.0.8", user="ann")

WHO = [
    (VIEWER, Participant("VIEWER", "VIEWER", "10.0.0.7", requestor=True), "ARCHIVE"),
    (Caller(Door.DIMSE, "10.0.0.7", "VIEWER", "ARCHIVE", user="ann"),
     Participant("ann", "VIEWER", "10.0.0.7", requestor=True), "ARCHIVE"),
    (USER, Participant("ann", "", "10.0.0.8", requestor=True), "PACS"),
]  # fmt: skip


@pytest.fixture
def trail() -> Kept:
    return Kept()


@pytest.fixture
def auditor(trail: Kept) -> Auditor:
    return Auditor(recorder_of(trail))


def with_role(participant: Participant, role: Role | None) -> Participant:
    return Participant(participant.user_id, participant.ae_title, participant.address, role, participant.requestor)


@pytest.mark.parametrize(("caller", "who", "archive"), WHO)
def test_every_event_says_who_asked_and_whom(
    trail: Kept, auditor: Auditor, caller: Caller, who: Participant, archive: str
) -> None:
    with auditor.query(caller, FIND) as record:
        record.matched(0, complete=True)
    with auditor.procedure(caller, STEP, Action.CREATE, "1.2.3"):
        pass
    arrivals = auditor.arrivals(caller)
    arrivals.begin(Subject("P1", "", "1.2"), CT)
    arrivals.end()
    auditor.logged_in(caller)
    auditor.refused(caller, "C-MOVE", "no")
    query, step, begun, _, login, refused = trail.events
    assert query.participants == begun.participants
    assert query.participants == (
        with_role(who, Role.SOURCE),
        Participant(archive, archive, role=Role.DESTINATION),
    )
    assert step.participants == (who, Participant(archive, archive))
    assert login.participants == refused.participants == (who,)
    assert (login.event_id, login.event_type) == (EventID.USER_AUTHENTICATION, EventType.LOGIN)
    assert refused == Event(
        EventID.SECURITY_ALERT, Action.EXECUTE, (who,), Outcome.MINOR_FAILURE,
        EventType.USE_OF_RESTRICTED_FUNCTION, detail="C-MOVE refused: no",
    )  # fmt: skip


# ------------------------------------------------------------------------------------ logins


def test_each_login_is_told_but_of_those_that_come_with_each_request(trail: Kept, auditor: Auditor) -> None:
    bob = Caller(Door.WEB, "10.0.0.7", user="bob")
    for _ in range(3):
        auditor.logged_in(bob)
        auditor.logged_out(bob)
    for _ in range(3):
        auditor.logged_in(bob, often=True)
    kinds = [event.event_type for event in trail.events]
    assert kinds == [EventType.LOGIN, EventType.LOGOUT] * 3 + [EventType.LOGIN]


def test_a_flood_of_wrong_logins_does_not_hide_what_users_do_from_there(trail: Kept, auditor: Auditor) -> None:
    nobody, bob = (Caller(Door.WEB, "10.0.0.7", user=name) for name in (None, "bob"))
    for number in range(1400):
        auditor.login_failed(nobody, f"user{number}", "the name or the password is wrong")
        auditor.login_failed(nobody, f"user{number}", "too many wrong passwords", put_off=True)
    before = len(trail.events)
    assert [event.detail for event in trail.events].count("too many wrong passwords") == 1
    auditor.logged_in(bob)
    auditor.refused(bob, "DELETE", "no")
    assert [event.participants[0].user_id for event in trail.events[before:]] == ["bob", "bob"]


def test_refusals_of_two_users_at_one_address_are_two(trail: Kept, auditor: Auditor) -> None:
    for name in ("bob", "ann", "bob"):
        auditor.refused(Caller(Door.WEB, "10.0.0.7", user=name), "DELETE", "no")
    assert [event.participants[0].user_id for event in trail.events] == ["bob", "ann"]


# ------------------------------------------------------------------------------------ queries


def test_a_query_is_told_before_its_first_match_is_sent(trail: Kept, auditor: Auditor) -> None:
    with auditor.query(VIEWER, FIND) as record:
        record.keys({"PatientID": "P*"})
        record.matched(16, complete=False)
        record.matched(32, complete=False)
        (begun,) = trail.events
        record.matched(33, complete=True)
    assert (begun.detail, begun.query, begun.sop_class_uid) == ("16 matches or more", {"PatientID": "P*"}, FIND)
    assert [event.detail for event in trail.events] == ["16 matches or more", "33 matches"]
    assert trail.durable == 0


def test_a_query_that_breaks_off_tells_how_many_went_out(trail: Kept, auditor: Auditor) -> None:
    def broken_off() -> None:
        with auditor.query(VIEWER, FIND) as record:
            record.matched(16, complete=False)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        broken_off()
    assert [event.detail for event in trail.events] == ["16 matches or more", "16 matches"]


def test_a_query_that_is_refused_tells_why(trail: Kept, auditor: Auditor) -> None:
    with pytest.raises(InvalidIdentifier), auditor.query(VIEWER, FIND):
        raise InvalidIdentifier("no level")
    (event,) = trail.events
    assert (event.outcome, event.detail) == (Outcome.MINOR_FAILURE, "no level")


def test_nobody_queries_without_a_trace(trail: Kept, auditor: Auditor) -> None:
    trail.full = True
    with pytest.raises(AuditUnavailable), auditor.query(VIEWER, FIND) as record:
        record.matched(1, complete=True)
    # From now on it is known before anything is read.
    with pytest.raises(AuditUnavailable), auditor.query(VIEWER, FIND):
        pytest.fail("the query was begun")


# ------------------------------------------------------------------------------------ retrieving


def test_what_is_sent_is_told_by_patient_before_and_after(trail: Kept, auditor: Auditor) -> None:
    subjects = [Subject("P1", "", "1.1", "A1"), Subject("P2", "", "1.2"), Subject("P1", "", "1.3")]
    planned = {"1.1": {CT: 2}, "1.2": {CT: 1}, "1.3": {CT: 1}}
    target = Participant("WS", "WS", "ws.example", Role.DESTINATION)
    with auditor.sending(VIEWER, lambda: subjects, planned, target) as sent:
        assert trail.durable == 1
        assert [[s.study_instance_uid for s in event.subjects] for event in trail.events] == [["1.1", "1.3"], ["1.2"]]
        sent.completed["1.1"][CT] += 2
        sent.completed["1.2"][CT] += 1
        sent.failed["1.3"] += 1
    first, second = trail.of(EventID.INSTANCES_TRANSFERRED)
    assert (first.detail, first.outcome) == ("2 of 3 sent, 1 failed", Outcome.MINOR_FAILURE)
    assert (second.detail, second.outcome) == ("1 of 1 sent, 0 failed", Outcome.SUCCESS)
    assert [dict(s.sop_classes) for s in first.subjects] == [{CT: 2}, {}]
    for event in trail.events:
        assert event.participants == (
            Participant("ARCHIVE", "ARCHIVE", role=Role.SOURCE),
            target,
            Participant("VIEWER", "VIEWER", "10.0.0.7", requestor=True),
        )


def test_studies_without_a_patient_id_are_patients_of_their_own(trail: Kept, auditor: Auditor) -> None:
    subjects = [Subject("", "", "1.1"), Subject("", "", "1.2")]
    with auditor.sending(USER, lambda: subjects, {"1.1": {CT: 1}, "1.2": {CT: 1}}):
        pass
    assert Counter(event.event_id for event in trail.events) == {
        EventID.BEGIN_TRANSFERRING: 2,
        EventID.INSTANCES_TRANSFERRED: 2,
    }
    # Without another destination the caller is the destination.
    assert trail.events[0].participants[-1] == Participant("ann", "", "10.0.0.8", Role.DESTINATION, requestor=True)
    assert trail.events[-1].outcome is Outcome.SERIOUS_FAILURE


def test_nothing_to_send_is_no_event(trail: Kept, auditor: Auditor) -> None:
    with auditor.sending(VIEWER, lambda: pytest.fail("asked whose nothing is"), {}):
        pass
    assert trail.events == []


# ------------------------------------------------------------------------------------ procedure steps


def test_an_operation_on_a_step_is_told_when_it_is_done(trail: Kept, auditor: Auditor) -> None:
    with auditor.procedure(VIEWER, STEP, Action.UPDATE, "1.2.3") as record:
        record.subjects = (Subject("P1"),)
        record.detail += ": more"
        assert trail.events == []
    with pytest.raises(InvalidIdentifier), auditor.procedure(VIEWER, STEP, Action.UPDATE, "1.2.4"):
        raise InvalidIdentifier("wrong")
    done, failed = trail.events
    assert (done.subjects, done.detail, done.sop_class_uid) == ((Subject("P1"),), "1.2.3: more", STEP)
    assert (failed.outcome, failed.detail) == (Outcome.MINOR_FAILURE, "1.2.4: wrong")
    assert trail.durable == 1


def test_a_step_is_not_kept_without_a_trace(trail: Kept, auditor: Auditor) -> None:
    trail.full = True
    with pytest.raises(AuditUnavailable), auditor.procedure(VIEWER, STEP, Action.CREATE, "1.2.3"):
        pass
    with pytest.raises(AuditUnavailable), auditor.procedure(VIEWER, STEP, Action.CREATE, "1.2.3"):
        pytest.fail("the operation was begun")
