"""The benchmark of the HTTP door: its client reads every kind of answer, its table compares."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.web import table
from benchmarks.web_client import WebClient
from benchmarks.web_rows import WEB_ROWS, stow
from benchmarks.wire import ClientError


@contextmanager
def answering(*answers: bytes) -> Iterator[int]:
    """The port of a server that gives these answers; one that is the last of its connection ends with b'END'."""

    def serve() -> None:
        connection = None
        for answer in answers:
            connection = connection or listener.accept()[0]
            connection.recv(65536)
            connection.sendall(answer.removesuffix(b"END"))
            if answer.endswith(b"END"):
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


def test_answers_of_every_kind_are_read_to_their_end() -> None:
    with (
        answering(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nto the endEND",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ) as port,
        WebClient(port) as web,
    ):
        replies = [web.get("/", keep=True) for _ in range(5)]
    assert [(each.status, each.body) for each in replies] == [
        (200, b"hello"), (200, b"abcde"), (204, b""), (200, b"to the end"), (200, b""),
    ]  # fmt: skip


def test_an_error_is_no_answer() -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    with answering(answer) as port, WebClient(port) as web, pytest.raises(ClientError, match="404"):
        web.get("/")


def test_the_table_tells_how_many_times_orthanc() -> None:
    row = next(row for row in WEB_ROWS if row.key == "qido-id")
    late = next(row for row in WEB_ROWS if row.key == "first-byte")
    cells = {
        "qido-id": {"pacs-server": [30.0, 20.0, 40.0], "orthanc": [10.0]},
        "first-byte": {"pacs-server": [2.0], "orthanc": "ClientError: answered with 404"},
    }
    shown = table([row, late], ["pacs-server", "orthanc"], cells)
    assert f"| {row.title} | 1/s | 30 | 10 | 3.0 | 10 |" in shown
    assert f"- {late.title}, Orthanc: ClientError: answered with 404" in shown


def test_a_body_of_objects_to_store() -> None:
    content_type, body = stow([("1.2.840.10008.1.2.1", b"data", 1)])
    boundary = content_type.partition("boundary=")[2]
    text = b"".join(body)
    assert text.startswith(f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode())
    assert text.endswith(f"data\r\n--{boundary}--\r\n".encode())
    assert b"DICM" in text
