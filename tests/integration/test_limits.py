"""Limits and deadlines: rates, places and paces are kept, a trickle holds no place, and refusals are told once."""

import contextlib
import logging
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from datasets import data_set_bytes, make_ct, write_part10
from servers import (
    CT,
    EXPLICIT,
    IMPLICIT,
    STUDY_GET,
    STUDY_MOVE,
    VERIFICATION,
    RawPeer,
    collecting,
    config,
    echo_request,
    eventually,
    message,
    p_data,
    pdv,
    proposal,
    running,
    store,
    store_request,
    tcp_pair,
)
from strategies import encoded, identifier

from pacs_server.app.server import PacsServer
from pacs_server.config import AccessControlConfig, Config, PeerRule, RemoteAEConfig, TLSConfig
from pacs_server.kit.metrics import Metrics
from pacs_server.net.associate import encode_request
from pacs_server.net.association import Association, Timeouts
from pacs_server.net.listener import bind
from pacs_server.net.message import Command, CommandField, encode_command, encode_message
from pacs_server.net.negotiation import AcceptedContext
from pacs_server.net.pdu import COMMAND, HEADER, LAST, PDUReader, PDUType
from pacs_server.net.transport import DeadlineExpired, Transport
from pacs_server.web import monitor
from pacs_server.web.monitor import Monitor

REQUEST = encode_request(proposal((VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT])))
TRICKLE_SECONDS = 0.02


def limited(directory: Path, *peers: PeerRule, remote_aes: tuple[RemoteAEConfig, ...] = (), **settings: Any) -> Config:
    """A configuration with limits for peers; keys of `access_control` and of `server`."""
    of_access = {key: settings.pop(key) for key in list(settings) if key in AccessControlConfig.model_fields}
    access = AccessControlConfig(allowed_ae_titles=("*",), peers=peers, **of_access)
    return config(directory, remote_aes=remote_aes, **settings).model_copy(update={"access_control": access})


def refusals(pacs: PacsServer, reason: str) -> int:
    """How many refusals were counted for this reason."""
    start = f'pacs_association_rejections_total{{reason="{reason}"}} '
    lines = pacs.metrics.render().decode().splitlines()
    return sum(int(float(line.removeprefix(start))) for line in lines if line.startswith(start))


@contextlib.contextmanager
def sending(peer: RawPeer, pieces: Iterator[bytes], pause: float = TRICKLE_SECONDS) -> Iterator[None]:
    """Send piece after piece in another thread until the end, or until nobody takes them."""
    stop = threading.Event()

    def send() -> None:
        with contextlib.suppress(OSError):
            for piece in pieces:
                if stop.wait(pause):
                    return
                peer.send(piece)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def forever(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


# ------------------------------------------------------------------------------------ deadlines of messages

BEGUN_COMMAND = p_data(pdv(3, COMMAND, encode_command(store_request("1.2.3"))[:20]))
BEGUN_STORE = message(3, store_request("1.2.3"), b"")[:-12]


@pytest.mark.parametrize("begun", [BEGUN_COMMAND, BEGUN_STORE], ids=["command", "data"])
@pytest.mark.parametrize(
    "trickle",
    [p_data(pdv(3, 0, b"xy")), p_data(pdv(3, 0)), HEADER.pack(PDUType.P_DATA, 0)],
    ids=["tiny", "empty values", "empty PDUs"],
)
def test_a_message_has_a_deadline_as_a_whole(serve: Callable[..., PacsServer], begun: bytes, trickle: bytes) -> None:
    if begun is BEGUN_COMMAND:
        trickle = trickle.replace(pdv(3, 0)[4:], pdv(3, COMMAND)[4:])
    pacs = serve(message_timeout=0.5, network_timeout=30.0)
    with RawPeer.associated(pacs.address) as peer:
        peer.send(begun)
        began = time.monotonic()
        with sending(peer, forever(trickle)):
            assert peer.ending() in ("abort 0 0", "closed")
        assert 0.3 < time.monotonic() - began < 20
    assert eventually(lambda: pacs.status()["associations"] == {"active": 0, "connections": 0})


def test_empty_values_at_full_speed_buy_no_time(serve: Callable[..., PacsServer]) -> None:
    pacs = serve(message_timeout=0.5)
    with RawPeer.associated(pacs.address) as peer:
        peer.send(BEGUN_STORE)
        with sending(peer, forever(p_data(*[pdv(3, 0)] * 1000)), pause=0.0):
            assert peer.ending() in ("abort 0 0", "closed")


def test_a_slow_line_is_slow_for_as_long_as_it_takes(serve: Callable[..., PacsServer], tmp_path: Path) -> None:
    """Above 16 KiB a second a message may take many times its time-out."""
    ds = make_ct(rows=256, columns=256)
    data = data_set_bytes(write_part10(ds, tmp_path / "ct.dcm"))[1]
    pacs = serve(message_timeout=0.4)
    whole = message(3, store_request(str(ds.SOPInstanceUID)), data)
    pieces = [whole[at : at + 8192] for at in range(0, len(whole), 8192)]
    with RawPeer.associated(pacs.address) as peer, sending(peer, iter(pieces), pause=0.12):
        began = time.monotonic()
        assert peer.read_message().command.status == 0
        assert time.monotonic() - began > 1


def test_empty_pdus_do_not_keep_an_idle_association(serve: Callable[..., PacsServer]) -> None:
    pacs = serve(idle_timeout=0.5)
    with RawPeer.associated(pacs.address) as peer:
        began = time.monotonic()
        with sending(peer, forever(HEADER.pack(PDUType.P_DATA, 0))):
            assert peer.ending() in ("abort 0 0", "closed")
        assert 0.3 < time.monotonic() - began < 20


def test_a_command_set_on_two_contexts(serve: Callable[..., PacsServer]) -> None:
    pacs = serve()
    command = encode_command(Command(command_field=CommandField.C_ECHO, message_id=1, command_data_set_type=0x101))
    with RawPeer.associated(pacs.address) as peer:
        peer.send(p_data(pdv(1, COMMAND, command[:20]), pdv(3, COMMAND | LAST, command[20:])))
        assert peer.ending() == "abort 2 2"


def test_values_of_odd_length_are_put_together_all_the_same(serve: Callable[..., PacsServer]) -> None:
    """PS3.8 Annex E wants even ones; nothing is gained by refusing others."""
    pacs = serve()
    ds = make_ct(rows=4, columns=4)
    data, command = encoded(ds, EXPLICIT), encode_command(store_request(str(ds.SOPInstanceUID)))
    pieces = [pdv(3, 0, data[at : at + 77]) for at in range(0, len(data), 77)]
    with RawPeer.associated(pacs.address) as peer:
        peer.send(p_data(pdv(3, COMMAND, command[:33]), pdv(3, COMMAND | LAST, command[33:])))
        peer.send(b"".join(p_data(piece) for piece in pieces) + p_data(pdv(3, LAST)))
        assert peer.read_message().command.status == 0


def test_a_time_out_of_next_to_nothing_is_one() -> None:
    """The kernel takes a timer of nothing for none at all."""
    with tcp_pair() as (_, ours):
        transport = Transport(ours, tick=1e-9)
        with pytest.raises(DeadlineExpired):
            transport.receive_into(memoryview(bytearray(1)), time.monotonic())


def test_large_messages_to_a_peer_that_takes_short_pdus() -> None:
    """One write takes 1024 buffers at most, and a buffer for each fragment of a gigabyte would be too many."""
    data = bytes(1_000_000)
    with tcp_pair() as (peer, ours):
        transport = Transport(ours, tick=1.0)
        association = Association(
            transport,
            PDUReader(transport, max_pdu_size=4096, pdu_timeout=5),
            contexts={1: AcceptedContext(1, CT, EXPLICIT, as_scu=True, as_scp=False)},
            max_pdu_size=64,
            timeouts=Timeouts(5, 5),
            calling_ae="A",
            called_ae="B",
            peer="p",
        )
        got = bytearray()

        def read() -> None:
            while more := peer.recv(1 << 20):
                got.extend(more)

        reader = threading.Thread(target=read)
        reader.start()
        association.send(1, store_request("1.2.3"), data)
        ours.shutdown(socket.SHUT_WR)
        reader.join()
    assert got == b"".join(encode_message(1, store_request("1.2.3"), data, 64))


# ------------------------------------------------------------------------------------ rates and places


def test_the_rate_of_one_address(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pacs_server")
    with running(limited(tmp_path, association_rate=0.001, association_burst=2)) as pacs:
        for _ in range(2):
            with RawPeer.associated(pacs.address) as peer:
                assert peer.echo() == 0
                peer.release()
        for _ in range(3):
            with RawPeer(pacs.address) as peer:
                peer.send(REQUEST)
                # PS3.8 Table 9-21: rejected-transient, service provider (presentation), temporary congestion.
                assert peer.read_pdu() == (PDUType.ASSOCIATE_RJ, bytes((0, 2, 3, 1)))
                assert peer.ending() == "closed"
        with RawPeer(pacs.address) as silent:
            began = time.monotonic()
            assert silent.ending() == "closed"
            assert time.monotonic() - began < 4
        assert refusals(pacs, "association_rate") == 4
        [told] = [vars(record) for record in caplog.records if record.getMessage() == "no association"]
        assert (told["reason"], told["calling_ae"], told["called_ae"]) == ("association_rate", "RAW", "PACS")
        with RawPeer(pacs.address, source="127.0.0.2") as peer:
            peer.associate(proposal((VERIFICATION, [IMPLICIT])))
            assert peer.echo() == 0


def test_the_places_of_one_ae(tmp_path: Path) -> None:
    with running(limited(tmp_path, max_associations_per_ae=1)) as pacs:
        for ending in ("release", "drop"):
            with RawPeer.associated(pacs.address, calling="CT1") as peer:
                with RawPeer(pacs.address) as second:
                    second.send(encode_request(proposal((VERIFICATION, [IMPLICIT]), calling="CT1")))
                    # Rejected-transient, service provider (presentation), local limit exceeded.
                    assert second.read_pdu() == (PDUType.ASSOCIATE_RJ, bytes((0, 2, 3, 2)))
                with RawPeer.associated(pacs.address, calling="CT2") as other:
                    assert other.echo() == 0
                if ending == "release":
                    peer.release()
            assert eventually(lambda: pacs.status()["associations"] == {"active": 0, "connections": 0})
        assert refusals(pacs, "associations_per_ae") == 2


def test_refusals_are_logged_once_for_each_peer_and_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pacs_server")
    settings = limited(tmp_path, max_associations_per_ae=1, max_connections_per_address=2)
    with running(settings) as pacs, RawPeer.associated(pacs.address), RawPeer.associated(pacs.address, calling="B"):
        for _ in range(20):
            with RawPeer(pacs.address) as peer:
                assert peer.ending() == "closed"
        assert eventually(lambda: refusals(pacs, "connections_per_address") == 20)
        for _ in range(20):
            with RawPeer(pacs.address, source="127.0.0.2") as peer:
                peer.send(REQUEST)
                assert peer.read_pdu()[0] == PDUType.ASSOCIATE_RJ
            assert eventually(lambda: pacs.status()["associations"] == {"active": 2, "connections": 2})
        assert refusals(pacs, "associations_per_ae") == 20
        told = [(r.getMessage(), r.peer, r.reason) for r in caplog.records if hasattr(r, "reason")]
        assert told == [
            ("connection refused", "127.0.0.1", "connections_per_address"),
            ("no association", "127.0.0.2", "associations_per_ae"),
        ]


# ------------------------------------------------------------------------------------ data rates

RATE = 64 * 1024


def slow(title: str = "SLOW", rate: int = RATE) -> PeerRule:
    return PeerRule(ae_title=title, max_data_rate=rate)


@pytest.fixture
def image() -> Any:
    """A CT of 128 KiB and a header."""
    return make_ct(rows=256, columns=256)


@pytest.mark.parametrize("calling", ["SLOW", "FAST"])
def test_the_rate_of_objects_that_come_in(tmp_path: Path, image: Any, calling: str) -> None:
    with running(limited(tmp_path, slow())) as pacs, RawPeer.associated(pacs.address, calling=calling) as peer:
        began = time.monotonic()
        peer.send(message(3, store_request(str(image.SOPInstanceUID)), encoded(image, EXPLICIT)))
        assert peer.read_message().command.status == 0
        # A second's worth of bytes costs no time, another second's does.
        assert (time.monotonic() - began > 0.9) is (calling == "SLOW")


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT], ids=["from the file", "transcoded"])
def test_the_rate_of_a_c_get(tmp_path: Path, image: Any, syntax: str) -> None:
    get = Command(command_field=CommandField.C_GET, message_id=1, affected_sop_class_uid=STUDY_GET)
    keys = encoded(identifier("STUDY", StudyInstanceUID=image.StudyInstanceUID))
    with running(limited(tmp_path, slow())) as pacs:
        assert store(pacs, image) == [0]
        contexts = ((STUDY_GET, [IMPLICIT]), (CT, [syntax]))
        with RawPeer.associated(pacs.address, *contexts, calling="SLOW", roles={CT: (True, True)}) as peer:
            began = time.monotonic()
            peer.send(message(1, get, keys))
            assert len(peer.read_message().data) > 2 * RATE
            assert time.monotonic() - began > 0.7


def test_a_c_move_counts_against_who_asked_for_it(tmp_path: Path, image: Any) -> None:
    move = Command(
        command_field=CommandField.C_MOVE, message_id=1, affected_sop_class_uid=STUDY_MOVE, move_destination="DEST"
    )
    keys = encoded(identifier("STUDY", StudyInstanceUID=image.StudyInstanceUID))
    with collecting() as destination:
        with running(limited(tmp_path, slow(), remote_aes=(destination.remote,))) as pacs:
            assert store(pacs, image) == [0]
            with RawPeer.associated(pacs.address, (STUDY_MOVE, [IMPLICIT]), calling="SLOW") as peer:
                began = time.monotonic()
                peer.send(message(1, move, keys))
                assert [peer.read_message().command.status for _ in range(2)] == [0xFF00, 0]
                assert time.monotonic() - began > 0.7
        assert len(destination.instances) == 1


def test_a_pause_ends_when_the_server_stops(tmp_path: Path, image: Any) -> None:
    settings = limited(tmp_path, slow(rate=1024), shutdown_timeout=0.2)
    with running(settings) as pacs, RawPeer.associated(pacs.address, calling="SLOW") as peer:
        peer.send(message(3, store_request(str(image.SOPInstanceUID)), encoded(image, EXPLICIT)))
        assert eventually(lambda: len(list((settings.storage.directory / "incoming").glob("*.part"))))
        began = time.monotonic()
        pacs.stop()
        assert time.monotonic() - began < 3


# ------------------------------------------------------------------------------------ TLS


def test_a_handshake_has_a_deadline_as_a_whole(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    tls = TLSConfig(enabled=True, cert_path=tmp_path / "cert.pem", key_path=tmp_path / "key.pem")
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    assert len(hello) > 200
    settings = config(tmp_path, association_timeout=0.6).model_copy(update={"tls": tls})
    with running(settings) as pacs, RawPeer(pacs.address) as peer:
        began = time.monotonic()
        with sending(peer, (hello[at : at + 1] for at in range(len(hello))), pause=0.05):
            assert peer.ending() == "closed"
        assert 0.4 < time.monotonic() - began < 9
        assert eventually(lambda: refusals(pacs, "tls_handshake") == 1)


# ------------------------------------------------------------------------------------ the monitoring port


@pytest.fixture
def monitoring(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A monitoring port where a request has a second."""
    monkeypatch.setattr(monitor, "_REQUEST_SECONDS", 1.0)
    sock = bind("127.0.0.1", 0)
    address: tuple[str, int] = sock.getsockname()
    port = Monitor(sock, metrics=Metrics(), status=dict, not_ready=lambda: None)
    port.start()
    yield address
    port.stop()


def page(address: tuple[str, int]) -> bytes:
    with urllib.request.urlopen("http://{}:{}/healthz".format(*address), timeout=30) as response:
        answer: bytes = response.read()
    return answer


def test_a_slow_client_of_the_monitoring_port_holds_up_nobody(monitoring: tuple[str, int]) -> None:
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(monitoring)) for _ in range(4)]
        began = time.monotonic()
        for peer in peers:
            peer.send(b"GET /healthz HTTP/1.0\r\n")
            stack.enter_context(sending(peer, forever(b"X: y\r\n"), pause=0.1))
        assert page(monitoring) == b"ok\n"
        for peer in peers:
            assert _closed(peer)
        assert 0.5 < time.monotonic() - began < 6
    assert page(monitoring) == b"ok\n"


@pytest.mark.alone
def test_the_monitoring_port_takes_so_many_and_no_more(monitoring: tuple[str, int]) -> None:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(RawPeer(monitoring)) for _ in range(16)]
        with RawPeer(monitoring) as one_more:
            began = time.monotonic()
            assert _closed(one_more)
            assert time.monotonic() - began < 0.8
        assert sum(thread.name.startswith("Thread-") for thread in threading.enumerate()) <= 16
        assert all(_closed(peer) for peer in held)
        assert eventually(lambda: _answers(monitoring))


def _answers(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError):
        return page(address) == b"ok\n"
    return False


def _closed(peer: RawPeer) -> bool:
    """Whether the connection ends; raises TimeoutError if it does not."""
    try:
        while peer.socket.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


def test_many_quiet_associations_cost_the_pace_nothing(serve: Callable[..., PacsServer]) -> None:
    """Without `max_data_rate` there is no bucket at all."""
    pacs = serve()
    with RawPeer.associated(pacs.address) as peer:
        peer.send(message(1, echo_request()))
        assert peer.read_message().command.status == 0
        assert [c.association.throttle for c in pacs._connections._open if c.association] == [None]
