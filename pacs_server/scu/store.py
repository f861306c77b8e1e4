"""Send C-STORE: one instance over an association, or many instances to a remote AE (PS3.4 Annex B)."""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydicom.uid import UID

from pacs_server.dicom.status import Status
from pacs_server.errors import PacsError, TranscodeError
from pacs_server.index.instances import StoredInstance
from pacs_server.net.association import Association
from pacs_server.net.limits import Throttle
from pacs_server.net.message import Command, CommandField
from pacs_server.net.transport import AssociationEnded
from pacs_server.scu.connect import read_response
from pacs_server.scu.link import Link, Requestor
from pacs_server.scu.plan import choose, plan
from pacs_server.scu.remote import RemoteAE
from pacs_server.services.retrieve import RetrieveService

log = logging.getLogger(__name__)

# Called with the instances that have ended and their status; returns whether to stop.
OutcomeHandler = Callable[[Sequence[StoredInstance], int], bool]


@dataclass(frozen=True, slots=True)
class MoveOriginator:
    """The AE that asked for a C-MOVE, and the Message ID of its request (PS3.7 9.3.1.1)."""

    ae_title: str
    message_id: int | None


class StorageSCU:
    """Sends stored instances to remote AEs."""

    def __init__(self, requestor: Requestor, retrieve: RetrieveService) -> None:
        self._requestor = requestor
        self._retrieve = retrieve

    def send(
        self,
        remote: RemoteAE,
        instances: Sequence[StoredInstance],
        report: OutcomeHandler,
        *,
        originator: MoveOriginator | None = None,
        throttle: Throttle | None = None,
    ) -> bool:
        """Send `instances` until all have been reported or `report` says to stop; return whether it did.

        An instance whose association breaks has failed, and the remaining ones go over a new association.
        If the remote AE cannot be reached, or an association breaks before any instance was answered on it, all
        instances planned for that association have failed and are reported together. An exception raised by
        `report` aborts the association and propagates.
        """
        for planned in plan({(i.sop_class_uid, i.transfer_syntax_uid) for i in instances}):
            queue = deque([i for i in instances if (i.sop_class_uid, i.transfer_syntax_uid) in planned.kinds])
            with Link(self._requestor, remote, planned.contexts, throttle=throttle) as link:
                while queue:
                    ended, status = self._send_next(link, remote, queue, originator)
                    if report(ended, status):
                        return True
        return False

    def _send_next(
        self, link: Link, remote: RemoteAE, queue: deque[StoredInstance], originator: MoveOriginator | None
    ) -> tuple[list[StoredInstance], int]:
        """Send the first instance of the queue; remove and return the instances that have ended, and their status."""
        try:
            status = link.exchange(self._store, queue[0], originator)
        except AssociationEnded as broken:
            ended = [queue.popleft() for _ in range(len(queue) if link.given_up else 1)]
            fields = {"destination": remote.ae_title, "instances": len(ended), "reason": broken.how}
            log.warning("sub-operations failed", extra=fields)
            return ended, Status.PROCESSING_FAILURE
        return [queue.popleft()], status

    def _store(self, association: Association, instance: StoredInstance, originator: MoveOriginator | None) -> int:
        """Store one instance and return the status of the response, or of what failed on our side."""
        request = store_request(association, instance.sop_class_uid, instance.uids.sop)
        if originator is not None:
            request.move_originator_ae_title = originator.ae_title
            request.move_originator_message_id = originator.message_id
        failure = send_instance(association, self._retrieve, instance, request)
        if failure is not None:
            return failure
        status = read_response(association, request).status
        return Status.CANNOT_UNDERSTAND if status is None else status


def store_request(association: Association, sop_class_uid: str, sop_instance_uid: str) -> Command:
    """A C-STORE request for one instance (PS3.7 9.3.1.1)."""
    return Command(
        command_field=CommandField.C_STORE,
        message_id=association.next_message_id(),
        affected_sop_class_uid=sop_class_uid,
        affected_sop_instance_uid=sop_instance_uid,
        priority=0,
    )


def send_instance(
    association: Association, retrieve: RetrieveService, instance: StoredInstance, request: Command
) -> int | None:
    """Send one instance with the C-STORE `request`; return None if it was sent, else the status of the failure.

    The stored bytes are sent unchanged if the receiver accepted the stored transfer syntax; otherwise
    the data set is transcoded. Raises AssociationEnded.
    """
    choice = choose(association.contexts_as_scu, instance.sop_class_uid, instance.transfer_syntax_uid)
    try:
        if choice is None:
            raise TranscodeError(_why_not(association.contexts_as_scu, instance))
        context_id, transfer_syntax = choice
        if transfer_syntax == instance.transfer_syntax_uid:
            with retrieve.open(instance) as source:
                association.send_source(context_id, request, source)
        else:
            association.send(context_id, request, retrieve.transcoded(instance, transfer_syntax))
    except PacsError as error:
        log.warning("instance not sent", extra={"sop_instance_uid": instance.uids.sop, "reason": str(error)})
        return Status.PROCESSING_FAILURE
    return None


def _why_not(accepted: Mapping[tuple[str, str], int], instance: StoredInstance) -> str:
    """Why an instance cannot be sent although the association is up."""
    taken = sorted(UID(syntax).name for sop_class, syntax in accepted if sop_class == instance.sop_class_uid)
    if not taken:
        return "the receiver took no context for its SOP class"
    stored = UID(instance.transfer_syntax_uid).name
    return f"it is stored in {stored}, and the receiver takes its SOP class only in {', '.join(taken)}"
