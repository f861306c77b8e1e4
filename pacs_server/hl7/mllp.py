"""MLLP, the framing of HL7 over TCP: one thread per connection, with a size limit and a deadline for every wait.

A frame is <VT> message <FS> <CR> (HL7 Transport Specification: MLLP, release 1).
"""

import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pacs_server.kit.logs import Sparingly
from pacs_server.net.listener import Connection, ConnectionLimits, Connections, Listener

log = logging.getLogger(__name__)

START: Final = b"\x0b"
END: Final = b"\x1c"
_CR: Final = b"\r"
_READ_BYTES: Final = 65536


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits for one peer. Times are in seconds, sizes in bytes."""

    connections: int = 16
    message: int = 1_048_576
    # Between two messages.
    idle: float = 600.0
    # From the first byte of a message to its last, and for one answer.
    transfer: float = 30.0


class BadFrame(Exception):
    """The bytes received are not a frame, or the frame is too large."""


class FrameReader:
    """Cuts messages out of a stream of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        # Up to here no end was found, so that each byte is looked at once.
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete with `data`; raises BadFrame."""
        self._buffer += data
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    @property
    def within(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._buffer)

    def _next(self) -> bytes | None:
        if not self._searched:
            # Some senders put line ends between frames, or leave the CR out.
            del self._buffer[: len(self._buffer) - len(self._buffer.lstrip(b"\r\n"))]
        if not self._buffer:
            return None
        if self._buffer[:1] != START:
            raise BadFrame("a message does not begin with VT")
        end = self._buffer.find(END, self._searched)
        if (len(self._buffer) if end < 0 else end) > self._limit:
            raise BadFrame(f"a message is larger than {self._limit} bytes")
        if end < 0:
            self._searched = len(self._buffer)
            return None
        message = bytes(self._buffer[1:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return message


class MLLPServer:
    """Answers the messages that come to a bound socket with what `answer(message, peer)` returns."""

    def __init__(
        self, sock: socket.socket, answer: Callable[[bytes, str], bytes], *, limits: Limits = Limits()
    ) -> None:
        self._answer = answer
        self._limits = limits
        self._sparingly = Sparingly(log)
        self._connections = Connections()
        allowed = ConnectionLimits(limits.connections, limits.connections)
        self._listener = Listener(
            sock, self._connections, serve=self._serve, limits=lambda: allowed, refused=self._refused
        )

    def start(self) -> None:
        """Begin to accept."""
        self._listener.start()

    def stop(self, timeout: float) -> None:
        """Accept no more connections and end all open ones; wait up to `timeout` seconds for running commits.

        A sender that gets no answer sends its message again. The same message a second time changes nothing.
        """
        self._listener.stop()
        self._connections.kill(timeout)

    def _serve(self, connection: Connection) -> None:
        peer, sock = connection.address, connection.socket
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for message in self._messages(sock):
                answer = START + self._answer(message, peer) + END + _CR
                sock.settimeout(self._limits.transfer)
                sock.sendall(answer)
        except BadFrame as error:
            self._sparingly.log(logging.WARNING, "HL7 connection closed", peer, str(error))
        except TimeoutError:
            self._sparingly.log(logging.WARNING, "HL7 connection closed", peer, "silent for too long")
        except OSError as error:
            self._sparingly.log(logging.INFO, "HL7 connection lost", peer, error.strerror or str(error))

    def _messages(self, sock: socket.socket) -> Iterator[bytes]:
        """The messages as they come, until the peer ends; raises BadFrame, TimeoutError, OSError."""
        reader = FrameReader(self._limits.message)
        deadline = time.monotonic() + self._limits.idle
        while True:
            # A peer that sends a byte now and then must not put its deadline off.
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            data = sock.recv(_READ_BYTES)
            if not data:
                return
            within = reader.within
            messages = reader.feed(data)
            yield from messages
            if not reader.within:
                deadline = time.monotonic() + self._limits.idle
            elif messages or not within:
                deadline = time.monotonic() + self._limits.transfer

    def _refused(self, limit: str, address: str) -> None:
        self._sparingly.log(logging.WARNING, "HL7 connection refused", address, limit)
