"""What was seen to break other archives, and what only another set-up shows: TLS, large objects."""

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from datasets import UID_PREFIX
from hostile.payloads import ct, element
from hostile.peers import Peer, settings
from processes import PacsProcess, wait_for
from rawpeer import EXPLICIT, Instance, association, get, get_association, store, study_keys
from servers import CT, IMPLICIT, VERIFICATION, RawPeer, proposal

MEBIBYTE = 1 << 20
SIZE = 64 * MEBIBYTE
# One association takes about as much as a chunk of a file; ten times that is far from the object's size.
CEILING = 24 * MEBIBYTE
# A ClientHello's beginning: a record of 512 bytes of which little comes.
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[PacsProcess, ssl.SSLContext]]:
    """A server that speaks nothing but TLS, and what trusts it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    tls = {"enabled": True, "cert_path": str(tmp_path / "cert.pem"), "key_path": str(tmp_path / "key.pem")}
    with PacsProcess(tmp_path / "server", settings=settings({}) | {"tls": tls}) as pacs:
        yield pacs, context


def _echo(pacs: PacsProcess, context: ssl.SSLContext) -> None:
    with RawPeer((pacs.host, pacs.port), 30.0) as peer:
        peer.socket = context.wrap_socket(peer.socket, server_hostname="127.0.0.1")
        peer.associate(proposal((VERIFICATION, [IMPLICIT])))
        assert peer.echo() == 0


def _threads(pacs: PacsProcess) -> int:
    return len(list(Path(f"/proc/{pacs.pid}/task").iterdir()))


def test_handshakes_that_drip_hold_up_nobody(secure: tuple[PacsProcess, ssl.SSLContext]) -> None:
    """What pynetdicom did: the handshake ran in the accept loop, and one slow client blocked all."""
    pacs, context = secure
    before = _threads(pacs)
    _echo(pacs, context)
    said = (HELLO, b"A-ASSOCIATE-RQ?", b"\x01\0\0\0\0\x50", b"\x16\x03\x01\xff\xff") * 2
    peers = [Peer((pacs.host, pacs.port)) for _ in said]
    threads = [threading.Thread(target=peer.drip, args=(data, 0.02)) for peer, data in zip(peers, said, strict=True)]
    for thread in threads:
        thread.start()
    _echo(pacs, context)
    for thread, peer in zip(threads, peers, strict=True):
        thread.join()
        peer.socket.close()
    wait_for(lambda: _threads(pacs) <= before, "the end of handshakes that drip")
    assert "Traceback" not in pacs.log()


def test_a_receiver_slower_than_the_disk_costs_no_memory(tmp_path: Path) -> None:
    """What pynetdicom did: all fragments of an object were queued for a peer that did not take them."""
    study = f"{UID_PREFIX}9.1"
    data = ct(f"{study}.2", study, f"{study}.1") + element(0x7FE00010, "OW", bytes(SIZE))
    instance = Instance(CT, f"{study}.2", EXPLICIT, data)
    with PacsProcess(tmp_path / "server") as pacs:
        with association(pacs.port, [instance.kind]) as link:
            assert store(link, instance).status == 0
        grown: list[int] = []

        def take(uid: str, pieces: Iterator[memoryview]) -> None:
            size = len(next(pieces))
            # The server has filled what the network holds when it sends no more.
            sent = [-1]
            wait_for(lambda: sent.append(_settled(pacs)) or sent[-1] == sent[-2], "the server to be held up")
            grown.append(pacs.memory() - before)
            assert size + sum(map(len, pieces)) == len(data)

        before = pacs.reset_peak_memory()
        link = get_association(pacs.port, [instance.kind])
        with contextlib.closing(link.transport):
            assert get(link, study_keys(study), take).number_of_completed == 1
            link.release()
        assert grown[0] < CEILING


def _settled(pacs: PacsProcess) -> int:
    """What the server has read from its files and sockets so far, after a moment."""
    time.sleep(0.2)
    fields = dict(line.split(": ") for line in Path(f"/proc/{pacs.pid}/io").read_text().splitlines())
    return int(fields["rchar"])
