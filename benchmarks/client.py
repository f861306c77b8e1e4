"""The client of the benchmark: associations on plain sockets, and the operations that are timed.

What is sent is encoded before the clock starts; what comes in is read, counted and dropped.
"""

import itertools
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Self, TypeVar

from benchmarks.instances import (
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    Framing,
    Writes,
)
from benchmarks.wire import (
    COMMAND_DATA_SET_TYPE,
    COMMAND_FIELD,
    COMPLETED,
    MAX_PDU,
    STATUS,
    ClientError,
    Wire,
    command_element,
    command_elements,
    command_number,
)
from pacs_server.net.associate import decode_accept, encode_request
from pacs_server.net.message import NO_DATA_SET, RESPONSE, Command, CommandField, encode_message, frame
from pacs_server.net.negotiation import Proposal, ProposedContext, UserInformation
from pacs_server.net.pdu import RELEASE_RQ, PDUType
from pacs_server.net.transport import Buffer

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
CALLING_AE = "BENCH"

_PENDING = (0xFF00, 0xFF01)
_SOP_CLASS_UID, _MESSAGE_ID, _RESPONDED_TO, _SOP_INSTANCE_UID = 0x0002, 0x0110, 0x0120, 0x1000
_C_STORE_RESPONSE = (CommandField.C_STORE | RESPONSE).to_bytes(2, "little")
_NO_DATA_SET = NO_DATA_SET.to_bytes(2, "little")
# No other element can hold these ten bytes: what is in UIDs is digits, and numbers are two bytes long.
_SUCCESS = command_element(STATUS, bytes(2))
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer listens, on this machine; `process` is its process group, if it is one that was started."""

    ae_title: str
    port: int
    host: str = "127.0.0.1"
    process: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """When something began and ended by the machine's clock, how much of it was done, and how long each took.

    All in seconds; the clock is the same in all processes.
    """

    began: float
    ended: float
    count: int
    seconds: tuple[float, ...] = ()

    @classmethod
    def together(cls, timings: "Sequence[Timing]") -> "Timing":
        """What was done at the same time as one, from the first beginning to the last end."""
        began, ended = min(timing.began for timing in timings), max(timing.ended for timing in timings)
        seconds = itertools.chain.from_iterable(timing.seconds for timing in timings)
        return cls(began, ended, sum(timing.count for timing in timings), tuple(seconds))

    @property
    def rate(self) -> float:
        """How many per second."""
        return self.count / (self.ended - self.began)

    @property
    def p99(self) -> float:
        """What 99 of 100 took at most, in milliseconds."""
        return 1000 * sorted(self.seconds)[len(self.seconds) * 99 // 100]


def repeat(requests: Iterable[T], operation: Callable[[T], int], limit: float) -> Timing:
    """Time `operation` on every request, one after the other, and begin none after `limit` seconds.

    The operation says how much it has done.
    """
    count = 0
    seconds = []
    began = before = time.perf_counter()
    for request in requests:
        count += operation(request)
        after = time.perf_counter()
        seconds.append(after - before)
        before = after
        if after - began > limit:
            break
    return Timing(began, before, count, tuple(seconds))


class Association:
    """An association with a peer, between `with` and its release; `context_ids` says what was accepted.

    `window` is how many requests to ask for that may be outstanding, and then how many were granted.
    """

    def __init__(
        self, address: Address, abstract_syntaxes: Sequence[str], *, no_delay: bool = True, window: int = 1
    ) -> None:
        self.wire = Wire(socket.socket(), no_delay=no_delay)
        try:
            self.wire.socket.connect((address.host, address.port))
            self.max_pdu, self.window, self.context_ids = self._associate(address, abstract_syntaxes, window)
        except BaseException:
            self.wire.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.release()
        finally:
            self.wire.close()

    def release(self) -> None:
        """Ask for release and wait for the answer."""
        self.wire.send([RELEASE_RQ])
        answer, _ = self.wire.read_pdu()
        if answer != PDUType.RELEASE_RP:
            raise ClientError(f"a PDU of type {answer} in answer to a release")

    def framing(self, abstract_syntax: str, *, small_writes: bool = False) -> Framing:
        """How messages about `abstract_syntax` are framed here."""
        return Framing(self._context_id(abstract_syntax), self.max_pdu, small_writes)

    def store(self, writes: Writes) -> int:
        """Send one encoded C-STORE request and wait for success."""
        for write in writes:
            self.wire.send(write)
        _succeeded(self.wire.read_command())
        return 1

    def store_ahead(self, requests: Iterable[Writes]) -> int:
        """Send encoded C-STORE requests, as many ahead of their answers as the window has room for."""
        sent = answered = 0
        for writes in requests:
            if sent - answered == self.window:
                _succeeded(self.wire.read_command())
                answered += 1
            for write in writes:
                self.wire.send(write)
            sent += 1
        for _ in range(sent - answered):
            _succeeded(self.wire.read_command())
        return sent

    def echo(self, request: Sequence[Buffer]) -> int:
        """One C-ECHO."""
        self.wire.send(request)
        _succeeded(self.wire.read_command())
        return 1

    def find(self, request: Sequence[Buffer]) -> int:
        """One C-FIND; returns how many matches came in."""
        self.wire.send(request)
        count = 0
        pending = b""
        while True:
            message = self.wire.read_message()
            if message.command != pending:
                if command_number(message.command, STATUS) not in _PENDING:
                    _succeeded(message.command)
                    return count
                pending = message.command
            count += 1

    def retrieve(self, request: Sequence[Buffer]) -> int:
        """One C-GET or C-MOVE; returns how many instances arrived, by what the peer says and by what came in."""
        self.wire.send(request)
        received = 0
        while True:
            message = self.wire.read_message()
            if command_number(message.command, COMMAND_FIELD) == CommandField.C_STORE:
                self.wire.send(store_response(message.context_id, message.command))
                received += 1
            elif command_number(message.command, STATUS) not in _PENDING:
                break
        _succeeded(message.command)
        completed = command_number(message.command, COMPLETED) or 0
        if received not in (0, completed):
            raise ClientError(f"{received} instances came in, {completed} were reported")
        return completed

    def request(
        self, abstract_syntax: str, field: CommandField, data: bytes | None = None, to: str = ""
    ) -> list[Buffer]:
        """An encoded request with an identifier, or none; `to` is the destination of a C-MOVE."""
        command = Command(
            command_field=field,
            message_id=1,
            affected_sop_class_uid=abstract_syntax,
            priority=None if data is None else 0,
            move_destination=to or None,
        )
        return [b"".join(encode_message(self._context_id(abstract_syntax), command, data, self.max_pdu))]

    def _context_id(self, abstract_syntax: str) -> int:
        if abstract_syntax not in self.context_ids:
            raise ClientError(f"the peer does not take {abstract_syntax}")
        return self.context_ids[abstract_syntax]

    def _associate(
        self, address: Address, abstract_syntaxes: Sequence[str], window: int
    ) -> tuple[int, int, dict[str, int]]:
        self.wire.send([_association_request(address.ae_title, tuple(abstract_syntaxes), window)])
        kind, body = self.wire.read_pdu()
        if kind != PDUType.ASSOCIATE_AC:
            raise ClientError(f"the association was not accepted: a PDU of type {kind}, {bytes(body[:4]).hex()}")
        return _accepted(bytes(body), tuple(abstract_syntaxes))


# Answers are the same again and again; so are the requests below.
@lru_cache(maxsize=64)
def _accepted(answer: bytes, abstract_syntaxes: tuple[str, ...]) -> tuple[int, int, dict[str, int]]:
    decoded = decode_accept(answer)
    accepted = {number for number, result, _ in decoded.results if result == 0}
    context_ids = {name: 2 * n + 1 for n, name in enumerate(abstract_syntaxes) if 2 * n + 1 in accepted}
    window, _ = decoded.user.async_operations or (1, 1)
    return min(decoded.user.max_pdu_size or MAX_PDU, MAX_PDU), window, context_ids


@lru_cache(maxsize=64)
def _association_request(called_ae: str, abstract_syntaxes: tuple[str, ...], window: int) -> bytes:
    contexts = []
    for n, name in enumerate(abstract_syntaxes):
        syntax = EXPLICIT_VR_LITTLE_ENDIAN if name == CT_IMAGE_STORAGE else IMPLICIT_VR_LITTLE_ENDIAN
        contexts.append(ProposedContext(2 * n + 1, name, (syntax,)))
    # PS3.7 D.3.3.4: whoever asks for a C-GET is the SCP of the C-STORE that it gets.
    roles = {CT_IMAGE_STORAGE: (True, True)} if STUDY_ROOT_GET in abstract_syntaxes else {}
    operations = (window, 1) if window > 1 else None
    user = UserInformation(MAX_PDU, "1.2.826.0.1.3680043.8.498.7", "BENCH", async_operations=operations, roles=roles)
    return encode_request(Proposal(CALLING_AE, called_ae, tuple(contexts), user))


def store_response(context_id: int, request: bytes) -> list[Buffer]:
    """The answer success to a C-STORE request."""
    asked = command_elements(request)
    answer = {
        _SOP_CLASS_UID: asked[_SOP_CLASS_UID],
        COMMAND_FIELD: _C_STORE_RESPONSE,
        _RESPONDED_TO: asked[_MESSAGE_ID],
        COMMAND_DATA_SET_TYPE: _NO_DATA_SET,
        STATUS: bytes(2),
        _SOP_INSTANCE_UID: asked[_SOP_INSTANCE_UID],
    }
    body = b"".join(itertools.starmap(command_element, answer.items()))
    command = command_element(0, len(body).to_bytes(4, "little")) + body
    return list(frame(context_id, command, command=True, max_pdu=MAX_PDU))


def _succeeded(command: bytes) -> None:
    if _SUCCESS in command:
        return
    status = command_number(command, STATUS)
    raise ClientError("the answer has no status" if status is None else f"answered with status 0x{status:04X}")


def open_and_release(address: Address) -> int:
    """One association, opened and released."""
    with Association(address, [VERIFICATION]):
        return 1
