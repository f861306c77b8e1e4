"""Send N-EVENT-REPORT: the reports of storage commitment (PS3.4 J.3.3)."""

from collections.abc import Mapping

from pacs_server.dicom.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE, CommitmentEvent
from pacs_server.dicom.status import Status, is_warning
from pacs_server.net.association import Association
from pacs_server.net.message import Command, CommandField
from pacs_server.net.negotiation import ProposedContext
from pacs_server.scu.connect import read_response

# The contexts that an association for reports proposes.
CONTEXTS = (ProposedContext(1, PUSH_MODEL, ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")),)
# PS3.4 J.3.3.1.2: on an association of our own we propose to be the SCP, and only that.
ROLES: Mapping[str, tuple[bool, bool]] = {PUSH_MODEL: (False, True)}


def event_report(association: Association, event: CommitmentEvent) -> Command:
    """An N-EVENT-REPORT request of the push model (PS3.7 10.3.1, PS3.4 J.3.3)."""
    return Command(
        command_field=CommandField.N_EVENT_REPORT,
        message_id=association.next_message_id(),
        affected_sop_class_uid=PUSH_MODEL,
        affected_sop_instance_uid=PUSH_MODEL_INSTANCE,
        event_type_id=event,
    )


def send_event_report(association: Association, context_id: int, event: CommitmentEvent, data: bytes) -> int | None:
    """Send a report and return the status of the response, None if it has none. Raises AssociationEnded."""
    request = event_report(association, event)
    # A peer that accepted the context but did not answer the role selection may take the report all the same.
    association.send(context_id, request, data)
    return read_response(association, request).status


def taken(status: int | None) -> bool:
    """Whether an N-EVENT-REPORT response says that the peer has the report."""
    return status is not None and (status == Status.SUCCESS or is_warning(status))
