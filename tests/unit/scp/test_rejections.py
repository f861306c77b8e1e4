"""Every refusal of the access rules is a rejection, and none tells a peer more than it may know."""

import pytest

from pacs_server.net.acceptor import Rejection
from pacs_server.scp import rejections
from pacs_server.scp.rejections import REJECTION_OF, REJECTIONS
from pacs_server.services.access import Refusal


def test_every_refusal_has_a_rejection_of_its_name() -> None:
    assert {refusal: rejection.name for refusal, rejection in REJECTION_OF.items()} == {r: r.value for r in Refusal}


def test_every_rejection_is_listed_once() -> None:
    named = [value for value in vars(rejections).values() if isinstance(value, Rejection)]
    assert sorted(REJECTIONS, key=lambda r: r.name) == sorted([*named, *REJECTION_OF.values()], key=lambda r: r.name)


@pytest.mark.parametrize("refusal", [Refusal.PEER_ADDRESS, Refusal.CALLING_AE_TITLE])
def test_on_the_wire_both_are_a_title_that_is_not_known(refusal: Refusal) -> None:
    rejection = REJECTION_OF[refusal]
    assert (rejection.result, rejection.source, rejection.reason) == (1, 1, 3)
