"""The handler of storage commitment: verifies and reports transactions, over associations of this server's own."""

from collections import deque
from typing import Final

from pacs_server.net.association import Association
from pacs_server.net.transport import AssociationEnded
from pacs_server.outbox.handler import Work
from pacs_server.scu.link import Link, Requestor, after_silence
from pacs_server.scu.n_event import CONTEXTS, ROLES, send_event_report, taken
from pacs_server.scu.remote import RemoteAE
from pacs_server.services.commitment import ReportTask, StorageCommitmentService
from pacs_server.services.tasks import LEASE_SECONDS


class CommitmentHandler:
    """Reports transactions to the remote AE that asked for them, which is the target of their tasks."""

    # How many transactions are reported over one association.
    together: Final = 20

    def __init__(self, service: StorageCommitmentService, requestor: Requestor) -> None:
        self._service = service
        self._requestor = requestor

    def at_once(self, target: str) -> int:
        """Associations with one remote AE at the same time."""
        return 8

    def run(self, work: Work) -> None:
        """Verify and report all transactions; those that cannot be reported now are put off."""
        verified = deque(
            report for report in self._service.reports(work.tasks) if self._service.verify(report, work.is_interrupted)
        )
        if not verified:
            return
        title = work.tasks[0].target
        remote = self._requestor.remote(title)
        if remote is None:
            self._failed(verified, f"{title} is not in remote_aes", work)
        else:
            self._report(remote, verified, work)

    def stop(self) -> None:
        """End all associations at once: nobody waits for a peer at shutdown."""
        self._requestor.kill()

    def _report(self, remote: RemoteAE, queue: deque[ReportTask], work: Work) -> None:
        """Report all that is queued, over as few associations as it takes."""

        def report_next(association: Association) -> str | None:
            return self._report_next(association, queue[0], remote, work)

        with Link(self._requestor, remote, CONTEXTS, roles=ROLES, give_up=after_silence, abort_unreleased=True) as link:
            while queue and not work.is_interrupted():
                try:
                    failure = link.exchange(report_next)
                except AssociationEnded as ended:
                    lost = len(queue) if link.given_up else 1
                    self._failed(deque(queue.popleft() for _ in range(lost)), ended.how, work)
                else:
                    report = queue.popleft()
                    if failure is not None:
                        self._service.failed(report, failure)

    def _report_next(self, association: Association, report: ReportTask, remote: RemoteAE, work: Work) -> str | None:
        """Report one transaction and return why the peer did not take it, None if it did."""
        context = next(iter(association.contexts.values()), None)
        if context is None:
            return "the peer does not take the Storage Commitment Push Model"
        # Those before it may have taken long, and an instance may have been deleted meanwhile. The lease lasts until
        # the remote AE has had its time to answer: it does not hear the report again earlier after a crash.
        seconds = remote.response_timeout + LEASE_SECONDS
        if not (self._service.verify(report, work.is_interrupted) and self._service.hold(report, seconds)):
            # Somebody else has taken the transaction over, or the server shuts down.
            return None
        event, data = self._service.report(report.transaction, self._requestor.ae_title(), context.transfer_syntax)
        status = send_event_report(association, context.context_id, event, data)
        if not taken(status):
            return f"the peer answered {'without a status' if status is None else f'0x{status:04X}'}"
        self._service.delivered(report)
        return None

    def _failed(self, reports: deque[ReportTask], reason: str, work: Work) -> None:
        """Put transactions off, or give them up; when the server shuts down the worker gives them back instead."""
        if not work.is_interrupted():
            for report in reports:
                self._service.failed(report, reason)
