"""The orders service: takes an HL7 message, changes the worklist, and returns the acknowledgment."""

import logging
from collections.abc import Callable
from datetime import datetime

from pacs_server.audit.events import Participant
from pacs_server.dicom.worklist import ItemStatus
from pacs_server.errors import AuditUnavailable, IndexUnavailable, InvalidWorklistItem
from pacs_server.hl7.message import ErrorCondition, HL7Message, InvalidMessage, acknowledgment, parse, parse_header
from pacs_server.hl7.order_map import CancellationKey, Order, OrderAction, order_of
from pacs_server.index.worklist import ItemRow
from pacs_server.services.worklist import WorklistService

log = logging.getLogger(__name__)

# Once a procedure step has begun, the system that ordered it can no longer cancel it.
_BEGUN = (ItemStatus.IN_PROGRESS, ItemStatus.COMPLETED)
# How many characters of what a rejected message says of itself the log shows.
_LONGEST = 64


class OrderService:
    """Puts orders on the worklist. The same order a second time changes nothing. Thread-safe."""

    def __init__(self, worklist: WorklistService, *, taken: Callable[[bool], None]) -> None:
        """`taken` is called for each message with whether the message was accepted."""
        self._worklist = worklist
        self._taken = taken

    def take(self, data: bytes, peer: str) -> bytes:
        """The acknowledgment of a message: AA once its effect is committed, else AE or AR with the reason."""
        message: HL7Message | None = None
        problem: InvalidMessage | None = None
        try:
            message = parse_header(data)
            message = parse(data)
            self._apply(order_of(message), message, peer)
        except InvalidMessage as error:
            problem = error
        except InvalidWorklistItem as error:
            problem = InvalidMessage(str(error), ErrorCondition.REQUIRED_FIELD_MISSING)
        except (IndexUnavailable, AuditUnavailable) as error:
            log.error(
                "order not taken, index or audit trail is not available", extra={"peer": peer, "reason": str(error)}
            )
            problem = InvalidMessage("the worklist is not available, try again later", ErrorCondition.INTERNAL)
        if problem is not None:
            log.warning("order rejected", extra={"peer": peer, **_named(message), "reason": str(problem)})
        self._taken(problem is None)
        return acknowledgment(message, datetime.now(), problem)

    def _apply(self, order: Order, message: HL7Message, peer: str) -> None:
        by = Participant(message.sender or "HL7", address=peer, requestor=True)
        if order.action is OrderAction.CANCEL:
            rows = [row for key in order.keys for row in self._items(key)]
            self._worklist.set_status(rows, ItemStatus.CANCELLED, by)
            log.info("order cancelled", extra={"peer": peer, "message_id": message.control_id, "items": len(rows)})
            return
        result = self._worklist.put(order.items, by)
        log.info(
            "order taken",
            extra={
                "peer": peer,
                "message_id": message.control_id,
                "added": result.added,
                "updated": result.updated,
            },
        )

    def _items(self, key: CancellationKey) -> list[ItemRow]:
        rows = [
            row
            for row in self._worklist.list(accession_number=key.accession_number)
            if key.requested_procedure_id in ("", row.item.requested_procedure_id)
            and key.scheduled_procedure_step_id in ("", row.item.scheduled_procedure_step_id)
        ]
        if not rows:
            raise InvalidMessage("there is no such order", ErrorCondition.UNKNOWN_KEY)
        if any(row.item.status in _BEGUN for row in rows):
            raise InvalidMessage("the procedure step has begun and cannot be cancelled", ErrorCondition.RECORD_LOCKED)
        return rows


def _named(message: HL7Message | None) -> dict[str, str]:
    """What the log says of a message so that its sender finds it; nothing if it has no header that can be read."""
    if message is None:
        return {}
    return {"sender": message.sender[:_LONGEST], "message_id": message.control_id[:_LONGEST]}
