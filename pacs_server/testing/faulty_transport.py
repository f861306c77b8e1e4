"""A transport that is cut where a rule says: after so many bytes or PDUs, sent or received."""

import socket
import struct
from collections.abc import Sequence

from pacs_server.net.pdu import HEADER
from pacs_server.net.transport import Buffer, ConnectionLost, Transport, cut
from pacs_server.testing.faults import Drop, Faults, Request

CUT = "cut by a rule"


class _Stream:
    """Finds the place at which a stream in one direction is to be cut."""

    def __init__(self, drop: Drop) -> None:
        self.drop = drop
        self.bytes_left = drop.after_bytes
        self._pdus_left = drop.after_pdus or 0
        self._head = b""
        self._body = 0

    def passes(self, data: Sequence[int] | memoryview | bytes) -> tuple[int, bool]:
        """How many bytes of the next ones may pass, and whether the place is behind them."""
        if self.bytes_left is not None:
            count = min(len(data), self.bytes_left)
            self.bytes_left -= count
            return count, self.bytes_left == 0
        return self._whole_pdus(bytes(data))

    def _whole_pdus(self, data: bytes) -> tuple[int, bool]:
        at = 0
        while at < len(data):
            if self._body:
                taken = min(self._body, len(data) - at)
                self._body -= taken
            else:
                taken = min(HEADER.size - len(self._head), len(data) - at)
                self._head += data[at : at + taken]
                if len(self._head) == HEADER.size:
                    self._body = HEADER.unpack(self._head)[1]
            at += taken
            if len(self._head) == HEADER.size and not self._body:
                self._head = b""
                self._pdus_left -= 1
                if self._pdus_left <= 0:
                    return at, True
        return at, False


class FaultyTransport(Transport):
    """A transport that rules of `faults` cut."""

    def __init__(self, sock: socket.socket, *, tick: float, faults: Faults) -> None:
        super().__init__(sock, tick=tick)
        self._sent: _Stream | None = None
        self._received: _Stream | None = None
        self._broken = False
        for drop in faults.take(Request(""), Drop):
            self.arm(drop)

    def arm(self, drop: Drop) -> None:
        """Count from here on, and cut where the rule says. Raises ConnectionLost if that is here."""
        if not drop.after_bytes and not drop.after_pdus:
            self._break(drop)
        elif drop.received:
            self._received = _Stream(drop)
        else:
            self._sent = _Stream(drop)

    def send(self, buffers: Sequence[Buffer], timeout: float) -> None:
        """Send what may pass. Raises ConnectionLost behind it, and what `Transport.send` raises."""
        if self._sent is None:
            super().send(buffers, timeout)
            return
        data = b"".join(buffers)
        count, over = self._sent.passes(data)
        super().send([memoryview(data)[:count]], timeout)
        if over:
            self._break(self._sent.drop)

    def receive_into(self, view: memoryview, deadline: float) -> int:
        """Receive what may pass. Raises ConnectionLost when all of it is there, and what `Transport` raises."""
        if self._received is None:
            return super().receive_into(view, deadline)
        if self._received.bytes_left is not None:
            view = view[: self._received.bytes_left]
        count = super().receive_into(view, deadline)
        if self._received.passes(view[:count])[1]:
            self._break(self._received.drop)
        return count

    def close(self) -> None:
        """Close the connection; one that was cut without the end of TLS."""
        if self._broken:
            self.socket.close()
        else:
            super().close()

    def _break(self, drop: Drop) -> None:
        self._broken = True
        if drop.reset:
            # Closing the socket resets the connection then.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            cut(self.socket)
        raise ConnectionLost(CUT)
