"""Who may associate, and how many at a time."""

import pytest

from pacs_server.config import AccessControlConfig, PeerRule, ServerConfig
from pacs_server.dicom.caller import Caller, Door
from pacs_server.net.acceptor import Admitted
from pacs_server.scp.admission import Admission
from pacs_server.scp.rejections import CALLED_AE_NOT_RECOGNIZED, LOCAL_LIMIT_EXCEEDED, REJECTION_OF
from pacs_server.services.access import Refusal

CALLING_AE_NOT_RECOGNIZED = REJECTION_OF[Refusal.CALLING_AE_TITLE]


def _caller(calling="RAW", called="PACS", **more):
    return Caller(Door.DIMSE, "127.0.0.1", calling, called, **more)


def _admit(admission, **proposed):
    return admission.admit(_caller(**proposed), None)


def _admission(*patterns, **server):
    return Admission(
        ServerConfig(ae_title="PACS", **server), AccessControlConfig(allowed_ae_titles=tuple(patterns or ("*",)))
    )


@pytest.mark.parametrize(
    ("pattern", "title", "allowed"),
    [
        ("*", "", True),
        ("CT*", "CT1", True),
        ("CT*", "ct1", False),
        ("CT?", "CT12", False),
        ("CT[1]", "CT1", False),
        ("CT[1]", "CT[1]", True),
        ("MR", "MR", True),
        ("MR", "MR2", False),
    ],
)
def test_calling_ae_titles_by_pattern(pattern, title, allowed):
    expected = Admitted(_caller(title)) if allowed else CALLING_AE_NOT_RECOGNIZED
    assert _admit(_admission("OTHER", pattern), calling=title) == expected


def test_the_called_ae_title_counts_if_it_is_to_be_checked():
    assert _admit(_admission(), called="ELSE") == Admitted(_caller(called="ELSE"))
    assert _admit(_admission(check_called_ae_title=True), called="ELSE") is CALLED_AE_NOT_RECOGNIZED
    assert _admit(_admission(check_called_ae_title=True), called="PACS") == Admitted(_caller())


def test_places_are_held_and_given_back():
    admission = _admission(max_associations=2)
    assert [_admit(admission) for _ in range(3)] == [Admitted(_caller()), Admitted(_caller()), LOCAL_LIMIT_EXCEEDED]
    admission.leave(_caller())
    assert [_admit(admission) for _ in range(2)] == [Admitted(_caller()), LOCAL_LIMIT_EXCEEDED]


def test_who_is_turned_away_takes_no_place():
    admission = _admission("CT1", max_associations=1)
    assert _admit(admission, calling="MR") is CALLING_AE_NOT_RECOGNIZED
    assert _admit(admission, calling="CT1") == Admitted(_caller("CT1"))


def test_the_rule_goes_with_the_association_and_a_new_one_is_for_new_associations():
    admission, server = _admission(), ServerConfig()
    first, second = PeerRule(ae_title="CT?", allow=("store",)), PeerRule(ae_title="CT1")
    admission.configure(server, AccessControlConfig(peers=(first,)))
    before = _admit(admission, calling="CT1")
    admission.configure(server, AccessControlConfig(peers=(second,)))
    assert before == Admitted(_caller("CT1", rule=first))
    assert _admit(admission, calling="CT1") == Admitted(_caller("CT1", rule=second))
    assert _admit(admission, calling="CT2") is CALLING_AE_NOT_RECOGNIZED
