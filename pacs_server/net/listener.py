"""Listening: accept connections, count them, serve each in a thread of its own; end them all at shutdown.

A few threads wait in accept at a time. Whoever gets a connection serves it to its end, after having
made sure that another one waits: so a silent peer holds up nobody else, and an association needs
no new thread.
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
# How long those who wait may take to notice that it is over.
_STOP_SECONDS = 5.0
# Threads that wait for connections when nobody is connected.
WAITING_THREADS = 4
_IDLE = "listener"


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
        # Whether it was worth having: an operation succeeded, or the peer took its leave.
        self.useful = False

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
        self._failing = threading.Lock()
        # How many threads wait in accept, or are on their way there; never none until the end.
        self._waiting = 0
        self._changed = threading.Condition()

    def start(self) -> None:
        """Begin to accept. Raises RuntimeError if there are no threads to be had."""
        self._socket.listen(_BACKLOG)
        while self._may_wait():
            try:
                self._start_thread()
            except RuntimeError:
                self._no_longer_waiting()
                raise

    def stop(self) -> None:
        """Accept no more; what is open goes on."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._changed:
            # A thread in accept on a descriptor that is closed would take the connections of whoever gets it next.
            self._changed.wait_for(lambda: not self._waiting, _STOP_SECONDS)
        self._socket.close()

    def _start_thread(self) -> None:
        """Start a thread whose place among those who wait is taken already. Raises RuntimeError if there is none."""
        threading.Thread(target=self._work, name=_IDLE, daemon=True).start()

    def _work(self) -> None:
        """Wait and serve in turn, for as long as this thread has a place among those who wait."""
        this = threading.current_thread()
        while (connection := self._accept()) is not None:
            limit = self._take(connection)
            if limit is not None:
                connection.socket.close()
                self._refused(limit, connection.address)
                continue
            this.name = f"peer-{connection.address}"
            self._serve_to_the_end(connection)
            this.name = _IDLE
            if not self._may_wait():
                return
        self._no_longer_waiting()

    def _accept(self) -> Connection | None:
        """The next connection; None once the listener stops."""
        while not self._stopping.is_set():
            try:
                sock, address = self._socket.accept()
            except OSError as error:
                with self._failing:
                    if not self._stopping.is_set():
                        log.error("cannot accept a connection", extra={"reason": error.strerror or str(error)})
                        self._stopping.wait(_PAUSE_SECONDS)
            else:
                return Connection(sock, address[0], tls=self._tls)
        return None

    def _take(self, connection: Connection) -> str | None:
        """Count a connection in and leave another thread to wait; returns the name of the limit that forbids it."""
        limit = self._connections.add(connection, self._limits())
        if limit is None and not self._leave_another():
            self._connections.remove(connection)
            return "threads"
        return limit

    def _serve_to_the_end(self, connection: Connection) -> None:
        try:
            self._serve(connection)
        finally:
            connection.socket.close()
            self._connections.remove(connection)

    def _leave_another(self) -> bool:
        """Wait no longer, leaving another thread that does; False if there is none to be had and this one stays."""
        with self._changed:
            if self._waiting > 1:
                self._waiting -= 1
                return True
        # Nobody else waits: a new thread takes this one's place. Until it runs this one counts as waiting.
        try:
            self._start_thread()
        except RuntimeError:
            return False
        return True

    def _may_wait(self) -> bool:
        """Take a place among those who wait, if there is one."""
        with self._changed:
            free = self._waiting < WAITING_THREADS
            self._waiting += free
            return free

    def _no_longer_waiting(self) -> None:
        with self._changed:
            self._waiting -= 1
            self._changed.notify_all()


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
