"""HTTP servers for tests that answer as they are told, byte by byte."""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

MOST_BYTES = 64 * 1024 * 1024


@dataclass
class Request:
    """What was asked."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


Script = Callable[[Request], bytes | Iterable[bytes]]


@dataclass
class HTTPPeer:
    """A server on the loopback address; `requests` are those that came in, in their order.

    `script` gives the bytes of each answer; an answer in pieces ends its connection.
    """

    script: Script
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/dicom-web"
        self._open: list[socket.socket] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than the test lasts."""
        self._ended.wait(seconds)

    def close(self) -> None:
        """End all connections and threads."""
        self._ended.set()
        for sock in (self.listener, *self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with sock, suppress(OSError), sock.makefile("rb") as reader:
            while (request := _read(reader, number)) is not None:
                self.requests.append(request)
                answer = self.script(request)
                if isinstance(answer, bytes):
                    sock.sendall(answer)
                    continue
                sent = 0
                for piece in answer:
                    sock.sendall(piece)
                    sent += len(piece)
                    if sent > MOST_BYTES or self._ended.is_set():
                        break
                return


def _read(reader, number: int) -> Request | None:
    line = reader.readline().decode("latin-1").split()
    if len(line) != 3:
        return None
    headers = {}
    while text := reader.readline().decode("latin-1").strip():
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    body = reader.read(int(headers.get("content-length", 0)))
    return Request(line[0], line[1], headers, body, number)


def answer(status: str = "200 OK", body: bytes = b"", **headers: str) -> bytes:
    """A whole answer; underscores in the names of headers are hyphens."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextmanager
def http_peer(script: Script) -> Iterator[HTTPPeer]:
    """A server that answers by a script."""
    peer = HTTPPeer(script)
    try:
        yield peer
    finally:
        peer.close()
