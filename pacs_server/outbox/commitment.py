"""Delivers storage commitment reports over associations of our own, with patience and across restarts."""

import logging
import threading
from collections import deque

from pacs_server.errors import PacsError
from pacs_server.index.commitment import Transaction
from pacs_server.net.association import Association
from pacs_server.net.transport import AssociationEnded
from pacs_server.scu.link import Link, Requestor, after_silence
from pacs_server.scu.n_event import CONTEXTS, ROLES, send_event_report, taken
from pacs_server.scu.remote import RemoteAE
from pacs_server.services.commitment import LEASE_SECONDS, StorageCommitmentService

log = logging.getLogger(__name__)

# Peers that are called at the same time, so that a dead one holds nobody else up.
_PEERS = 8
# What another process left or changed is noticed after so many seconds at the latest.
_LOOK_AGAIN = 60.0
# Pauses when others hold what is due, and when the index fails.
_PAUSE = 0.2
_INDEX_PAUSE = 5.0


class Reporter:
    """The background thread of commitment reports, asleep while nothing is due."""

    def __init__(self, service: StorageCommitmentService, requestor: Requestor) -> None:
        self._service = service
        self._requestor = requestor
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._slots = threading.Semaphore(_PEERS)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def stop(self) -> None:
        """End at once; reports that are under way count as not tried."""
        self._stopping.set()
        self._service.due.set()
        self._requestor.kill()
        self._thread.join()
        # All slots free: all deliveries have ended.
        for _ in range(_PEERS):
            self._slots.acquire()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._service.due.wait(self._pause())
            self._service.due.clear()
            try:
                self._deliver_due()
            except PacsError as error:
                log.warning("commitment not reported yet", extra={"reason": str(error)})
                # An index that can be read and not be written would be asked without end.
                self._stopping.wait(_INDEX_PAUSE)

    def _pause(self) -> float:
        try:
            seconds = self._service.seconds_to_next()
        except PacsError:
            return _INDEX_PAUSE
        return _LOOK_AGAIN if seconds is None else min(max(seconds, _PAUSE), _LOOK_AGAIN)

    def _deliver_due(self) -> None:
        while not self._stopping.is_set() and (claimed := self._service.claim_due()):
            self._slots.acquire()
            thread = threading.Thread(target=self._deliver_in_slot, args=(claimed,), name="report", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The system has no more threads: this one will do.
                self._deliver_in_slot(claimed)

    def _deliver_in_slot(self, claimed: list[Transaction]) -> None:
        try:
            self.deliver(claimed)
        finally:
            self._slots.release()

    def deliver(self, claimed: list[Transaction]) -> None:
        """Verify and report transactions of one AE that the caller has claimed; what fails is put off."""
        try:
            verified = [t for claim in claimed if (t := self._service.verify(claim, self._stopping.is_set))]
            if not verified:
                return
            remote = self._requestor.remote(claimed[0].calling_ae)
            if remote is None:
                self._failed(deque(verified), f"{claimed[0].calling_ae} is not in remote_aes")
            else:
                self._report(remote, deque(verified))
        except PacsError as error:
            # The claims run out, and somebody tries again.
            log.warning("commitment not reported yet", extra={"reason": str(error)})

    def _report(self, remote: RemoteAE, queue: deque[Transaction]) -> None:
        """Report all that is queued, over as few associations as it takes."""

        def report_next(association: Association) -> str | None:
            return self._report_next(association, queue, remote.response_timeout)

        with Link(self._requestor, remote, CONTEXTS, roles=ROLES, give_up=after_silence) as link:
            while queue and not self._stopping.is_set():
                try:
                    failure = link.exchange(report_next)
                except AssociationEnded as ended:
                    lost = len(queue) if link.given_up else 1
                    self._failed(deque(queue.popleft() for _ in range(lost)), ended.how)
                else:
                    transaction = queue.popleft()
                    if failure is not None:
                        self._service.failed(transaction, failure)
        # Not tried, if there are any.
        self._failed(queue, "")

    def _report_next(self, association: Association, queue: deque[Transaction], seconds: float) -> str | None:
        """Report the first transaction of the queue, for which the peer has `seconds`; return why it failed."""
        context = next(iter(association.contexts.values()), None)
        if context is None:
            return "the peer does not take the Storage Commitment Push Model"
        held = self._service.renew(queue[0], seconds + LEASE_SECONDS)
        if held is None:
            # Somebody else has taken the transaction over meanwhile.
            return None
        queue[0] = held
        event, data = self._service.report(held, self._requestor.ae_title(), context.transfer_syntax)
        status = send_event_report(association, context.context_id, event, data)
        if not taken(status):
            return f"the peer answered {'without a status' if status is None else f'0x{status:04X}'}"
        self._service.delivered(held)
        return None

    def _failed(self, transactions: deque[Transaction], reason: str) -> None:
        """Put off, or give up, all and leave none; when we are to stop they were not tried."""
        while transactions:
            transaction = transactions.popleft()
            if self._stopping.is_set():
                self._service.release(transaction)
            else:
                self._service.failed(transaction, reason)
