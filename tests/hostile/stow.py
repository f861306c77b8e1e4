"""Scenarios of hostile Store transactions (STOW-RS). None carries a whole instance, so that nothing is stored."""

import contextlib
import gzip
import time
from collections.abc import Iterator
from itertools import repeat, takewhile

from hostile import web
from hostile.payloads import bomb, ct, data_set, deep, element, part10, wide
from hostile.peers import Peer, Target, is_served
from hostile.web import HOST, at_once, client
from servers import DEFLATED

from pacs_server.config import WebConfig

# Each upload has a thread, as many as there may be connections, beside those that make other answers.
THREADS = web.THREADS + WebConfig().max_connections
_POST = b"POST /dicom-web/studies HTTP/1.1\r\n" + HOST
_RELATED = b'Content-Type: multipart/related; type="%s"; boundary=%s\r\n'
_BEGIN = b"--x\r\nContent-Type: application/dicom\r\n\r\n"
_END = b"\r\n--x--\r\n"
_MIB = 1 << 20
# Pixels that say they are longer than what comes of them.
_PIXELS = element(0x7FE00010, "OW", bytes(_MIB), length=64 * _MIB)
_BROKEN = part10(ct("1.2.3.4") + _PIXELS)


def stow_dripping(target: Target) -> int:
    """Parts whose headers and data sets come byte by byte, until the client has enough of it."""

    def drip(peer: Peer, data: bytes) -> None:
        peer.push(data[:-40])
        for value in data[-40:]:
            peer.push(bytes((value,)))
            time.sleep(0.02)
        peer.reset()

    bodies = (_BEGIN, _BEGIN + _BROKEN[:400], _BEGIN + _BROKEN, b"--x")
    return at_once(target, [(drip, _head(None) + _chunk(body)[:-2] + bytes(40)) for body in bodies * 3])


def stow_cut_bodies(target: Target) -> int:
    """Bodies that end before they should, at any byte, by an end or a reset of the connection."""
    body = _BEGIN + _BROKEN
    places = [*range(0, 700, 23), *range(700, len(body), len(body) // 12)]
    for number, place in enumerate(places):
        with client(target) as peer:
            peer.push(_head(len(body) + len(_END)) + body[:place])
            if number % 2:
                peer.reset()
    return len(places)


def stow_without_end(target: Target) -> int:
    """Parts without a boundary behind them, and headers of parts without an end."""
    for reset in (False, True):
        with client(target) as peer:
            peer.push(_head(None) + _chunk(_BEGIN + _BROKEN))
            for _ in range(30):
                peer.push(_chunk(bytes(_MIB)))
            if reset:
                peer.reset()
    for piece in (b"x" * _MIB, b"X: y\r\n" * 200_000, b"X: y\r\n z\r\n" * 100_000, b"\r\n--y" * 200_000):
        with client(target) as peer:
            peer.push(_head(None) + _chunk(b"--x\r\nContent-Type: application/dicom\r\nX: "))
            taken = sum(1 for _ in takewhile(peer.push, repeat(_chunk(piece), 60)))
            assert taken < 60, "headers without an end are not refused"
    return 6


def stow_announced_lengths(target: Target) -> int:
    """Parts and elements that are said to have 4 GB and more."""
    long = (
        element(0x7FE00010, "OB", b"x", length=0xFFFFFFFE),
        element(0x00091010, "UN", b"x", length=0xFFFFFFF0),
        element(0x00081110, "SQ", b"", length=0xFFFFFFF0),
        element(0x00020003, "UI", b"1.2", length=0xFFFF),
    )
    for each in long:
        assert _status(target, _BEGIN + part10(ct("1.2.3.4") + each) + _END) == 409
    announced = b"--x\r\nContent-Type: application/dicom\r\nContent-Length: %d\r\n\r\n" % 2**32
    assert _status(target, announced + _BROKEN + _END) == 409
    # The whole body, without and with so much in it.
    for said in (2**32, 2**63 - 1):
        with client(target) as peer:
            peer.push(_head(said) + _BEGIN + _BROKEN)
            peer.socket.shutdown(1)
            peer.drain()
    return 7


def stow_bombs(target: Target) -> int:
    """Bodies and parts that grow when they are unpacked or parsed."""
    packed = gzip.compress(bytes(50 * _MIB))
    head = _POST + _RELATED % (b"application/dicom", b"x") + b"Content-Encoding: gzip\r\n"
    assert _answer(target, head + b"Content-Length: %d\r\n\r\n" % len(packed) + packed) == 415
    of_part = b"--x\r\nContent-Type: application/dicom\r\nContent-Encoding: gzip\r\n\r\n"
    assert _status(target, of_part + packed + _END) == 409
    assert _status(target, _BEGIN + part10(bomb(ct("1.2.3.4")[:60], 1000), DEFLATED) + _END) == 409
    # Without a study they are not stored, but the study would stand behind all this.
    named = data_set({0x00080016: ("UI", "1.2.840.10008.5.1.4.1.1.2"), 0x00080018: ("UI", "1.2.3.4")})
    assert _status(target, _BEGIN + part10(named + deep(100_000)) + _END) == 409
    assert _status(target, _BEGIN + part10(named + wide(500_000)) + _END) == 409
    entities = b"<!DOCTYPE a [<!ENTITY e0 'x'>"
    entities += b"".join(b"<!ENTITY e%d '%s'>" % (n, b"&e%d;" % (n - 1) * 10) for n in range(1, 12))
    model = b"]><NativeDicomModel><DicomAttribute tag='00100020' vr='LO'><Value>&e11;</Value></DicomAttribute>"
    documents = {
        b"application/dicom+json": (
            b"[" * 1_000_000,
            b'[{"00081110":{"vr":"SQ","Value":' * 20_000,
            b'"\\u0000' * 200_000,
        ),
        b"application/dicom+xml": (b"<a>" * 500_000, entities + model + b"</NativeDicomModel>"),
    }
    for media_type, bodies in documents.items():
        for body in bodies:
            part = b"--x\r\nContent-Type: %s\r\n\r\n" % media_type + body + _END
            assert _status(target, part, media_type) in (400, 409), (media_type, body[:40])
    return 10


def stow_tiny_parts(target: Target) -> int:
    """Parts by the ten thousand, empty or of one byte, with one answer that names them all."""
    kinds = (_BEGIN + b"x\r\n", b"--x\r\n\r\n\r\n", b"--x\r\nContent-Type: text/plain\r\n\r\n\r\n", b"--x\r\n")
    assert _status(target, b"".join(kinds) * 2500 + _END[2:]) == 409
    return 10_000


def stow_wrong_boundaries(target: Target) -> int:
    """Bodies with another boundary than they say, with none, and full of what begins like it."""
    body = _BEGIN + _BROKEN + _END
    assert _status(target, body, boundary=b"y") == 400
    assert _status(target, body, boundary=b'""') == 400
    assert _status(target, body, boundary=b"x" * 10_000) == 400
    assert _status(target, _BROKEN) == 400
    assert _status(target, b"") == 400
    almost = _BEGIN + part10(ct("1.2.3.4") + _PIXELS[:100]) + b"\r\n--" * 500_000 + _END
    assert _status(target, almost) == 409
    # A boundary of its own for every byte of a long one that never comes.
    long = b"-" * 70
    assert _status(target, b"--" + long + b"\r\n\r\n" + b"-" * 5_000_000, boundary=long) in (400, 409)
    return 7


def stow_aborted(target: Target) -> int:
    """Large uploads from many clients at once, all of which go away in the middle."""
    amounts = [target.random.randrange(20) for _ in range(40)]

    def upload(peer: Peer, data: bytes) -> None:
        peer.push(_head(10**9) + _BEGIN + _BROKEN + data)
        peer.reset()

    acts = at_once(target, [(upload, bytes(amount * _MIB // 4)) for amount in amounts])
    is_served(target)
    return acts


def _head(length: int | None) -> bytes:
    """The head of a request; without a length its body comes in chunks."""
    said = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    return _POST + _RELATED % (b"application/dicom", b"x") + said + b"\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _status(
    target: Target, body: bytes, media_type: bytes = b"application/dicom", boundary: bytes = b"x"
) -> int | None:
    head = _POST + _RELATED % (media_type, boundary) + b"Content-Length: %d\r\n\r\n" % len(body)
    return _answer(target, head + body)


def _answer(target: Target, request: bytes) -> int | None:
    """The status of the answer, which is read to its end; None if there was none before the connection was cut."""
    with client(target) as peer:
        peer.push(request)
        with contextlib.suppress(OSError):
            peer.socket.shutdown(1)
        received = b"".join(_received(peer))
        return int(received.split()[1]) if received else None


def _received(peer: Peer) -> Iterator[bytes]:
    with contextlib.suppress(ConnectionError):
        while data := peer.socket.recv(_MIB):
            yield data
