"""Who may associate, and how many at a time."""

import pytest
from servers import proposal

from pacs_server.config import AccessControlConfig, ServerConfig
from pacs_server.scp.admission import (
    CALLED_AE_NOT_RECOGNIZED,
    CALLING_AE_NOT_RECOGNIZED,
    LOCAL_LIMIT_EXCEEDED,
    Admission,
)


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
    expected = None if allowed else CALLING_AE_NOT_RECOGNIZED
    assert _admission("OTHER", pattern).admit(proposal(calling=title)) == expected


def test_the_called_ae_title_counts_if_it_is_to_be_checked():
    assert _admission().admit(proposal(called="ELSE")) is None
    assert _admission(check_called_ae_title=True).admit(proposal(called="ELSE")) is CALLED_AE_NOT_RECOGNIZED
    assert _admission(check_called_ae_title=True).admit(proposal(called="PACS")) is None


def test_places_are_held_and_given_back():
    admission = _admission(max_associations=2)
    assert [admission.admit(proposal()) for _ in range(3)] == [None, None, LOCAL_LIMIT_EXCEEDED]
    admission.leave()
    assert [admission.admit(proposal()) for _ in range(2)] == [None, LOCAL_LIMIT_EXCEEDED]


def test_who_is_turned_away_takes_no_place():
    admission = _admission("CT1", max_associations=1)
    assert admission.admit(proposal(calling="MR")) is CALLING_AE_NOT_RECOGNIZED
    assert admission.admit(proposal(calling="CT1")) is None
