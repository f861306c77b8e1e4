"""N-EVENT-REPORT as its sender sees it: the reports of storage commitment (PS3.4 J.3.3)."""

from pacs_server.dicom.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE, EventType
from pacs_server.dicom.status import Status, is_warning
from pacs_server.net.association import Association
from pacs_server.net.message import Command, CommandField


def event_report(association: Association, event: EventType) -> Command:
    """An N-EVENT-REPORT request of the push model (PS3.7 10.3.1, PS3.4 J.3.3)."""
    return Command(
        command_field=CommandField.N_EVENT_REPORT,
        message_id=association.next_message_id(),
        affected_sop_class_uid=PUSH_MODEL,
        affected_sop_instance_uid=PUSH_MODEL_INSTANCE,
        event_type_id=event,
    )


def taken(status: int | None) -> bool:
    """Whether an N-EVENT-REPORT response says that the peer has the report."""
    return status is not None and (status == Status.SUCCESS or is_warning(status))
