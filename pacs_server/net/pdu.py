"""PDUs on the wire: a reader that limits and frames received PDUs, and encoders for the short PDUs (PS3.8 9.3)."""

import struct
import time
from enum import IntEnum
from typing import Final

from pacs_server.net.transport import AssociationEnded, ConnectionLost, DeadlineExpired, Transport

HEADER = struct.Struct(">BxI")
_HEADER_SIZE, _unpack_header = HEADER.size, HEADER.unpack_from
# PS3.8 9.3.5: PDV item length, presentation context ID, message control header.
PDV_HEADER = struct.Struct(">IBB")
PDU_AND_PDV_HEADER = struct.Struct(">BxIIBB")
COMMAND, LAST = 0x01, 0x02

_SMALL_BUFFER = 16 * 1024
_MAX_ASSOCIATE_PDU = 256 * 1024
_MAX_CONTROL_PDU = 1024


class PDUType(IntEnum):
    """The PDU types of PS3.8 9.3.1."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


# Looking it up in the enumeration takes longer than comparing.
P_DATA: Final = int(PDUType.P_DATA)


class AbortReason(IntEnum):
    """The reason of an A-ABORT by the service provider (PS3.8 Table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class ProtocolError(AssociationEnded):
    """The peer broke the protocol. `reason` is the reason of the A-ABORT that answers it."""

    def __init__(self, how: str, reason: AbortReason = AbortReason.NOT_SPECIFIED) -> None:
        super().__init__(how)
        self.reason = reason


class PeerAborted(AssociationEnded):
    """The peer sent an A-ABORT."""


# The first byte of a TLS ClientHello (RFC 8446 5.1).
_TLS_HANDSHAKE = 0x16


# No length is within the limit of an unknown type.
_UNKNOWN = -1
_CAPS: dict[int, int] = {
    **{int(kind): _MAX_CONTROL_PDU for kind in PDUType},
    PDUType.ASSOCIATE_RQ: _MAX_ASSOCIATE_PDU,
    PDUType.ASSOCIATE_AC: _MAX_ASSOCIATE_PDU,
}


class PDUReader:
    """Reads PDUs from a transport, one at a time, into a buffer that is reused for the next one.

    The length that a PDU announces is compared with the limit for its type before a byte of it is buffered.
    `max_pdu_size` is the maximum that we announce (bytes of P-DATA after the header). Some peers do not
    count the header of the presentation data value, so a P-DATA PDU may be longer by that header.
    """

    def __init__(self, transport: Transport, *, max_pdu_size: int, pdu_timeout: float) -> None:
        self._transport = transport
        self._pdu_timeout = pdu_timeout
        self._longest_p_data = max_pdu_size + PDV_HEADER.size
        self._full_size = 2 * max_pdu_size
        self._view = memoryview(bytearray(_SMALL_BUFFER))
        self._start = 0
        self._end = 0

    def read(self, timeout: float, *, begun: bool = False) -> tuple[int, memoryview]:
        """Return the type and the body of the next PDU; the body is valid until the next call.

        The PDU must begin within `timeout` seconds, and must then be complete within the PDU time-out. With `begun` it
        goes on with a message. Raises ConnectionLost, DeadlineExpired and ProtocolError.
        """
        if self._end - self._start < _HEADER_SIZE:
            self._fill(_HEADER_SIZE, timeout, begun=begun)
        kind, length = _unpack_header(self._view, self._start)
        cap = self._longest_p_data if kind == P_DATA else _CAPS.get(kind, _UNKNOWN)
        if length > cap:
            raise _refusal(kind, length, cap)
        size = _HEADER_SIZE + length
        if self._end - self._start < size:
            self._fill(size, self._pdu_timeout, begun=begun)
        begin = self._start
        self._start = begin + size
        return kind, self._view[begin + _HEADER_SIZE : begin + size]

    @property
    def ahead(self) -> bool:
        """Whether bytes after the last PDU have been received already."""
        return self._end > self._start

    def waiting(self) -> bool:
        """Whether bytes after the last PDU have been received or are waiting in the socket."""
        return self.ahead or self._transport.readable()

    def _fill(self, needed: int, timeout: float, *, begun: bool) -> None:
        """Receive until `needed` bytes of the PDU are buffered, counted from its start; they are not yet."""
        self._make_room(needed)
        began = self._end > self._start
        deadline = time.monotonic() + (self._pdu_timeout if began else timeout)
        while self._end - self._start < needed:
            if began or begun:
                self._transport.acknowledge()
            try:
                self._end += self._transport.receive_into(self._view[self._end :], deadline)
            except DeadlineExpired:
                if began:
                    raise DeadlineExpired("a PDU was begun and not finished in time") from None
                raise
            except ConnectionLost as error:
                if began:
                    raise ConnectionLost(f"{error.how} in the middle of a PDU") from error
                raise
            if self._end - self._start >= needed:
                return
            if not began:
                began, deadline = True, time.monotonic() + self._pdu_timeout
            elif time.monotonic() >= deadline:
                # The whole PDU has one deadline, which bytes that trickle in do not extend.
                raise DeadlineExpired("a PDU was begun and not finished in time")

    def _make_room(self, needed: int) -> None:
        """Move the buffered bytes to the front, into a larger buffer if `needed` bytes do not fit."""
        held = self._end - self._start
        if needed > len(self._view):
            larger = memoryview(bytearray(max(self._full_size, needed)))
            larger[:held] = self._view[self._start : self._end]
            self._view = larger
        elif held and self._start:
            self._view[:held] = bytes(self._view[self._start : self._end])
        self._start, self._end = 0, held


def _refusal(kind: int, length: int, cap: int) -> ProtocolError:
    if cap == _UNKNOWN:
        hint = ": TLS on the plain port?" if kind == _TLS_HANDSHAKE else ""
        return ProtocolError(f"PDU of unknown type {kind:#04x}{hint}", AbortReason.UNRECOGNIZED_PDU)
    return ProtocolError(f"{PDUType(kind).name} of {length} bytes is over the limit of {cap}")


def encode_reject(result: int, source: int, reason: int) -> bytes:
    """An A-ASSOCIATE-RJ PDU (PS3.8 9.3.4)."""
    return HEADER.pack(PDUType.ASSOCIATE_RJ, 4) + bytes((0, result, source, reason))


def encode_abort(source: int = 0, reason: int = 0) -> bytes:
    """An A-ABORT PDU. Source 0 is the service user, 2 the service provider (PS3.8 9.3.8)."""
    return HEADER.pack(PDUType.ABORT, 4) + bytes((0, 0, source, reason))


RELEASE_RQ = HEADER.pack(PDUType.RELEASE_RQ, 4) + bytes(4)
RELEASE_RP = HEADER.pack(PDUType.RELEASE_RP, 4) + bytes(4)
