"""An HTTP port in this process, with an application that does what tests ask for, and a client of bare bytes."""

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

from starlette.types import Message, Receive, Scope, Send

from pacs_server.kit.metrics import Metrics
from pacs_server.net.listener import bind
from pacs_server.web.limits import WebLimits
from pacs_server.web.server import WebServer

PIECE = bytes(range(256)) * 1024
HOST = b"Host: test\r\n"


@dataclass
class Echo:
    """An application that tells what it was asked.

    /body reads the whole body first, /unread none of it, /large answers as many bytes as the query says, /hold waits
    for `release`, /events is a stream without end, /fails raises, /breaks raises in the middle of its answer.
    """

    release: threading.Event = field(default_factory=threading.Event)
    scopes: list[Scope] = field(default_factory=list)
    largest_piece: int = 0
    ended: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        try:
            await getattr(self, scope["path"].strip("/") or "root", self.root)(scope, receive, send)
        finally:
            self.ended += 1

    async def root(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What was asked for, as JSON."""
        told = {name: scope[name] for name in ("method", "path", "http_version", "scheme")}
        await reply(send, json.dumps(told | {"query": scope["query_string"].decode()}).encode())

    async def body(self, scope: Scope, receive: Receive, send: Send) -> None:
        """How long the body was, and whether all of it came."""
        size, more = 0, True
        while more:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                break
            self.largest_piece = max(self.largest_piece, len(message["body"]))
            size, more = size + len(message["body"]), message["more_body"]
        await reply(send, json.dumps({"size": size, "whole": not more}).encode())

    async def unread(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An answer that does not wait for the body."""
        await reply(send, b"no need to read it\n")

    async def large(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As many bytes as the query says, in chunks unless it says `length`."""
        size, _, how = scope["query_string"].decode().partition("&")
        headers = [(b"content-length", size.encode())] if how == "length" else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(int(size) // len(PIECE)):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        await send({"type": "http.response.body", "body": PIECE[: int(size) % len(PIECE)]})

    async def hold(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An answer that takes until `release` is set."""
        while not self.release.is_set():
            await asyncio.sleep(0.01)
        await reply(send, b"released\n")

    async def events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A stream of events that never ends."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:
            await asyncio.sleep(10)

    async def fails(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A fault of the program."""
        raise ValueError("a fault")

    async def breaks(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A fault in the middle of an answer."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("a fault")


async def reply(send: Send, body: bytes, status: int = 200) -> None:
    """A small answer."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Site:
    """A running port."""

    server: WebServer
    address: tuple[str, int]
    metrics: Metrics
    limits: WebLimits

    def connect(self, **options: Any) -> "Client":
        """A new connection."""
        return Client(self.address, **options)

    def ask(self, request: bytes) -> "Answer":
        """The answer to one request on a connection of its own."""
        with self.connect() as client:
            client.send(request)
            return client.answer()

    def refused(self, reason: str) -> int:
        """How often that was counted."""
        return counted(self.metrics, "pacs_web_refused_total", f'reason="{reason}"')


def counted(metrics: Metrics, name: str, labels: str) -> int:
    """The value of a counter, 0 if it was never used."""
    for line in metrics.render().decode().splitlines():
        if line.startswith(f"{name}{{") and labels in line:
            return int(float(line.rpartition(" ")[2]))
    return 0


@contextlib.contextmanager
def site(
    app: Any, *, stop_within: float = 5.0, tls: Callable[[], ssl.SSLContext | None] = lambda: None, **limits: Any
) -> Iterator[Site]:
    """A port that serves `app`, with other limits than usual."""
    sock = bind("127.0.0.1", 0)
    address: tuple[str, int] = sock.getsockname()
    metrics = Metrics()
    found = Site(None, address, metrics, replace(WebLimits(), **limits))  # type: ignore[arg-type]
    server = WebServer(
        sock,
        app,
        name="web",
        limits=lambda: found.limits,
        metrics=metrics,
        stop_within=lambda: stop_within,
        tls=tls,
    )
    found.server = server
    server.start()
    try:
        yield found
    finally:
        server.stop()


@dataclass
class Answer:
    """An answer: status, fields by name, body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A client that sends what it is told to."""

    def __init__(self, address: tuple[str, int], *, source: str = "127.0.0.1", buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(60.0)
        try:
            self.socket.bind((source, 0))
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Send, and say whether the server took it all."""
        try:
            self.socket.sendall(data)
        except ConnectionError:
            return False
        return True

    def drip(self, data: bytes, pause: float) -> float:
        """Send byte by byte, as long as the server takes it; seconds until it did not."""
        began = time.monotonic()
        for at in range(len(data)):
            if not self.send(data[at : at + 1]):
                break
            time.sleep(pause)
        return time.monotonic() - began

    def answer(self, *, head: bool = False) -> Answer:
        """The next answer; `head` if it has no body."""
        lines = self.head().splitlines()
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:] if line)}
        status = int(lines[0].split()[1])
        body = b""
        if head or status in (204, 304) or status < 200:
            pass
        elif "content-length" in headers:
            body = self._exactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while size := int(self._until(b"\r\n"), 16):
                body += self._exactly(size)
                self._until(b"\r\n")
            self._until(b"\r\n")
        else:
            body = self.rest()
        return Answer(status, headers, body)

    def head(self) -> str:
        """The head of the next answer."""
        return self._until(b"\r\n\r\n").decode("latin-1")

    def rest(self) -> bytes:
        """All that comes until the connection ends."""
        data, self._read = self._read, b""
        with contextlib.suppress(ConnectionError):
            while more := self.socket.recv(1 << 16):
                data += more
        return data

    def _until(self, end: bytes) -> bytes:
        while end not in self._read:
            self._more()
        found, _, self._read = self._read.partition(end)
        return found + end

    def _exactly(self, size: int) -> bytes:
        while len(self._read) < size:
            self._more()
        found, self._read = self._read[:size], self._read[size:]
        return found

    def _more(self) -> None:
        more = self.socket.recv(1 << 20)
        if not more:
            raise EOFError(f"the connection ended after {self._read[:200]!r}")
        self._read += more
