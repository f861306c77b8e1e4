"""Our answer to a proposal."""

import pytest
from servers import BIG_ENDIAN, CT, DEFLATED, EXPLICIT, IMPLICIT, STUDY_FIND, STUDY_GET, VERIFICATION, proposal

from pacs_server.net.negotiation import (
    negotiate,
)
from pacs_server.scp.contexts import SOP_CLASSES, WINDOW, supports

RLE, JPEG = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50"
PRIVATE = "1.2.826.0.1.3680043.8.498.99"


def _negotiate(*contexts, accept_unknown=True, **user):
    return negotiate(proposal(*contexts, **user), supports(accept_unknown=accept_unknown))


@pytest.mark.parametrize(
    ("abstract", "syntaxes", "result"),
    [
        (CT, [IMPLICIT, EXPLICIT], (1, 0, IMPLICIT)),
        (CT, [JPEG, RLE], (1, 0, JPEG)),
        (CT, ["1.2.3", RLE], (1, 0, RLE)),
        (CT, ["1.2.3"], (1, 4, "1.2.3")),
        (STUDY_FIND, [IMPLICIT, EXPLICIT], (1, 0, EXPLICIT)),
        (STUDY_FIND, [BIG_ENDIAN, DEFLATED], (1, 0, DEFLATED)),
        (STUDY_FIND, [JPEG], (1, 4, JPEG)),
        ("1.2.840.10008.5.1.4.1.2.3.1", [IMPLICIT], (1, 3, IMPLICIT)),
        (PRIVATE, [EXPLICIT], (1, 0, EXPLICIT)),
    ],
)
def test_one_context(abstract, syntaxes, result):
    answer, _ = _negotiate((abstract, syntaxes))
    assert answer.results == (result,)


def test_private_classes_are_refused_by_the_option():
    answer, accepted = _negotiate((PRIVATE, [EXPLICIT]), accept_unknown=False)
    assert answer.results == ((1, 3, EXPLICIT),)
    assert accepted == []


def test_two_contexts_of_one_class_stand_side_by_side():
    _, accepted = _negotiate((CT, [RLE]), (CT, [EXPLICIT]), (CT, ["1.2.3"]))
    assert [(context.context_id, context.transfer_syntax) for context in accepted] == [(1, RLE), (3, EXPLICIT)]


@pytest.mark.parametrize(
    ("abstract", "proposed", "answered", "result"),
    [
        (CT, (True, True), (True, True), 0),
        (CT, (False, True), (False, True), 0),
        (CT, (True, False), (True, False), 0),
        (CT, (False, False), (False, False), 2),
        (VERIFICATION, (True, True), (True, False), 0),
        (VERIFICATION, (False, True), (False, False), 2),
    ],
)
def test_roles(abstract, proposed, answered, result):
    answer, accepted = _negotiate((abstract, [EXPLICIT]), roles={abstract: proposed, PRIVATE: (True, True)})
    assert answer.user.roles == {abstract: answered}
    assert answer.results[0][1] == result
    assert [(context.as_scp, context.as_scu) for context in accepted] == ([answered] if result == 0 else [])


def test_without_role_selection_the_requestor_is_the_scu():
    answer, accepted = _negotiate((CT, [EXPLICIT]))
    assert answer.user.roles == {}
    assert (accepted[0].as_scp, accepted[0].as_scu) == (True, False)


@pytest.mark.parametrize(
    ("abstract", "proposed", "answered"),
    [
        (STUDY_FIND, b"\1\1\1\1", b"\1\1\1\0"),
        (STUDY_FIND, b"\0\1\0", b"\0\1\0"),
        (STUDY_FIND, b"\1" * 9, b"\1\1\1\0"),
        (STUDY_GET, b"\1", b"\1"),
        (CT, b"\2\0\3\0\1\0", b"\2\0\0\0\0\0"),
        (CT, b"", b""),
    ],
)
def test_extended_negotiation_agrees_to_what_both_can(abstract, proposed, answered):
    answer, _ = _negotiate((abstract, [EXPLICIT]), extended={abstract: proposed})
    assert answer.user.extended == {abstract: answered}


def test_extended_negotiation_is_not_answered_where_there_is_nothing_to_agree():
    answer, _ = _negotiate((VERIFICATION, [EXPLICIT]), (CT, ["1.2.3"]), extended={VERIFICATION: b"\1", CT: b"\2"})
    assert answer.user.extended == {}


@pytest.mark.parametrize(
    ("proposed", "answered"),
    [
        (None, None),
        ((0, 0), (WINDOW, 1)),
        ((8, 5), (8, 1)),
        ((1, 0), (1, 1)),
        ((WINDOW + 1, 1), (WINDOW, 1)),
        ((65535, 65535), (WINDOW, 1)),
    ],
)
def test_the_window_is_what_is_proposed_up_to_a_limit(proposed, answered):
    answer, _ = _negotiate((CT, [EXPLICIT]), (VERIFICATION, [EXPLICIT]), (PRIVATE, [RLE]), async_operations=proposed)
    assert answer.user.async_operations == answered


@pytest.mark.parametrize("other", sorted(SOP_CLASSES.keys() - {VERIFICATION}))
def test_the_window_is_for_associations_that_only_store(other):
    """Other services read from the association while they answer; a context that is refused does not matter."""
    with_it, _ = _negotiate((CT, [EXPLICIT]), (other, [EXPLICIT]), async_operations=(0, 0))
    refused, _ = _negotiate((CT, [EXPLICIT]), (other, [JPEG]), async_operations=(0, 0))
    nothing, _ = _negotiate((other, [JPEG]), async_operations=(0, 0))
    assert (with_it.user.async_operations, refused.user.async_operations) == ((1, 1), (WINDOW, 1))
    assert nothing.user.async_operations == (1, 1)
