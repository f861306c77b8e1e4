"""Storage Commitment Push Model SCP (PS3.4 J.3): keeps requests, and reports on the same association if configured."""

import logging
from collections.abc import Callable, Collection

from pacs_server.audit.auditor import Auditor
from pacs_server.audit.events import Action
from pacs_server.dicom.commitment import (
    MAX_REQUEST_BYTES,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_STORAGE_COMMITMENT,
    parse_request,
)
from pacs_server.dicom.status import Status
from pacs_server.dicom.subject import Subject
from pacs_server.dicom.uids import clean_uid, is_uid
from pacs_server.errors import (
    InstanceNotFound,
    InvalidArgumentValue,
    InvalidObjectInstance,
    NoSuchAction,
    NoSuchSOPClass,
    PacsError,
    ResourceLimitation,
)
from pacs_server.kit.words import counted
from pacs_server.net.association import Association, Message
from pacs_server.net.message import Command
from pacs_server.scp.dispatch import Result
from pacs_server.scu.n_event import event_report, taken
from pacs_server.services.commitment import ReportTask, StorageCommitmentService

log = logging.getLogger(__name__)

# How long the requester may take to answer a report on its own association, in seconds.
_ANSWER_SECONDS = 15.0
# For the audit trail, the studies of so many instances of a request are looked up; usually all are of one study.
_LOOKED_UP = 500


class StorageCommitmentSCP:
    """Answers N-ACTION."""

    def __init__(
        self,
        service: StorageCommitmentService,
        ae_title: Callable[[], str],
        same_association: Callable[[], bool],
        auditor: Auditor,
        subjects_of: Callable[[Collection[str]], list[Subject]],
    ) -> None:
        """`same_association` says whether to report on the association of the request.

        `subjects_of` finds the studies of instances by their SOP Instance UIDs.
        """
        self._service = service
        self._auditor = auditor
        self._subjects_of = subjects_of
        self._ae_title = ae_title
        self._same_association = same_association

    def __call__(self, association: Association, message: Message) -> Result:
        """Keep the request and answer success when it is durable. The report follows later."""
        check_action(message)
        request = parse_request(_information(association, message), message.context.transfer_syntax)
        caller, uid = association.caller, request.transaction_uid
        with self._auditor.procedure(caller, message.context.abstract_syntax, Action.READ, uid) as record:
            record.detail += f": storage commitment of {counted(len(request.references), 'instance')}"
            asked = [reference.sop_instance_uid for reference in request.references[:_LOOKED_UP]]
            record.subjects = tuple(self._subjects_of(asked))
            report, is_claimed = self._service.request(
                request, caller.ae_title, caller.address, claim=self._same_association()
            )
        association.respond(message, Status.SUCCESS)
        details = {"transaction_uid": request.transaction_uid, "instances": len(request.references)}
        after = (lambda: self._report(association, message, report)) if is_claimed else None
        return Result(Status.SUCCESS, details, after)

    def _report(self, association: Association, message: Message, report: ReportTask) -> None:
        """Report on the association of the request, unless the peer has sent something or the server shuts down."""

        def interrupted() -> bool:
            return association.draining or association.waiting()

        try:
            if not self._service.verify(report, interrupted):
                return
            if interrupted():
                self._service.release(report)
            else:
                self._send(association, message, report)
        except PacsError as error:
            # The task stays as it is. The worker reports when the lease has expired.
            log.warning("commitment not reported yet", extra={"reason": str(error)})

    def _send(self, association: Association, message: Message, report: ReportTask) -> None:
        context = message.context
        event, data = self._service.report(report.transaction, self._ae_title(), context.transfer_syntax)
        if not self._service.hold(report, _ANSWER_SECONDS):
            return
        request = event_report(association, event)
        association.expect(request, lambda response: self._answered(report, response))
        association.send(context.context_id, request, data)

    def _answered(self, report: ReportTask, response: Command | None) -> None:
        try:
            if response is not None and taken(response.status):
                self._service.delivered(report)
            else:
                self._service.release(report)
        except PacsError as error:
            log.warning("commitment not reported yet", extra={"reason": str(error)})


def check_action(message: Message) -> None:
    """Raise an error if the command of an N-ACTION is wrong (PS3.7 10.1.4.1.10)."""
    command = message.command
    if clean_uid(command.requested_sop_class_uid or "") != PUSH_MODEL:
        raise NoSuchSOPClass("Requested SOP Class UID is not the Storage Commitment Push Model")
    instance = clean_uid(command.requested_sop_instance_uid or "")
    if not is_uid(instance):
        # 0117H is for a text that is no UID, 0112H for the UID of an unknown instance.
        raise InvalidObjectInstance("Requested SOP Instance UID is not a UID")
    if instance != PUSH_MODEL_INSTANCE:
        raise InstanceNotFound("Requested SOP Instance UID is not the well-known one")
    if command.action_type_id != REQUEST_STORAGE_COMMITMENT:
        raise NoSuchAction("the only action is 1, Request Storage Commitment")
    if not command.has_data_set:
        raise InvalidArgumentValue("the request has no action information")


def _information(association: Association, message: Message) -> bytes:
    data = bytearray()
    for fragment in association.data():
        if len(data) + len(fragment) > MAX_REQUEST_BYTES:
            raise ResourceLimitation(f"the action information is longer than {MAX_REQUEST_BYTES} bytes")
        data += fragment
    return bytes(data)
