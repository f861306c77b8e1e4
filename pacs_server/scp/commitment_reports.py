"""Storage Commitment Push Model SCU: takes the reports of remotes that were asked to commit (PS3.4 J.3.3)."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from pacs_server.audit.auditor import Auditor
from pacs_server.audit.events import Action
from pacs_server.dicom.commitment import MAX_REQUEST_BYTES, CommitmentEvent, parse_report
from pacs_server.dicom.status import Status
from pacs_server.errors import InvalidArgumentValue, NotAuthorised, ResourceLimitation
from pacs_server.net.association import Association, Message
from pacs_server.scp.dispatch import Result
from pacs_server.services.remote_commitments import RemoteCommitmentService

log = logging.getLogger(__name__)


class CommitmentReportSCU:
    """Answers N-EVENT-REPORT."""

    def __init__(
        self,
        service: RemoteCommitmentService,
        titles: Callable[[str], str | None],
        auditor: Auditor,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`titles` gives the AE title of a remote by its name."""
        self._service = service
        self._titles = titles
        self._auditor = auditor
        self._clock = clock

    def __call__(self, association: Association, message: Message) -> Result:
        """Keep the report and answer success when it is durable."""
        data = bytearray()
        for fragment in association.data():
            if len(data) + len(fragment) > MAX_REQUEST_BYTES:
                raise ResourceLimitation(f"the report is longer than {MAX_REQUEST_BYTES} bytes")
            data += fragment
        if message.command.event_type_id not in tuple(CommitmentEvent):
            raise InvalidArgumentValue("Event Type ID is neither 1 nor 2")
        report = parse_report(bytes(data), message.context.transfer_syntax)
        caller, sop_class = association.caller, message.context.abstract_syntax
        with self._auditor.procedure(caller, sop_class, Action.UPDATE, report.transaction_uid) as record:
            asked = self._service.asked(report.transaction_uid)
            if asked is None:
                raise InvalidArgumentValue("nobody was asked with this Transaction UID")
            # Objects may be deleted here because of the report, so nobody else may send it.
            if caller.ae_title != self._titles(asked.remote):
                raise NotAuthorised("this transaction was another remote's")
            self._service.take(asked, report, self._clock())
            record.detail += f": {asked.remote} committed to {len(report.committed)}, not to {len(report.failed)}"
        association.respond(message, Status.SUCCESS)
        details = {
            "transaction_uid": report.transaction_uid, "remote": asked.remote,
            "committed": len(report.committed), "failed": len(report.failed),
        }  # fmt: skip
        return Result(Status.SUCCESS, details)
