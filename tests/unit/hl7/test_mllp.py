"""MLLP: frames, answers, and peers that misbehave."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
import servers
from hl7.client import MLLPClient

from pacs_server.hl7.mllp import BadFrame, FrameReader, Limits, MLLPServer
from pacs_server.net.listener import bind

Start = Callable[..., tuple[str, int]]


def frame(message: bytes) -> bytes:
    return b"\x0b" + message + b"\x1c\r"


# ------------------------------------------------------------------------------------ frames


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_messages_in_pieces(size: int) -> None:
    stream = frame(b"one") + frame(b"") + b"\r\n" + frame(b"t\rwo") + b"\x0bthree\x1c" + frame(b"four")
    reader = FrameReader(100)
    found = [one for at in range(0, len(stream), size) for one in reader.feed(stream[at : at + size])]
    assert found == [b"one", b"", b"t\rwo", b"three", b"four"]


def test_within() -> None:
    reader = FrameReader(100)
    assert not reader.within
    reader.feed(b"\x0bab")
    assert reader.within
    reader.feed(b"c\x1c")
    assert not reader.within


def test_the_largest_message() -> None:
    assert FrameReader(4).feed(b"\x0babc\x1c") == [b"abc"]
    for data in (b"\x0babcd\x1c", b"\x0babcd"):
        with pytest.raises(BadFrame, match="larger than 4 bytes"):
            FrameReader(4).feed(data)


@pytest.mark.parametrize("data", [b"MSH|", b"\x1c\r", b"\x0ba\x1c\rMSH"])
def test_what_is_no_frame(data: bytes) -> None:
    with pytest.raises(BadFrame):
        FrameReader(100).feed(data)


@pytest.mark.slow
def test_each_byte_is_looked_at_once() -> None:
    """A message that comes byte by byte costs no more than one that comes at once."""
    reader = FrameReader(1 << 20)
    reader.feed(b"\x0b")
    started = time.process_time()
    for _ in range(1 << 18):
        reader.feed(b"x")
    assert time.process_time() - started < 5


# ------------------------------------------------------------------------------------ connections


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers that answer with `answer`, b"ACK " and the message if it is not given."""
    with ExitStack() as stack:

        def start(
            answer: Callable[[bytes, str], bytes] = lambda message, peer: b"ACK " + message, **limits: float
        ) -> tuple[str, int]:
            sock = bind("127.0.0.1", 0)
            address: tuple[str, int] = sock.getsockname()
            server = MLLPServer(sock, answer, limits=Limits(**limits))  # type: ignore[arg-type]
            server.start()
            stack.callback(server.stop, 5.0)
            return address

        yield start
    assert servers.server_threads() == []


def ask(peer: socket.socket, data: bytes) -> bytes:
    peer.sendall(data)
    return read(peer)


def read(peer: socket.socket) -> bytes:
    """One frame, or what came before the end."""
    data = b""
    while not data.endswith(b"\x1c\r"):
        try:
            more = peer.recv(1000)
        except ConnectionResetError:
            more = b""
        if not more:
            return data
        data += more
    return data[1:-2]


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, servers.PATIENT_SECONDS)


def test_answers_in_order(start: Start) -> None:
    with connect(start()) as peer:
        assert ask(peer, frame(b"1")) == b"ACK 1"
        peer.sendall(frame(b"2") + frame(b"3")[:2])
        assert read(peer) == b"ACK 2"
        assert ask(peer, frame(b"3")[2:]) == b"ACK 3"


def test_the_client_of_another_library(start: Start) -> None:
    with closing(MLLPClient(*start())) as client:
        for text in ("MSH|^~\\&|a", "MSH|^~\\&|ä"):
            assert client.send_message(text) == frame(b"ACK " + text.encode())


def test_many_at_once(start: Start) -> None:
    barrier = threading.Barrier(4, timeout=servers.PATIENT_SECONDS)

    def answer(message: bytes, peer: str) -> bytes:
        barrier.wait()  # passes only when four are answered at the same time
        return message

    address = start(answer)
    with ExitStack() as stack:
        peers = [stack.enter_context(connect(address)) for _ in range(4)]
        for number, peer in enumerate(peers):
            peer.sendall(frame(b"%d" % number))
        assert [read(peer) for peer in peers] == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", frame(b"x" * 2000), b"\x0b" + b"x" * 2000])
def test_a_bad_peer_is_cut_off_and_nobody_else(start: Start, data: bytes) -> None:
    address = start(message=1000)
    with connect(address) as good, connect(address) as bad:
        bad.sendall(data)
        assert read(bad) == b""
        assert ask(good, frame(b"1")) == b"ACK 1"


def test_a_silent_peer_is_cut_off(start: Start) -> None:
    with connect(start(idle=0.05)) as peer:
        assert read(peer) == b""


def test_a_peer_that_stops_within_a_message_is_cut_off(start: Start) -> None:
    with connect(start(transfer=0.05)) as peer:
        peer.sendall(b"\x0bMSH")
        assert read(peer) == b""


@pytest.mark.slow
def test_a_peer_that_dribbles_is_cut_off(start: Start) -> None:
    with connect(start(transfer=0.3)) as peer:
        peer.sendall(b"\x0b")
        peer.settimeout(0.01)

        def is_cut() -> bool:
            try:
                peer.sendall(b"x")
                return peer.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        assert servers.eventually(is_cut)


@pytest.mark.slow
def test_a_peer_that_takes_no_answers_is_cut_off(start: Start) -> None:
    address = start(lambda message, peer: b"x" * (1 << 24) if message == b"large" else b"ACK", transfer=0.1)
    with connect(address) as deaf, connect(address) as good:
        assert ask(good, frame(b"1")) == b"ACK"
        deaf.sendall(frame(b"large"))
        # Nothing is read until the server has given up: the answer breaks off.
        assert servers.eventually(
            lambda: [name.startswith("peer-") for name in servers.server_threads()].count(True) == 1
        )
        assert len(read(deaf)) < 1 << 24
        assert ask(good, frame(b"2")) == b"ACK"


def test_one_connection_too_many(start: Start) -> None:
    address = start(connections=1)
    with connect(address) as first:
        assert ask(first, frame(b"1")) == b"ACK 1"
        with connect(address) as second:
            assert read(second) == b""
        assert ask(first, frame(b"2")) == b"ACK 2"
    assert servers.eventually(lambda: asked_once(address) == b"ACK 3")


def asked_once(address: tuple[str, int]) -> bytes:
    with connect(address) as peer:
        try:
            return ask(peer, frame(b"3"))
        except OSError:
            return b""
