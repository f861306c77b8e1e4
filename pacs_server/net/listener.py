"""Listening: accept connections, count them, give each a thread; end them all at shutdown.

The accept thread does nothing but accept: TLS handshake and negotiation happen in the connection's
own thread, so that a silent peer holds up nobody else.
"""

import contextlib
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pacs_server.net.association import Association
from pacs_server.net.pdu import encode_abort
from pacs_server.net.transport import Transport, cut

log = logging.getLogger(__name__)

_BACKLOG = 512
# After accept fails for want of descriptors or memory: wait, do not spin.
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections may be open, associated or not."""

    total: int
    per_address: int


class Connection:
    """An accepted connection and, once there is one, its association."""

    def __init__(self, sock: socket.socket, address: str, *, tls: bool = False) -> None:
        self.socket = sock
        self.address = address
        self.tls = tls
        self.opened = time.monotonic()
        self.transport: Transport | None = None
        self.association: Association | None = None

    def drain(self) -> None:
        """End it as soon as no operation runs on it."""
        if self.association is not None:
            self.association.drain()
        else:
            self.kill()

    def kill(self) -> None:
        """End it now."""
        if self.transport is not None:
            self.transport.kill(encode_abort())
        else:
            cut(self.socket)


class Connections:
    """Every open connection; counts them against the limits and ends them together."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._per_address: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._draining = False

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection, limits: ConnectionLimits) -> str | None:
        """Count a connection in; returns the name of the limit that forbids it, or None."""
        with self._changed:
            if self._draining:
                return "shutting_down"
            if len(self._open) >= limits.total:
                return "connections"
            if self._per_address[connection.address] >= limits.per_address:
                return "connections_per_address"
            self._open.add(connection)
            self._per_address[connection.address] += 1
            return None

    def remove(self, connection: Connection) -> None:
        """Count a connection out."""
        with self._changed:
            self._open.discard(connection)
            self._per_address[connection.address] -= 1
            if not self._per_address[connection.address]:
                del self._per_address[connection.address]
            self._changed.notify_all()

    def established(self, connection: Connection, association: Association) -> None:
        """Say that a connection has become an association."""
        with self._changed:
            connection.association = association
            if self._draining:
                association.drain()

    def associations(self) -> int:
        """How many connections are associations."""
        with self._changed:
            return sum(connection.association is not None for connection in self._open)

    def drain(self, timeout: float) -> None:
        """End every connection as soon as nothing runs on it; after `timeout` seconds abort the rest."""
        with self._changed:
            self._draining = True
            for connection in self._open:
                connection.drain()
            self._changed.wait_for(lambda: not self._open, timeout)
            if self._open:
                log.warning("operations aborted at shutdown", extra={"associations": len(self._open)})

    def kill(self, timeout: float) -> None:
        """Abort every connection now and wait up to `timeout` seconds for their threads."""
        with self._changed:
            self._draining = True
            for connection in self._open:
                connection.kill()
            self._changed.wait_for(lambda: not self._open, timeout)


class Listener:
    """Accepts connections on a bound socket and serves each in a thread of its own."""

    def __init__(
        self,
        sock: socket.socket,
        connections: Connections,
        *,
        serve: Callable[[Connection], None],
        limits: Callable[[], ConnectionLimits],
        refused: Callable[[str, str], None],
        tls: bool = False,
    ) -> None:
        """Serve with `serve`; `refused(limit, address)` is told of connections that are over a limit.

        `tls` is handed on with each connection: whoever serves it does the handshake.
        """
        self._tls = tls
        self._connections = connections
        self._socket = sock
        self._serve = serve
        self._limits = limits
        self._refused = refused
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="listener", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._socket.listen(_BACKLOG)
        self._thread.start()

    def stop(self) -> None:
        """Accept no more; what is open goes on."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, address = self._socket.accept()
            except OSError as error:
                if not self._stopping.is_set():
                    log.error("cannot accept a connection", extra={"reason": error.strerror or str(error)})
                    self._stopping.wait(_PAUSE_SECONDS)
                continue
            self._begin(Connection(sock, address[0], tls=self._tls))

    def _begin(self, connection: Connection) -> None:
        limit = self._connections.add(connection, self._limits())
        if limit is not None:
            connection.socket.close()
            self._refused(limit, connection.address)
            return
        thread = threading.Thread(target=self._run, args=(connection,), name=f"peer-{connection.address}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # No more threads to be had: this peer is turned away, the server lives on.
            connection.socket.close()
            self._connections.remove(connection)
            self._refused("threads", connection.address)

    def _run(self, connection: Connection) -> None:
        try:
            self._serve(connection)
        finally:
            connection.socket.close()
            self._connections.remove(connection)


def bind(host: str, port: int) -> socket.socket:
    """Return a TCP socket bound to `host` and `port` (0: any free one). Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
