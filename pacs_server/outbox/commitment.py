"""Delivers storage commitment reports over associations of our own, with patience and across restarts."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from pacs_server.dicom.commitment import PUSH_MODEL
from pacs_server.errors import PacsError
from pacs_server.index.commitment import Transaction
from pacs_server.net.acceptor import Terms
from pacs_server.net.association import Association
from pacs_server.net.negotiation import AcceptedContext, ProposedContext
from pacs_server.net.transport import AssociationEnded, DeadlineExpired
from pacs_server.scu.connect import connect, read_response
from pacs_server.scu.n_event import event_report, taken
from pacs_server.scu.remote import Destination
from pacs_server.services.commitment import LEASE_SECONDS, StorageCommitmentService

log = logging.getLogger(__name__)

_CONTEXT = ProposedContext(1, PUSH_MODEL, ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2"))
# PS3.4 J.3.3.1.2: on an association of our own we propose to be the SCP, and only that.
_ROLES = {PUSH_MODEL: (False, True)}
# Peers that are called at the same time, so that a dead one holds nobody else up.
_PEERS = 8
# What another process left or changed is noticed after so many seconds at the latest.
_LOOK_AGAIN = 60.0
# Pauses when others hold what is due, and when the index fails.
_PAUSE = 0.2
_INDEX_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class Calling:
    """How to call peers, as configured now: where they are, who we say we are, on which terms."""

    destination: Callable[[str], Destination | None]
    ae_title: Callable[[], str]
    terms: Callable[[], Terms]


class Reporter:
    """The background thread of commitment reports, asleep while nothing is due."""

    def __init__(self, service: StorageCommitmentService, calling: Calling) -> None:
        self._service = service
        self._calling = calling
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._slots = threading.Semaphore(_PEERS)
        self._links: set[Association] = set()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def stop(self) -> None:
        """End at once; reports that are under way count as not tried."""
        self._stopping.set()
        self._service.due.set()
        with self._lock:
            for link in self._links:
                link.transport.kill()
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
            destination = self._calling.destination(claimed[0].calling_ae)
            if destination is None:
                self._failed(deque(verified), f"{claimed[0].calling_ae} is not in remote_aes")
            else:
                self._report(destination, verified)
        except PacsError as error:
            # The claims run out, and somebody tries again.
            log.warning("commitment not reported yet", extra={"reason": str(error)})

    def _report(self, destination: Destination, verified: list[Transaction]) -> None:
        """Report all over as few associations as it takes."""
        queue = deque(verified)
        while queue and not self._stopping.is_set():
            try:
                link = self._open(destination)
            except AssociationEnded as ended:
                self._failed(queue, ended.how)
            else:
                self._report_over(link, queue, destination.response_timeout)
        # Not tried, if there are any.
        self._failed(queue, "")

    def _report_over(self, link: Association, queue: deque[Transaction], timeout: float) -> None:
        """Report what is queued until the link breaks: that costs the report which was on it."""
        released = False
        try:
            context = next(iter(link.contexts.values()), None)
            if context is None:
                self._failed(queue, "the peer does not take the Storage Commitment Push Model")
            while queue and context is not None:
                # None when somebody else has taken it over meanwhile.
                if held := self._service.renew(queue[0], timeout + LEASE_SECONDS):
                    queue[0] = held
                    self._send(link, context, held, timeout)
                queue.popleft()
            link.release()
            released = True
        except AssociationEnded as ended:
            # Nobody waits for a silent peer twice.
            lost = len(queue) if isinstance(ended, DeadlineExpired) else min(1, len(queue))
            self._failed(deque(queue.popleft() for _ in range(lost)), ended.how)
        finally:
            self._close(link, abort=not released)

    def _open(self, destination: Destination) -> Association:
        terms = self._calling.terms()
        timeouts = replace(terms.timeouts, idle=destination.response_timeout)
        terms = replace(terms, timeouts=timeouts)
        link = connect(destination.remote, self._calling.ae_title(), [_CONTEXT], terms, _ROLES)
        with self._lock:
            self._links.add(link)
            if self._stopping.is_set():
                link.transport.kill()
        return link

    def _close(self, link: Association, *, abort: bool) -> None:
        with self._lock:
            self._links.discard(link)
        if abort:
            link.abort()
        link.transport.close()

    def _send(self, link: Association, context: AcceptedContext, transaction: Transaction, timeout: float) -> None:
        event, data = self._service.report(transaction, self._calling.ae_title(), context.transfer_syntax)
        request = event_report(link, event)
        # A peer that takes the context without an answer about the role may take the report all the same.
        link.send(context.context_id, request, data)
        status = read_response(link, request, timeout).status
        if taken(status):
            self._service.delivered(transaction)
        else:
            answer = "without a status" if status is None else f"0x{status:04X}"
            self._service.failed(transaction, f"the peer answered {answer}")

    def _failed(self, transactions: deque[Transaction], reason: str) -> None:
        """Put off, or give up, all and leave none; when we are to stop they were not tried."""
        while transactions:
            transaction = transactions.popleft()
            if self._stopping.is_set():
                self._service.release(transaction)
            else:
                self._service.failed(transaction, reason)
