"""Associations in the audit trail: who was let in or not, and never a ticket or token."""

from typing import Any

import pytest
from trails import Kept, recorder_of

from pacs_server.audit.auditor import Auditor
from pacs_server.audit.events import EventID, EventType, Outcome, Participant
from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.subject import Subject
from pacs_server.net.acceptor import Rejection
from pacs_server.net.negotiation import UserIdentity
from pacs_server.scp.auditing import AssociationAuditor
from pacs_server.scp.rejections import REJECTIONS, TOO_MANY_WRONG_PASSWORDS, USER_NOT_AUTHENTICATED

CALLER = Caller(Door.DIMSE, "10.0.0.7", "CT1", "PACS")
OF_USERS = (USER_NOT_AUTHENTICATED, TOO_MANY_WRONG_PASSWORDS)


@pytest.fixture
def trail() -> Kept:
    return Kept()


@pytest.fixture
def auditor(trail: Kept) -> AssociationAuditor:
    return AssociationAuditor(Auditor(recorder_of(trail)))


@pytest.mark.parametrize("rejection", REJECTIONS, ids=lambda rejection: rejection.name)
def test_a_rejection_is_a_failed_login_or_an_alert(
    trail: Kept, auditor: AssociationAuditor, rejection: Rejection
) -> None:
    auditor.rejected(CALLER, None, rejection)
    (event,) = trail.events
    kind = (event.event_id, event.event_type)
    if rejection in OF_USERS:
        assert kind == (EventID.USER_AUTHENTICATION, EventType.LOGIN)
    else:
        assert kind == (EventID.SECURITY_ALERT, EventType.NODE_AUTHENTICATION)
    assert event.outcome is Outcome.MINOR_FAILURE
    assert event.detail == f"association to PACS rejected: {rejection.name}"
    assert event.participants == (Participant("CT1", "CT1", "10.0.0.7", requestor=True),)


@pytest.mark.parametrize(("kind", "user"), [(1, "ann"), (2, "ann"), (3, "CT1"), (4, "CT1"), (5, "CT1")])
def test_user_names_are_told_and_tickets_are_not(
    trail: Kept, auditor: AssociationAuditor, kind: int, user: str
) -> None:
    """PS3.7 D.3.3.7.1: 1 and 2 are user names, the others Kerberos tickets, SAML assertions and JSON Web Tokens."""
    auditor.rejected(CALLER, UserIdentity(kind, False, b"ann", b"secret"), USER_NOT_AUTHENTICATED)
    (event,) = trail.events
    assert [who.user_id for who in event.participants] == [user]


def test_only_a_user_who_logged_in_is_told(trail: Kept, auditor: AssociationAuditor) -> None:
    auditor.admitted(CALLER)
    assert trail.events == []
    auditor.admitted(Caller(Door.DIMSE, "10.0.0.7", "CT1", "PACS", user="ann"))
    assert trail.events[0].participants == (Participant("ann", "CT1", "10.0.0.7", requestor=True),)


class Link:
    """Stands for an association."""

    caller = CALLER


def test_two_associations_of_one_caller_are_counted_apart(trail: Kept, auditor: AssociationAuditor) -> None:
    links: list[Any] = [Link(), Link()]
    for number, link in enumerate(links, 1):
        for _ in range(number):
            arrivals = auditor.arrivals(link)
            arrivals.begin(Subject("P1", "", "1.2.3"), "1.2.840.10008.5.1.4.1.1.2")
            arrivals.stored("stored")
    auditor.arrivals(links[1]).failed("no UID")
    for link in links:
        auditor.ended(link)
        auditor.ended(link)
    ended = trail.of(EventID.INSTANCES_TRANSFERRED)
    assert [event.detail for event in ended] == ["1 stored", "2 stored, 1 failed, the last one: no UID"]
