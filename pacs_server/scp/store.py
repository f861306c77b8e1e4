"""Storage SCP (PS3.4 Annex B)."""

from dataclasses import replace

from pacs_server.audit.transfers import Arrivals
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.status import Status
from pacs_server.dicom.uids import clean_uid
from pacs_server.errors import InstanceMismatch, InvalidInstance, PacsError
from pacs_server.kit.metrics import Metrics
from pacs_server.net.association import Association, Message
from pacs_server.net.message import Command
from pacs_server.scp.auditing import AssociationAuditor
from pacs_server.scp.dispatch import Result
from pacs_server.services.store import StoreRequest, StoreService


class StorageSCP:
    """Answers C-STORE."""

    def __init__(self, store: StoreService, auditor: AssociationAuditor, metrics: Metrics) -> None:
        self._service = store
        self._auditor = auditor
        self._metrics = metrics

    def __call__(self, association: Association, message: Message) -> Result:
        """Store the data set while it arrives, and answer success when it is durable."""
        arrivals = self._auditor.arrivals(association)
        try:
            return self._store_data_set(association, message, arrivals)
        except PacsError as error:
            arrivals.failed(str(error))
            raise

    def _store_data_set(self, association: Association, message: Message, arrivals: Arrivals) -> Result:
        command = message.command
        if not command.has_data_set:
            raise InvalidInstance("C-STORE without a data set")
        context = message.context
        sop_class_uid = command.affected_sop_class_uid or ""
        if sop_class_uid != context.abstract_syntax:
            sop_class_uid = clean_uid(sop_class_uid)
        request = StoreRequest(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=clean_uid(command.affected_sop_instance_uid or ""),
            transfer_syntax_uid=context.transfer_syntax,
            origin=_origin(association, command),
            scope=association.caller.scope,
        )
        if sop_class_uid != context.abstract_syntax:
            # PS3.7 9.3.1: the SOP class has to be the one of the presentation context.
            raise InstanceMismatch("SOP Class UID differs from the context's")
        outcome = self._service.store(request, association.data(), arrivals.begin).value
        arrivals.stored(outcome)
        size = association.data_size
        self._metrics.received(size)
        association.respond(message, Status.SUCCESS)
        details: dict[str, object] = {
            "outcome": outcome,
            "sop_instance_uid": request.sop_instance_uid,
            "bytes": size,
        }
        if command.move_originator_ae_title:
            details["move_originator"] = command.move_originator_ae_title
        return Result(Status.SUCCESS, details)


def _origin(association: Association, command: Command) -> Origin:
    origin = association.origin
    # PS3.7 9.3.1.1: whoever asks for a C-MOVE is named in each C-STORE that comes of it. An AE title has 16 characters.
    originator = command.move_originator_ae_title
    return replace(origin, move_originator=originator[:16].strip()) if originator else origin
