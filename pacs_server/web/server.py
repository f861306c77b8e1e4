"""An HTTP port: one thread with an event loop that serves an ASGI application on a bound socket.

Nothing wakes up while nobody is connected. While somebody is, one timer goes off when the next deadline of all
connections is over. The protocol is in `web/protocol.py`.
"""

import asyncio
import contextlib
import errno
import functools
import logging
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from time import monotonic
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from pacs_server.config.tls import reason
from pacs_server.errors import ResourceLimitation
from pacs_server.kit.addresses import plain_address
from pacs_server.kit.logs import Sparingly
from pacs_server.kit.metrics import Metrics
from pacs_server.web.caller import KEY
from pacs_server.web.exchange import AnswerCut, ClientGone, Exchange
from pacs_server.web.head import SAFE_METHODS
from pacs_server.web.limits import Places, WebLimits
from pacs_server.web.logged import DOORS, logged_path
from pacs_server.web.protocol import READ_HIGH, HTTPConnection
from pacs_server.web.threads import catch_up, end_idle_threads

log = logging.getLogger(__name__)

_BACKLOG = 512
# So many connections are accepted before others have their turn.
_ACCEPTS = 64
# The pause after accept has failed for lack of descriptors or memory, in seconds.
_PAUSE_SECONDS = 0.1
_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# Connections are not looked at more often than this, in seconds.
_SWEEP_SECONDS = 0.1
_START_SECONDS, _STOP_SECONDS = 10.0, 5.0
# A connection whose peer is gone without a word ends in the kernel as well, in milliseconds.
_USER_TIMEOUT = 60_000


class WebServer:
    """Serves an application on a bound socket; a part of a running server. There is no lifespan protocol."""

    def __init__(
        self,
        sock: socket.socket,
        app: ASGIApp,
        *,
        name: str,
        limits: Callable[[], WebLimits],
        metrics: Metrics,
        stop_within: Callable[[], float],
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
    ) -> None:
        """`name` is that of the thread, and the door in logs and metrics.

        `limits` is asked for each connection and request, `tls` at start and reload. `stop_within` says how many
        seconds responses may still run when the server stops.
        """
        self.app = app
        self.name = name
        self.limits = limits
        self.draining = False
        self.buffer = memoryview(bytearray(READ_HIGH))
        self._socket = sock
        self._metrics = metrics
        self._make_tls = tls
        self._tls: ssl.SSLContext | None = None
        self._stop_within = stop_within
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._empty: asyncio.Event | None = None
        self._connections: set[HTTPConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = Places()
        self._sparingly = Sparingly(log)
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_due = math.inf
        self._date = (0, b"")

    # -------------------------------------------------------------------------------- the part

    def start(self) -> None:
        """Listen and serve. Raises ConfigError if TLS cannot be set up, ResourceLimitation if there is no thread."""
        self._tls = self._make_tls()
        try:
            self._socket.listen(_BACKLOG)
            self._thread.start()
        except (OSError, RuntimeError) as error:
            raise ResourceLimitation(f"the HTTP port cannot be served: {error}") from error
        if not self._started.wait(_START_SECONDS) or self._failure is not None:
            raise ResourceLimitation(f"the HTTP port cannot be served: {self._failure or 'no answer'}")

    def reload(self) -> None:
        """Use the certificates as they are now for connections from now on; whether there is TLS needs a restart."""
        if self._tls is not None:
            self._tls = self._make_tls() or self._tls

    def stop(self) -> None:
        """Accept no more, let responses end within `stop_within` seconds, and end what is left then."""
        within = self._stop_within()
        if self._loop is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._begin_to_stop)
            self._thread.join(within + 2 * _STOP_SECONDS)
        end_idle_threads()
        self._socket.close()

    def gauges(self) -> Mapping[str, float]:
        """How many connections are open."""
        return {"pacs_web_connections": self._places.taken}

    # -------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve())
        except (OSError, RuntimeError, MemoryError) as error:
            self._failure = error
            log.exception("HTTP port not served", extra={"door": self.name})
        finally:
            self._started.set()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_fault)
        self._stopping, self._empty = asyncio.Event(), asyncio.Event()
        self._socket.setblocking(False)
        loop.add_reader(self._socket, self._accept)
        self._loop = loop
        self._started.set()
        await self._stopping.wait()
        loop.remove_reader(self._socket)
        self._socket.close()
        await self._drain()

    def _begin_to_stop(self) -> None:
        self.draining = True
        if self._stopping is not None:
            self._stopping.set()

    async def _drain(self) -> None:
        """Wait for responses under way, then end what is left."""
        for connection in tuple(self._connections):
            connection.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone(), self._stop_within())
        if self._connections:
            log.warning(
                "HTTP requests aborted at shutdown", extra={"door": self.name, "connections": len(self._connections)}
            )
        for connection in tuple(self._connections):
            connection.kill()
        for task in self._tasks:
            task.cancel("the server stops")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)
        await catch_up()

    async def _gone(self) -> None:
        while self._connections and self._empty is not None:
            self._empty.clear()
            await self._empty.wait()

    # -------------------------------------------------------------------------------- connections

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(error)
                return
            self._admit(sock, address)

    def _rest(self, error: OSError) -> None:
        """Accept has failed; try again a little later if that may help."""
        if self._loop is None or self.draining:
            return
        self._sparingly.log(logging.ERROR, "cannot accept an HTTP connection", "", error.strerror or str(error))
        if error.errno in _NO_MORE:
            self._loop.remove_reader(self._socket)
            self._loop.call_later(_PAUSE_SECONDS, self._accept_again)

    def _accept_again(self) -> None:
        if self._loop is not None and not self.draining:
            self._loop.add_reader(self._socket, self._accept)

    def _admit(self, sock: socket.socket, address: tuple[str, int]) -> None:
        client = plain_address(address[0])
        limit = self._places.take(client, self.limits())
        if limit is not None:
            self.refused(client, limit)
            sock.close()
            return
        connection = HTTPConnection(self, sock, (client, address[1]))
        self._connections.add(connection)
        self._keep(self._connect(connection, sock))

    async def _connect(self, connection: HTTPConnection, sock: socket.socket) -> None:
        """Hand a socket to its connection, after a TLS handshake if there has to be one."""
        loop, tls, seconds = asyncio.get_running_loop(), self._tls, self.limits().head
        options = (
            {} if tls is None else {"ssl_handshake_timeout": seconds, "ssl_shutdown_timeout": self.limits().linger}
        )
        try:
            # asyncio does this for sockets only that were made with the number of the protocol.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT)
            sock.setblocking(False)
            await loop.connect_accepted_socket(lambda: connection, sock, ssl=tls, **options)
        except OSError as error:
            if tls is not None:
                self.refused(connection.address, "tls_handshake", detail=reason(error))
        finally:
            if not connection.made:
                sock.close()
                self.ended(connection)

    def ended(self, connection: HTTPConnection) -> None:
        """A connection is over."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._places.leave(connection.address)
        if self._empty is not None and not self._connections:
            self._empty.set()

    def refused(self, address: str, reason: str, status: int = 0, *, detail: str = "") -> None:
        """Count and log that a client was refused or cut off."""
        self._metrics.web_refused(reason)
        details: dict[str, object] = {"door": self.name}
        if status:
            details["status"] = status
        if detail:
            details["detail"] = detail
        self._sparingly.log(logging.WARNING, "HTTP client refused", address, reason, **details)

    # -------------------------------------------------------------------------------- requests

    def run(self, connection: HTTPConnection, exchange: Exchange) -> None:
        """Have the application answer a request."""
        app = _about_the_server if exchange.head.path == "*" else self.app
        work: Any = app(exchange.scope, exchange.receive, exchange.send)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._done, connection, exchange))

    def _keep(self, work: Any) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _done(self, connection: HTTPConnection, exchange: Exchange, task: "asyncio.Task[None]") -> None:
        """The application is done with a request, one way or another."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ClientGone | ClientDisconnect | AnswerCut):
            log.error("HTTP request failed unexpectedly", exc_info=error, extra=self._about(connection, exchange))
        if exchange.over:
            return
        if exchange.gone:
            self.answered(connection, exchange)
        elif exchange.status is not None or task.cancelled():
            self.answered(connection, exchange)
            connection.cut("error")
        else:
            self._keep(_internal_error(exchange.scope, exchange.receive, exchange.send))

    def answered(self, connection: HTTPConnection, exchange: Exchange) -> None:
        """Log and count a request that was answered, or whose client is gone."""
        seconds = time.perf_counter() - exchange.began
        self._metrics.web_request(self._door(exchange), exchange.head.method, exchange.status or 0, seconds)
        self._metrics.web_traffic(exchange.received, exchange.sent)
        level = logging.DEBUG if exchange.head.method in SAFE_METHODS and (exchange.status or 0) < 400 else logging.INFO
        if log.isEnabledFor(level):
            about = self._about(connection, exchange)
            log.log(level, "request", extra={**about, "bytes": exchange.sent, "ms": round(seconds * 1000, 2)})

    def _door(self, exchange: Exchange) -> str:
        first = exchange.head.path[1:].partition("/")[0]
        return first if first in DOORS else self.name

    def _about(self, connection: HTTPConnection, exchange: Exchange) -> dict[str, object]:
        """What the log says of a request."""
        head = exchange.head
        about: dict[str, object] = {
            "door": self.name,
            "method": head.method,
            "path": logged_path(exchange.scope),
            "status": exchange.status or "none",
            "peer": connection.address,
        }
        caller = exchange.scope.get(KEY)
        if caller is not None and caller.user is not None:
            about["user"] = caller.user
        return about

    def date(self) -> bytes:
        """The value of the Date header, made once a second at most."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = now, formatdate(now, usegmt=True).encode()
        return self._date[1]

    # -------------------------------------------------------------------------------- deadlines

    def watch(self, due: float) -> None:
        """See to it that connections are looked at then."""
        if due >= self._sweep_due or self._loop is None:
            return
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep_due = due
        self._sweep = self._loop.call_later(max(due - monotonic(), _SWEEP_SECONDS), self._look)

    def _look(self) -> None:
        """Look at the connections whose deadline is over."""
        self._sweep, self._sweep_due = None, math.inf
        now = monotonic()
        for connection in tuple(self._connections):
            if connection.due <= now:
                connection.look(now)
        self.watch(min((connection.due for connection in self._connections), default=math.inf))


async def _about_the_server(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer `OPTIONS *` (RFC 9110 9.3.7)."""
    await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", b"GET, HEAD, POST, OPTIONS")]})
    await send({"type": "http.response.body"})


async def _internal_error(scope: Scope, receive: Receive, send: Send) -> None:
    text = b"internal error, see the server's log\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def _log_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what the event loop has nobody else to tell of; clients that go away are no news."""
    error = context.get("exception")
    level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
    log.log(level, "event loop: %s", context.get("message", ""), exc_info=error)
