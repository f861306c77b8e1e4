"""Answers to proposals are remembered by their bytes, and nothing else is."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from servers import CT, EXPLICIT, VERIFICATION, proposal, tcp_pair

from pacs_server.dicom.caller import Caller, Door
from pacs_server.net import acceptor as module
from pacs_server.net.acceptor import Acceptor, Admitted, Rejected, Rejection, Terms
from pacs_server.net.associate import encode_request
from pacs_server.net.association import Association, Timeouts
from pacs_server.net.negotiation import Proposal, UserIdentity
from pacs_server.net.transport import Transport
from pacs_server.scp.contexts import supports

TERMS = Terms(16384, 5.0, Timeouts(5.0, 5.0), "1.2.3", "TEST")
REFUSAL = Rejection(1, 1, 3, "calling_ae_title")
CALLER = Caller(Door.DIMSE, "10.0.0.7")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The proposals that were decoded."""
    bodies: list[bytes] = []
    decode = module.decode_request

    def counted(body: bytes) -> Proposal:
        bodies.append(body)
        return decode(body)

    monkeypatch.setattr(module, "decode_request", counted)
    return bodies


@contextmanager
def _associated(
    acceptor: Acceptor, request: bytes, admitted: Admitted | Rejection | None = None
) -> Iterator[tuple[Association, bytes]]:
    with tcp_pair() as (theirs, ours):
        theirs.sendall(request)
        transport = Transport(ours, tick=1.0)
        association = acceptor.accept(transport, 5.0, admit=lambda proposal: admitted or Admitted(CALLER))
        yield association, theirs.recv(65536)


def _acceptor(**options: bool) -> Acceptor:
    return Acceptor(TERMS, supports(**{"accept_unknown": False} | options))


def test_the_same_proposal_is_decoded_once_and_answered_alike(decoded: list[bytes]) -> None:
    acceptor = _acceptor()
    request = encode_request(proposal((VERIFICATION, [EXPLICIT]), (CT, [EXPLICIT])))
    answers = []
    for _ in range(3):
        with _associated(acceptor, request) as (association, answer):
            assert sorted(association.contexts) == [1, 3]
            answers.append(answer)
    assert len(decoded) == 1
    assert answers[0] == answers[1] == answers[2]


def test_who_may_come_is_asked_each_time(decoded: list[bytes]) -> None:
    acceptor = _acceptor()
    request = encode_request(proposal((CT, [EXPLICIT])))
    with _associated(acceptor, request):
        pass
    with pytest.raises(Rejected), _associated(acceptor, request, REFUSAL):
        pass
    user = Admitted(replace(CALLER, user="somebody"))
    with _associated(acceptor, request, user) as (association, _):
        assert association.caller is user.caller
    assert len(decoded) == 1


def test_a_proposal_with_an_identity_is_never_remembered(decoded: list[bytes]) -> None:
    acceptor = _acceptor()
    identity = UserIdentity(2, True, b"name", b"passcode")
    request = encode_request(proposal((CT, [EXPLICIT]), identity=identity))
    with _associated(acceptor, request, Admitted(CALLER, identity_response=b"")) as (_, answered):
        assert b"\x59\0\0\2\0\0" in answered
    with _associated(acceptor, request) as (_, answered):
        assert b"\x59\0\0\2\0\0" not in answered
    assert len(decoded) == 2
    assert not acceptor._cache


def test_few_are_remembered_and_the_last_used_longest(decoded: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_CACHED", 2)
    acceptor = _acceptor()
    requests = [encode_request(proposal((CT, [EXPLICIT]), calling=f"CT{number}")) for number in range(3)]
    for number in (0, 1, 0, 2, 0, 1):
        with _associated(acceptor, requests[number]) as (association, _):
            assert association.calling_ae == f"CT{number}"
        assert len(acceptor._cache) <= 2
    assert [body[20:24].strip() for body in decoded] == [b"CT0", b"CT1", b"CT2", b"CT1"]


def test_long_ones_are_not_remembered(decoded: list[bytes]) -> None:
    acceptor = _acceptor()
    request = encode_request(proposal(*((CT, [EXPLICIT] * 20) for _ in range(128))))
    assert len(request) > 16 * 1024
    for _ in range(2):
        with _associated(acceptor, request):
            pass
    assert len(decoded) == 2
