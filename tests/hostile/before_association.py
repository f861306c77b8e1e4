"""Scenarios of peers that never become an association, or propose what is none."""

import contextlib
import threading
from collections.abc import Callable, Sequence

from hostile.mutation import mutated
from hostile.peers import PATIENCE, REQUEST, Peer, Target, everything
from servers import RawPeer, echo_request, message, proposal

from pacs_server.net.associate import encode_request
from pacs_server.net.pdu import HEADER, RELEASE_RQ, PDUType, encode_abort

_SCANNERS = 50


def half_open(target: Target) -> int:
    """Peers that begin a proposal and fall silent, at each place, all at once."""
    said = [REQUEST[:size] for size in (0, 1, 5, 6, 7, 74, 75, 100, len(REQUEST) - 1)] * 5
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(target.connect()) for _ in said]
        for peer, data in zip(peers, said, strict=True):
            peer.push(data)
        for peer in peers:
            peer.drain()
    return len(peers)


def dripping_proposals(target: Target) -> int:
    """Peers that send a proposal byte by byte, which has one deadline as a whole."""

    def drip(peer: Peer) -> None:
        peer.drip(REQUEST, 0.05)

    return together(target, [drip] * 8)


def announced_lengths(target: Target) -> int:
    """PDUs of every type that announce up to 4 GiB, before and within an association."""
    count = 0
    for kind in range(256) if target.random.random() < 0.1 else range(10):
        for length in (2**32 - 1, 2**31, 2**30):
            for peer in (target.connect(), target.associate() if length == 2**32 - 1 else target.connect()):
                with peer:
                    peer.push(HEADER.pack(kind, length) + bytes(100))
                    assert peer.ending() in ("abort 2 0", "abort 2 1", "abort 2 2")
                    count += 1
    return count


def bare_connects(target: Target) -> int:
    """Port scans and health checks: connect and go, from many addresses."""
    for number in range(500):
        # A reset leaves no port behind that has to rest, however often this is done.
        Peer(target.address, source=f"127.0.0.{2 + number % _SCANNERS}").reset()
    return 500


def resets(target: Target) -> int:
    """Connections that end in a reset at any place of an exchange."""
    stream = REQUEST + message(1, echo_request()) + RELEASE_RQ
    for _ in range(150):
        peer = target.connect()
        peer.push(stream[: target.random.randint(0, len(stream))])
        peer.reset()
    return 150


def odd_titles(target: Target) -> int:
    """AE titles that steer terminals, forge log lines or name paths."""
    titles = (
        "\x1b[2J\x1b[1;1H",
        "A\nlevel=error",
        "A\r\nB",
        "\0\0\0",
        "../../etc",
        "\x7f\x80\xff",
        "*",
        "%s%s%n",
        " " * 16,
    )
    for title in titles:
        request = bytearray(encode_request(everything()))
        for at in (10, 26):
            request[at : at + 16] = title.encode("latin-1").ljust(16)[:16]
            _propose_and_leave(target, bytes(request))
    return 2 * len(titles)


def mutated_proposals(target: Target) -> int:
    """Proposals with changes anywhere, and what others would send to this port."""
    small = encode_request(proposal(("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])))
    others = (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"SSH-2.0-x\r\n", encode_abort(), RELEASE_RQ)
    for number in range(60):
        data = mutated(target.random.choice((REQUEST, small)), target.random, others)
        if number % 2 and len(data) > 6:
            # What the server gets to see is the inside, when the length of the whole is right.
            data = HEADER.pack(PDUType.ASSOCIATE_RQ, len(data) - 6) + data[6:]
        _propose_and_leave(target, data)
    return 60


def many_contexts(target: Target) -> int:
    """Proposals as large as may be: 128 contexts with hundreds of transfer syntaxes, items without end."""
    syntaxes = [f"1.2.{number}" for number in range(150)]
    wide = encode_request(proposal(*((f"1.2.840.10008.5.1.4.1.1.{n}", syntaxes) for n in range(128))))
    same = b"".join(b"\x20\0\0\x08" + bytes((n % 256, 0, 0, 0)) + b"\x30\0\0\0" for n in range(15_000))
    empty = b"\x50\0\xff\xf0" + b"\x58\0\0\0" * 16380
    for body in (wide[6 : 6 + (1 << 18)], REQUEST[6:74] + same, REQUEST[6:] + empty, REQUEST[6:] * 60):
        data = HEADER.pack(PDUType.ASSOCIATE_RQ, len(body)) + body
        _propose_and_leave(target, data)
    return 4


def idle_crowd(target: Target) -> int:
    """As many connections as one address may have, and more, all of them silent."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(target.connect()) for _ in range(170)]
        with RawPeer(target.address, PATIENCE) as other:
            other.associate(everything())
            assert other.echo() == 0
        for peer in peers:
            peer.drain()
    return len(peers)


def _propose_and_leave(target: Target, data: bytes) -> None:
    with target.connect() as peer:
        peer.push(data)
        with contextlib.suppress(ConnectionError):
            peer.socket.shutdown(1)
        peer.drain()


def together(target: Target, doing: Sequence[Callable[[Peer], None]]) -> int:
    """Have each done by a peer of its own, associated or not as it likes, at the same time."""
    failures: list[BaseException] = []

    def run(do: Callable[[Peer], None]) -> None:
        try:
            with target.connect() as peer:
                do(peer)
        except (OSError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(do,)) for do in doing]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return len(doing)
