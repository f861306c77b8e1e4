"""Accept connections, count them against the limits, serve each in its own thread, and end them all at shutdown.

A few threads wait in accept. The thread that accepts a connection first makes sure that another
thread waits, then serves the connection to its end. So a silent peer delays no other connection, and
an association rarely needs a new thread.
"""

import contextlib
import logging
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from pacs_server.kit.addresses import plain_address
from pacs_server.net.association import Association
from pacs_server.net.pdu import encode_abort
from pacs_server.net.transport import Transport, cut

log = logging.getLogger(__name__)

_BACKLOG = 512
# The pause after accept has failed for lack of descriptors or memory.
_PAUSE_SECONDS = 0.1
# How long the waiting threads may take to notice that the listener has stopped.
_STOP_SECONDS = 5.0
# The number of threads that wait for connections while no peer is connected.
WAITING_THREADS = 4
_IDLE = "listener"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections may be open at once, in total and from one address, with an association or without."""

    total: int
    per_address: int


class Connection:
    """An accepted connection, and its association as soon as it is established."""

    def __init__(self, sock: socket.socket, address: str, *, tls: bool = False) -> None:
        self.socket = sock
        self.address = address
        self.tls = tls
        self.opened = time.monotonic()
        self.transport: Transport | None = None
        self.association: Association | None = None
        # How many commands of each kind came on it.
        self.operations: defaultdict[str, int] = defaultdict(int)
        # Whether an operation on it succeeded, or the peer released the association.
        self.useful = False

    def drain(self) -> None:
        """End the connection as soon as no operation runs on it."""
        if self.association is not None:
            self.association.drain()
        else:
            self.kill()

    def kill(self) -> None:
        """End the connection now."""
        if self.transport is not None:
            self.transport.kill(encode_abort())
        else:
            cut(self.socket)


class Connections:
    """All open connections. Holds them to the limits and ends them together. Thread-safe."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._per_address: dict[str, int] = {}
        # Few wait for changes, and only while all is drained; everybody else just takes the lock.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._draining = False

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection, limits: ConnectionLimits) -> str | None:
        """Add a connection. Returns the name of the limit that forbids it, or None."""
        with self._lock:
            if self._draining:
                return "shutting_down"
            if len(self._open) >= limits.total:
                return "connections"
            of_address = self._per_address.get(connection.address, 0)
            if of_address >= limits.per_address:
                return "connections_per_address"
            self._open.add(connection)
            self._per_address[connection.address] = of_address + 1
            return None

    def remove(self, connection: Connection) -> None:
        """Remove a connection."""
        address = connection.address
        with self._lock:
            self._open.discard(connection)
            left = self._per_address[address] - 1
            if left:
                self._per_address[address] = left
            else:
                del self._per_address[address]
            if self._draining:
                self._changed.notify_all()

    def established(self, connection: Connection, association: Association) -> None:
        """Record the association that a connection has established."""
        with self._lock:
            connection.association = association
            if self._draining:
                association.drain()

    def established_now(self) -> list[Connection]:
        """The connections that have an association, the oldest first."""
        with self._changed:
            found = [connection for connection in self._open if connection.association is not None]
        return sorted(found, key=lambda connection: connection.opened)

    def associations(self) -> int:
        """The number of connections that have an association."""
        with self._changed:
            return sum(connection.association is not None for connection in self._open)

    def drain(self, timeout: float) -> None:
        """End every connection as soon as no operation runs on it, and wait for that up to `timeout` seconds.

        The connections that are left then are for `kill`.
        """
        with self._changed:
            self._draining = True
            for connection in self._open:
                connection.drain()
            self._changed.wait_for(lambda: not self._open, timeout)
            if self._open:
                log.warning("operations aborted at shutdown", extra={"associations": len(self._open)})

    def kill(self, timeout: float) -> None:
        """Abort every connection now, and wait up to `timeout` seconds for the threads that serve them."""
        with self._changed:
            self._draining = True
            for connection in self._open:
                connection.kill()
            self._changed.wait_for(lambda: not self._open, timeout)


class Listener:
    """Accepts connections on a bound socket and serves each of them in its own thread."""

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
        """`serve` serves one connection; `refused(limit, address)` is called for each connection over a limit.

        `tls` marks the connections on which `serve` has to do a TLS handshake.
        """
        self._tls = tls
        self._connections = connections
        self._socket = sock
        self._serve = serve
        self._limits = limits
        self._refused = refused
        self._stopping = threading.Event()
        self._failing = threading.Lock()
        # How many threads wait in accept or are about to. At least one, until the listener stops.
        self._waiting = 0
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # What `socket.accept` would look up each time.
        self._kind = sock.family, sock.type, sock.proto

    def start(self) -> None:
        """Begin to accept connections. Raises RuntimeError if the system has no more threads."""
        self._socket.listen(_BACKLOG)
        while self._try_to_wait():
            try:
                self._start_thread()
            except RuntimeError:
                self._stop_waiting()
                raise

    def stop(self) -> None:
        """Stop accepting connections. Open connections go on."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._changed:
            # A thread still in accept would take connections from the next socket that gets the closed descriptor.
            self._changed.wait_for(lambda: not self._waiting, _STOP_SECONDS)
        self._socket.close()

    def _start_thread(self) -> None:
        """Start a thread that is already counted as waiting. Raises RuntimeError if the system has no more threads."""
        threading.Thread(target=self._run, name=_IDLE, daemon=True).start()

    def _run(self) -> None:
        """Wait for a connection and serve it, again and again until enough other threads wait."""
        this = threading.current_thread()
        while (connection := self._accept()) is not None:
            limit = self._admit(connection)
            if limit is not None:
                connection.socket.close()
                self._refused(limit, connection.address)
                continue
            this.name = f"peer-{connection.address}"
            try:
                self._serve(connection)
            finally:
                connection.socket.close()
                self._connections.remove(connection)
            this.name = _IDLE
            if not self._try_to_wait():
                return
        self._stop_waiting()

    def _accept(self) -> Connection | None:
        """The next connection, or None once the listener has stopped."""
        while not self._stopping.is_set():
            try:
                sock, address = _accept(self._socket, self._kind)
            except OSError as error:
                with self._failing:
                    if not self._stopping.is_set():
                        log.error("cannot accept a connection", extra={"reason": error.strerror or str(error)})
                        self._stopping.wait(_PAUSE_SECONDS)
            else:
                return Connection(sock, plain_address(address[0]), tls=self._tls)
        return None

    def _admit(self, connection: Connection) -> str | None:
        """Add a connection and make sure that another thread waits. Returns the name of the limit that forbids it."""
        limit = self._connections.add(connection, self._limits())
        if limit is None and not self._hand_over_waiting():
            self._connections.remove(connection)
            return "threads"
        return limit

    def _hand_over_waiting(self) -> bool:
        """Count this thread as waiting no longer, and make sure that another thread waits.

        Returns False if the system has no more threads; then this thread still counts as waiting.
        """
        with self._lock:
            if self._waiting > 1:
                self._waiting -= 1
                return True
        # No other thread waits, so a new thread takes the place of this one in the count.
        try:
            self._start_thread()
        except RuntimeError:
            return False
        return True

    def _try_to_wait(self) -> bool:
        """Count this thread as waiting if fewer than WAITING_THREADS wait; return whether it was counted."""
        with self._lock:
            free = self._waiting < WAITING_THREADS
            self._waiting += free
            return free

    def _stop_waiting(self) -> None:
        with self._changed:
            self._waiting -= 1
            self._changed.notify_all()


def _accept(
    listening: socket.socket, kind: tuple[socket.AddressFamily | int, socket.SocketKind, int]
) -> tuple[socket.socket, tuple[str, int]]:
    """`listening.accept()` in a third of its time: a connection is of the kind of the socket that it came by."""
    descriptor, address = listening._accept()  # type: ignore[attr-defined]
    sock = socket.socket(*kind, fileno=descriptor)
    if socket.getdefaulttimeout() is None and listening.gettimeout():
        sock.setblocking(True)
    return sock, address


def bind(host: str, port: int) -> socket.socket:
    """Return a TCP socket bound to `host` and `port`; port 0 takes any free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
