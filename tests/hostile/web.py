"""Scenarios of hostile clients of the HTTP port."""

import contextlib
import gzip
import itertools
import threading
import time
from collections.abc import Callable, Sequence

from hostile.mutation import mutated
from hostile.peers import Peer, Target, is_served

# How many threads make answers at most, for the web port and the monitoring port.
THREADS = 2 * 40
HOST = b"Host: 127.0.0.1\r\n"
GET = b"GET %s HTTP/1.1\r\n" + HOST + b"\r\n"
QUERY = b"/dicom-web/studies?limit=3&includefield=all"
# More than the network takes without being read.
LARGE = b"/dicom-web/studies?limit=100000&includefield=all"
POST = b"POST /dicom-web/studies HTTP/1.1\r\n" + HOST
MULTIPART = b'Content-Type: multipart/related; type="application/dicom"; boundary=x\r\n'
PART = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + bytes(200) + b"\r\n"
STORE = POST + MULTIPART + b"Content-Length: %d\r\n\r\n" % (len(PART) + 7) + PART + b"--x--\r\n"
CHUNKED = POST + MULTIPART + b"Transfer-Encoding: chunked\r\n\r\n"
_SCANNERS = 50
_CROWD = 170
_SMUGGLED = (
    b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    b"Content-Length: +3\r\n\r\nabc",
    b"Content-Length : 3\r\n\r\nabc",
    b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
    b"X: y\r\n z\r\n\r\n",
    b"X: y\nZ: a\r\n\r\n",
    b"X: y\0\r\n\r\n",
    b"Host: other\r\n\r\n",
)
_PATHS = (
    b"/../../../etc/passwd",
    b"/%2e%2e/%2e%2e/etc/passwd",
    b"/..%2f..%2fetc%2fpasswd",
    b"/%2fetc%2fpasswd",
    b"//etc/passwd",
    b"/dicom-web/studies/../../etc/passwd",
    b"/dicom-web/studies/%2e%2e%2f%2e%2e%2fevil",
    b"/dicom-web/studies/1.2/series/..%5c..%5cevil",
    b"/dicom-web/studies/%00",
    b"/%0d%0aSet-Cookie:evil",
    b"/" + b"a/" * 5000,
    b"/" + b"a" * 60_000,
    b"/%c0%ae%c0%ae/etc/passwd",
    b"/%",
    b"file:///etc/passwd",
    b"http://evil.example.org/etc/passwd",
)


def http_connects(target: Target) -> int:
    """Port scans and health checks: connect and go, from many addresses."""
    for number in range(300):
        Peer(target.web, source=f"127.0.0.{2 + number % _SCANNERS}").reset()
    return 300


def http_crowd(target: Target) -> int:
    """As many connections as one address may have, and more, most of them in the middle of a head or a body."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(client(target)) for _ in range(_CROWD)]
        for peer, said in zip(peers, itertools.cycle((b"", b"GET", GET[:30], STORE[:-20], CHUNKED)), strict=False):
            peer.push(said)
        is_served(target)
    return len(peers)


def http_dripping(target: Target) -> int:
    """Heads and bodies that come byte by byte."""

    def drip(peer: Peer, data: bytes) -> None:
        for value in data[:40]:
            peer.push(bytes((value,)))
            time.sleep(0.02)

    return at_once(target, [(drip, data) for data in (GET, STORE, CHUNKED) * 4])


def http_unread_answers(target: Target) -> int:
    """Clients that ask for much and read nothing of it, a few times on each connection."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(client(target, buffer=4096)) for _ in range(10)]
        for peer in peers:
            peer.push(GET % LARGE)
            peer.push(GET % LARGE * 3)
        is_served(target)
        for peer in peers:
            peer.reset()
    return len(peers)


def http_lengths(target: Target) -> int:
    """Bodies of 4 GB and more that never come, that come too long, and that break off."""
    for length in (2**32, 2**40, 2**63 - 1, 2**64 - 1, 2**70):
        with client(target) as peer:
            peer.push(POST + MULTIPART + b"Content-Length: %d\r\n\r\n" % length + PART * 50)
    for size in range(0, len(STORE), 11):
        with client(target) as peer:
            peer.push(STORE[:size])
    return 5 + len(STORE) // 11


def http_chunks(target: Target) -> int:
    """Chunks of one byte, extensions without end, trailers without end, a chunk that is larger than any number."""
    for said in (b"1\r\nx\r\n" * 50_000, b"1;" + b"x" * 1_000_000, b"0\r\n" + b"X: y\r\n" * 50_000, b"f" * 40):
        with client(target) as peer:
            peer.push(CHUNKED + said)
            # Ended by both: what was sent is malformed, or no more of it comes.
            with contextlib.suppress(OSError):
                peer.socket.shutdown(1)
            peer.drain()
    return 4


def http_bombs(target: Target) -> int:
    """Bodies that would grow when they are decoded, and heads that are large."""
    bomb = gzip.compress(bytes(10_000_000))
    for name in (b"gzip", b"deflate", b"br", b"gzip, gzip"):
        head = POST + MULTIPART + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (name, len(bomb))
        assert status(target, head + bomb) == 415
    for head in (b"X: y\r\n" * 5000, b"X: " + b"y" * 500_000, b"Cookie: " + b"a=b; " * 50_000):
        assert status(target, GET[:-2] % QUERY + head + b"\r\n") == 431
    return 7


def http_smuggling(target: Target) -> int:
    """Requests whose end is in doubt."""
    for form in _SMUGGLED:
        assert status(target, POST + form + GET % QUERY) in (400, 501), form
    return len(_SMUGGLED)


def http_paths(target: Target) -> int:
    """Paths that lead elsewhere in other programs."""
    for path in _PATHS:
        with client(target) as peer:
            peer.push(GET % path)
            answer = peer.socket.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 4"), (path, answer[:100])
            assert b"root:" not in answer
            assert b"\r\nset-cookie:evil" not in answer.lower()
    return len(_PATHS)


def http_pipelines(target: Target) -> int:
    """Requests by the thousand in one go, of which one is answered."""
    with client(target) as peer:
        peer.push(GET % QUERY * 3000)
        peer.drain()
    return 3000


def http_mutations(target: Target) -> int:
    """Requests with changes anywhere, and what others would send to this port."""
    valid = (GET % QUERY, GET % b"/dicom-web/studies/1.2.77.1/metadata", STORE, GET % b"/api/v1/studies?limit=2")
    others = (b"\x16\x03\x01\x02\x00\x01\x00", b"SSH-2.0-x\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    for _ in range(100):
        with client(target) as peer:
            peer.push(mutated(target.random.choice(valid), target.random, others))
            with contextlib.suppress(OSError):
                peer.socket.shutdown(1)
            peer.drain()
    return 100


def http_slow(target: Target) -> int:
    """Slow heads, bodies and readers until each is cut off, which takes half a minute."""

    def wait(peer: Peer, data: bytes) -> None:
        peer.push(data[:-10] or data)
        peer.drain()

    def drip(peer: Peer, data: bytes) -> None:
        began = time.monotonic()
        for value in itertools.cycle(data):
            if not peer.push(bytes((value,))):
                break
            assert time.monotonic() - began < _SLOWEST
            time.sleep(0.2)

    def stall(peer: Peer, data: bytes) -> None:
        peer.push(GET % LARGE)
        time.sleep(_SLOWEST)
        with contextlib.suppress(ConnectionError):
            size = 0
            while more := len(peer.socket.recv(1 << 20)):
                size += more
                assert size < _LARGE, "a client that does not read is not cut off"

    return at_once(target, [(wait, GET), (wait, STORE), (drip, GET), (drip, CHUNKED), (stall, b"")] * 5)


# Longer than any deadline of the port, in seconds; and what the network takes of an answer that nobody reads.
_SLOWEST = 70.0
_LARGE = 6_000_000


def http_ten_thousand(target: Target) -> int:
    """Ten thousand connections at once, as far as the client's own limit of descriptors allows."""
    with contextlib.ExitStack() as stack:
        for number in range(10_000):
            try:
                stack.enter_context(Peer(target.web, source=f"127.0.0.{2 + number % 2}")).push(b"GET / HTTP/1.1\r\n")
            except OSError:
                break
        is_served(target, web=False)
    return number + 1


def client(target: Target, **options: int) -> Peer:
    """A connection to the HTTP port on which nothing was said yet."""
    return Peer(target.web, **options)


def at_once(target: Target, doing: Sequence[tuple[Callable[[Peer, bytes], None], bytes]]) -> int:
    """Have each done by a client of its own."""
    failures: list[BaseException] = []

    def run(do: Callable[[Peer, bytes], None], data: bytes) -> None:
        try:
            with client(target) as peer:
                peer.socket.settimeout(_SLOWEST)
                do(peer, data)
        except (OSError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=each) for each in doing]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return len(doing)


def status(target: Target, request: bytes) -> int:
    """The status of the answer to a request."""
    with client(target) as peer:
        peer.push(request)
        answer = peer.socket.recv(4096)
        return int(answer.split()[1])
