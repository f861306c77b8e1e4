"""What is told of an association that a remote has rejected, and what to do about it."""

import pytest

from pacs_server.net.acceptor import Rejected, Rejection
from pacs_server.scu.faults import not_opened
from pacs_server.scu.remote import RemoteAE

REMOTE = RemoteAE("WS1", "10.0.0.20", 104, 1.0, 1.0, name="reading")


@pytest.mark.parametrize(
    ("source", "reason", "advice"),
    [
        (1, 7, ", it is not called WS1: correct ae_title in remote_aes"),
        (1, 3, ", it does not know this server: add server.ae_title there"),
        (1, 1, ""),
        (3, 2, ""),
        # Of the provider, these numbers mean something else.
        (2, 7, ""),
    ],
)
def test_a_title_that_is_wrong_is_named(source: int, reason: int, advice: str) -> None:
    rejection = Rejection(1, source, reason, f"by_the_peer_(1,{source},{reason})")
    told = str(not_opened(REMOTE, Rejected(rejection)))
    assert told == f"reading: rejected: by the peer (1,{source},{reason}){advice}"
