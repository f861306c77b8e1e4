"""What C-MOVE and C-GET share: sending instances, counting, and the responses that say so (PS3.4 C.4.2)."""

import logging
import struct
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from pacs_server.dicom.deflate import deflated
from pacs_server.dicom.status import Status, is_warning
from pacs_server.errors import PacsError, TranscodeError
from pacs_server.index.instances import StoredInstance
from pacs_server.kit.metrics import Metrics
from pacs_server.net.association import Association, Message
from pacs_server.net.message import Command, CommandField
from pacs_server.net.pdu import AbortReason, ProtocolError
from pacs_server.scp.auditing import Counts, Sent
from pacs_server.scp.dispatch import Result, response_to
from pacs_server.scu.plan import choose
from pacs_server.services.retrieve import RetrieveService

log = logging.getLogger(__name__)

# Counts are 16-bit fields (PS3.7 E.1).
_MOST = 0xFFFF
_FAILED_SOP_INSTANCE_UID_LIST = (0x0008, 0x0058)


@dataclass(slots=True)
class Progress:
    """The counts of sub-operations, those that went out by study too, and the SOP Instance UIDs of the failed ones."""

    remaining: int
    sent: Sent = field(default_factory=Sent)
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
        """The final status, unless it was cancelled (PS3.4 C.4.2.1.5)."""
        if not self.failed_uids and not self.warning:
            return Status.SUCCESS
        if not self.completed and not self.warning:
            return Status.UNABLE_TO_PERFORM_SUBOPERATIONS
        return Status.SUBOPERATIONS_COMPLETE_WITH_FAILURES


def send_instance(
    association: Association, service: RetrieveService, instance: StoredInstance, request: Command
) -> int | None:
    """Send one instance by the C-STORE `request`; None if it went out, else the status it failed with.

    The stored bytes go out unchanged if the receiver took the stored transfer syntax; else the
    data set is transcoded. Raises AssociationEnded.
    """
    accepted = {
        context.context_id: (context.abstract_syntax, context.transfer_syntax)
        for context in association.contexts.values()
        if context.as_scu
    }
    choice = choose(accepted, instance.sop_class_uid, instance.transfer_syntax_uid)
    try:
        if choice is None:
            raise TranscodeError("the receiver took no context for its SOP class")
        context_id, transfer_syntax = choice
        if transfer_syntax == instance.transfer_syntax_uid:
            with service.open(instance) as file:
                span = (instance.data_set_offset, instance.size - instance.data_set_offset)
                association.send_file(context_id, request, file.fileno(), span)
        else:
            association.send(context_id, request, service.transcoded(instance, transfer_syntax))
    except (PacsError, OSError) as error:
        log.warning("instance not sent", extra={"sop_instance_uid": instance.uids.sop, "reason": str(error)})
        return Status.PROCESSING_FAILURE
    return None


def counts_of(instances: Sequence[StoredInstance]) -> Counts:
    """How many instances of which study and SOP class are to be sent."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for instance in instances:
        counts[instance.uids.study][instance.sop_class_uid] += 1
    return counts


def cancel_requested(association: Association, message: Message) -> bool:
    """Whether the peer has sent a C-CANCEL for the running operation; never waits for one.

    Raises AssociationEnded, also if the peer begins something else: one operation at a time was
    negotiated (PS3.7 D.3.3.3).
    """
    if not association.waiting():
        return False
    incoming = association.read_message()
    if association.take_response(incoming):
        return False
    association.skip_data()
    return is_cancel(incoming, message)


def is_cancel(incoming: Message, message: Message) -> bool:
    """Whether `incoming` is the C-CANCEL of `message`; a late one for another is passed over. Raises ProtocolError."""
    if incoming.command.command_field != CommandField.C_CANCEL:
        raise ProtocolError("a request while another one runs", AbortReason.UNEXPECTED_PDU)
    return incoming.command.message_id_being_responded_to == message.command.message_id


def pending_response(message: Message, progress: Progress) -> Command:
    """A pending response with the counts so far."""
    response = _with_counts(response_to(message, Status.PENDING), progress)
    response.number_of_remaining = min(progress.remaining, _MOST)
    return response


def finish(
    association: Association, message: Message, progress: Progress, metrics: Metrics, *, cancelled: bool
) -> Result:
    """Send the final response; its identifier lists the failed instances, if any (PS3.4 C.4.2.1.4.2)."""
    # A C-CANCEL that came after the last sub-operation has cancelled nothing.
    cancelled = cancelled and progress.remaining > 0
    status = Status.CANCEL if cancelled else progress.status
    response = _with_counts(response_to(message, status), progress)
    if cancelled:
        # PS3.7 9.1.4.1.7: remaining is in a final response only if it was cancelled.
        response.number_of_remaining = min(progress.remaining, _MOST)
    data = failed_list(progress.failed_uids, message.context.transfer_syntax) if progress.failed_uids else None
    association.send(message.context.context_id, response, data)
    failed = len(progress.failed_uids)
    metrics.suboperations(progress.completed, progress.warning, failed)
    return Result(
        status,
        {
            "completed": progress.completed,
            "warning": progress.warning,
            "failed": failed,
            "remaining": progress.remaining,
        },
    )


def _with_counts(response: Command, progress: Progress) -> Command:
    response.number_of_completed = min(progress.completed, _MOST)
    response.number_of_failed = min(len(progress.failed_uids), _MOST)
    response.number_of_warning = min(progress.warning, _MOST)
    return response


def failed_list(uids: list[str], transfer_syntax_uid: str) -> bytes:
    """An identifier with Failed SOP Instance UID List (0008,0058) and nothing else."""
    value = "\\".join(uids).encode()
    value += b"\0" * (len(value) % 2)
    order = ">" if transfer_syntax_uid == "1.2.840.10008.1.2.2" else "<"
    tag = struct.pack(f"{order}HH", *_FAILED_SOP_INSTANCE_UID_LIST)
    if transfer_syntax_uid == "1.2.840.10008.1.2":
        return tag + struct.pack("<I", len(value)) + value
    if len(value) > _MOST - 1:
        # PS3.5 6.2.2: a value too long for a 16-bit length goes as UN.
        data = tag + b"UN\0\0" + struct.pack(f"{order}I", len(value)) + value
    else:
        data = tag + b"UI" + struct.pack(f"{order}H", len(value)) + value
    return deflated(data) if transfer_syntax_uid == "1.2.840.10008.1.2.1.99" else data
