"""Helpers to test the audit trail: events, days that pass, and strategies for both."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from unittest import mock

from hypothesis import strategies as st

from pacs_server.audit.events import Action, Event, EventID, EventType, Outcome, Participant, Role
from pacs_server.dicom.subject import Subject

DAY = "2026-03-01"


def an_event(patient: str = "P1", study: str = "1.2.3", user: str = "CT1", detail: str = "") -> Event:
    """A query of a patient."""
    who = Participant(user, ae_title="CT1", address="10.0.0.7", requestor=True)
    return Event(EventID.QUERY, Action.EXECUTE, (who,), subjects=(Subject(patient, "", study),), detail=detail)


@contextmanager
def clock(day: str, time: str = "12:00:00") -> Iterator[None]:
    """Let the audit trail believe that it is then, in UTC."""
    now = datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=UTC)
    with mock.patch("pacs_server.audit.chain._now", return_value=now):
        yield


def events() -> st.SearchStrategy[Event]:
    """Any event at all, whatever is in its texts."""
    # JSON has no lone surrogates that a text could not have; they come from what cannot be decoded.
    text = st.text(st.characters(exclude_categories=()), max_size=8)
    participant = st.builds(Participant, text, text, text, st.none() | st.sampled_from(Role), st.booleans())
    counts = st.dictionaries(text, st.integers(0, 10**9), max_size=2)
    return st.builds(
        Event,
        event_id=st.sampled_from(EventID),
        action=st.sampled_from(Action),
        participants=st.lists(participant, max_size=3).map(tuple),
        outcome=st.sampled_from(Outcome),
        event_type=st.none() | st.sampled_from(EventType),
        subjects=st.lists(st.builds(Subject, text, text, text, text, counts), max_size=2).map(tuple),
        sop_class_uid=text,
        query=st.dictionaries(text, text, max_size=3),
        detail=text,
    )
