"""Framing: however the bytes come in, the same PDUs come out, and no announced length is believed."""

import threading
import time

import pytest
from servers import tcp_pair

from pacs_server.net import pdu
from pacs_server.net.pdu import HEADER, PDUReader, PDUType, ProtocolError, encode_abort, encode_reject
from pacs_server.net.transport import ConnectionLost, DeadlineExpired, Transport


@pytest.fixture
def ends():
    with tcp_pair() as (peer, ours):
        yield peer, PDUReader(Transport(ours, tick=0.05), max_pdu_size=4096, pdu_timeout=0.3)


def test_pdus_in_one_piece_and_of_the_largest_size(ends):
    peer, reader = ends
    # Some peers do not count the six bytes in front of a value.
    bodies = [b"\1" * 4096, b"", b"\2" * 4095, b"\3" * 4096, b"\4" * 4102]
    peer.sendall(b"".join(HEADER.pack(PDUType.P_DATA, len(body)) + body for body in bodies))
    assert [bytes(reader.read(1)[1]) for _ in bodies] == bodies
    assert not reader.waiting()


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        (PDUType.P_DATA, 4096 + 7),
        (PDUType.ASSOCIATE_RQ, 2**32 - 1),
        (PDUType.ABORT, 1025),
        (PDUType.RELEASE_RQ, 2**32 - 1),
    ],
)
def test_announced_lengths_over_the_cap_are_refused_at_the_header(ends, kind, length):
    peer, reader = ends
    peer.sendall(HEADER.pack(kind, length))
    with pytest.raises(ProtocolError, match="over the limit"):
        reader.read(1)


@pytest.mark.parametrize("kind", [0, 8, 0x16, 0x47, 255])
def test_unknown_types(ends, kind):
    peer, reader = ends
    peer.sendall(HEADER.pack(kind, 4))
    with pytest.raises(ProtocolError, match="unknown type") as caught:
        reader.read(1)
    assert caught.value.reason == pdu.AbortReason.UNRECOGNIZED_PDU


@pytest.mark.alone
def test_a_silent_peer_gets_the_time_that_the_caller_gives(ends):
    _, reader = ends
    began = time.monotonic()
    with pytest.raises(DeadlineExpired, match="no data"):
        reader.read(0.1)
    assert 0.1 <= time.monotonic() - began < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("begun", [b"\4", HEADER.pack(PDUType.P_DATA, 100), HEADER.pack(PDUType.P_DATA, 100) + b"x"])
def test_a_pdu_that_was_begun_has_its_own_deadline(ends, begun):
    peer, reader = ends
    peer.sendall(begun)
    began = time.monotonic()
    with pytest.raises(DeadlineExpired, match="not finished in time"):
        reader.read(60)
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_a_trickle_resets_no_clock(ends):
    peer, reader = ends
    stop = threading.Event()

    def trickle():
        peer.sendall(HEADER.pack(PDUType.P_DATA, 4096))
        while not stop.wait(0.02):
            peer.sendall(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    began = time.monotonic()
    try:
        with pytest.raises(DeadlineExpired, match="not finished in time"):
            reader.read(60)
        assert time.monotonic() - began < 30
    finally:
        stop.set()
        thread.join()


def test_a_connection_closed_within_a_pdu(ends):
    peer, reader = ends
    peer.sendall(b"\4\0")
    peer.close()
    with pytest.raises(ConnectionLost, match="in the middle of a PDU"):
        reader.read(1)


def test_short_pdus():
    assert encode_reject(2, 3, 2) == bytes.fromhex("03 00 00000004 00 02 03 02")
    assert encode_abort(2, 6) == bytes.fromhex("07 00 00000004 00 00 02 06")
    assert bytes.fromhex("05 00 00000004 00000000") == pdu.RELEASE_RQ
    assert bytes.fromhex("06 00 00000004 00000000") == pdu.RELEASE_RP
