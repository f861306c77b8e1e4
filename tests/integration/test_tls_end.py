"""How TLS connections end: with close_notify on both sides, without a reset, and without waiting for silent peers."""

import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from certificates import NAME, Authority
from datasets import make_ct
from rawpeer import Instance
from servers import (
    EXPLICIT,
    VERIFICATION,
    RawPeer,
    echo_request,
    eventually,
    message,
    p_data,
    pdv,
    proposal,
    running,
    server_threads,
    store_request,
)
from tlspeer import client, secure_peer, served

from pacs_server.app.server import PacsServer
from pacs_server.net.associate import encode_request
from pacs_server.net.pdu import RELEASE_RP, RELEASE_RQ, PDUType, encode_abort

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
TIMES = 20
# What the server waits for the end of a peer, in seconds, and what the rest may take on a busy machine.
FAREWELL, SPARE = 1.0, 3.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certs")


@pytest.fixture
def pacs(tmp_path: Path, authority: Authority) -> Iterator[PacsServer]:
    with running(served(tmp_path, authority.settings())) as server:
        yield server


def strict(authority: Authority, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client to which the end of the stream without close_notify is an error, as TLS has it."""
    context = client(authority)
    context.minimum_version = context.maximum_version = version
    return context


def unwrap(peer: RawPeer) -> None:
    """End TLS as a strict peer does: its own close_notify, and then that of the server. Raises OSError."""
    peer.socket.suppress_ragged_eofs = False
    try:
        plain = peer.socket.unwrap()
    finally:
        peer.socket.close()
    plain.close()


def released(peer: RawPeer) -> None:
    peer.send(RELEASE_RQ)
    assert peer.read_pdu()[0] == PDUType.RELEASE_RP


def aborted_by_us(peer: RawPeer) -> None:
    """The server aborts in the middle of a message that goes on arriving."""
    peer.send(message(9, echo_request()) + p_data(pdv(9, 0, bytes(4096))) * 64)
    assert peer.read_pdu()[0] == PDUType.ABORT


def aborts(peer: RawPeer) -> None:
    peer.send(encode_abort())


def leaves(peer: RawPeer) -> None:
    """A peer that is not on good terms with DICOM ends TLS without a release."""


def sends_on(peer: RawPeer) -> None:
    for _ in range(10_000):
        peer.send(bytes(65536))


def rejected(peer: RawPeer) -> None:
    peer.send(encode_request(proposal((VERIFICATION, [EXPLICIT]))))
    assert peer.read_pdu()[0] in (PDUType.ASSOCIATE_RJ, PDUType.ABORT)


@VERSIONS
@pytest.mark.parametrize("end", [released, aborted_by_us, aborts, leaves])
def test_the_peer_can_end_tls(
    pacs: PacsServer, authority: Authority, end: Callable[[RawPeer], None], version: ssl.TLSVersion
) -> None:
    context = strict(authority, version)
    for _ in range(TIMES):
        peer = secure_peer(pacs.address, context)
        assert peer.echo() == 0
        end(peer)
        unwrap(peer)


@VERSIONS
def test_a_rejected_peer_can_end_tls(tmp_path: Path, authority: Authority, version: ssl.TLSVersion) -> None:
    context = strict(authority, version)
    with running(served(tmp_path, authority.settings(), allowed=["OTHER"])) as pacs:
        for _ in range(TIMES):
            peer = RawPeer(pacs.address)
            peer.socket = context.wrap_socket(peer.socket, server_hostname=NAME)
            rejected(peer)
            unwrap(peer)


def test_peers_that_end_at_the_same_time(pacs: PacsServer, authority: Authority) -> None:
    context, instance = strict(authority), Instance.of(make_ct(rows=256, columns=256))

    def store_and_end(_: int) -> None:
        for _ in range(5):
            peer = secure_peer(pacs.address, context)
            peer.send(message(3, store_request(instance.sop_instance_uid), instance.data))
            assert peer.read_message().command.status is not None
            released(peer)
            unwrap(peer)

    with ThreadPoolExecutor(8) as peers:
        list(peers.map(store_and_end, range(8)))


def test_the_end_of_the_stream_comes_after_close_notify(pacs: PacsServer, authority: Authority) -> None:
    """A peer that waits for the server to end the connection, and reads to the end, is told so at once."""
    peer = secure_peer(pacs.address, strict(authority))
    peer.socket.suppress_ragged_eofs = False
    released(peer)
    began = time.monotonic()
    assert peer.socket.recv(1) == b""
    assert time.monotonic() - began < FAREWELL
    unwrap(peer)


def test_a_peer_that_has_ended_its_direction_is_answered(pacs: PacsServer, authority: Authority) -> None:
    """TLS 1.3 knows halves of a connection: close_notify ends only the direction in which it is sent."""
    # OpenSSL drops an answer that is there before close_notify goes out: the peer was too slow, and tries again.
    assert any(_answered_behind_its_end(pacs, authority) for _ in range(25))


def _answered_behind_its_end(pacs: PacsServer, authority: Authority) -> bool:
    with secure_peer(pacs.address, strict(authority)) as peer:
        peer.send(RELEASE_RQ)
        peer.socket.settimeout(0)
        with pytest.raises(ssl.SSLError):
            # Sends close_notify and finds nothing to read yet, or the A-RELEASE-RP.
            peer.socket.unwrap()
        peer.socket.settimeout(SPARE)
        try:
            assert peer.read_pdu()[0] == PDUType.RELEASE_RP
        except EOFError:
            return False
        with pytest.raises(ssl.SSLZeroReturnError):
            peer.socket.recv(1)
    return True


@pytest.mark.alone
def test_a_silent_peer_is_not_waited_for(pacs: PacsServer, authority: Authority) -> None:
    """The server has sent its end; whoever does not answer is left after a second, and keeps no place."""
    with secure_peer(pacs.address, strict(authority)) as silent:
        released(silent)
        began = time.monotonic()
        assert eventually(lambda: not len(pacs._connections), FAREWELL + SPARE)
        assert time.monotonic() - began < FAREWELL + SPARE


def test_a_peer_that_sends_on_is_not_read_for_ever(pacs: PacsServer, authority: Authority) -> None:
    with secure_peer(pacs.address, strict(authority)) as peer:
        released(peer)
        peer.socket.settimeout(SPARE)
        with pytest.raises(OSError, match=r"(?i)broken pipe|reset|timed out|eof"):
            sends_on(peer)
        assert eventually(lambda: not len(pacs._connections), FAREWELL + SPARE)


@pytest.mark.alone
def test_shutdown_does_not_wait_for_peers_that_do_not_end(tmp_path: Path, authority: Authority) -> None:
    settings = served(tmp_path, authority.settings())
    with running(settings) as pacs:
        peers = [secure_peer(pacs.address, strict(authority)) for _ in range(8)]
        for peer in peers:
            released(peer)
        began = time.monotonic()
        pacs.stop()
        assert time.monotonic() - began < FAREWELL
        assert server_threads() == []
    for peer in peers:
        unwrap(peer)


def test_an_idle_peer_is_told_the_end_at_shutdown(tmp_path: Path, authority: Authority) -> None:
    with running(served(tmp_path, authority.settings())) as pacs:
        peers = [secure_peer(pacs.address, strict(authority)) for _ in range(8)]
        assert [peer.echo() for peer in peers] == [0] * 8
        pacs.stop()
    for peer in peers:
        assert peer.read_pdu()[0] == PDUType.ABORT
        peer.socket.suppress_ragged_eofs = False
        assert peer.socket.recv(1) == b""
        peer.socket.close()


# ------------------------------------------------------------------------------------ other clients


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_sees_a_proper_end(pacs: PacsServer, authority: Authority) -> None:
    """OpenSSL 3 calls a missing close_notify `unexpected eof while reading`."""
    host, port = pacs.address
    command = ["openssl", "s_client", "-connect", f"{host}:{port}", "-CAfile", str(authority.path), "-quiet"]
    said = encode_request(proposal((VERIFICATION, [EXPLICIT]))) + RELEASE_RQ
    for _ in range(5):
        # -quiet goes on reading when the input has ended.
        done = subprocess.run(command, input=said, capture_output=True, timeout=30, check=False)
        errors = done.stderr.decode(errors="replace")
        assert done.stdout.endswith(RELEASE_RP)
        assert (done.returncode, "unexpected eof" in errors, "errno" in errors) == (0, False, False), errors
