"""A plain blocking socket that carries PDUs and DIMSE messages; what both sides of the benchmark's client use."""

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pacs_server.net.message import NO_DATA_SET
from pacs_server.net.pdu import COMMAND, HEADER, LAST, PDV_HEADER, PDUType
from pacs_server.net.transport import Buffer

MAX_PDU = 131072
TIMEOUT_SECONDS = 30
COMMAND_FIELD, COMMAND_DATA_SET_TYPE, STATUS, COMPLETED = 0x0100, 0x0800, 0x0900, 0x1021

# Two of the largest PDUs; small enough to stay in the processor's cache.
_BUFFER_SIZE = 256 * 1024
_ELEMENT = struct.Struct("<HHI")


class ClientError(Exception):
    """A peer did something else than what the benchmark measures; the text says what."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message: its command set, and how many bytes of data set came after it."""

    context_id: int
    command: bytes
    size: int


def command_elements(command: bytes) -> dict[int, bytes]:
    """The values of a command set, by their element numbers."""
    values = {}
    offset = 0
    while offset + 8 <= len(command):
        _, element, length = _ELEMENT.unpack_from(command, offset)
        offset += 8 + length
        values[element] = command[offset - length : offset]
    return values


def command_element(element: int, value: bytes) -> bytes:
    """An element of a command set, encoded."""
    return _ELEMENT.pack(0, element, len(value)) + value


@lru_cache(maxsize=16)
def command_number(command: bytes, element: int) -> int | None:
    """The value of US element (0000,`element`) of a command set; most of the responses to a C-FIND are the same."""
    value = command_elements(command).get(element)
    return None if value is None else int.from_bytes(value, "little")


class Wire:
    """A connected socket; without `no_delay` Nagle's algorithm is left on. Data sets are read and dropped."""

    def __init__(self, sock: socket.socket, *, no_delay: bool = True) -> None:
        self.socket = sock
        # The kernel's timers: Python's own would cost a poll at every call.
        sock.settimeout(None)
        timeval = struct.pack("ll", TIMEOUT_SECONDS, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, no_delay)
        self._view = memoryview(bytearray(_BUFFER_SIZE))
        self._start = self._end = 0
        self._pdvs = self._view[:0]

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send the buffers in one gathered write, as far as the kernel takes them."""
        sent = self.socket.sendmsg(buffers)
        if sent < sum(map(len, buffers)):
            self.socket.sendall(b"".join(buffers)[sent:])

    def read_pdu(self) -> tuple[int, memoryview]:
        """The next PDU's type and body, valid until the next call."""
        self._fill(HEADER.size)
        kind, length = HEADER.unpack_from(self._view, self._start)
        if length > _BUFFER_SIZE - HEADER.size:
            raise ClientError(f"the peer sent a PDU of {length} bytes")
        self._fill(HEADER.size + length)
        begin = self._start + HEADER.size
        self._start = begin + length
        return kind, self._view[begin : self._start]

    def read_command(self) -> bytes:
        """The command set of the next message, which has no data set and comes in one piece, as answers do."""
        _, control, value = self._next_pdv()
        if control != COMMAND | LAST:
            raise ClientError("the answer is no command set in one piece")
        return bytes(value)

    def read_message(self) -> Incoming:
        """The next message, read to its end."""
        context_id, control, value = self._next_pdv()
        command = bytes(value)
        while not control & LAST:
            _, control, value = self._next_pdv()
            command += value
        size = 0
        if command_number(command, COMMAND_DATA_SET_TYPE) != NO_DATA_SET:
            control = COMMAND
            while not control & LAST or control & COMMAND:
                _, control, value = self._next_pdv()
                size += len(value)
        return Incoming(context_id, command, size)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def _next_pdv(self) -> tuple[int, int, memoryview]:
        if not self._pdvs:
            kind, self._pdvs = self.read_pdu()
            if kind != PDUType.P_DATA:
                raise Ended(kind)
        length, context_id, control = PDV_HEADER.unpack_from(self._pdvs)
        value = self._pdvs[6 : 4 + length]
        self._pdvs = self._pdvs[4 + length :]
        return context_id, control, value

    def _fill(self, needed: int) -> None:
        held = self._end - self._start
        if held >= needed:
            return
        if not held or self._start + needed > _BUFFER_SIZE:
            self._view[:held] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, held
        while self._end - self._start < needed:
            count = self.socket.recv_into(self._view[self._end :])
            if not count:
                raise ClientError("the peer closed the connection")
            self._end += count


class Ended(ClientError):
    """Instead of a message another PDU came in; `kind` is its type."""

    def __init__(self, kind: int) -> None:
        super().__init__(f"the peer ended the association with a PDU of type {kind}")
        self.kind = kind
