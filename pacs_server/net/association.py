"""An established association of either role: receive and send messages, release, abort. Every wait has a deadline.

One thread owns an association. Other threads may only call `drain`, and `kill` of its transport.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.implementations import UNKNOWN
from pacs_server.dicom.origin import Origin, origin_of
from pacs_server.errors import StorageUnavailable
from pacs_server.net.limits import Throttle
from pacs_server.net.message import (
    NO_DATA_SET,
    RESPONSE,
    Command,
    decode_command,
    encode_message,
    frame,
    frame_command,
    frame_response,
)
from pacs_server.net.negotiation import AcceptedContext
from pacs_server.net.pdu import (
    COMMAND,
    LAST,
    P_DATA,
    PDV_HEADER,
    RELEASE_RP,
    RELEASE_RQ,
    AbortReason,
    PDUReader,
    PDUType,
    PeerAborted,
    ProtocolError,
    encode_abort,
)
from pacs_server.net.transport import AssociationEnded, Buffer, ConnectionLost, DeadlineExpired, Transport

_MAX_COMMAND_SET = 16 * 1024
_MAX_IDENTIFIER = 1024 * 1024
_FILE_CHUNK = 1024 * 1024
# A gathered write takes at most 1024 buffers (IOV_MAX), and each fragment takes two of them.
_MAX_FRAGMENTS = 500
# A message must arrive at this rate, in bytes a second; it may lag behind by `Timeouts.message` seconds.
_SLOWEST = 16 * 1024
# The longest PDU that is sent to a peer that names no limit or a huge one.
_MAX_SENT_PDU = 256 * 1024
_ABORT_SECONDS = 2.0
_unpack_pdv_header = PDV_HEADER.unpack_from
_NOTHING = memoryview(b"")
_WHOLE_COMMAND = COMMAND | LAST


class PeerReleased(AssociationEnded):
    """The peer released the association."""


class Draining(AssociationEnded):
    """The server shuts down, and no operation runs on this association."""


class MessageCut(AssociationEnded):
    """A message was sent in part and cannot be completed, so nothing else can be sent after it."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Times in seconds: `idle` between messages; `network` for a whole PDU, for the next PDU of a message, and a write.

    `message` is how far a message may lag behind a rate of 16 KiB a second.
    """

    idle: float
    network: float
    message: float = 300.0


class Message(NamedTuple):
    """A received DIMSE message. Its data set, if it has one, is still to be read from the association."""

    context: AcceptedContext
    command: Command


class Source(Protocol):
    """Bytes that can be read from any offset, such as the data set of a stored instance that is open."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, fewer where the bytes end. Raises StorageUnavailable."""


class Association:
    """An established association.

    `contexts` maps presentation context IDs to the accepted contexts; `max_pdu_size` is the limit of
    the peer, 0 for none. `window` is how many requests the peer may send before the first of them is answered.
    """

    # What the peer said of its software, if we requested the association.
    implementation = UNKNOWN
    # Called before a release is answered: whoever gets the answer may propose the next association at once.
    releasing: Callable[[], None] | None = None

    def __init__(  # noqa: PLR0913
        self,
        transport: Transport,
        reader: PDUReader,
        *,
        contexts: Mapping[int, AcceptedContext],
        max_pdu_size: int,
        timeouts: Timeouts,
        calling_ae: str,
        called_ae: str,
        peer: str,
        extended: Mapping[str, bytes] | None = None,
        caller: Caller | None = None,
        window: int = 1,
    ) -> None:
        self.transport = transport
        self.contexts = contexts
        self.timeouts = timeouts
        self.calling_ae = calling_ae
        self.called_ae = called_ae
        self.peer = peer
        # If we requested the association, the peer is the one we called, and may answer anything that we ask for.
        self.caller = caller or Caller(Door.DIMSE, peer, called_ae)
        self.extended = extended or {}
        self.window = window
        self.busy = False
        # The command that is being carried out while `busy`, by name; for people who look at open associations.
        self.doing = ""
        self.draining = False
        # Whether any request of the peer was answered with success.
        self.useful = False
        # How many requests of the peer were refused, and why the last one was.
        self.refusals = (0, "")
        limit = min(max_pdu_size or _MAX_SENT_PDU, _MAX_SENT_PDU)
        # An even length makes fragments of even length (PS3.8 Annex E.2: only the last one may be odd).
        self._max_pdu = limit // 2 * 2
        self._reader = reader
        rate = self.caller.rule.max_data_rate
        self.throttle = Throttle(rate, transport.pause) if rate else None
        # When the current message must be complete; every received byte moves it.
        self._deadline = 0.0
        self._pdu = _NOTHING
        # The message of `send_with_next`, which is sent in front of the next one.
        self._held = b""
        self._message_ids = itertools.cycle(range(1, 65536))
        self._data_context: int | None = None
        # How many bytes of the current message's data set have been read.
        self.data_size = 0
        self._expected: dict[int | None, Callable[[Command | None], None]] = {}

    @cached_property
    def contexts_as_scu(self) -> Mapping[tuple[str, str], int]:
        """The IDs of the contexts on which we may send requests, by (abstract syntax, transfer syntax)."""
        return {
            (context.abstract_syntax, context.transfer_syntax): context.context_id
            for context in self.contexts.values()
            if context.as_scu
        }

    @cached_property
    def origin(self) -> Origin:
        """The origin of the instances that the peer sends."""
        return origin_of(self.caller)

    def next_message_id(self) -> int:
        """A Message ID that is not in use (PS3.7 Table E.1-1)."""
        return next(self._message_ids)

    # ---------------------------------------------------------------- reading

    def read_message(self, timeout: float | None = None) -> Message:
        """Wait for the next message and return it. `data` or `read_data` read its data set.

        The message must begin within `timeout` seconds, or within the idle time-out if that is None. Raises
        AssociationEnded: the peer has released, aborted, is gone, too slow, or broke the protocol.
        """
        self._data_context = None
        self.data_size = 0
        context_id, control, value = self._next_pdv(self.timeouts.idle if timeout is None else timeout, begun=False)
        self.busy = True
        self._deadline = time.monotonic() + self.timeouts.message
        if control & _WHOLE_COMMAND == _WHOLE_COMMAND and len(value) <= _MAX_COMMAND_SET:
            command = decode_command(bytes(value))
        else:
            command = decode_command(self._command_in_pieces(context_id, control, value))
        if command.command_data_set_type != NO_DATA_SET:
            self._data_context = context_id
        return Message(self.contexts[context_id], command)

    def _command_in_pieces(self, context_id: int, control: int, value: memoryview) -> bytes:
        """A command set, of which the first piece has come."""
        parts, begun_on = bytearray(), context_id
        while True:
            if context_id != begun_on:
                raise ProtocolError("command set on two presentation contexts", AbortReason.UNEXPECTED_PDU)
            if not control & COMMAND:
                raise ProtocolError("data set without a command", AbortReason.UNEXPECTED_PDU)
            if len(parts) + len(value) > _MAX_COMMAND_SET:
                raise ProtocolError(f"command set over the limit of {_MAX_COMMAND_SET} bytes")
            parts += value
            if control & LAST:
                return bytes(parts)
            context_id, control, value = self._next_pdv(self.timeouts.network)

    def expect(self, request: Command, answered: Callable[[Command | None], None]) -> None:
        """Call `answered` with the response to a request of ours, when it arrives among other messages.

        Whoever reads messages passes responses to `take_response`. `expect_no_more` calls `answered(None)`.
        """
        self._expected[request.message_id] = answered

    def take_response(self, message: Message) -> bool:
        """Pass a response to the callback that expects it; return False if the message is no expected response."""
        command = message.command
        if not (command.command_field or 0) & RESPONSE:
            return False
        answered = self._expected.pop(command.message_id_being_responded_to, None)
        if answered is None:
            return False
        self.skip_data()
        answered(command)
        return True

    def expect_no_more(self) -> None:
        """Tell every callback that still expects a response that none will come."""
        while self._expected:
            _, answered = self._expected.popitem()
            answered(None)

    def data(self) -> Iterator[memoryview]:
        """Yield the fragments of the current message's data set. Each is valid until the next one is asked for."""
        while self._data_context is not None:
            context_id, control, value = self._next_pdv(self.timeouts.network)
            if control & COMMAND or context_id != self._data_context:
                raise ProtocolError("data set interrupted by something else", AbortReason.UNEXPECTED_PDU)
            if control & LAST:
                self._data_context = None
            self.data_size += len(value)
            if self.throttle is not None:
                self._deadline += self.throttle.spend(len(value))
            yield value

    def read_data(self, limit: int = _MAX_IDENTIFIER) -> bytes:
        """The whole data set of the current message. Raises ProtocolError if it is longer than `limit` bytes."""
        data = bytearray()
        for fragment in self.data():
            if len(data) + len(fragment) > limit:
                raise ProtocolError(f"identifier over the limit of {limit} bytes")
            data += fragment
        return bytes(data)

    def skip_data(self) -> None:
        """Read the rest of the current message's data set and drop it."""
        for _ in self.data():
            pass

    def waiting(self) -> bool:
        """Whether the peer has sent bytes that were not read yet, received or still in the socket."""
        return bool(self._pdu) or self._reader.waiting()

    def ahead(self) -> bool:
        """Whether the peer had sent more before it could have received the last response."""
        return bool(self._pdu) or self._reader.ahead

    def _next_pdv(self, timeout: float, *, begun: bool = True) -> tuple[int, int, memoryview]:
        """The next presentation data value: context ID, control header, value. Waits up to `timeout` seconds.

        After the first value of a message (`begun`) the wait also ends at the deadline of the message.
        """
        pdu = self._pdu or self._read_p_data(timeout, begun=begun)
        size = len(pdu)
        if size < 6:
            raise ProtocolError("presentation data value cut", AbortReason.INVALID_PARAMETER)
        length, context_id, control = _unpack_pdv_header(pdu)
        end = 4 + length
        if not 6 <= end <= size:
            raise ProtocolError("presentation data value of impossible length", AbortReason.INVALID_PARAMETER)
        if context_id not in self.contexts:
            raise ProtocolError(f"data on presentation context {context_id}, which was not accepted")
        self._pdu = pdu[end:] if end < size else _NOTHING
        # Only the bytes of values extend the deadline; empty PDUs and values do not.
        self._deadline += (length - 2) / _SLOWEST
        return context_id, control, pdu[6:end]

    def _time_left(self) -> float:
        """Seconds until the deadline of the message, which fast data cannot extend beyond the message time-out."""
        now = time.monotonic()
        self._deadline = min(self._deadline, now + self.timeouts.message)
        if now >= self._deadline:
            raise DeadlineExpired("a message was begun and not finished in time")
        return self._deadline - now

    def _read_p_data(self, timeout: float, *, begun: bool) -> memoryview:
        if begun:
            timeout = min(timeout, self._time_left())
        left, deadline = timeout, time.monotonic() + timeout
        while True:
            try:
                kind, body = self._reader.read(left, begun=begun)
            except ConnectionLost:
                if self.draining:
                    raise Draining("the server shuts down") from None
                raise
            except DeadlineExpired:
                if self.busy:
                    raise
                raise DeadlineExpired(f"idle for {timeout:g} s") from None
            if kind == P_DATA:
                if body:
                    return body
                left = deadline - time.monotonic()
                if left > 0:
                    continue
                raise DeadlineExpired("nothing but empty PDUs")
            self._end(kind)

    def _end(self, kind: int) -> None:
        if kind == PDUType.RELEASE_RQ:
            if self.busy:
                raise ProtocolError("release in the middle of a message", AbortReason.UNEXPECTED_PDU)
            if self.releasing is not None:
                self.releasing()
            self.transport.send([RELEASE_RP], self.timeouts.network)
            raise PeerReleased("released")
        if kind == PDUType.ABORT:
            raise PeerAborted("aborted by the peer")
        raise ProtocolError(f"unexpected PDU {PDUType(kind).name}", AbortReason.UNEXPECTED_PDU)

    # ---------------------------------------------------------------- writing

    def send(self, context_id: int, command: Command, data: Buffer | None = None) -> None:
        """Send a message, in one write if it is not large. Sets the Command Data Set Type of `command`."""
        if data is None:
            self._write(encode_message(context_id, command, None, self._max_pdu))
            return
        command.command_data_set_type = 1
        buffers = itertools.chain(
            (frame_command(context_id, command, self._max_pdu),),
            frame(context_id, data, command=False, max_pdu=self._max_pdu),
        )
        # Fragments are framed for one write at a time, so small PDUs of a large data set take no memory.
        while batch := list(itertools.islice(buffers, 2 if self.throttle else 2 * _MAX_FRAGMENTS)):
            self._write(batch)
            if self.throttle is not None:
                self.throttle.spend(sum(map(len, batch)))

    def respond(self, message: Message, status: int) -> None:
        """Answer a request with this status, without data set and comment."""
        self._write([frame_response(message.context.context_id, message.command, status, self._max_pdu)])

    def send_with_next(self, context_id: int, command: Command) -> None:
        """Send a message without data set together with the next message, in one write. Another one must follow."""
        if self._held:
            self._write([])
        command.command_data_set_type = NO_DATA_SET
        self._held = frame_command(context_id, command, self._max_pdu)

    def encode_command(self, context_id: int, command: Command) -> bytes:
        """A command as bytes on the wire, for a response that is sent many times."""
        return frame_command(context_id, command, self._max_pdu)

    def encode_data(self, context_id: int, data: Buffer) -> bytes:
        """A data set as bytes on the wire, to be sent after its command."""
        return b"".join(frame(context_id, data, command=False, max_pdu=self._max_pdu))

    def send_encoded(self, messages: Sequence[Buffer]) -> None:
        """Send the results of `encode_command` and `encode_data` in one write."""
        self._write([b"".join(messages)])

    def send_source(self, context_id: int, command: Command, source: Source) -> None:
        """Send a message whose data set is an open source, a chunk at a time.

        Raises StorageUnavailable if the source cannot be read and nothing was sent yet, later MessageCut.
        """
        offset, remaining = 0, source.size
        command.command_data_set_type = 1
        buffers: list[Buffer] = [frame_command(context_id, command, self._max_pdu)]
        fragment = self._max_pdu - 6
        chunk = fragment if self.throttle else max(1, min(_FILE_CHUNK // fragment, _MAX_FRAGMENTS)) * fragment
        while True:
            try:
                data = source.read(offset, min(chunk, remaining))
                if remaining and not data:
                    raise StorageUnavailable("the file is shorter than the index says")
            except StorageUnavailable as error:
                if buffers:
                    raise
                raise MessageCut(f"data set cut: {error}") from error
            offset, remaining = offset + len(data), remaining - len(data)
            if not remaining and len(data) % 2:
                # PS3.8 E.2: fragments are even. A deflated data set of odd length is padded (PS3.5 A.5).
                data += b"\0"
            buffers += frame(context_id, data, command=False, max_pdu=self._max_pdu, last=not remaining)
            self._write(buffers)
            if self.throttle is not None:
                self.throttle.spend(len(data))
            if not remaining:
                return
            buffers = []

    def _write(self, buffers: list[Buffer]) -> None:
        if self._held:
            buffers, self._held = [self._held, *buffers], b""
        self.transport.send(buffers, self.timeouts.network)

    # ---------------------------------------------------------------- ending

    def release(self) -> None:
        """Ask for release and wait for the answer. Drops messages that arrive before it (PS3.8 7.2)."""
        self.transport.send([RELEASE_RQ], self.timeouts.network)
        deadline = time.monotonic() + self.timeouts.network
        while time.monotonic() < deadline:
            kind, _ = self._reader.read(self.timeouts.network)
            if kind in (PDUType.RELEASE_RP, PDUType.ABORT):
                return
            if kind == PDUType.RELEASE_RQ:
                # PS3.8 7.2.2.7: release collision; the requestor answers first.
                self.transport.send([RELEASE_RP], self.timeouts.network)

    def abort(self, reason: AbortReason | None = None) -> None:
        """Send an A-ABORT and let the peer read it. With a `reason` it comes from the service provider."""
        with contextlib.suppress(AssociationEnded):
            self.transport.send([encode_abort(0 if reason is None else 2, reason or 0)], _ABORT_SECONDS)
            self.transport.finish()

    def drain(self) -> None:
        """End the association as soon as no operation runs on it. Called from another thread."""
        self.draining = True
        if not self.busy:
            self.transport.wake()

    def done(self) -> None:
        """Mark the association as idle after an operation. Raises Draining if the server shuts down."""
        self.busy = False
        if self.draining:
            raise Draining("the server shuts down")
