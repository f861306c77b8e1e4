"""Query/Retrieve GET SCP (PS3.4 C.4.3): the instances come back on the association that asked for them."""

from pacs_server.dicom.identifier import QueryOptions, parse_retrieve
from pacs_server.dicom.status import Status
from pacs_server.index.instances import StoredInstance
from pacs_server.kit.metrics import Metrics
from pacs_server.net.association import Association, Message
from pacs_server.net.message import RESPONSE, CommandField
from pacs_server.net.pdu import AbortReason, ProtocolError
from pacs_server.scp.auditing import Auditing
from pacs_server.scp.dispatch import Result
from pacs_server.scp.find import identifier_of, model_of
from pacs_server.scp.suboperations import (
    Progress,
    cancel_requested,
    counts_of,
    finish,
    is_cancel,
    pending_response,
    send_instance,
)
from pacs_server.scu.connect import store_request
from pacs_server.services.retrieve import RetrieveService


class QueryRetrieveGetSCP:
    """Answers C-GET; never more than one sub-operation is outstanding."""

    def __init__(self, retrieve: RetrieveService, auditing: Auditing, metrics: Metrics) -> None:
        self._retrieve = retrieve
        self._auditing = auditing
        self._metrics = metrics

    def __call__(self, association: Association, message: Message) -> Result:
        """Send every instance, each with its own outcome, then the final response."""
        instances = self._select(association, message)
        subjects = self._retrieve.subjects
        with self._auditing.sending(association, lambda: subjects(instances), counts_of(instances)) as sent:
            progress = Progress(len(instances), sent)
            cancelled = self._send_all(association, message, instances, progress)
        return finish(association, message, progress, self._metrics, cancelled=cancelled)

    def _send_all(
        self, association: Association, message: Message, instances: list[StoredInstance], progress: Progress
    ) -> bool:
        """Send each instance; True if a C-CANCEL ended it."""
        for instance in instances:
            cancelled = self._send(association, message, instance, progress)
            if cancelled or cancel_requested(association, message):
                return True
            if progress.remaining:
                # Together with the next instance it costs neither side anything.
                association.send_with_next(message.context.context_id, pending_response(message, progress))
        return False

    def _select(self, association: Association, message: Message) -> list[StoredInstance]:
        data = identifier_of(association, message)
        keys = parse_retrieve(
            data, message.context.transfer_syntax, model_of(message), relational(association, message)
        )
        return self._retrieve.select(keys)

    def _send(self, association: Association, message: Message, instance: StoredInstance, progress: Progress) -> bool:
        """Send one instance and wait for the answer; True if a C-CANCEL came in between."""
        request = store_request(association, instance.sop_class_uid, instance.uids.sop)
        failure = send_instance(association, self._retrieve, instance, request)
        if failure is not None:
            progress.count(instance, failure)
            return False
        cancelled = False
        while True:
            incoming = association.read_message()
            if association.take_response(incoming):
                continue
            association.skip_data()
            command = incoming.command
            if command.command_field == CommandField.C_STORE | RESPONSE:
                if command.message_id_being_responded_to != request.message_id:
                    raise ProtocolError("response to something else than was asked", AbortReason.UNEXPECTED_PDU)
                progress.count(instance, Status.CANNOT_UNDERSTAND if command.status is None else command.status)
                return cancelled
            cancelled = is_cancel(incoming, message) or cancelled


def relational(association: Association, message: Message) -> QueryOptions:
    """Whether relational retrieval was agreed on (PS3.4 C.5.2.1, C.5.3.1)."""
    agreed = association.extended.get(message.context.abstract_syntax, b"")
    return QueryOptions(relational=bool(agreed[:1] == b"\x01"))
