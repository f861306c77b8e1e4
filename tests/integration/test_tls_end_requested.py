"""How TLS connections end that this server opened: with close_notify, and without waiting long for that of the peer."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from certificates import NAME, Authority
from servers import EXPLICIT, VERIFICATION, proposal
from tlspeer import client

from pacs_server.net.acceptor import Rejected, Terms
from pacs_server.net.associate import encode_accept
from pacs_server.net.association import Timeouts
from pacs_server.net.negotiation import Answer, ProposedContext, UserInformation
from pacs_server.net.pdu import RELEASE_RP, RELEASE_RQ, PDUType, encode_reject
from pacs_server.scu.link import Link, Requestor
from pacs_server.scu.remote import RemoteAE

TIMES = 20
# What the server waits for the end of a peer, in seconds, and what the rest may take on a busy machine.
FAREWELL, SPARE = 1.0, 3.0
TERMS = Terms(16384, 10.0, Timeouts(idle=10.0, network=10.0), "1.2.826.0.1.3680043.8.498.1", "TEST")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certs")


class Acceptor:
    """Accepts associations over TLS, answers the release, and then ends TLS as `end` does."""

    def __init__(self, authority: Authority, answer: bytes, end: Callable[[ssl.SSLSocket], None]) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.server.issued.configure_cert(self._context)
        self._answer, self._end = answer, end
        self._listening = socket.create_server((NAME, 0))
        self.address = self._listening.getsockname()
        self.failed: list[Exception] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        socket.socket.shutdown(self._listening, socket.SHUT_RDWR)
        self._thread.join(60)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as secure:
                    secure.settimeout(60)
                    secure.recv(65536)
                    secure.sendall(self._answer)
                    if self._answer[0] == PDUType.ASSOCIATE_AC:
                        assert secure.recv(65536) == RELEASE_RQ
                        secure.sendall(RELEASE_RP)
                    self._end(secure)
            except (OSError, AssertionError) as error:
                self.failed.append(error)


@contextmanager
def accepting(authority: Authority, answer: bytes, end: Callable[[ssl.SSLSocket], None]) -> Iterator[Acceptor]:
    acceptor = Acceptor(authority, answer, end)
    try:
        yield acceptor
    finally:
        acceptor.close()


def accept() -> bytes:
    asked = proposal((VERIFICATION, [EXPLICIT]))
    return encode_accept(asked, Answer(((1, 0, EXPLICIT),), UserInformation(16384, TERMS.implementation_class_uid)))


def call(authority: Authority, acceptor: Acceptor) -> None:
    """Request an association and release it."""
    host, port = acceptor.address
    remote = RemoteAE("PEER", host, port, 10.0, 10.0, tls=client(authority))
    requestor = Requestor(lambda title: remote, lambda: "PACS", lambda: TERMS)
    with Link(requestor, remote, [ProposedContext(1, VERIFICATION, (EXPLICIT,))]) as link:
        link.exchange(lambda association: None)


def reads_to_the_end(secure: ssl.SSLSocket) -> None:
    """PS3.8 9.2.3, Sta13: the acceptor waits for the requestor to close."""
    assert secure.recv(1) == b""
    secure.unwrap()


def ends_first(secure: ssl.SSLSocket) -> None:
    secure.unwrap()


@pytest.mark.parametrize("end", [reads_to_the_end, ends_first])
def test_we_end_tls_after_a_release(authority: Authority, end: Callable[[ssl.SSLSocket], None]) -> None:
    with accepting(authority, accept(), end) as acceptor:
        for _ in range(TIMES):
            call(authority, acceptor)
    assert acceptor.failed == []


def test_we_end_tls_after_a_rejection(authority: Authority) -> None:
    with accepting(authority, encode_reject(1, 1, 7), reads_to_the_end) as acceptor:
        for _ in range(TIMES):
            with pytest.raises(Rejected):
                call(authority, acceptor)
    assert acceptor.failed == []


@pytest.mark.alone
def test_we_do_not_wait_for_an_acceptor_that_does_not_end(authority: Authority) -> None:
    over = threading.Event()
    with accepting(authority, accept(), lambda secure: over.wait(30) and None) as acceptor:
        began = time.monotonic()
        call(authority, acceptor)
        assert time.monotonic() - began < FAREWELL + SPARE
        over.set()


def test_an_acceptor_that_resets_is_no_error(authority: Authority) -> None:
    def resets(secure: ssl.SSLSocket) -> None:
        secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with accepting(authority, accept(), resets) as acceptor:
        for _ in range(TIMES):
            call(authority, acceptor)
