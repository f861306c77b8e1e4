"""An HTTP port with good clients: what they are answered, connections that go on, drain, reload."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from servers import eventually
from sites import HOST, PIECE, Client, Echo, Site, counted, site


@pytest.fixture(scope="module")
def port() -> Iterator[Site]:
    with site(Echo()) as running:
        yield running


def get(target: bytes = b"/", *headers: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return b"%s %s HTTP/%s\r\n" % (method, target, version) + HOST + b"".join(h + b"\r\n" for h in headers) + b"\r\n"


def post(body: bytes, *headers: bytes, target: bytes = b"/body") -> bytes:
    return get(target, b"Content-Length: %d" % len(body), *headers, method=b"POST") + body


def test_a_request_and_its_answer(port: Site) -> None:
    answer = port.ask(get(b"/a%20b?c=d"))
    assert (answer.status, json.loads(answer.body)) == (
        200,
        {"method": "GET", "path": "/a b", "query": "c=d", "http_version": "1.1", "scheme": "http"},
    )
    assert answer.headers["date"].endswith("GMT")
    assert "server" not in answer.headers


def test_a_connection_goes_on(port: Site) -> None:
    with port.connect() as client:
        for number in range(5):
            client.send(get(b"/%d" % number))
            assert json.loads(client.answer().body)["path"] == f"/{number}"
        client.send(get(b"/", b"Connection: close"))
        assert client.answer().headers["connection"] == "close"
        assert client.rest() == b""


def test_a_client_that_sends_no_more_is_not_waited_for_behind_its_answer() -> None:
    app = Echo()
    with site(app, linger=60.0) as own, own.connect() as client:
        client.send(get(b"/hold"))
        client.socket.shutdown(socket.SHUT_WR)
        # The end was seen before these are answered.
        for _ in range(2):
            assert own.ask(get()).status == 200
        app.release.set()
        assert client.answer().body == b"released\n"
        assert eventually(lambda: own.server.gauges()["pacs_web_connections"] == 0)


def test_http_1_0(port: Site) -> None:
    with port.connect() as client:
        client.send(get(version=b"1.0"))
        assert client.answer().headers["connection"] == "close"
        assert client.rest() == b""
    with port.connect() as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert client.answer().headers["connection"] == "keep-alive"
        client.send(get(b"/large?10", version=b"1.0"))
        # No chunks: the end of the connection is the end of the body.
        answer = client.answer()
        assert (answer.headers["connection"], answer.body) == ("close", PIECE[:10])


@pytest.mark.parametrize("how", ["", "&length"])
@pytest.mark.parametrize("size", [0, 1, len(PIECE), 3 * len(PIECE) + 5])
def test_bodies_of_any_size_come_back(port: Site, size: int, how: str) -> None:
    with port.connect() as client:
        for _ in range(2):
            client.send(get(b"/large?%d%s" % (size, how.encode())))
            assert client.answer().body == (PIECE * (size // len(PIECE) + 1))[:size]


def test_head_has_no_body(port: Site) -> None:
    with port.connect() as client:
        client.send(get(b"/large?1000&length", method=b"HEAD"))
        assert client.answer(head=True).headers["content-length"] == "1000"
        client.send(get())
        assert client.answer().status == 200


def test_bodies_with_a_length_and_in_chunks(port: Site) -> None:
    with port.connect() as client:
        client.send(post(PIECE * 3))
        assert json.loads(client.answer().body) == {"size": 3 * len(PIECE), "whole": True}
        client.send(get(b"/body", b"Transfer-Encoding: chunked", method=b"POST"))
        for size in (1, 2, 1000):
            client.send(b"%x;x=y\r\n" % size + PIECE[:size] + b"\r\n")
        client.send(b"0\r\nTrailer: x\r\nHost: evil\r\n\r\n")
        assert json.loads(client.answer().body) == {"size": 1003, "whole": True}
        client.send(get())
        assert client.answer().status == 200


def test_a_body_is_sent_when_the_server_wants_it(port: Site) -> None:
    with port.connect() as client:
        client.send(get(b"/body", b"Content-Length: 3", b"Expect: 100-continue", method=b"POST"))
        assert client.answer().status == 100
        client.send(b"abc")
        assert json.loads(client.answer().body) == {"size": 3, "whole": True}
        client.send(get(b"/unread", b"Content-Length: 3", b"Expect: 100-continue", method=b"POST"))
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert client.rest() == b""


def test_a_body_that_nobody_read(port: Site) -> None:
    """A short one is thrown away, for a long one the connection ends, and the answer is seen either way."""
    with port.connect() as client:
        client.send(post(PIECE[:1000], target=b"/unread"))
        assert client.answer().body == b"no need to read it\n"
        client.send(get())
        assert client.answer().status == 200
        client.send(get(b"/unread", b"Content-Length: 50000000", method=b"POST") + PIECE)
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        # RFC 9112 9.6: the server says that it is done, and still reads for a while.
        began = time.monotonic()
        assert client.rest() == b""
        assert time.monotonic() - began < 1
        assert all(client.send(PIECE) for _ in range(20))


def test_what_was_received_of_a_body_cut_short_is_handed_on(port: Site) -> None:
    echo = Echo()
    with site(echo) as own, own.connect() as client:
        client.send(get(b"/body", b"Content-Length: 1000", method=b"POST") + b"abc")
        assert eventually(lambda: bool(echo.scopes))
        client.socket.close()
        assert eventually(lambda: echo.ended == 1)
        assert echo.largest_piece == 3


def test_a_request_sent_before_the_last_one_was_answered_waits() -> None:
    echo = Echo()
    with site(echo) as own, own.connect() as client:
        client.send(get(b"/hold"))
        assert eventually(lambda: len(echo.scopes) == 1)
        client.send(get(b"/after"))
        time.sleep(0.05)
        assert len(echo.scopes) == 1
        echo.release.set()
        assert client.answer().body == b"released\n"
        assert json.loads(client.answer().body)["path"] == "/after"


def test_requests_in_one_go_are_answered_one_and_the_connection_ends(port: Site) -> None:
    with port.connect() as client:
        client.send(get(b"/1") + get(b"/2") + get(b"/3"))
        answer = client.answer()
        assert (json.loads(answer.body)["path"], answer.headers["connection"]) == ("/1", "close")
        assert client.rest() == b""


def test_an_upgrade_is_not_taken(port: Site) -> None:
    """RFC 9110 7.8: it may be ignored. Java's client asks for HTTP/2 with its first request."""
    with port.connect() as client:
        client.send(get(b"/x", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"))
        assert json.loads(client.answer().body)["path"] == "/x"
    with port.connect() as client:
        client.send(post(b"abc", b"Connection: Upgrade", b"Upgrade: websocket") + b"GET / HTTP/1.1\r\n\r\n")
        assert json.loads(client.answer().body)["size"] == 3
        assert client.rest() == b""


def test_options_of_the_whole_server(port: Site) -> None:
    answer = port.ask(get(b"*", method=b"OPTIONS"))
    assert (answer.status, "GET" in answer.headers["allow"]) == (204, True)


def test_a_client_that_ends_its_stream_is_still_answered(port: Site) -> None:
    with port.connect() as client:
        client.send(get(b"/large?1000000&length"))
        client.socket.shutdown(1)
        assert len(client.answer().body) == 1_000_000


def test_faults_end_one_request(caplog: pytest.LogCaptureFixture) -> None:
    with site(Echo()) as own:
        with own.connect() as client:
            client.send(get(b"/fails"))
            assert (client.answer().status, client.rest()) == (500, b"")
        with own.connect() as client:
            client.send(get(b"/breaks"))
            with pytest.raises(EOFError):
                client.answer()
        assert own.ask(get()).status == 200
        assert eventually(lambda: own.refused("error") == 1)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "HTTP request failed unexpectedly"
    ] * 2


def test_a_line_of_the_log_holds_no_values_of_parameters(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "pacs_server")
    with site(Echo()) as own:
        own.ask(get(b"/dicom-web/M%C3%BCller?PatientName=M%C3%BCller"))
        assert eventually(lambda: "request" in caplog.messages)
    line = next(record for record in caplog.records if record.getMessage() == "request")
    assert {name: line.__dict__[name] for name in ("door", "method", "path", "status", "peer")} == {
        "door": "web",
        "method": "GET",
        "path": "/dicom-web/...",
        "status": 200,
        "peer": "127.0.0.1",
    }


def test_requests_are_counted() -> None:
    with site(Echo()) as own:
        own.ask(post(b"abc"))
        own.ask(get(b"/api/v1/studies"))
        with own.connect() as client:
            client.send(get())
            client.answer()
            assert own.server.gauges() == {"pacs_web_connections": 1}
        assert counted(own.metrics, "pacs_web_requests_total", 'door="web",method="POST",status="2xx"') == 1
        assert counted(own.metrics, "pacs_web_requests_total", 'door="api",method="GET",status="2xx"') == 1
        assert counted(own.metrics, "pacs_web_bytes_total", 'direction="in"') == 3
        assert eventually(lambda: own.server.gauges() == {"pacs_web_connections": 0})


# ------------------------------------------------------------------------------------ the end


def stopping(port: Site) -> threading.Thread:
    thread = threading.Thread(target=port.server.stop)
    thread.start()
    return thread


def test_a_running_response_may_end_when_the_server_stops() -> None:
    echo = Echo()
    with site(echo) as own, own.connect() as busy, own.connect() as idle:
        idle.send(get())
        idle.answer()
        busy.send(get(b"/hold"))
        assert eventually(lambda: len(echo.scopes) == 2)
        thread = stopping(own)
        assert idle.rest() == b""
        assert eventually(lambda: not _accepts(own))
        assert thread.is_alive()
        echo.release.set()
        answer = busy.answer()
        assert (answer.body, answer.headers["connection"]) == (b"released\n", "close")
        thread.join(60)
        assert not thread.is_alive()


def test_a_stream_of_events_does_not_hold_up_the_end() -> None:
    echo = Echo()
    with site(echo, stop_within=30.0) as own, own.connect() as client:
        client.send(get(b"/events"))
        # Its head does not wait for the first event.
        assert client.head().startswith("HTTP/1.1 200 OK")
        began = time.monotonic()
        own.server.stop()
        assert time.monotonic() - began < 20
        assert (client.rest(), echo.ended) == (b"", 1)


def test_what_does_not_end_in_time_is_cut() -> None:
    echo = Echo()
    with site(echo, stop_within=0.2) as own, own.connect() as busy:
        busy.send(get(b"/hold"))
        assert eventually(lambda: len(echo.scopes) == 1)
        began = time.monotonic()
        own.server.stop()
        assert time.monotonic() - began < 20
        assert busy.rest() == b""
        assert echo.ended == 1


def _accepts(port: Site) -> bool:
    with contextlib.suppress(OSError), Client(port.address):
        return True
    return False
