"""A connected socket with deadlines, large buffered reads and gathered writes; the only file that calls recv and send.

A blocking call returns after one *tick* at the latest (the kernel's own socket timers on plain
sockets, Python's on TLS ones), and the deadline is looked at then. So nobody waits for ever and
nothing polls. Reading acknowledges at once (TCP_QUICKACK): many modalities send a command and its
data set as two small writes with Nagle's algorithm on, and would wait 40 ms for a delayed
acknowledgement at every object.
"""

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Sequence

from pacs_server.config.tls import reason

Buffer = bytes | bytearray | memoryview

_WOULD_BLOCK = (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_FAREWELL_SECONDS = 1.0
# A time-out of nothing would be none at all to the kernel.
_SHORTEST_TICK = 0.001
_FAREWELL_READS = 64
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class AssociationEnded(Exception):
    """The association is over; `how` says why in a few words for logs and metrics."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class ConnectionLost(AssociationEnded):
    """The peer closed the connection, or the network did."""


class DeadlineExpired(AssociationEnded):
    """The peer was silent, or too slow, for longer than it may be."""


class Transport:
    """A connected TCP or TLS socket.

    `tick` is the longest a single wait may take, in seconds: no longer than the shortest deadline
    that will be asked for.
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
            sock.settimeout(None)
            timeval = struct.pack("ll", int(tick), int(tick % 1 * 1_000_000))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        self._quickack = None if self._tls else _QUICKACK
        # Made when it is first asked for: an association that only answers needs none.
        self._poll: select.poll | None = None

    def receive_into(self, view: memoryview, deadline: float) -> int:
        """Wait for bytes, put them into `view` and return how many; `deadline` is in monotonic seconds.

        Raises ConnectionLost at the end of the stream and DeadlineExpired.
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
            if self._quickack is not None:
                self.socket.setsockopt(socket.IPPROTO_TCP, self._quickack, 1)
            return count

    def readable(self) -> bool:
        """Whether bytes, or the end of the stream, wait to be read."""
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.socket, select.POLLIN)
        return bool(self._poll.poll(0))

    def pause(self, seconds: float) -> None:
        """Do nothing for `seconds`, in this thread; raises ConnectionLost once the connection is cut."""
        pause(self.socket, seconds)

    def send(self, buffers: Sequence[Buffer], timeout: float) -> None:
        """Send all `buffers` as one gathered write; every `timeout` seconds something must get through.

        Raises ConnectionLost and DeadlineExpired.
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
            if not _drop(pending, count):
                deadline = time.monotonic() + timeout

    def wake(self) -> None:
        """Make a thread that waits in `receive_into` return, from another thread."""
        _shutdown(self.socket, socket.SHUT_RD)

    def kill(self, last_words: bytes = b"") -> None:
        """End the connection now, from another thread; `last_words` go out if the peer has room for them."""
        with contextlib.suppress(OSError, ValueError):
            if last_words and not self._tls:
                self.socket.send(last_words, socket.MSG_DONTWAIT)
        cut(self.socket)

    def finish(self) -> None:
        """Say that nothing more comes, and give the peer a moment to read what was sent last.

        Closing with unread bytes in the buffer resets the connection, and the peer might never see
        why (the A-ABORT or A-ASSOCIATE-RJ). Bounded in time and bytes.
        """
        if not self._tls:
            farewell(self.socket)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self.socket.close()


def handshake(sock: ssl.SSLSocket, seconds: float) -> None:
    """Do the TLS handshake within `seconds` in all, however the peer spreads it. Raises OSError."""
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
    """Do nothing for `seconds`, in this thread; raises ConnectionLost once the connection is cut."""
    ended = select.poll()
    # No events asked for: what is left is the end of the connection.
    ended.register(sock, 0)
    if ended.poll(seconds * 1000):
        raise ConnectionLost("connection lost")


def farewell(sock: socket.socket) -> None:
    """Say that nothing more comes and read a little on, TLS or not, so that the peer can read what was sent last."""
    deadline = time.monotonic() + _FAREWELL_SECONDS
    scrap = memoryview(bytearray(64 * 1024))
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    _shutdown(sock, socket.SHUT_WR)
    with contextlib.suppress(OSError):
        for _ in range(_FAREWELL_READS):
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000) or not socket.socket.recv_into(sock, scrap):
                return


def cut(sock: socket.socket) -> None:
    """End a connection both ways from another thread; whoever waits on it notices."""
    _shutdown(sock, socket.SHUT_RDWR)


def _shutdown(sock: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        # Not SSLSocket.shutdown: that forgets the session, and what another thread sends next goes out in the clear.
        socket.socket.shutdown(sock, how)


def _drop(pending: list[Buffer], count: int) -> bool:
    """Take the first `count` bytes off `pending`; True when nothing is left."""
    done = 0
    while done < len(pending) and count >= len(pending[done]):
        count -= len(pending[done])
        done += 1
    del pending[:done]
    if count:
        pending[0] = memoryview(pending[0])[count:]
    return not pending
