"""One request and its response: what an ASGI application receives and sends, with backpressure both ways."""

import asyncio
from collections import deque
from collections.abc import Sequence
from time import perf_counter
from typing import Any, Protocol

from starlette.types import Message, Scope

from pacs_server.web.head import Head, status_line

# So much of a request that nobody reads is thrown away, so that the connection can go on.
_SHORT_REST = 64 << 10
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
Pieces = tuple[bytes | memoryview, ...]
# The headers of a response that are for the connection, which writes them itself.
_FRAMING = frozenset((b"content-length", b"connection", b"transfer-encoding", b"date"))
# RFC 9110 6.4.1: answers that never have a body.
_BODILESS = (204, 304)


class ClientGone(OSError):
    """The client is gone, or was cut off: nobody reads what is sent."""


class AnswerCut(Exception):
    """Raised by an application whose answer cannot be sent to its end, for a reason that it has logged."""


class Line(Protocol):
    """The connection as an exchange sees it."""

    def write(self, *parts: bytes | memoryview) -> None:
        """Send; what the network does not take now is kept."""

    def drained(self) -> "asyncio.Future[None] | None":
        """What to wait for before more is sent; None if there is room."""

    def taken(self) -> None:
        """The application has taken all of the body that came in so far."""

    def answered(self) -> None:
        """The response is complete."""

    def cut(self, reason: str) -> None:
        """End the connection at once: what was sent is not the whole response."""

    def date(self) -> bytes:
        """The value of the Date header."""


class Exchange:
    """A request that is read while it is answered."""

    def __init__(self, line: Line, head: Head, scope: Scope, *, keep_alive: bool) -> None:
        self.scope = scope
        self.head = head
        self.keep_alive = keep_alive
        self.began = perf_counter()
        # The request: what came in, and whether all of it did.
        self.received = 0
        self.unread = 0
        self.complete = False
        self._pieces: deque[bytes] = deque()
        self._told_end = False
        self._continue = head.expects_continue
        # The response.
        self.status: int | None = None
        self.sent = 0
        self.over = False
        self.gone = False
        self.endless = False
        self._line = line
        self._head_bytes: bytes | None = None
        # How many bytes are still to be sent by the Content-Length; None if the body is chunked or ends with the
        # connection, see `_chunked`.
        self._left: int | None = None
        self._chunked = False
        self._bodiless = False
        self._waiter: asyncio.Future[None] | None = None

    # -------------------------------------------------------------------------------- what comes in

    def feed(self, piece: bytes) -> None:
        """A piece of the body came in."""
        self._pieces.append(piece)
        self.received += len(piece)
        self.unread += len(piece)
        self._wake()

    def end(self) -> None:
        """The body is complete."""
        self.complete = True
        self._wake()

    def lost(self) -> None:
        """The client is gone."""
        self.gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> Message:
        """ASGI's receive: the next part of the body, or that the client is gone."""
        if self._continue and not self.gone:
            self._continue = False
            if not self.received and not self.complete:
                self._line.write(_CONTINUE)
        while not (self._pieces or self.gone or self.over or (self.complete and not self._told_end)):
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        # What came in before the client went away is still handed on.
        if self.over or not (self._pieces or (self.complete and not self._told_end)):
            return {"type": "http.disconnect"}
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self.unread = 0
        self._told_end = self.complete
        self._line.taken()
        return {"type": "http.request", "body": body, "more_body": not self.complete}

    # -------------------------------------------------------------------------------- what goes out

    async def send(self, message: Message) -> None:
        """ASGI's send; returns when there is room for more. Raises ClientGone if nobody reads what is to follow."""
        if self.gone:
            if message.get("more_body"):
                raise ClientGone("the client is gone")
            return
        if message["type"] == "http.response.start" and self.status is None:
            self._start(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body" and self.status is not None and not self.over:
            body = message.get("body", b"")
            # Our own answers may have several pieces that go out together, which ASGI does not know.
            pieces = body if isinstance(body, tuple) else (body,)
            await self._body(pieces, more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{message['type']} is out of order")

    def _start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        lines = [status_line(status), b"date: ", self._line.date(), b"\r\n"]
        for name, value in headers:
            if (lower := name.lower()) in _FRAMING:
                self._frame(lower, value)
            else:
                lines += (lower, b": ", value, b"\r\n")
                # HTML 9.2: a stream of events has no end; the client connects again after a break.
                self.endless = self.endless or value.startswith(b"text/event-stream")
        self._bodiless = self.head.method == "HEAD" or status in _BODILESS
        if self._left is not None:
            lines += (b"content-length: ", str(self._left).encode(), b"\r\n")
        elif not self._bodiless and self.head.version == "1.1":
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        elif not self._bodiless:
            # RFC 9112 6.3: HTTP/1.0 knows no chunks, there the end of the connection is the end of the body.
            self.keep_alive = False
        self.keep_alive = self.keep_alive and self._rest_is_short()
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif self.head.version == "1.0":
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != head.count(b"\r\n") or head.count(b"\r\n\r\n") != 1 or b"\0" in head:
            raise RuntimeError("a header of the response holds a line break")
        self.status = status
        self._continue = False
        self._head_bytes = head
        # Head and body go out together if they come together. A body of unknown length may be long in coming.
        if self._left is None:
            asyncio.get_running_loop().call_soon(self._flush_head)

    def _frame(self, name: bytes, value: bytes) -> None:
        """Take note of what a header of the response says about the connection."""
        if name == b"content-length":
            self._left = int(value)
        elif name == b"connection":
            self.keep_alive = self.keep_alive and b"close" not in value.lower()

    def _rest_is_short(self) -> bool:
        """Whether what is missing of the request may be read and thrown away, so that the connection can go on."""
        if self.complete:
            return True
        length = self.head.length
        return length is not None and length - self.received <= _SHORT_REST and not self.head.expects_continue

    def _flush_head(self) -> None:
        if self._head_bytes is not None and not self.gone:
            head, self._head_bytes = self._head_bytes, None
            self._line.write(head)

    async def _body(self, pieces: Pieces, *, more: bool) -> None:
        if not self._bodiless:
            self._write(pieces, b"\r\n" if more else b"\r\n0\r\n\r\n")
        if more:
            if (room := self._line.drained()) is not None:
                self._flush_head()
                await room
                if self.gone:
                    raise ClientGone("the client is gone")
            return
        if self._left and not self._bodiless:
            self._line.cut("error")
            raise RuntimeError("the response is shorter than its Content-Length")
        self._flush_head()
        self.over = True
        self._wake()
        self._line.answered()

    def _write(self, pieces: Pieces, end_of_chunk: bytes) -> None:
        size = sum(map(len, pieces))
        if self._left is not None:
            if size > self._left:
                self._line.cut("error")
                raise RuntimeError("the response is longer than its Content-Length")
            self._left -= size
        self.sent += size
        if self._chunked and size:
            self._line.write(*self._with_head(b"%x\r\n" % size, *pieces, end_of_chunk))
        elif self._chunked and len(end_of_chunk) > 2:
            self._line.write(*self._with_head(end_of_chunk[2:]))
        elif size:
            self._line.write(*self._with_head(*pieces))

    def _with_head(self, *parts: bytes | memoryview) -> tuple[Any, ...]:
        if self._head_bytes is None:
            return parts
        head, self._head_bytes = self._head_bytes, None
        return (head, *parts)
