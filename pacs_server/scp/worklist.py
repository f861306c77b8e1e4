"""Modality Worklist FIND SCP (PS3.4 K.4.1)."""

from pacs_server.audit.auditor import Auditor
from pacs_server.dicom.worklist import WorklistItem
from pacs_server.dicom.worklist_query import WorklistEncoder, parse_worklist
from pacs_server.kit.metrics import Metrics
from pacs_server.net.association import Association, Message
from pacs_server.scp.dispatch import Result
from pacs_server.scp.find import identifier_of
from pacs_server.scp.matches import keys_used, send_matches
from pacs_server.services.worklist import WorklistService


class ModalityWorklistSCP:
    """Answers C-FIND with the scheduled procedure steps that match."""

    def __init__(self, worklist: WorklistService, auditor: Auditor, metrics: Metrics) -> None:
        self._worklist = worklist
        self._auditor = auditor
        self._metrics = metrics

    def __call__(self, association: Association, message: Message) -> Result:
        """Send a pending response for each match, then the final one."""
        context = message.context
        with self._auditor.query(association.caller, context.abstract_syntax) as record:
            query = parse_worklist(identifier_of(association, message), context.transfer_syntax)
            record.keys(query.texts)
            items = self._worklist.find(query, association.caller)
            encoder, unsupported = WorklistEncoder(query, context.transfer_syntax), bool(query.unsupported)

            def encode(item: WorklistItem) -> bytes:
                return encoder.encode(item.data_set)

            count, status = send_matches(association, message, items, encode, record, unsupported=unsupported)
        self._metrics.matches(count)
        return Result(status, {"matches": count, "keys": keys_used(query.texts)})
