"""Limits, memory and speed: what one peer costs, and how many there may be."""

import contextlib
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from datasets import make_ct, make_study
from servers import (
    CT,
    EXPLICIT,
    IMPLICIT,
    STUDY_GET,
    VERIFICATION,
    RawPeer,
    echo_request,
    eventually,
    message,
    p_data,
    pdv,
    proposal,
    store_request,
)
from strategies import encoded, identifier

from pacs_server.net.associate import encode_request
from pacs_server.net.message import Command, CommandField
from pacs_server.net.pdu import HEADER, LAST, RELEASE_RQ, PDUType

REQUEST = encode_request(proposal((VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT])))


def _is_served(pacs):
    with RawPeer.associated(pacs.address) as peer:
        began = time.monotonic()
        assert peer.echo() == 0
        assert time.monotonic() - began < 4
        peer.release()


def test_a_length_of_4_gib_takes_no_memory(serve):
    """What pynetdicom did: 100 MiB sent of an announced 4 GiB were buffered before any association."""
    pacs = serve()
    before = _size()
    with RawPeer(pacs.address) as peer, contextlib.suppress(OSError):
        peer.send(HEADER.pack(PDUType.ASSOCIATE_RQ, 2**32 - 1))
        for _ in range(64):
            peer.send(bytes(1024 * 1024))
    _is_served(pacs)
    assert _peak() - before < 16 * 1024


def _size():
    """The resident size now, in KiB; `_peak` counts from here on."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak():
    """The largest resident size, in KiB."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


# ------------------------------------------------------------------------------------ limits


def test_over_max_associations_is_a_transient_rejection_and_places_come_back(serve):
    pacs = serve(max_associations=2)
    with RawPeer.associated(pacs.address) as first, RawPeer.associated(pacs.address), RawPeer(pacs.address) as third:
        third.send(REQUEST)
        # PS3.8 Table 9-21: rejected transient, service provider (presentation), local limit exceeded.
        assert third.read_pdu() == (PDUType.ASSOCIATE_RJ, bytes((0, 2, 3, 2)))
        assert third.ending() == "closed"
        first.release()
        assert eventually(lambda: pacs.status()["associations"]["active"] == 1)
        _is_served(pacs)


def test_a_place_is_free_when_the_release_is_answered(serve, monkeypatch):
    """A peer that keeps to the limit may propose the next association as soon as it has the answer."""
    pacs = serve(max_associations=1)
    ended = pacs.recent_associations.ended

    def late(*args):
        time.sleep(0.3)
        ended(*args)

    monkeypatch.setattr(pacs.recent_associations, "ended", late)
    peers = [RawPeer.associated(pacs.address)]
    for _ in range(3):
        peers[-1].send(RELEASE_RQ)
        assert peers[-1].read_pdu()[0] == PDUType.RELEASE_RP
        peers.append(RawPeer.associated(pacs.address))
    for peer in peers:
        peer.socket.close()
    assert pacs.recent_associations.list(refused=True) == []


def test_connections_over_the_limit_per_address_are_closed(serve):
    pacs = serve(max_connections_per_address=2)
    peers = [RawPeer(pacs.address) for _ in range(2)]
    assert eventually(lambda: pacs.status()["associations"]["connections"] == 2)
    with RawPeer(pacs.address) as third:
        assert third.ending() == "closed"
    for peer in peers:
        peer.socket.close()
    assert eventually(lambda: pacs.status()["associations"]["connections"] == 0)
    _is_served(pacs)


def test_idle_associations_are_aborted(serve):
    pacs = serve(idle_timeout=0.3)
    with RawPeer.associated(pacs.address) as peer:
        assert peer.echo() == 0
        began = time.monotonic()
        assert peer.ending() == "abort 0 0"
        assert 0.2 < time.monotonic() - began < 30


# ------------------------------------------------------------------------------------ size and speed


def test_memory_does_not_grow_with_the_object(serve):
    """What pynetdicom did: 200 MB to a slow peer took 190 MiB, and on the way in no less."""
    pacs = serve()
    ds = make_ct(NumberOfFrames=1)
    del ds.PixelData
    sop, header = str(ds.SOPInstanceUID), encoded(ds, EXPLICIT)
    size = 96 * 1024 * 1024
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, size)
    piece = p_data(pdv(1, 0, bytes(64 * 1024))) * 16
    before = _size()
    with RawPeer.associated(pacs.address, (CT, [EXPLICIT])) as peer:
        peer.send(message(1, store_request(sop), b"")[:-12] + p_data(pdv(1, 0, header + pixels)))
        for _ in range(size // 2**20):
            peer.send(piece)
        peer.send(p_data(pdv(1, LAST)))
        assert peer.read_message().command.status == 0
    get = Command(command_field=CommandField.C_GET, message_id=1, affected_sop_class_uid=STUDY_GET)
    contexts = ((STUDY_GET, [IMPLICIT]), (CT, [EXPLICIT]))
    with RawPeer.associated(pacs.address, *contexts, roles={CT: (True, True)}, max_pdu_size=2**17) as peer:
        peer.send(message(1, get, encoded(identifier("STUDY", StudyInstanceUID=ds.StudyInstanceUID))))
        got, control = 0, 0
        while control != LAST:
            _, body = peer.read_pdu()
            got, control = got + len(body) - 6, body[5]
    assert got > size
    assert _peak() - before < 24 * 1024


@pytest.mark.alone
def test_senders_that_hold_back_the_data_set_until_the_command_is_acknowledged(serve):
    """With Nagle's algorithm on, two small writes wait for a delayed acknowledgement: 40 ms for each object."""
    pacs = serve()
    command = message(1, echo_request(), b"")[:-12]
    with RawPeer.associated(pacs.address) as peer:
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        began = time.monotonic()
        for _ in range(60):
            peer.send(command)
            peer.send(p_data(pdv(1, LAST, bytes(50))))
            assert peer.read_message().command.status == 0
        assert time.monotonic() - began < 60 * 0.02


def test_many_senders_at_once(serve):
    pacs = serve(storage={"fsync": True})
    instances = [[(str(ds.SOPInstanceUID), encoded(ds, EXPLICIT)) for ds in make_study(1, 5)] for _ in range(8)]
    statuses = []

    def send(study):
        with RawPeer.associated(pacs.address) as peer:
            for sop, data in study:
                peer.send(message(3, store_request(sop), data))
                statuses.append(peer.read_message().command.status)

    threads = [threading.Thread(target=send, args=(study,)) for study in instances]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 40
    assert pacs.status()["counts"] == {"patients": 1, "studies": 8, "series": 8, "instances": 40}
