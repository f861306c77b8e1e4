"""The client of the benchmark: associations on plain sockets, and the operations that are timed.

What is sent is encoded before the clock starts; what comes in is read, counted and dropped.
"""

import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from benchmarks import instances
from benchmarks.instances import (
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    Framing,
    Writes,
)
from benchmarks.wire import (
    COMMAND_FIELD,
    COMPLETED,
    MAX_PDU,
    STATUS,
    TIMEOUT_SECONDS,
    ClientError,
    Wire,
    command_number,
)
from pacs_server.net.message import RESPONSE, Command, CommandField, decode_command, encode_message
from pacs_server.net.negotiation import Proposal, ProposedContext, UserInformation, decode_accept, encode_request
from pacs_server.net.pdu import RELEASE_RQ, PDUType
from pacs_server.net.transport import Buffer

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
CALLING_AE = "BENCH"

_PENDING = (0xFF00, 0xFF01)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer listens, on this machine."""

    ae_title: str
    port: int
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Timing:
    """When something began and ended by the machine's clock, how much of it was done, and how long each took.

    All in seconds; the clock is the same in all processes.
    """

    began: float
    ended: float
    count: int
    seconds: tuple[float, ...] = ()

    @property
    def rate(self) -> float:
        """How many per second."""
        return self.count / (self.ended - self.began)


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
    """An association with a peer, between `with` and its release; `context_ids` says what was accepted."""

    def __init__(self, address: Address, abstract_syntaxes: Sequence[str], *, no_delay: bool = True) -> None:
        self.wire = Wire(
            socket.create_connection((address.host, address.port), TIMEOUT_SECONDS),
            no_delay=no_delay,
        )
        try:
            self.max_pdu, self.context_ids = self._associate(address, abstract_syntaxes)
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
        _succeeded(self.wire.read_message().command)
        return 1

    def echo(self, request: Sequence[Buffer]) -> int:
        """One C-ECHO."""
        self.wire.send(request)
        _succeeded(self.wire.read_message().command)
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

    def _associate(self, address: Address, abstract_syntaxes: Sequence[str]) -> tuple[int, dict[str, int]]:
        self.wire.send([_association_request(address.ae_title, tuple(abstract_syntaxes))])
        kind, body = self.wire.read_pdu()
        if kind != PDUType.ASSOCIATE_AC:
            raise ClientError(f"the association was not accepted: a PDU of type {kind}, {bytes(body[:4]).hex()}")
        answer = decode_accept(bytes(body))
        accepted = {number for number, result, _ in answer.results if result == 0}
        context_ids = {name: 2 * n + 1 for n, name in enumerate(abstract_syntaxes) if 2 * n + 1 in accepted}
        return min(answer.user.max_pdu_size or MAX_PDU, MAX_PDU), context_ids


def _association_request(called_ae: str, abstract_syntaxes: tuple[str, ...]) -> bytes:
    contexts = []
    for n, name in enumerate(abstract_syntaxes):
        syntax = EXPLICIT_VR_LITTLE_ENDIAN if name == CT_IMAGE_STORAGE else IMPLICIT_VR_LITTLE_ENDIAN
        contexts.append(ProposedContext(2 * n + 1, name, (syntax,)))
    # PS3.7 D.3.3.4: whoever asks for a C-GET is the SCP of the C-STORE that it gets.
    roles = {CT_IMAGE_STORAGE: (True, True)} if STUDY_ROOT_GET in abstract_syntaxes else {}
    user = UserInformation(MAX_PDU, "1.2.826.0.1.3680043.8.498.7", "BENCH", roles=roles)
    return encode_request(Proposal(CALLING_AE, called_ae, tuple(contexts), user))


def store_response(context_id: int, request: bytes) -> list[Buffer]:
    """The answer success to a C-STORE request."""
    command = decode_command(request)
    response = Command(
        command_field=CommandField.C_STORE | RESPONSE,
        message_id_being_responded_to=command.message_id,
        affected_sop_class_uid=command.affected_sop_class_uid,
        affected_sop_instance_uid=command.affected_sop_instance_uid,
        status=0,
    )
    return [b"".join(encode_message(context_id, response, None, MAX_PDU))]


def _succeeded(command: bytes) -> None:
    status = command_number(command, STATUS)
    if status != 0:
        raise ClientError("the answer has no status" if status is None else f"answered with status 0x{status:04X}")


@dataclass(frozen=True, slots=True)
class StoreJob:
    """Images of `side` x `side` pixels to store over one association; `limit` in seconds.

    With `plain` the client is one that leaves Nagle's algorithm on and writes in small pieces.
    """

    address: Address
    side: int
    study: int
    sops: range
    limit: float
    plain: bool = False


def store(job: StoreJob, wait: Callable[[], None] = lambda: None) -> Timing:
    """Do a job; when all is encoded and the association is open, `wait` is called, then the clock starts."""
    with Association(job.address, [CT_IMAGE_STORAGE], no_delay=not job.plain) as association:
        framing = association.framing(CT_IMAGE_STORAGE, small_writes=job.plain)
        requests = list(instances.store_requests(instances.ct_template(job.side), job.study, job.sops, framing))
        wait()
        return repeat(requests, association.store, job.limit)


def store_studies(address: Address, side: int, studies: range, sops: range) -> None:
    """Store one image in each of the studies, not timed."""
    with Association(address, [CT_IMAGE_STORAGE]) as association:
        framing = association.framing(CT_IMAGE_STORAGE)
        template = instances.ct_template(side)
        for study, sop in zip(studies, sops, strict=True):
            for writes in instances.store_requests(template, study, range(sop, sop + 1), framing):
                association.store(writes)


def open_and_release(address: Address) -> int:
    """One association, opened and released."""
    with Association(address, [VERIFICATION]):
        return 1
