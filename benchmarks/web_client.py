"""A client that speaks HTTP over one kept connection, as plainly as it can: what is timed is the server."""

import re
import socket
from types import TracebackType
from typing import NamedTuple, Self

from benchmarks.wire import ClientError

_READ = 1 << 20
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n")


class Reply(NamedTuple):
    """An answer: the status, how many bytes its body has, and its body if it was to be kept."""

    status: int
    size: int
    body: bytes


class WebClient:
    """One connection to the HTTP port of a server of this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open()

    def _open(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def get(self, path: str, accept: str = "application/dicom+json", *, keep: bool = False) -> Reply:
        """Ask for a resource and read all of it."""
        self._send("GET", path, f"Accept: {accept}\r\n")
        return self._reply(keep=keep)

    def first_byte(self, path: str, accept: str) -> None:
        """Ask for a resource, wait for the first byte of its body, and give the rest up with the connection."""
        self._send("GET", path, f"Accept: {accept}\r\n")
        head = self._head()
        if not self._rest:
            self._rest = self._more()
        self._socket.close()
        if not head.startswith(b"HTTP/1.1 200"):
            raise ClientError(f"answered with {head[:60]!r}")

    def post(self, path: str, content_type: str, body: list[bytes], *, keep: bool = False) -> Reply:
        """Send a body with its length."""
        size = sum(map(len, body))
        self._send(
            "POST",
            path,
            f"Accept: application/dicom+json\r\nContent-Type: {content_type}\r\nContent-Length: {size}\r\n",
        )
        for piece in body:
            self._socket.sendall(piece)
        return self._reply(keep=keep)

    def _send(self, method: str, path: str, headers: str) -> None:
        self._socket.sendall(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n{headers}\r\n".encode())

    def _more(self) -> bytes:
        data = self._socket.recv(_READ)
        if not data:
            raise ClientError("the server closed the connection")
        return data

    def _head(self) -> bytes:
        data = self._rest
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        self._rest = data[end + 4 :]
        return data[: end + 2].lower().replace(b"http/1.1", b"HTTP/1.1", 1)

    def _reply(self, *, keep: bool) -> Reply:
        head = self._head()
        status = int(head.split(b" ", 2)[1])
        kept: list[bytes] = []
        if status == 204 or b"\r\ncontent-length: 0\r\n" in head:
            size = 0
        elif b"\r\ntransfer-encoding: chunked" in head:
            size = self._chunks(kept if keep else None)
        elif found := _LENGTH.search(head):
            size = int(found[1])
            self._take(size, kept if keep else None)
        else:
            size = self._to_the_end(kept if keep else None)
        if status not in (200, 202, 204):
            raise ClientError(f"answered with {status}")
        return Reply(status, size, b"".join(kept))

    def _take(self, size: int, kept: list[bytes] | None) -> None:
        while size:
            data = self._rest or self._more()
            taken, self._rest = data[:size], data[size:]
            size -= len(taken)
            if kept is not None:
                kept.append(taken)

    def _to_the_end(self, kept: list[bytes] | None) -> int:
        """Orthanc ends the answer with the connection where it does not know its length; a new one is opened."""
        size = 0
        data = self._rest
        while data or not size:
            size += len(data)
            if kept is not None:
                kept.append(data)
            data = self._socket.recv(_READ)
            if not data:
                break
        self._socket.close()
        self._open()
        return size

    def _chunks(self, kept: list[bytes] | None) -> int:
        total = 0
        while True:
            while (end := self._rest.find(b"\r\n")) < 0:
                self._rest += self._more()
            size, self._rest = int(self._rest[:end].partition(b";")[0], 16), self._rest[end + 2 :]
            self._take(size, kept)
            self._take(2, None)
            if not size:
                return total
            total += size
