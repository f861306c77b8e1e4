"""One connection of an HTTP port: requests in, responses out, and no client that can hold it for ever.

HTTP/1.0 and 1.1 by RFC 9110 and 9112, one request at a time. What a client sends while its last request is still
being answered waits in the network. At most one timer looks after all connections of a port (`web/server.py`): each
says in `due` when it has to be looked at, and `look` ends it if the client was too slow.
"""

import asyncio
import contextlib
import math
import socket
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final, Protocol, cast

from starlette.types import ASGIApp

from pacs_server.kit.addresses import plain_address
from pacs_server.web.exchange import Exchange
from pacs_server.web.head import Head, Refusal, answer, make_scope
from pacs_server.web.limits import WebLimits, Window
from pacs_server.web.peer import acknowledged_by, tls_extension
from pacs_server.web.reader import RequestReader

# Reading pauses when so much of a body is unread, writing when so much is not sent, in bytes.
READ_HIGH: Final = 128 << 10
WRITE_HIGH, WRITE_LOW = 512 << 10, 128 << 10
# Short pieces of a response are copied together, longer ones are not.
_JOINED: Final = 64 << 10
# So much of what comes after a refusal is read, so that the client sees its answer.
_MOST_DROPPED = 32 << 20


class Port(Protocol):
    """The port as its connections see it."""

    app: ASGIApp
    name: str
    draining: bool
    buffer: memoryview

    def limits(self) -> WebLimits:
        """The limits in force."""

    def date(self) -> bytes:
        """The value of the Date header."""

    def watch(self, due: float) -> None:
        """See to it that connections are looked at then."""

    def refused(self, address: str, reason: str, status: int = 0) -> None:
        """Count and log that a client was refused or cut off."""

    def run(self, connection: "HTTPConnection", exchange: Exchange) -> None:
        """Have the application answer a request."""

    def answered(self, connection: "HTTPConnection", exchange: Exchange) -> None:
        """A response is complete."""

    def ended(self, connection: "HTTPConnection") -> None:
        """A connection is over."""


class HTTPConnection(asyncio.BufferedProtocol):
    """A connection from its first byte to its last."""

    def __init__(self, port: Port, sock: socket.socket, address: tuple[str, int]) -> None:
        self.address = address[0]
        self.due = math.inf
        self.made = False
        self.exchange: Exchange | None = None
        self._port = port
        self._socket = sock
        self._limits = port.limits()
        self._reader = RequestReader(self._limits, self)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._scope: dict[str, Any] = {}
        self._client = address[0], address[1]
        # What came in behind a request that is not answered yet.
        self._ahead = bytearray()
        self._dropped = 0
        self._closing = False
        # The client has said that it sends no more.
        self._ended = False
        # The deadline of what the client has to do now; flows have a window instead.
        self._deadline = math.inf
        self._reading: Window | None = None
        self._writing: Window | None = None
        self._read_paused = False
        self._room: asyncio.Future[None] | None = None
        self._write_paused = False

    # -------------------------------------------------------------------------------- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection, and the TLS handshake if there is one, is done."""
        self.made = True
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        ssl_object = transport.get_extra_info("ssl_object")
        host, port = self._socket.getsockname()[:2]
        self._scope = {
            "client": self._client,
            "server": (plain_address(host), port),
            "scheme": "http" if ssl_object is None else "https",
            "extensions": {} if ssl_object is None else {"tls": tls_extension(ssl_object)},
        }
        self._expect(self._limits.head)
        if self._port.draining:
            self._close(linger=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over, for whatever reason."""
        self._reader.deaf = True
        self.due = math.inf
        if self.exchange is not None:
            self.exchange.lost()
        self._make_room()
        self._port.ended(self)

    def eof_received(self) -> bool:
        """The client sends no more. Over plain TCP it may still want the answer to what it has sent.

        Of a stream of events it does not: a browser that has left the page looks like this.
        """
        self._ended = True
        exchange = self.exchange
        waits = exchange is not None and exchange.complete and not exchange.over and not exchange.endless
        if waits and exchange is not None:
            exchange.keep_alive = False
            self._reader.deaf = True
        return waits and self._scope["scheme"] == "http"

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go; all connections share it, because each takes what it has got at once."""
        return self._port.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes came in."""
        if self._reader.deaf:
            self._drop(nbytes)
            return
        data = self._port.buffer[:nbytes]
        if self.exchange is not None and self.exchange.complete:
            # The next request, before this one is answered.
            self._ahead += data
            self._pause_reading()
        else:
            self._feed(data)

    def _drop(self, nbytes: int) -> None:
        """Bytes that nobody will look at: they wait in the network, or are thrown away while the connection ends."""
        self._dropped += nbytes
        if not self._closing:
            self._pause_reading()
        elif self._dropped > _MOST_DROPPED:
            self._transport.abort()

    def pause_writing(self) -> None:
        """The client takes less than is sent to it."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The client has taken enough for more to be sent."""
        self._write_paused = False
        self._make_room()

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    # -------------------------------------------------------------------------------- requests

    def _feed(self, data: memoryview | bytes) -> None:
        self._reader.feed(data)
        exchange, refusal = self.exchange, self._reader.refusal
        if refusal is not None:
            self._refuse(refusal)
        elif exchange is not None and not exchange.complete and self._reading is None:
            self._reading = Window(self._limits, monotonic(), exchange.received)
            self._watch()

    def head_begins(self) -> None:
        """The first bytes of a request came in."""
        self._expect(self._limits.head)

    def head_read(self, head: Head, *, keep_alive: bool) -> None:
        """The head of a request is complete: have the application answer it."""
        self._deadline = math.inf
        scope = make_scope(head, **self._scope)
        self.exchange = Exchange(self, head, scope, keep_alive=keep_alive and not self._port.draining)
        self._port.run(self, self.exchange)

    def body_read(self, piece: bytes) -> None:
        """A piece of the body came in."""
        exchange = self.exchange
        assert exchange is not None
        if exchange.over:
            exchange.received += len(piece)
            return
        exchange.feed(piece)
        if exchange.unread > READ_HIGH:
            self._pause_reading()

    def request_ends(self) -> None:
        """The request is complete."""
        exchange = self.exchange
        assert exchange is not None
        exchange.end()
        self._reading = None
        if exchange.over:
            self._next()

    def last_request(self) -> None:
        """What has come behind this request cannot be answered, so that the connection ends with it."""
        if self.exchange is not None:
            self.exchange.keep_alive = False

    def _pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._read_paused and not self._transport.is_closing():
            self._read_paused = False
            self._transport.resume_reading()

    # -------------------------------------------------------------------------------- for the exchange

    def write(self, *parts: bytes | memoryview) -> None:
        """Send; what the network does not take now is kept."""
        transport = self._transport
        if len(parts) == 1:
            transport.write(parts[0])
        elif sum(map(len, parts)) <= _JOINED:
            transport.write(b"".join(parts))
        elif self._scope["scheme"] == "http" and not (transport.get_write_buffer_size() or transport.is_closing()):
            self._write_together(parts)
        else:
            transport.writelines(parts)
        if self._writing is None and transport.get_write_buffer_size():
            self._writing = Window(self._limits, monotonic(), acknowledged_by(self._socket))
            self._watch()

    def _write_together(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send by one system call. asyncio would copy all of it to one place first, until Python 3.12."""
        try:
            sent = self._socket.sendmsg(parts)
        except OSError:  # there is no room, or the transport will find the client gone
            sent = 0
        for part in parts:
            if sent < len(part):
                self._transport.write(memoryview(part)[sent:])
            sent = max(0, sent - len(part))

    def drained(self) -> "asyncio.Future[None] | None":
        """What to wait for before more is sent; None if there is room."""
        if self._write_paused and self._room is None:
            self._room = asyncio.get_running_loop().create_future()
        return self._room

    def date(self) -> bytes:
        """The value of the Date header."""
        return self._port.date()

    def taken(self) -> None:
        """The application has taken all of the body that came in so far."""
        exchange = self.exchange
        if self._read_paused and exchange is not None and not exchange.complete and not self._reader.deaf:
            # The client was not waited for until now.
            if self._reading is not None:
                self._reading.restart(monotonic(), exchange.received)
                self._watch()
            self._resume_reading()

    def answered(self) -> None:
        """The response is complete."""
        exchange = self.exchange
        if exchange is None:
            return
        self._port.answered(self, exchange)
        if exchange.complete:
            self._next()
        elif exchange.keep_alive:
            # Little is missing of the request; it is read, so that the connection can go on.
            self._resume_reading()
        else:
            self._close(linger=True)

    def cut(self, reason: str) -> None:
        """End the connection at once: what was sent is not the whole response."""
        self._port.refused(self.address, reason)
        if self.exchange is not None:
            self.exchange.lost()
        self._transport.abort()

    # -------------------------------------------------------------------------------- between and after requests

    def _next(self) -> None:
        """A request was answered and read whole: on to the next one, or to the end."""
        exchange, self.exchange = self.exchange, None
        if exchange is None or not exchange.keep_alive or self._port.draining:
            self._close(linger=self._reader.deaf)
            return
        self._limits = self._port.limits()
        self._reader.next(self._limits)
        self._reading = None
        self._expect(self._limits.idle)
        ahead = bytes(self._ahead)
        self._ahead.clear()
        self._resume_reading()
        if ahead:
            self._feed(ahead)

    def drain(self) -> None:
        """End the connection as soon as no request is being answered on it."""
        if not self.made:
            return
        if self.exchange is None:
            self._close(linger=False)
        elif self.exchange.endless:
            self.kill()
        else:
            self.exchange.keep_alive = False

    def kill(self) -> None:
        """End the connection now."""
        if self.exchange is not None:
            self.exchange.lost()
        if self.made:
            self._transport.abort()

    def _refuse(self, refusal: Refusal) -> None:
        """Say why the request is refused, if that is still possible, and end the connection."""
        self._port.refused(self.address, refusal.reason, refusal.status)
        exchange = self.exchange
        if exchange is not None:
            exchange.lost()
            if exchange.status is not None:
                self._transport.abort()
                return
        self.write(answer(refusal, self._port.date()))
        self._close(linger=True)

    def _close(self, *, linger: bool) -> None:
        """End the connection when all that was sent has gone out.

        With `linger` what the client still sends is read and dropped for a while: closing a socket with unread bytes
        makes the network forget what was sent, and the client would not see its answer (RFC 9112 9.6).
        """
        self._reader.deaf = self._closing = True
        self._reading = None
        if not linger or self._ended:
            self._transport.close()
            return
        self._expect(self._limits.linger)
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):  # the client is gone
                self._transport.write_eof()
        self._resume_reading()

    # -------------------------------------------------------------------------------- deadlines

    def _expect(self, seconds: float) -> None:
        """Give the client so long for what it has to do now."""
        self._deadline = monotonic() + seconds
        self._watch()

    def _watch(self) -> None:
        due = self._deadline
        if self._reading is not None and not self._read_paused:
            due = min(due, self._reading.due)
        if self._writing is not None:
            due = min(due, self._writing.due)
        self.due = due
        self._port.watch(due)

    def look(self, now: float) -> None:
        """Called when `due` is over: end the connection if the client was too slow."""
        if self._writing is not None and now >= self._writing.due and not self._keeps_reading(now):
            self.cut("slow_reader")
        elif self._reading is not None and now >= self._reading.due and not self._keeps_sending(now):
            self._refuse(Refusal(408, "slow_body", "the body comes too slowly"))
        elif now >= self._deadline:
            self._deadline_is_over(now)
        self._watch()

    def _keeps_reading(self, now: float) -> bool:
        unsent, acknowledged = self._transport.get_write_buffer_size(), acknowledged_by(self._socket)
        if not unsent:
            self._writing = None
        elif self._writing is not None:
            if not self._writing.kept(acknowledged):
                return False
            self._writing.restart(now, acknowledged)
        return True

    def _keeps_sending(self, now: float) -> bool:
        exchange, window = self.exchange, self._reading
        if exchange is not None and window is not None and not self._read_paused:
            if not window.kept(exchange.received):
                return False
            window.restart(now, exchange.received)
        return True

    def _deadline_is_over(self, now: float) -> None:
        if self._closing:
            if self._transport.get_write_buffer_size():
                self._deadline = now + self._limits.linger  # as long as the client reads its answer
            else:
                self._transport.abort()
        elif self._reader.read:
            self._refuse(Refusal(408, "slow_head", "the head comes too slowly"))
        else:
            self._close(linger=False)
