"""Dispatch messages to services by SOP class and command; log and count operations; the one last-resort except."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping
from enum import Enum, auto
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from pacs_server.config.sections.access_control import PeerService
from pacs_server.dicom.status import Status
from pacs_server.dicom.uids import clean_uid, is_uid
from pacs_server.errors import NotAuthorised, PacsError
from pacs_server.kit.logs import event
from pacs_server.kit.metrics import Metrics
from pacs_server.net.association import Association, Message
from pacs_server.net.message import RESPONSE, CommandField, response_to
from pacs_server.net.pdu import AbortReason, ProtocolError
from pacs_server.net.transport import AssociationEnded
from pacs_server.scp.auditing import AssociationAuditor
from pacs_server.scp.contexts import PEER_SERVICES, Service, service_of
from pacs_server.scp.status import status_of
from pacs_server.services.access import check_service

log = logging.getLogger(__name__)

# A peer waits after a refused request that took long, so that three quarters of the processor are left to others.
_CHEAP_SECONDS = 0.01
_PAUSE_FACTOR = 3.0
_LONGEST_PAUSE = 5.0
# Stray messages are cancels and responses that nothing waits for. Hasty requests are sent before the last request was
# answered, although one operation at a time was negotiated (PS3.7 D.3.3.3). A good peer does that a few times in a row.
# If more at a time were negotiated, instances that were stored are not hasty.
_FEW = 10
_STRAY_SECONDS = 0.01
_HASTE_SECONDS = 0.002
_MAX_STRAYS = 100


# The name by which each request is logged and counted.
_NAMES = {int(field): field.name.replace("_", "-", 1).replace("_", "-") for field in CommandField}
# The number of abstract syntaxes whose handler is remembered. Peers may name any number of unknown ones.
_MOST_ROUTES = 512


class Result(NamedTuple):
    """How an operation ended.

    `details` go into the log line of the operation. `after` is called when the operation was answered and counted.
    """

    status: Status
    details: Mapping[str, object] = MappingProxyType({})
    after: Callable[[], None] | None = None


Handler = Callable[[Association, Message], Result]
Handlers = Mapping[tuple[Service, int], Handler]


class _Served(Enum):
    """What a message that was served tells of its sender."""

    STRAY = auto()
    IN_TURN = auto()
    MAY_BE_AHEAD = auto()


# Looking members up in their enumerations takes longer than comparing them.
_STRAY, _IN_TURN, _MAY_BE_AHEAD = _Served
_SUCCESS, _C_CANCEL = int(Status.SUCCESS), int(CommandField.C_CANCEL)
_N_EVENT_REPORT = int(CommandField.N_EVENT_REPORT)


class Dispatcher:
    """Serves the messages of associations with the handler for their service and command."""

    def __init__(self, handlers: Handlers, auditor: AssociationAuditor, metrics: Metrics) -> None:
        self._handlers = handlers
        self._route = lru_cache(_MOST_ROUTES)(self._find_route)
        self._auditor = auditor
        self._metrics = metrics

    def serve(self, association: Association, operations: MutableMapping[str, int]) -> None:
        """Serve messages until the association ends, and count the operations by name. Raises AssociationEnded."""
        try:
            strays = hasty = 0
            while True:
                served = self._serve_one(association, operations)
                strays = strays + 1 if served is _STRAY else 0
                hasty = hasty + 1 if served is not _MAY_BE_AHEAD and association.ahead() else 0
                if not (strays or hasty):
                    continue
                if strays > _FEW:
                    association.transport.pause(_STRAY_SECONDS)
                elif hasty and hasty % _FEW == 0:
                    association.transport.pause(_HASTE_SECONDS)
                if strays > _MAX_STRAYS:
                    raise ProtocolError("cancels and responses of nothing without end", AbortReason.UNEXPECTED_PDU)
        finally:
            association.expect_no_more()
            self._auditor.ended(association)

    def serve_next(self, association: Association, seconds: float) -> None:
        """Serve one message on an association that this server requested; it has to begin within so many seconds.

        Raises AssociationEnded, and DeadlineExpired of that if none came.
        """
        self._serve_one(association, Counter(), seconds)

    def _serve_one(
        self, association: Association, operations: MutableMapping[str, int], timeout: float | None = None
    ) -> _Served:
        """Serve the next message."""
        served = _IN_TURN
        message = association.read_message(timeout)
        command_field = message.command.command_field
        if command_field == _C_CANCEL:
            # PS3.7 9.3.2.3: the operation has ended already.
            association.skip_data()
            served = _STRAY
        elif command_field is not None and not command_field & RESPONSE:
            name = _NAMES.get(command_field, "unknown")
            operations[name] += 1
            association.doing = name
            result = self._operate(association, message, name)
            if result.after is not None:
                result.after()
            if association.window > 1 and command_field == CommandField.C_STORE and result.status == _SUCCESS:
                served = _MAY_BE_AHEAD
        elif not association.take_response(message):
            association.skip_data()
            served = _STRAY
            log.warning("response to nothing that was asked", extra={"peer": association.peer})
        association.done()
        return served

    def _operate(self, association: Association, message: Message, name: str) -> Result:
        """Have the request answered, log and count the operation."""
        began, work = time.perf_counter(), time.thread_time()
        try:
            result = self._answer(association, message)
        except PacsError as error:
            _let_others_work(association, time.thread_time() - work)
            if isinstance(error, NotAuthorised):
                self._auditor.refused(association, name, str(error))
            status = status_of(error, service_of(message.context.abstract_syntax))
            result = self._refuse(association, message, status, str(error))
        except MemoryError:
            result = self._refuse(association, message, Status.OUT_OF_RESOURCES, "out of memory")
        except AssociationEnded:
            raise
        except Exception:
            # The last resort: a fault of this program fails one operation and does not end the server.
            log.exception("operation failed unexpectedly", extra={"operation": name})
            result = self._refuse(
                association, message, Status.PROCESSING_FAILURE, "internal error, see the server's log"
            )
        succeeded = result.status == _SUCCESS
        if succeeded:
            association.useful = True
        seconds = time.perf_counter() - began
        self._metrics.request(name, result.status, seconds)
        level = logging.DEBUG if succeeded and name == "C-ECHO" else logging.INFO
        if log.isEnabledFor(level):
            extra = {
                "operation": name,
                "status": f"0x{result.status:04X}",
                "ms": round(seconds * 1000, 2),
                "calling_ae": association.calling_ae,
                **result.details,
            }
            event(log, level, "operation", extra)
        return result

    def _answer(self, association: Association, message: Message) -> Result:
        route = self._route(message.context.abstract_syntax, message.command.command_field or 0)
        # Contexts on which the peer is the SCP only are for the sub-operations of C-GET, and for reports. Reports are
        # taken on others too: many peers send them without a word about roles.
        is_report = message.command.command_field == _N_EVENT_REPORT
        if route is None or not (message.context.as_scp or is_report):
            return self._refuse(
                association, message, Status.UNRECOGNIZED_OPERATION, "this service is not offered on this context"
            )
        service, handler = route
        check_service(association.caller, service)
        return handler(association, message)

    def _find_route(self, abstract_syntax: str, command_field: int) -> tuple[PeerService, Handler] | None:
        service = service_of(abstract_syntax)
        handler = self._handlers.get((service, command_field))
        return None if handler is None else (PEER_SERVICES[service], handler)

    def _refuse(self, association: Association, message: Message, status: Status, comment: str) -> Result:
        # A peer sends its whole data set before it reads a response.
        association.skip_data()
        association.refusals = (association.refusals[0] + 1, comment)
        association.send(message.context.context_id, response_to(message.command, status, comment))
        details: dict[str, object] = {"reason": comment}
        command = message.command
        uid = clean_uid(command.affected_sop_instance_uid or command.requested_sop_instance_uid or "")
        if is_uid(uid):
            details["sop_instance_uid"] = uid
        return Result(status, details)


def _let_others_work(association: Association, seconds: float) -> None:
    """Keep the peer waiting if the refused request used the processor for long."""
    if seconds >= _CHEAP_SECONDS:
        association.transport.pause(min(_PAUSE_FACTOR * seconds, _LONGEST_PAUSE))
