"""An HTTP port against slow, greedy and lying clients: each is refused or cut off, and only it notices."""

import contextlib
import errno
import hashlib
import json
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import trustme
from servers import eventually
from sites import HOST, PIECE, Client, Echo, Site, site

from pacs_server.web import protocol

# The deadlines that a test waits for, in seconds.
SHORT = 0.4
# A busy machine is slow too.
SLOWEST = 5.0
HEAD = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST /body HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[Site]:
    """A port with the usual limits, which nobody has to wait for."""
    with site(Echo(), max_body=10_000_000) as running:
        yield running


@pytest.fixture(scope="module")
def hasty() -> Iterator[Site]:
    """A port where everything has to go fast."""
    with site(Echo(), head=SHORT, idle=SHORT, stall=SHORT, linger=SHORT, least_rate=100_000) as running:
        yield running


def is_served(port: Site) -> None:
    """Hold that a decent client is answered, and at once."""
    began = time.monotonic()
    assert port.ask(HEAD + b"\r\n").status == 200
    assert time.monotonic() - began < SLOWEST


# ------------------------------------------------------------------------------------ slow clients


@pytest.mark.parametrize("said", [b"", b"G", b"GET / HTTP/1.1\r\nHost: a", HEAD + b"X: y\r\n"])
def test_a_head_has_a_deadline(hasty: Site, said: bytes) -> None:
    with hasty.connect() as client:
        client.send(said)
        began = time.monotonic()
        rest = client.rest()
        assert 0.5 * SHORT < time.monotonic() - began < SLOWEST
        assert rest.startswith(b"HTTP/1.1 408 ") if said else rest == b""


def test_dripping_heads_are_cut_off_and_hold_up_nobody(hasty: Site) -> None:
    before = hasty.refused("slow_head")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(hasty.connect()) for _ in range(8)]
        threads = [threading.Thread(target=client.drip, args=(HEAD * 100, 0.02)) for client in clients]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        is_served(hasty)
        for thread in threads:
            thread.join(SLOWEST)
        assert not any(thread.is_alive() for thread in threads)
        assert time.monotonic() - began < SLOWEST
    assert hasty.refused("slow_head") == before + 8


def test_a_connection_that_asks_for_nothing_more_is_closed(hasty: Site) -> None:
    with hasty.connect() as client:
        client.send(HEAD + b"\r\n")
        assert client.answer().status == 200
        began = time.monotonic()
        assert client.rest() == b""
        assert 0.5 * SHORT < time.monotonic() - began < SLOWEST


@pytest.mark.parametrize("head", [POST + b"Content-Length: 1000000\r\n\r\n", CHUNKED], ids=["length", "chunks"])
def test_a_body_has_a_least_rate(hasty: Site, head: bytes) -> None:
    before = hasty.refused("slow_body")
    with hasty.connect() as client:
        client.send(head)
        began = time.monotonic()
        client.drip(b"1\r\nx\r\n" * 1000, 0.01)
        assert 0.5 * SHORT < time.monotonic() - began < SLOWEST
    assert hasty.refused("slow_body") == before + 1
    with hasty.connect() as client:
        client.send(head)
        assert client.answer().status == 408


def test_a_body_that_comes_fast_enough_is_taken(hasty: Site) -> None:
    with hasty.connect() as client:
        pieces = 20
        client.send(POST + b"Content-Length: %d\r\n\r\n" % (pieces * 20_000))
        for _ in range(pieces):
            client.send(bytes(20_000))
            time.sleep(2 * SHORT / pieces)
        assert json.loads(client.answer().body) == {"size": pieces * 20_000, "whole": True}


@pytest.mark.parametrize("how", [b"", b"&length"])
def test_a_client_that_does_not_read_its_answer_is_cut_off(hasty: Site, how: bytes) -> None:
    before = hasty.refused("slow_reader")
    with hasty.connect(buffer=4096) as client:
        client.send(b"GET /large?200000000%s HTTP/1.1\r\n" % how + HOST + b"\r\n")
        assert eventually(lambda: hasty.refused("slow_reader") == before + 1)
        with pytest.raises(EOFError):
            client.answer()


def test_a_client_that_does_not_read_the_end_of_its_answer_is_cut_off() -> None:
    """What is left is less than makes the application wait; the connection is over for it."""
    with site(Echo(), head=SHORT, idle=SHORT, stall=SHORT, linger=SHORT) as own:
        with own.connect(buffer=4096) as client:
            # More than the network takes of it, but not by much.
            client.send(b"GET /large?3000000&length HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
            assert eventually(lambda: own.server.gauges() == {"pacs_web_connections": 0})
        is_served(own)


def test_a_slow_client_may_read_slowly(hasty: Site) -> None:
    with hasty.connect(buffer=65536) as client:
        size = 6_000_000
        client.send(b"GET /large?%d&length HTTP/1.1\r\n" % size + HOST + b"\r\n")
        while size > 0:
            piece = client.socket.recv(65536)
            assert piece, "cut off"
            size -= len(piece)
            time.sleep(3 * SHORT * 65536 / 6_000_000)


def test_little_memory_is_held_for_those_who_do_not_read() -> None:
    size = 50_000_000
    with site(Echo()) as own, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(own.connect(buffer=4096)) for _ in range(20)]
        before = _resident()
        for client in clients:
            client.send(b"GET /large?%d HTTP/1.1\r\n" % size + HOST + b"\r\n")
        for client in clients:
            assert client.socket.recv(1, socket.MSG_PEEK)
        time.sleep(0.3)
        is_served(own)
        assert _resident() - before < len(clients) * (protocol.WRITE_HIGH + 4 * len(PIECE)) + (8 << 20)


def test_little_memory_is_held_of_a_body_that_nobody_reads() -> None:
    echo = Echo()
    with site(echo) as own, own.connect() as client:
        client.send(b"POST /hold HTTP/1.1\r\n" + HOST + b"Content-Length: 100000000\r\n\r\n")
        client.socket.settimeout(0.3)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 100_000_000:
                sent += client.socket.send(PIECE)
        # What the network holds, and two reads.
        assert sent < 30_000_000
        is_served(own)
        echo.release.set()


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


# ------------------------------------------------------------------------------------ too many, too much


def test_more_connections_than_there_may_be_are_closed() -> None:
    with site(Echo(), connections=12, per_address=5) as own, contextlib.ExitStack() as stack:
        held = [stack.enter_context(own.connect(source=f"127.0.0.{n}")) for n in (2, 3) for _ in range(5)]
        for client in held:
            client.send(HEAD + b"\r\n")
            assert client.answer().status == 200
        with own.connect(source="127.0.0.2") as one_more:
            assert one_more.rest() == b""
        # Others come in all the same, as long as there is room.
        for _ in range(2):
            stack.enter_context(own.connect()).send(HEAD)
        assert eventually(lambda: own.server.gauges() == {"pacs_web_connections": 12})
        with own.connect(source="127.0.0.4") as one_more:
            assert one_more.rest() == b""
        assert (own.refused("connections_per_address"), own.refused("connections")) == (1, 1)
        held[0].socket.close()
        assert eventually(lambda: own.server.gauges() == {"pacs_web_connections": 11})
        is_served(own)


def test_limits_are_live() -> None:
    with site(Echo(), connections=1) as own, own.connect() as client:
        client.send(HEAD + b"\r\n")
        assert client.answer().status == 200
        own.limits = replace(own.limits, connections=2, max_url=10)
        assert own.ask(b"GET /longer-than-that HTTP/1.1\r\n" + HOST + b"\r\n").status == 414
        client.send(HEAD + b"\r\n")
        assert client.answer().status == 200
        client.send(b"GET /longer-than-that HTTP/1.1\r\n" + HOST + b"\r\n")
        assert client.answer().status == 414


def test_a_lack_of_descriptors_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lacking:
        """A listening socket whose process has no descriptors for a while."""

        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock
            self.failed = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sock, name)

        def accept(self) -> Any:
            if self.failed < 3:
                self.failed += 1
                raise OSError(errno.EMFILE, "Too many open files")
            return self._sock.accept()

    with site(Echo()) as own:
        lacking = Lacking(own.server._socket)
        monkeypatch.setattr(own.server, "_socket", lacking)
        began = time.monotonic()
        is_served(own)
        # Tried again now and then, and not in a loop.
        assert (lacking.failed, time.monotonic() - began > 0.25) == (3, True)


def test_so_many_connections_at_once_leave_nothing_behind(port: Site) -> None:
    for _ in range(4):
        with contextlib.ExitStack() as stack:
            for number in range(300):
                with contextlib.suppress(ConnectionError):
                    stack.enter_context(port.connect(source=f"127.0.0.{2 + number % 7}"))
    assert eventually(lambda: port.server.gauges() == {"pacs_web_connections": 0})
    is_served(port)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
        (b"GET /" + b"a" * 500_000, 414),
        (HEAD + b"X: y\r\n" * 101 + b"\r\n", 431),
        (HEAD + b"X: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        (HEAD + b"X: " + b"y" * 500_000, 431),
        (HEAD + b"y" * 500_000, 431),
        (POST + b"Content-Length: 10000001\r\n\r\n", 413),
        (POST + b"Content-Length: 4294967296\r\n\r\n", 413),
        (POST + b"Content-Length: 18446744073709551615\r\n\r\n", 413),
        (CHUNKED + (b"8000\r\n" + bytes(0x8000) + b"\r\n") * 400, 413),
        (CHUNKED + b"1\r\nx\r\n" * 100_000 + b"1;" + b"x" * 1_000_000, 400),
        (CHUNKED + b"1;" + b"x" * 1_000_000, 400),
        (CHUNKED + b"0\r\n" + b"X: y\r\n" * 100_000, 400),
        (POST + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\n\x1f\x8b\x08\0\0", 415),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (POST + b"Expect: miracles\r\nContent-Length: 5\r\n\r\n", 417),
    ],
)  # fmt: skip
def test_what_is_too_much_is_refused_with_its_status(port: Site, request_: bytes, status: int) -> None:
    with port.connect() as client:
        client.send(request_)
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert json.loads(answer.body)["status"] == status
        client.rest()
    is_served(port)


def test_chunks_without_end_are_bounded(port: Site) -> None:
    with port.connect() as client:
        client.send(CHUNKED)
        sent = 0
        while client.send(b"8000\r\n" + bytes(0x8000) + b"\r\n"):
            sent += 0x8000
            assert sent < 100_000_000
    is_served(port)


# ------------------------------------------------------------------------------------ requests whose end is in doubt


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        *(POST + b"Content-Length: %s\r\n\r\nabc" % n for n in (b"3, 3", b"+3", b"-3", b"0x3", b"3_0", b"", b"3 4")),
        POST + b"Content-Length: 99999999999999999999999\r\n\r\nabc",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        *(POST + b"Transfer-Encoding: %s\r\n\r\n0\r\n\r\n" % n for n in (b"\x0bchunked", b"chunked, identity", b"")),
        b"POST /body HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        *(CHUNKED + n for n in (b"0x3\r\nabc", b"-3\r\nabc", b"3 \r\nabc", b"3\nabc\n0\n\n", b"x\r\n", b"3\r\nabcXX")),
        CHUNKED + b"ffffffffffffffffff\r\nabc",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        HEAD + b"X: y\r\n z\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        HEAD + b"X: y\nZ: a\r\n\r\n",
        HEAD + b"X: y\rZ: a\r\n\r\n",
        HEAD + b"X: y\0z\r\n\r\n",
        HEAD + b"X(: y\r\n\r\n",
        HEAD + b": y\r\n\r\n",
        HEAD + b"no colon\r\n\r\n",
        HEAD + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n",
        b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
        b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        *(b"GET %s HTTP/1.1\r\n" % n + HOST + b"\r\n" for n in (b"/a%00", b"/%2e%2e/etc", b"/a/../b", b"/%0d%0a")),
    ],
)
def test_smuggling_forms_are_refused_and_the_connection_ends(port: Site, request_: bytes) -> None:
    with port.connect() as client:
        client.send(request_ + HEAD + b"\r\n")
        answer = client.answer()
        assert (answer.status in (400, 501), answer.headers["connection"]) == (True, "close")
        assert client.rest() == b""


def test_a_refusal_is_told_once_though_an_upgrade_had_stopped_the_parser(
    port: Site, caplog: pytest.LogCaptureFixture
) -> None:
    before = port.refused("host")
    with port.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + HEAD + b"\r\n")
        assert client.answer().status == 400
        assert client.rest() == b""
    assert port.refused("host") == before + 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(("request_", "status"), [
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505), (b"GET / HTTP/2.0\r\n\r\n", 505), (b"GET /\r\n\r\n", 505),
    (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
])  # fmt: skip
def test_other_protocols_are_refused(port: Site, request_: bytes, status: int) -> None:
    assert port.ask(request_).status == status


# ------------------------------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server and of a client that has a certificate."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.issue_cert("viewer.example.org", common_name="ann").configure_cert(client)
    for context in (server, client):
        authority.configure_trust(context)
    server.verify_mode = ssl.CERT_OPTIONAL
    return server, client


def test_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    echo = Echo()
    with site(echo, tls=lambda: contexts[0]) as own, own.connect() as client:
        client.socket = contexts[1].wrap_socket(client.socket, server_hostname="127.0.0.1")
        client.send(b"GET /large?3000000 HTTP/1.1\r\n" + HOST + b"\r\n")
        assert len(client.answer().body) == 3_000_000
        client.send(POST + b"Content-Length: 3000000\r\n\r\n" + bytes(3_000_000))
        assert json.loads(client.answer().body) == {"size": 3_000_000, "whole": True}
        assert echo.scopes[0]["scheme"] == "https"
        assert set(echo.scopes[0]["extensions"]["tls"]["peer_names"]) == {"ann", "viewer.example.org"}


def test_tls_handshakes_that_fail(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    with site(Echo(), tls=lambda: contexts[0], head=SHORT, linger=SHORT, connections=30, per_address=20) as own:
        for said in (b"", b"\x16\x03\x01\x02\x00\x01\x00", HEAD + b"\r\n", bytes(1000), b"\x16\x03\x01\xff\xff" * 5000):
            with own.connect() as client:
                client.send(said)
                began = time.monotonic()
                client.rest()
                assert time.monotonic() - began < SLOWEST
        assert eventually(lambda: own.refused("tls_handshake") == 5)
        assert eventually(lambda: own.server.gauges() == {"pacs_web_connections": 0})
        with contextlib.ExitStack() as stack:
            # Connections count from the first byte on, not from the end of the handshake.
            for _ in range(20):
                stack.enter_context(own.connect(source="127.0.0.2"))
            with own.connect(source="127.0.0.2") as one_more:
                assert one_more.rest() == b""
            assert own.refused("connections_per_address") == 1


def test_a_reload_takes_another_certificate(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    def issuer(port: Site) -> str:
        with port.connect() as client:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            client.socket = context.wrap_socket(client.socket)
            return hashlib.sha256(client.socket.getpeercert(binary_form=True) or b"").hexdigest()

    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(other)
    now: list[ssl.SSLContext | None] = [contexts[0]]
    with site(Echo(), tls=lambda: now[0]) as own:
        first = issuer(own)
        now[0] = other
        assert issuer(own) == first
        own.server.reload()
        second = issuer(own)
        assert second != first
        # Whether there is TLS needs a restart: no connection may be in the clear all of a sudden.
        now[0] = None
        own.server.reload()
        assert issuer(own) == second


@pytest.mark.parametrize("how", ["unread", "vanished"])
def test_tls_clients_that_stall(contexts: tuple[ssl.SSLContext, ssl.SSLContext], how: str) -> None:
    with (
        site(Echo(), tls=lambda: contexts[0], head=2.0, stall=SHORT, linger=SHORT) as own,
        own.connect(buffer=4096) as client,
    ):
        client.socket = contexts[1].wrap_socket(client.socket, server_hostname="127.0.0.1")
        client.send(b"GET /large?100000000 HTTP/1.1\r\n" + HOST + b"\r\n")
        if how == "vanished":
            client.socket.close()
        assert eventually(lambda: own.server.gauges() == {"pacs_web_connections": 0})


# ------------------------------------------------------------------------------------ clients that go away


def _reset(client: Client) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1, 0, 0, 0, 0, 0, 0, 0)))
    client.socket.close()


@pytest.mark.parametrize("leave", [_reset, lambda client: client.socket.close()], ids=["reset", "close"])
def test_clients_that_go_away_leave_nothing_behind(
    leave: Callable[[Client], None], caplog: pytest.LogCaptureFixture
) -> None:
    stream = POST + b"Content-Length: 1000\r\n\r\n" + bytes(1000) + b"GET /large?9000000 HTTP/1.1\r\n" + HOST + b"\r\n"
    echo = Echo()
    with site(echo) as own:
        for size in range(0, len(stream), 37):
            client = own.connect()
            client.send(stream[:size])
            leave(client)
        assert eventually(lambda: own.server.gauges() == {"pacs_web_connections": 0})
        assert eventually(lambda: echo.ended == len(echo.scopes))
        is_served(own)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
