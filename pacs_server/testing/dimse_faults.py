"""Carry out the rules of `testing/faults.py` in the DIMSE door: around its admission and its services."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from pacs_server.dicom.caller import Caller
from pacs_server.dicom.status import Status as KnownStatus
from pacs_server.dicom.status import is_warning
from pacs_server.errors import PacsError
from pacs_server.net.acceptor import Admitted, Rejection
from pacs_server.net.association import Association, Message
from pacs_server.net.message import RESPONSE, Command, CommandField, response_to
from pacs_server.net.negotiation import UserIdentity
from pacs_server.net.pdu import AbortReason, ProtocolError
from pacs_server.net.transport import AssociationEnded, Buffer, ConnectionLost
from pacs_server.scp.contexts import Service
from pacs_server.scp.dispatch import Handler, Handlers, Result
from pacs_server.scp.status import status_of
from pacs_server.testing.faults import Abort, Counts, Delay, Drop, Faults, Reject, Request, Status
from pacs_server.testing.faulty_transport import CUT, FaultyTransport

# How many operations are remembered.
_MOST = 1000
_PENDING = (KnownStatus.PENDING, KnownStatus.PENDING_WITH_UNSUPPORTED_KEYS)


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation that a client asked for; `status` is None if the association ended meanwhile, for that reason."""

    name: str
    calling_ae: str
    status: int | None
    reason: str = ""

    def __str__(self) -> str:
        how = "without an answer" if self.status is None else f"0x{self.status:04X}"
        return f"{self.name} {how}" + (f" ({self.reason})" if self.reason else "")


Noted = deque[Operation]


def noted() -> Noted:
    """Where operations are noted, the last ones."""
    return deque(maxlen=_MOST)


class AbortedByRule(AssociationEnded):
    """A rule has the association aborted, as by the service user."""


class Admitting(Protocol):
    """Decides on proposals."""

    def admit(self, caller: Caller, identity: UserIdentity | None, /) -> Rejection | Admitted:
        """Let the caller in, or reject the proposal."""


class FaultyAdmission:
    """An admission whose answers rules delay and replace."""

    def __init__(self, admission: Admitting, faults: Faults, stopping: threading.Event) -> None:
        self._admission = admission
        self._faults = faults
        self._stopping = stopping

    def __getattr__(self, name: str) -> Any:
        return getattr(self._admission, name)

    def admit(self, caller: Caller, identity: UserIdentity | None) -> Rejection | Admitted:
        """Decide on a proposal, as `Admission.admit` unless a rule says otherwise."""
        request = Request("A-ASSOCIATE", caller.ae_title, caller.called_ae)
        for delay in self._faults.take(request, Delay):
            self._stopping.wait(delay.seconds)
        for _ in self._faults.take(request, Drop):
            raise ConnectionLost(CUT)
        for abort in self._faults.take(request, Abort):
            raise ProtocolError("aborted by a rule", cast(AbortReason, abort.reason))
        for reject in self._faults.take(request, Reject):
            return Rejection(reject.result, reject.source, reject.reason, "rule")
        return self._admission.admit(caller, identity)


def faulty_handlers(handlers: Handlers, faults: Faults, seen: Noted) -> Handlers:
    """The handlers, each with the rules around it."""
    return {
        (service, field): FaultyHandler(service, field, handler, faults, seen)
        for (service, field), handler in handlers.items()
    }


class FaultyHandler:
    """Answers one kind of request, unless a rule has it done otherwise."""

    def __init__(self, service: Service, field: int, handler: Handler, faults: Faults, seen: Noted) -> None:
        self._service = service
        self._name = CommandField(field).name.replace("_", "-")
        self._handler = handler
        self._faults = faults
        self._seen = seen

    def __call__(self, association: Association, message: Message) -> Result:
        """Answer the request, and note how that ended."""
        status, reason = None, ""
        try:
            result = self._answered(association, message)
            status = int(result.status)
            return result
        except PacsError as error:
            status, reason = int(status_of(error, self._service)), str(error)
            raise
        except AssociationEnded as ended:
            reason = ended.how
            raise
        finally:
            self._seen.append(Operation(self._name, association.calling_ae, status, reason))

    def _answered(self, association: Association, message: Message) -> Result:
        command, take = message.command, self._faults.take
        request = Request(
            self._name, association.calling_ae, association.called_ae, message.context.abstract_syntax,
            command.affected_sop_instance_uid or command.requested_sop_instance_uid or "",
        )  # fmt: skip
        for delay in take(request, Delay):
            association.transport.pause(delay.seconds)
        drops = take(request, Drop)
        for drop in drops:
            if not drop.received:
                cast(FaultyTransport, association.transport).arm(drop)
        for abort in take(request, Abort):
            raise _ended_by(abort)
        statuses, counts = take(request, Status), take(request, Counts)
        cut_short = next((drop for drop in drops if drop.received), None)
        if not statuses and not counts and cut_short is None:
            return self._handler(association, message)
        status = statuses[0] if statuses else None
        if status is not None and not _lets_it_happen(status):
            association.skip_data()
            association.send(
                message.context.context_id,
                response_to(message.command, cast(KnownStatus, status.status), status.comment),
            )
            return Result(cast(KnownStatus, status.status), {"reason": "a rule"})
        script = ScriptedAssociation(association, message, status, counts[0] if counts else None, cut_short)
        result = self._handler(cast(Association, script), message)
        return result if status is None else result._replace(status=cast(KnownStatus, status.status))


def _lets_it_happen(status: Status) -> bool:
    """Whether the operation is carried out although its status is another one: with a warning it has succeeded."""
    return bool(status.after_matches) or status.status == KnownStatus.SUCCESS or is_warning(status.status)


def _ended_by(abort: Abort) -> AssociationEnded:
    if abort.source == 0:
        return AbortedByRule("aborted by a rule")
    return ProtocolError("aborted by a rule", cast(AbortReason, abort.reason))


class ScriptedAssociation:
    """An association on which the responses to one request are changed; everything else is that of the real one."""

    def __init__(
        self,
        association: Association,
        message: Message,
        status: Status | None,
        counts: Counts | None,
        cut_short: Drop | None,
    ) -> None:
        """`cut_short` says after how much of the request's data set the connection is cut."""
        self._real = association
        self._cut_short = cut_short
        self._message_id = message.command.message_id
        self._status = status
        self._counts = counts
        self._left = status.after_matches if status is not None and status.after_matches else None
        self._final = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    # Whoever keeps something by association has to find it again by the real one.
    def __hash__(self) -> int:
        return hash(self._real)

    def __eq__(self, other: object) -> bool:
        return other is self._real or other is self

    def data(self) -> Iterator[memoryview]:
        """The fragments of the request's data set."""
        received, drop = 0, self._cut_short
        for number, fragment in enumerate(self._real.data(), 1):
            yield fragment
            received += len(fragment)
            if drop is not None and (received >= (drop.after_bytes or received + 1) or number == drop.after_pdus):
                cast(FaultyTransport, self._real.transport).arm(replace(drop, after_bytes=None, after_pdus=None))

    def read_data(self) -> bytes:
        """The whole data set of the request."""
        return b"".join(map(bytes, self.data()))

    def send(self, context_id: int, command: Command, data: Buffer | None = None) -> None:
        """Send a message."""
        self._real.send(context_id, self._changed(command), data)

    def respond(self, message: Message, status: int) -> None:
        """Answer a request with this status."""
        self.send(message.context.context_id, response_to(message.command, status))

    def send_with_next(self, context_id: int, command: Command) -> None:
        """Send a message together with the next one."""
        self._real.send_with_next(context_id, self._changed(command))

    def encode_command(self, context_id: int, command: Command) -> bytes:
        """A command as bytes on the wire."""
        encoded = self._real.encode_command(context_id, self._changed(command))
        if command.status not in _PENDING:
            self._final = encoded
        return encoded

    def send_encoded(self, messages: Sequence[Buffer]) -> None:
        """Send matches and the final response, without the matches that are too many."""
        if self._left is None:
            self._real.send_encoded(messages)
            return
        final = [each for each in messages if each is self._final]
        kept = [each for each in messages if each is not self._final][: 2 * self._left]
        self._left -= len(kept) // 2
        if kept or final:
            self._real.send_encoded([*kept, *final])

    def _changed(self, command: Command) -> Command:
        is_response = (command.command_field or 0) & RESPONSE
        if not is_response or command.message_id_being_responded_to != self._message_id:
            return command
        changed = command if self._counts is None else _miscounted(command, self._counts)
        if self._status is None or command.status in _PENDING:
            return changed
        return replace(changed, status=self._status.status, error_comment=self._status.comment[:64] or None)


def _miscounted(command: Command, counts: Counts) -> Command:
    def added(number: int | None, more: int) -> int | None:
        """A number that is absent stays so, unless it is to be there."""
        return number if not more else max(0, (number or 0) + more) & 0xFFFF

    return replace(
        command,
        number_of_completed=added(command.number_of_completed, counts.completed),
        number_of_failed=added(command.number_of_failed, counts.failed),
        number_of_warning=added(command.number_of_warning, counts.warning),
        number_of_remaining=added(command.number_of_remaining, counts.remaining),
    )


def around(faults: Faults, seen: Noted) -> Callable[[Handlers], Handlers]:
    """What puts the rules around all handlers of a server."""
    return lambda handlers: faulty_handlers(handlers, faults, seen)
