"""Bad peers: each meets a deadline or a cap, only they notice, and nothing of them stays."""

import contextlib
import os
import socket
import ssl
import threading
import time

import pytest
import trustme
from datasets import data_set_bytes, make_ct, uid, write_part10
from servers import (
    AT_REST,
    CT,
    EXPLICIT,
    IMPLICIT,
    STUDY_FIND,
    VERIFICATION,
    RawPeer,
    config,
    echo_request,
    eventually,
    leftovers,
    message,
    open_sockets,
    p_data,
    pdv,
    proposal,
    running,
    server_threads,
    store,
    store_request,
)
from strategies import encoded, identifier

from pacs_server.config import TLSConfig
from pacs_server.net.associate import encode_request
from pacs_server.net.message import Command, CommandField, encode_command
from pacs_server.net.pdu import COMMAND, HEADER, LAST, RELEASE_RQ, AbortReason, PDUType, encode_abort
from pacs_server.net.transport import Transport

REQUEST = encode_request(proposal((VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT])))
SHORT = {"association_timeout": 0.3, "network_timeout": 0.3}
UNEXPECTED_PDU = "abort 2 2"


@pytest.fixture
def instance(tmp_path):
    """A small CT: its SOP Instance UID and its data set."""
    ds = make_ct(rows=4, columns=4)
    return str(ds.SOPInstanceUID), data_set_bytes(write_part10(ds, tmp_path / "ct.dcm"))[1]


def _is_served(pacs):
    with RawPeer.associated(pacs.address) as peer:
        began = time.monotonic()
        assert peer.echo() == 0
        assert time.monotonic() - began < 4
        peer.release()


def _open_files():
    return len(os.listdir("/proc/self/fd"))


# ------------------------------------------------------------------------------------ before an association


@pytest.mark.parametrize(
    "said",
    [
        b"",
        REQUEST[:6],
        REQUEST[:5],
        REQUEST[:-1],
        HEADER.pack(PDUType.ASSOCIATE_RQ, 100) + b"x",
    ],
    ids=["silent", "header", "half-a-header", "all-but-a-byte", "body-begun"],
)
def test_who_does_not_finish_proposing_is_cut_off(serve, said):
    pacs = serve(**SHORT)
    with RawPeer(pacs.address) as peer:
        peer.send(said)
        began = time.monotonic()
        assert peer.ending() == "closed"
        assert 0.2 < time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("said", "ending"),
    [
        (message(1, echo_request()), UNEXPECTED_PDU),
        (RELEASE_RQ, UNEXPECTED_PDU),
        (HEADER.pack(PDUType.ASSOCIATE_AC, 0), UNEXPECTED_PDU),
        (HEADER.pack(PDUType.ASSOCIATE_RQ, 0), "abort 2 0"),
        (HEADER.pack(PDUType.ASSOCIATE_RQ, 2**32 - 1), "abort 2 0"),
        (HEADER.pack(PDUType.P_DATA, 2**32 - 1), "abort 2 0"),
        (b"GET / HTTP/1.1\r\n\r\n", "abort 2 1"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "abort 2 1"),
        (encode_abort(), "closed"),
    ],
    ids=["P-DATA", "release", "accept", "empty", "4 GiB RQ", "4 GiB P-DATA", "HTTP", "TLS", "abort"],
)
def test_what_is_no_proposal_is_aborted_at_once(serve, said, ending):
    pacs = serve()
    with RawPeer(pacs.address) as peer:
        peer.send(said)
        began = time.monotonic()
        assert peer.ending() == ending
        assert time.monotonic() - began < 4
    _is_served(pacs)


def test_half_open_peers_hold_up_nobody_and_leave_nothing(serve):
    """What pynetdicom did: five peers that sent six bytes each kept ten threads for ever."""
    pacs = serve(max_associations=3, **SHORT)
    _is_served(pacs)
    assert eventually(lambda: server_threads() == AT_REST)
    sockets = open_sockets()
    peers = [RawPeer(pacs.address) for _ in range(20)]
    for peer in peers:
        peer.send(REQUEST[:6])
    _is_served(pacs)
    assert all(peer.ending() == "closed" for peer in peers)
    for peer in peers:
        peer.socket.close()
    assert eventually(lambda: server_threads() == AT_REST)
    assert eventually(lambda: open_sockets() == sockets)
    assert pacs.status()["associations"] == {"active": 0, "connections": 0}


def test_port_scans_leave_nothing(serve):
    pacs = serve()
    sockets = open_sockets()
    for _ in range(200):
        socket.create_connection(pacs.address).close()
    assert eventually(lambda: server_threads() == AT_REST and open_sockets() == sockets)
    _is_served(pacs)


# ------------------------------------------------------------------------------------ within an association

ECHO_FIRST = encode_command(Command(command_field=CommandField.C_ECHO, message_id=1, command_data_set_type=0x101))
BEGUN_STORE = message(3, store_request("1.2.3"), b"")[:-12] + p_data(pdv(3, 0, bytes(50)))


@pytest.mark.parametrize(
    ("said", "ending"),
    [
        (p_data(pdv(1, LAST, b"data")), UNEXPECTED_PDU),
        (p_data(pdv(9, COMMAND | LAST, ECHO_FIRST)), "abort 2 0"),
        (p_data(pdv(1, COMMAND, bytes(10_000))) * 2, "abort 2 0"),
        (HEADER.pack(PDUType.P_DATA, 131072 + 7), "abort 2 0"),
        (HEADER.pack(PDUType.P_DATA, 2**32 - 1), "abort 2 0"),
        (p_data(b"\0\0\0"), "abort 2 6"),
        (p_data(b"\0\0\0\1\1\3"), "abort 2 6"),
        (p_data(b"\xff\xff\xff\xff\1\3"), "abort 2 6"),
        (p_data(pdv(1, COMMAND | LAST, b"rubbish?")), "abort 2 0"),
        (p_data(pdv(1, COMMAND, ECHO_FIRST)) + RELEASE_RQ, UNEXPECTED_PDU),
        (BEGUN_STORE + RELEASE_RQ, UNEXPECTED_PDU),
        (BEGUN_STORE + message(1, echo_request()), UNEXPECTED_PDU),
        (BEGUN_STORE + p_data(pdv(1, LAST, b"data")), UNEXPECTED_PDU),
        (REQUEST, UNEXPECTED_PDU),
        (b"\x09\0\0\0\0\0", "abort 2 1"),
        (encode_abort(), "closed"),
        (BEGUN_STORE + encode_abort(), "closed"),
    ],
)
def test_breaches_of_protocol_end_the_association(serve, said, ending):
    pacs = serve()
    with RawPeer.associated(pacs.address) as peer:
        peer.send(said)
        began = time.monotonic()
        assert peer.ending() == ending
        assert time.monotonic() - began < 4
    _is_served(pacs)
    assert eventually(lambda: leftovers(pacs.config) == [])


def test_an_identifier_too_large(serve):
    pacs = serve()
    with RawPeer.associated(pacs.address, (STUDY_FIND, [IMPLICIT])) as peer:
        find = Command(command_field=CommandField.C_FIND, message_id=1, affected_sop_class_uid=STUDY_FIND)
        with contextlib.suppress(OSError):
            peer.send(message(1, find, bytes(2 * 1024 * 1024)))
        assert peer.ending() in ("abort 2 0", "closed")


@pytest.mark.parametrize("slow", ["silent", "trickle"])
def test_who_does_not_finish_a_message_is_aborted(serve, instance, slow):
    pacs = serve(network_timeout=0.3)
    stream = message(3, store_request(instance[0]), instance[1], max_pdu=1000)
    stop = threading.Event()
    with RawPeer.associated(pacs.address) as peer:
        peer.send(stream[:600])

        def trickle():
            with contextlib.suppress(OSError):
                for byte in stream[600:]:
                    if stop.wait(0.05):
                        return
                    peer.send(bytes((byte,)))

        thread = threading.Thread(target=trickle if slow == "trickle" else stop.wait)
        thread.start()
        began = time.monotonic()
        try:
            assert peer.ending() in ("abort 0 0", "closed")
            assert time.monotonic() - began < 15
        finally:
            stop.set()
            thread.join()
    assert eventually(lambda: leftovers(pacs.config) == [])


def test_a_peer_that_takes_no_answers_is_aborted(serve):
    pacs = serve(network_timeout=0.3)
    with RawPeer.associated(pacs.address) as peer:
        # The UID is sent back, which fills the buffers soon.
        request = Command(command_field=CommandField.N_CREATE, message_id=1, affected_sop_instance_uid="1" * 15000)
        with contextlib.suppress(OSError):
            for _ in range(10_000):
                peer.send(message(1, request))
        assert eventually(lambda: pacs.status()["associations"]["connections"] == 0)


def test_a_connection_that_drops_anywhere_in_a_store_leaves_nothing(serve, instance):
    pacs = serve()
    sop, data = instance
    stream = message(3, store_request(sop), data, max_pdu=400) + RELEASE_RQ
    whole = len(stream) - len(RELEASE_RQ)
    files = _open_files()
    offsets = sorted({*range(0, len(stream), 23), *range(0, 30), whole - 1, whole, len(stream)})
    for offset in offsets:
        with RawPeer.associated(pacs.address) as peer:
            peer.send(stream[:offset])
    assert eventually(lambda: leftovers(pacs.config) == [])
    assert eventually(lambda: server_threads() == AT_REST and _open_files() <= files + 8)
    # Only the ones that were whole were stored, all the same instance.
    assert pacs.status()["counts"]["instances"] == 1
    _is_served(pacs)


# ------------------------------------------------------------------------------------ what can be answered


@pytest.mark.parametrize("command_field", [0x0000, 0x0002, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150, 0x7FFF])
@pytest.mark.parametrize("data", [None, b"\x08\x00\x16\x00\x00\x00\x00\x00"])
def test_operations_that_are_not_offered(serve, command_field, data):
    pacs = serve()
    with RawPeer.associated(pacs.address) as peer:
        peer.send(message(1, Command(command_field=command_field, message_id=5), data))
        reply = peer.read_message().command
        assert (reply.command_field, reply.message_id_being_responded_to) == (command_field | 0x8000, 5)
        assert reply.status == 0x0211
        assert peer.echo() == 0


def test_responses_and_cancels_out_of_nowhere_are_passed_over(serve):
    pacs = serve()
    with RawPeer.associated(pacs.address) as peer:
        peer.send(message(1, Command(command_field=0x8001, message_id_being_responded_to=1, status=0)))
        peer.send(message(1, Command(command_field=0x8020, message_id_being_responded_to=1, status=0xFF00), b"data"))
        peer.send(message(1, Command(command_field=CommandField.C_CANCEL, message_id_being_responded_to=77)))
        assert peer.echo() == 0


def test_cancels_out_of_nowhere_without_end_are_not(serve):
    pacs = serve()
    cancel = message(1, Command(command_field=CommandField.C_CANCEL, message_id_being_responded_to=77))
    with RawPeer.associated(pacs.address) as peer:
        for _ in range(3):
            # A request in between says that the peer is at work.
            peer.send(cancel * 90)
            assert peer.echo() == 0
        peer.send(cancel * 101)
        assert peer.read_pdu() == (PDUType.ABORT, bytes((0, 0, 2, AbortReason.UNEXPECTED_PDU)))


def test_requests_before_the_answer_wait_for_others_and_requests_after_it_do_not(serve, monkeypatch):
    pauses = []
    monkeypatch.setattr(Transport, "pause", lambda self, seconds: pauses.append(seconds))
    pacs = serve()
    with RawPeer.associated(pacs.address) as peer:
        for number in range(30):
            assert peer.echo(number) == 0
        assert pauses == []
        peer.send(message(1, echo_request()) * 30)
        assert [peer.read_message().command.status for _ in range(30)] == [0] * 30
    # At each tenth, and the last one has nothing behind it.
    assert pauses == [0.002] * 2


def test_requests_that_cost_much_and_come_to_nothing_wait_for_others(serve, monkeypatch):
    pauses = []
    monkeypatch.setattr(Transport, "pause", lambda self, seconds: pauses.append(seconds))
    # The connection begins; an echo; two requests, each with its beginning and its end; the connection ends.
    clock = iter([0.0, 0.0, 0.0, 0.5, 0.0, 9.0, *[0.0] * 9])
    monkeypatch.setattr("pacs_server.scp.dispatch.time.thread_time", lambda: next(clock))
    pacs = serve()
    with RawPeer.associated(pacs.address) as peer:
        assert peer.echo() == 0
        for _ in range(2):
            peer.send(message(3, store_request("not a UID"), b"junk"))
            assert peer.read_message().command.status == 0xC000
    assert pauses == [1.5, 5.0]


@pytest.mark.parametrize("sop_class", [CT, STUDY_FIND])
def test_a_query_context_stores_nothing(serve, sop_class):
    pacs = serve()
    ds = make_ct(SOPClassUID=sop_class)
    with RawPeer.associated(pacs.address, (STUDY_FIND, [EXPLICIT])) as peer:
        peer.send(message(1, store_request(str(ds.SOPInstanceUID), sop_class=sop_class), encoded(ds, EXPLICIT)))
        assert peer.read_message().command.status == 0x0211
    assert pacs.status()["counts"]["instances"] == 0


def test_a_storage_context_answers_no_query(serve):
    pacs = serve()
    with RawPeer.associated(pacs.address) as peer:
        find = Command(command_field=CommandField.C_FIND, message_id=1, affected_sop_class_uid=CT)
        peer.send(message(3, find, encoded(identifier("STUDY"), EXPLICIT)))
        assert peer.read_message().command.status == 0x0211


@pytest.mark.parametrize("command", [CommandField.C_FIND, CommandField.C_STORE])
def test_requests_that_lack_a_data_set(serve, command):
    pacs = serve()
    with RawPeer.associated(pacs.address, (STUDY_FIND, [EXPLICIT]), (CT, [EXPLICIT])) as peer:
        request = Command(command_field=command, message_id=1, affected_sop_instance_uid="1.2.3")
        peer.send(message(1 if command == CommandField.C_FIND else 3, request))
        assert peer.read_message().command.status in (0xA900, 0xC000)


def test_a_second_request_while_a_find_runs_is_against_what_was_negotiated(serve):
    pacs = serve()
    study = uid()
    assert set(store(pacs, *[make_ct(study, rows=1, columns=1) for _ in range(40)])) == {0}
    keys = encoded(identifier("IMAGE", StudyInstanceUID=study, SeriesInstanceUID="", SOPInstanceUID=""))
    with RawPeer.associated(pacs.address, (STUDY_FIND, [IMPLICIT]), extended={STUDY_FIND: b"\1"}) as peer:
        find = Command(command_field=CommandField.C_FIND, message_id=1, affected_sop_class_uid=STUDY_FIND)
        peer.send(message(1, find, keys) + message(1, echo_request(2)))
        # Pending responses of the first batch may have gone out before it was seen.
        assert peer.ending() == UNEXPECTED_PDU


# ------------------------------------------------------------------------------------ TLS


@pytest.fixture
def tls(tmp_path):
    """TLS settings for the server, and a context that trusts it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return TLSConfig(enabled=True, cert_path=tmp_path / "cert.pem", key_path=tmp_path / "key.pem"), context


def test_a_silent_tls_client_holds_up_nobody_nor_the_shutdown(tmp_path, tls):
    """What pynetdicom did: the handshake ran in the accept loop, and one silent client blocked all."""
    settings, context = tls
    timeouts = dict.fromkeys(("association_timeout", "network_timeout", "shutdown_timeout"), 60.0)
    server = config(tmp_path, **timeouts).model_copy(update={"tls": settings})
    with running(server) as pacs, RawPeer(pacs.address) as silent, RawPeer(pacs.address) as peer:
        peer.socket = context.wrap_socket(peer.socket, server_hostname="127.0.0.1")
        peer.associate(proposal((VERIFICATION, [IMPLICIT])))
        assert peer.echo() == 0
        began = time.monotonic()
        stopper = threading.Thread(target=pacs.stop)
        stopper.start()
        # The farewell comes encrypted like everything else.
        assert peer.ending() == "abort 0 0"
        assert silent.ending() == "closed"
        stopper.join()
        assert time.monotonic() - began < 30


def test_a_tls_handshake_has_a_deadline(tmp_path, tls):
    server = config(tmp_path, **SHORT).model_copy(update={"tls": tls[0]})
    with running(server) as pacs, RawPeer(pacs.address) as silent:
        assert silent.ending() == "closed"
