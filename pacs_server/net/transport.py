"""A connected socket with deadlines, large buffered reads and gathered writes. Only this file calls recv and send.

A blocking call returns after one *tick* at the latest, by the kernel's own socket timers on plain
sockets and by Python's on TLS sockets. Then the deadline is checked, so nothing waits for ever and
nothing polls. Before it waits for the rest of a message, what has come is acknowledged at once (TCP_QUICKACK): many
modalities send a command and its data set as two small writes with Nagle's algorithm on, and would otherwise wait 40 ms
for a delayed acknowledgement at every object. A message that is there as a whole is acknowledged by its answer.
"""

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence

from pacs_server.config.tls import reason

Buffer = bytes | bytearray | memoryview

_WOULD_BLOCK = (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_FAREWELL_SECONDS = 1.0
# The kernel takes a time-out of zero for no time-out at all.
_SHORTEST_TICK = 0.001
_FAREWELL_READS = 64
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class AssociationEnded(Exception):
    """The association is over. `how` gives the reason in a few words, for logs and metrics."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class ConnectionLost(AssociationEnded):
    """The connection was closed by the peer or broken by the network."""


class DeadlineExpired(AssociationEnded):
    """The peer was silent or too slow for longer than its time-out allows."""


class Transport:
    """A connected TCP or TLS socket.

    `tick` is the longest time that a single blocking call may take, in seconds. It must not be longer
    than the shortest time-out that will be used.
    """

    def __init__(self, sock: socket.socket, *, tick: float) -> None:
        self.socket = sock
        self.bytes_in = 0
        self.bytes_out = 0
        self._tls = isinstance(sock, ssl.SSLSocket)
        tick = max(tick, _SHORTEST_TICK)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._tls:
            sock.settimeout(tick)
        else:
            # One that was accepted blocks already, and each call that changes this lets other threads run first.
            if sock.gettimeout() is not None:
                sock.settimeout(None)
            timeval = struct.pack("ll", int(tick), int(tick % 1 * 1_000_000))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        self._quickack = None if self._tls else _QUICKACK
        # Made for the first call of `readable`: an association that only answers requests needs none.
        self._poll: select.poll | None = None

    def receive_into(self, view: memoryview, deadline: float) -> int:
        """Wait for bytes, put them into `view` and return their number; `deadline` is in monotonic seconds.

        Raises ConnectionLost, also at the end of the stream, and DeadlineExpired.
        """
        while True:
            try:
                count = self.socket.recv_into(view)
            except _WOULD_BLOCK:
                if time.monotonic() >= deadline:
                    raise DeadlineExpired("no data from the peer in time") from None
                continue
            except OSError as error:
                raise ConnectionLost(f"connection lost: {reason(error)}") from error
            if count == 0:
                raise ConnectionLost("connection closed by the peer")
            self.bytes_in += count
            return count

    def acknowledge(self) -> None:
        """Tell the peer at once what has come so far: it may wait for that before it sends the rest."""
        if self._quickack is not None:
            with contextlib.suppress(OSError):  # the next read says what is wrong
                self.socket.setsockopt(socket.IPPROTO_TCP, self._quickack, 1)

    def readable(self) -> bool:
        """Whether bytes or the end of the stream are waiting to be read."""
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.socket, select.POLLIN)
        return bool(self._poll.poll(0))

    def pause(self, seconds: float) -> None:
        """Sleep for `seconds`. Raises ConnectionLost as soon as the connection is cut."""
        pause(self.socket, seconds)

    def send(self, buffers: Sequence[Buffer], timeout: float) -> None:
        """Send all `buffers` as one gathered write. Raises ConnectionLost and DeadlineExpired.

        The peer must take at least some bytes in every `timeout` seconds.
        """
        pending: list[Buffer] = [b"".join(buffers)] if self._tls else list(buffers)
        deadline = time.monotonic() + timeout
        while pending:
            try:
                count = self.socket.sendmsg(pending) if len(pending) > 1 else self.socket.send(pending[0])
            except _WOULD_BLOCK:
                if time.monotonic() >= deadline:
                    raise DeadlineExpired("the peer does not take what is sent") from None
                continue
            except OSError as error:
                raise ConnectionLost(f"connection lost: {reason(error)}") from error
            self.bytes_out += count
            if len(pending) == 1 and count == len(pending[0]):
                return
            if not _drop(pending, count):
                deadline = time.monotonic() + timeout

    def wake(self) -> None:
        """Make a thread that waits in `receive_into` return. Called from another thread."""
        _shutdown(self.socket, socket.SHUT_RD)

    def kill(self, last_words: bytes = b"") -> None:
        """End the connection now. Called from another thread.

        `last_words` are sent first if that takes no waiting.
        """
        with contextlib.suppress(OSError, ValueError):
            if last_words and not self._tls:
                self.socket.send(last_words, socket.MSG_DONTWAIT)
        cut(self.socket)

    def finish(self) -> None:
        """Tell the peer that nothing more will be sent, and give it a moment to read the last bytes.

        Closing a socket with unread bytes in its buffer resets the connection, and the peer might never
        see the reason (the A-ABORT or A-ASSOCIATE-RJ). Bounded in time and bytes. `close` does the same
        for TLS sockets, which have to be ended in any case.
        """
        if not self._tls:
            farewell(self.socket)

    def close(self) -> None:
        """Close the connection; TLS is ended first, which takes as long as `finish` at most."""
        with contextlib.suppress(OSError):
            if isinstance(self.socket, ssl.SSLSocket):
                _end_tls(self.socket)
            self.socket.close()


def handshake(sock: ssl.SSLSocket, seconds: float) -> None:
    """Do the TLS handshake within `seconds` in total, however slowly the peer sends. Raises OSError."""
    deadline = time.monotonic() + seconds
    sock.settimeout(0)
    poll = select.poll()
    while True:
        try:
            return sock.do_handshake()
        except ssl.SSLWantReadError:
            poll.register(sock, select.POLLIN)
        except ssl.SSLWantWriteError:
            poll.register(sock, select.POLLOUT)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError("the TLS handshake was not finished in time")


def pause(sock: socket.socket, seconds: float) -> None:
    """Sleep for `seconds`. Raises ConnectionLost as soon as the connection is cut."""
    ended = select.poll()
    # With no events asked for, poll reports only the end of the connection.
    ended.register(sock, 0)
    if ended.poll(seconds * 1000):
        raise ConnectionLost("connection lost")


def farewell(sock: socket.socket) -> None:
    """Tell the peer that nothing more will be sent, and read on a little so that it can read the last bytes.

    Works on plain sockets, and on TLS sockets that OpenSSL has given up.
    """
    _shutdown(sock, socket.SHUT_WR)
    _read_off(sock, lambda scrap: socket.socket.recv_into(sock, scrap))


def _end_tls(sock: ssl.SSLSocket) -> None:
    """Send close_notify, and wait for that of the peer or for the end of the stream, bounded in time and bytes.

    RFC 8446 6.1: without close_notify the peer cannot tell the end from an attack that cuts the stream. A
    socket that is closed before the peer has sent its own close_notify resets the connection.
    """
    sock.settimeout(0)
    try:
        sock.unwrap()
    except _WOULD_BLOCK:
        _shutdown(sock, socket.SHUT_WR)
        _read_off(sock, sock.recv_into)
    except OSError:
        # Perhaps the peer was sending data; then close_notify is on its way, but OpenSSL reads nothing more.
        farewell(sock)


def _read_off(sock: socket.socket, read: Callable[[memoryview], int]) -> None:
    """Read and drop what the peer still sends until its end, for a second and 64 reads at most."""
    deadline = time.monotonic() + _FAREWELL_SECONDS
    scrap = memoryview(bytearray(64 * 1024))
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    with contextlib.suppress(OSError):
        for _ in range(_FAREWELL_READS):
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return
            # A TLS record may be there in part only, or may hold no data.
            with contextlib.suppress(*_WOULD_BLOCK):
                if not read(scrap):
                    return


def cut(sock: socket.socket) -> None:
    """End a connection in both directions. Called from another thread; a thread that waits on the socket wakes up."""
    _shutdown(sock, socket.SHUT_RDWR)


def _shutdown(sock: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        # Not SSLSocket.shutdown: it drops the TLS session, and bytes that another thread sends next are not encrypted.
        socket.socket.shutdown(sock, how)


def _drop(pending: list[Buffer], count: int) -> bool:
    """Remove the first `count` bytes from `pending`; return whether nothing is left."""
    done = 0
    while done < len(pending) and count >= len(pending[done]):
        count -= len(pending[done])
        done += 1
    del pending[:done]
    if count:
        pending[0] = memoryview(pending[0])[count:]
    return not pending
