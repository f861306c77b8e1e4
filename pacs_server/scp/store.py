"""Storage SCP (PS3.4 Annex B)."""

from collections.abc import Iterator
from dataclasses import replace

from pacs_server.audit.transfers import Arrivals
from pacs_server.dicom.origin import Origin, origin_of
from pacs_server.dicom.status import Status
from pacs_server.dicom.uids import clean_uid
from pacs_server.errors import InstanceMismatch, InvalidInstance
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
        with self._auditor.arriving(association) as arrivals:
            return self._store_data_set(association, message, arrivals)

    def _store_data_set(self, association: Association, message: Message, arrivals: Arrivals) -> Result:
        command = message.command
        if not command.has_data_set:
            raise InvalidInstance("C-STORE without a data set")
        request = StoreRequest(
            sop_class_uid=clean_uid(command.affected_sop_class_uid or ""),
            sop_instance_uid=clean_uid(command.affected_sop_instance_uid or ""),
            transfer_syntax_uid=message.context.transfer_syntax,
            origin=_origin(association, command),
            scope=association.caller.scope,
        )
        if request.sop_class_uid != message.context.abstract_syntax:
            # PS3.7 9.3.1: the SOP class has to be the one of the presentation context.
            raise InstanceMismatch("SOP Class UID differs from the context's")
        size = _Size()
        outcome = self._service.store(request, size.counted(association.data()), arrivals.begin)
        arrivals.stored(outcome.value)
        self._metrics.received(size.bytes)
        association.respond(message, Status.SUCCESS)
        details: dict[str, object] = {
            "outcome": outcome.value,
            "sop_instance_uid": request.sop_instance_uid,
            "bytes": size.bytes,
        }
        if command.move_originator_ae_title:
            details["move_originator"] = command.move_originator_ae_title
        return Result(Status.SUCCESS, details)


def _origin(association: Association, command: Command) -> Origin:
    origin = origin_of(association.caller)
    # PS3.7 9.3.1.1: whoever asks for a C-MOVE is named in each C-STORE that comes of it. An AE title has 16 characters.
    originator = command.move_originator_ae_title
    return replace(origin, move_originator=originator[:16].strip()) if originator else origin


class _Size:
    """Counts the bytes of a data set while it arrives."""

    def __init__(self) -> None:
        self.bytes = 0

    def counted(self, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        for piece in pieces:
            self.bytes += len(piece)
            yield piece
