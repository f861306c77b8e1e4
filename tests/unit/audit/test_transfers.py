"""Instances that arrive are recorded study by study."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trails import Kept, recorder_of

from pacs_server.audit.events import Action, Event, EventID, Outcome, Participant, Role
from pacs_server.audit.transfers import Arrivals
from pacs_server.dicom.subject import Subject
from pacs_server.errors import AuditUnavailable
from pacs_server.kit.recently import Recently

PEER = Participant("CT1", "CT1", "10.0.0.7", Role.SOURCE, requestor=True)
ALERT = Event(EventID.SECURITY_ALERT, Action.EXECUTE, (PEER,), detail="rejected")
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture
def trail() -> Kept:
    return Kept()


def arrivals_on(trail: Kept) -> Arrivals:
    return Arrivals(recorder_of(trail), (PEER,), EventID.INSTANCES_TRANSFERRED)


def study(number: int) -> Subject:
    return Subject(f"P{number}", "", f"1.2.{number}", f"A{number}")


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


def test_a_source_that_comes_again_waits_for_the_disk_once_a_minute(trail: Kept) -> None:
    now = [0.0]
    recent = Recently(60.0, 10, clock=lambda: now[0])

    def arrives(participant: Participant, number: int) -> bool:
        arrivals = Arrivals(recorder_of(trail), (participant,), EventID.INSTANCES_TRANSFERRED, recent=recent)
        before = (len(trail.events), trail.durable)
        arrivals.begin(study(number), CT)
        assert len(trail.events) == before[0] + 1
        return trail.durable > before[1]

    other = replace(PEER, address="10.0.0.8")
    assert [arrives(PEER, 1), arrives(PEER, 1), arrives(PEER, 2), arrives(other, 1)] == [True, False, True, True]
    now[0] = 60.0
    assert arrives(PEER, 1)
