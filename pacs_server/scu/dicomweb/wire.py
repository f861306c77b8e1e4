"""The connections below HTTP: sockets whose waits are bounded, and which can all be cut when the server stops.

Imported only where a DICOMweb remote is called: the HTTP client takes long to import.
"""

import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpcore2 as httpcore
import httpx2 as httpx

from pacs_server.config import tls
from pacs_server.net.limits import Throttle
from pacs_server.net.transport import cut

# A peer that gives or takes a body has to keep up this rate, in bytes a second.
LEAST_RATE: Final = 4096
# Python's sockets take the time-out anew for each piece.
_PIECE: Final = 256 * 1024
# How long a connection is kept without a request, in seconds: less than most servers do.
_KEPT: Final = 4.0
FAILURES: Final = (
    httpx.HTTPError,
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)


class Patience(float):
    """How many seconds a peer may keep us waiting for one request or answer, in all; handed down as a time-out.

    With `least_rate` each byte that is moved earns time, so that a body may take as long as its length deserves.
    """

    def __init__(self, seconds: float, least_rate: int | None = None) -> None:
        self._left = seconds
        self._earned = 1 / least_rate if least_rate else 0.0

    def __new__(cls, seconds: float, least_rate: int | None = None) -> "Patience":
        """A float has its value from here."""
        return super().__new__(cls, seconds)

    def left(self) -> float:
        """How many seconds may still be waited."""
        return min(self._left, self)

    def waited(self, seconds: float, moved: int) -> None:
        """Count a wait, and the bytes that it was for."""
        self._left += moved * self._earned - seconds


class _Stream(httpcore.NetworkStream):
    """One connection."""

    def __init__(self, sock: socket.socket, wire: "Wire") -> None:
        self._socket = sock
        self._wire = wire
        wire.opened(self, sock)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _waiting(self._socket, timeout, httpcore.ReadTimeout, httpcore.ReadError) as moved:
            data = self._socket.recv(max_bytes)
            moved(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        while view:
            with _waiting(self._socket, timeout, httpcore.WriteTimeout, httpcore.WriteError) as moved:
                count = self._socket.send(view[: self._wire.piece])
                moved(count)
            view = view[count:]
            self._wire.spend(count)

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            self._socket.settimeout(timeout)
            return _Stream(ssl_context.wrap_socket(self._socket, server_hostname=server_hostname), self._wire)
        except (OSError, ValueError) as error:
            self.close()
            reason = tls.reason(error) if isinstance(error, OSError) else str(error)
            raise httpcore.ConnectError(reason) from error

    def get_extra_info(self, info: str) -> Any:
        # An idle connection that can be read has been closed by the other side.
        return _readable(self._socket) if info == "is_readable" else None


class Wire(httpcore.NetworkBackend):
    """Opens the connections to one remote; thread-safe."""

    def __init__(self, rate: int | None = None, pause: Callable[[float], None] = time.sleep) -> None:
        """All connections together send `rate` bytes a second at most, and wait by calling `pause`."""
        self.piece = min(_PIECE, rate or _PIECE)
        self._pause = pause
        self._throttle = Throttle(rate, lambda seconds: None) if rate else None
        self._spending = threading.Lock()
        self._open: weakref.WeakKeyDictionary[_Stream, socket.socket] = weakref.WeakKeyDictionary()
        self._killed = False
        self._here = threading.local()

    def opened_here(self) -> int:
        """How many connections the calling thread has opened."""
        return int(getattr(self._here, "count", 0))

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Open a connection. Raises ConnectError and ConnectTimeout."""
        self._here.count = self.opened_here() + 1
        try:
            sock = socket.create_connection((host.strip("[]"), port), timeout)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("it does not answer in time") from error
        except (OSError, UnicodeError) as error:
            reason = tls.reason(error) if isinstance(error, OSError) else str(error)
            raise httpcore.ConnectError(reason) from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _Stream(sock, self)

    def spend(self, size: int) -> None:
        """Count bytes that were sent, and wait until the rate allows the next ones."""
        if self._throttle is None:
            return
        with self._spending:
            seconds = self._throttle.spend(size)
        if seconds:
            self._pause(seconds)

    def opened(self, stream: _Stream, sock: socket.socket) -> None:
        """Note a connection, which is cut at once if all are."""
        self._open[stream] = sock
        if self._killed:
            cut(sock)

    def kill(self) -> None:
        """Cut all connections, also those to come; whoever waits on one fails at once."""
        self._killed = True
        for sock in list(self._open.values()):
            cut(sock)


class Transport(httpx.BaseTransport):
    """Sends the requests of an HTTP client over a pool of connections of a `Wire`."""

    def __init__(self, wire: Wire, context: ssl.SSLContext | None, connections: int) -> None:
        self._pool = httpcore.ConnectionPool(
            context, max_connections=connections, keepalive_expiry=_KEPT, network_backend=wire
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return the answer, whose body is still to be read. Raises `FAILURES`."""
        url = request.url
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        assert isinstance(request.stream, Iterable)
        answer = self._pool.handle_request(
            httpcore.Request(
                request.method,
                target,
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        assert isinstance(answer.stream, Iterable)
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer.stream), extensions=answer.extensions
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


@contextmanager
def _waiting(
    sock: socket.socket, timeout: float | None, late: type[Exception], broken: type[Exception]
) -> Iterator[Callable[[int], None]]:
    """Wait for a socket as long as the time-out allows, and count that. Tell what was moved by calling the result."""
    count = 0

    def moved(size: int) -> None:
        nonlocal count
        count = size

    patience = timeout if isinstance(timeout, Patience) else None
    left = timeout if patience is None else patience.left()
    if left is not None and left <= 0:
        raise late("it takes too long")
    begun = time.monotonic()
    try:
        sock.settimeout(left)
        yield moved
    except TimeoutError as error:
        raise late("it takes too long") from error
    except OSError as error:
        raise broken(tls.reason(error)) from error
    finally:
        if patience is not None:
            patience.waited(time.monotonic() - begun, count)


def _readable(sock: socket.socket) -> bool:
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
