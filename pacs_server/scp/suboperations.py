"""Sub-operations of C-MOVE and C-GET: their counts, the responses that tell them, and C-CANCEL (PS3.4 C.4.2)."""

from dataclasses import dataclass, field

from pacs_server.audit.auditor import SentCounts
from pacs_server.dicom.status import Status, is_warning
from pacs_server.dicom.tags import FAILED_SOP_INSTANCE_UID_LIST
from pacs_server.dicom.writer import writer_for
from pacs_server.index.instances import StoredInstance
from pacs_server.kit.metrics import Metrics
from pacs_server.net.association import Association, Message
from pacs_server.net.message import Command, CommandField, response_to
from pacs_server.net.pdu import AbortReason, ProtocolError
from pacs_server.scp.dispatch import Result

# Counts are 16-bit fields (PS3.7 E.1).
_MOST = 0xFFFF


@dataclass(slots=True)
class SubOperations:
    """The sub-operations of one C-MOVE or C-GET: their counts, the failed instances, and the responses that tell them.

    `remaining` begins with the number of instances; `sent` counts them by study for the audit trail.
    """

    association: Association
    message: Message
    remaining: int
    sent: SentCounts = field(default_factory=SentCounts)
    completed: int = 0
    warning: int = 0
    failed_uids: list[str] = field(default_factory=list)

    def count(self, instance: StoredInstance, status: int) -> None:
        """Count one sub-operation by the status it ended with."""
        self.remaining -= 1
        if status == Status.SUCCESS:
            self.completed += 1
        elif is_warning(status):
            self.warning += 1
        else:
            self.failed_uids.append(instance.uids.sop)
            self.sent.failed[instance.uids.study] += 1
            return
        self.sent.completed[instance.uids.study][instance.sop_class_uid] += 1

    @property
    def status(self) -> Status:
        """The final status, unless the operation was cancelled (PS3.4 C.4.2.1.5)."""
        if not self.failed_uids and not self.warning:
            return Status.SUCCESS
        if not self.completed and not self.warning:
            return Status.UNABLE_TO_PERFORM_SUBOPERATIONS
        return Status.SUBOPERATIONS_COMPLETE_WITH_FAILURES

    def cancel_requested(self) -> bool:
        """Whether the peer has cancelled the operation; `cancel_requested` below says more."""
        return cancel_requested(self.association, self.message)

    def pending_response(self) -> Command:
        """A pending response with the counts so far."""
        return self._response(Status.PENDING, counts_remaining=True)

    def finish(self, metrics: Metrics, *, cancelled: bool) -> Result:
        """Send the final response; its identifier lists the failed instances, if any (PS3.4 C.4.2.1.4.2)."""
        # A C-CANCEL that came after the last sub-operation has cancelled nothing.
        cancelled = cancelled and self.remaining > 0
        status = Status.CANCEL if cancelled else self.status
        # PS3.7 9.1.4.1.7: a final response counts the remaining sub-operations only if it was cancelled.
        response = self._response(status, counts_remaining=cancelled)
        context = self.message.context
        data = failed_list(self.failed_uids, context.transfer_syntax) if self.failed_uids else None
        self.association.send(context.context_id, response, data)
        failed = len(self.failed_uids)
        metrics.suboperations(self.completed, self.warning, failed)
        counts = {
            "completed": self.completed,
            "warning": self.warning,
            "failed": failed,
            "remaining": self.remaining,
        }
        return Result(status, counts)

    def _response(self, status: Status, *, counts_remaining: bool) -> Command:
        response = response_to(self.message.command, status)
        if counts_remaining:
            response.number_of_remaining = min(self.remaining, _MOST)
        response.number_of_completed = min(self.completed, _MOST)
        response.number_of_failed = min(len(self.failed_uids), _MOST)
        response.number_of_warning = min(self.warning, _MOST)
        return response


def cancel_requested(association: Association, message: Message) -> bool:
    """Whether the peer has sent a C-CANCEL for the running operation. Never waits for one.

    Raises AssociationEnded, also if the peer has sent another request: where this service was accepted, one operation
    at a time was negotiated (PS3.7 D.3.3.3).
    """
    if not association.waiting():
        return False
    incoming = association.read_message()
    if association.take_response(incoming):
        return False
    association.skip_data()
    return is_cancel(incoming, message)


def is_cancel(incoming: Message, message: Message) -> bool:
    """Whether `incoming` is the C-CANCEL of `message`. A late C-CANCEL of an earlier operation is ignored.

    Raises ProtocolError if `incoming` is no C-CANCEL.
    """
    if incoming.command.command_field != CommandField.C_CANCEL:
        raise ProtocolError("a request while another one runs", AbortReason.UNEXPECTED_PDU)
    return incoming.command.message_id_being_responded_to == message.command.message_id


def failed_list(uids: list[str], transfer_syntax_uid: str) -> bytes:
    """An identifier with Failed SOP Instance UID List (0008,0058) and nothing else."""
    writer = writer_for(transfer_syntax_uid)
    return writer.finished(writer.element(FAILED_SOP_INSTANCE_UID_LIST, "UI", "\\".join(uids).encode()))
