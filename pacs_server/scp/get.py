"""Query/Retrieve GET SCP (PS3.4 C.4.3): the instances are sent on the association that asked for them."""

from pacs_server.audit.auditor import Auditor
from pacs_server.dicom.identifier import QueryOptions, parse_retrieve
from pacs_server.dicom.status import Status
from pacs_server.index.instances import StoredInstance
from pacs_server.kit.metrics import Metrics
from pacs_server.net.association import Association, Message
from pacs_server.net.message import RESPONSE, CommandField
from pacs_server.net.pdu import AbortReason, ProtocolError
from pacs_server.scp.dispatch import Result
from pacs_server.scp.find import identifier_of, model_of
from pacs_server.scp.suboperations import SubOperations, is_cancel
from pacs_server.scu.store import send_instance, store_request
from pacs_server.services.retrieve import RetrieveService, counts_of


class QueryRetrieveGetSCP:
    """Answers C-GET; never more than one sub-operation is outstanding."""

    def __init__(self, retrieve: RetrieveService, auditor: Auditor, metrics: Metrics) -> None:
        self._retrieve = retrieve
        self._auditor = auditor
        self._metrics = metrics

    def __call__(self, association: Association, message: Message) -> Result:
        """Send every instance, each with its own outcome, then the final response."""
        instances = self._select(association, message)
        subjects = self._retrieve.subjects
        with self._auditor.sending(association.caller, lambda: subjects(instances), counts_of(instances)) as sent:
            suboperations = SubOperations(association, message, len(instances), sent)
            cancelled = self._send_all(instances, suboperations)
        return suboperations.finish(self._metrics, cancelled=cancelled)

    def _send_all(self, instances: list[StoredInstance], suboperations: SubOperations) -> bool:
        """Send each instance; return whether a C-CANCEL ended the operation."""
        association, context_id = suboperations.association, suboperations.message.context.context_id
        for instance in instances:
            if self._send(instance, suboperations) or suboperations.cancel_requested():
                return True
            if suboperations.remaining:
                # A pending response in one write with the next instance costs neither side anything.
                association.send_with_next(context_id, suboperations.pending_response())
        return False

    def _select(self, association: Association, message: Message) -> list[StoredInstance]:
        data = identifier_of(association, message)
        keys = parse_retrieve(
            data, message.context.transfer_syntax, model_of(message), relational(association, message)
        )
        return self._retrieve.select(keys, association.caller.scope)

    def _send(self, instance: StoredInstance, suboperations: SubOperations) -> bool:
        """Send one instance and wait for the response; return whether a C-CANCEL came first."""
        association = suboperations.association
        request = store_request(association, instance.sop_class_uid, instance.uids.sop)
        failure = send_instance(association, self._retrieve, instance, request)
        if failure is not None:
            suboperations.count(instance, failure)
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
                suboperations.count(instance, Status.CANNOT_UNDERSTAND if command.status is None else command.status)
                return cancelled
            cancelled = is_cancel(incoming, suboperations.message) or cancelled


def relational(association: Association, message: Message) -> QueryOptions:
    """Whether relational retrieval was agreed on (PS3.4 C.5.2.1, C.5.3.1)."""
    agreed = association.extended.get(message.context.abstract_syntax, b"")
    return QueryOptions(relational=bool(agreed[:1] == b"\x01"))
