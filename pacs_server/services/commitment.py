"""Storage commitment: keep the request, verify each instance against its file, say what to report, and when again."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pacs_server.archive.archive import Archive
from pacs_server.config.sections.commitment import CommitmentConfig
from pacs_server.dicom.commitment import CommitmentEvent, CommitmentRequest, FailureReason, Reference, encode_report
from pacs_server.errors import IndexUnavailable, ResourceLimitation
from pacs_server.index.commitment import CommitmentIndex, CommitmentStatus, Schedule, Summary, Transaction

log = logging.getLogger(__name__)

# How long a claim holds before it is renewed, in seconds: what a crash may cost until another one takes over.
LEASE_SECONDS = 60.0
# Results are kept, and the claim renewed, after so many instances or seconds.
_BATCH_INSTANCES = 200
_BATCH_SECONDS = 10.0
# How many transactions of one AE are reported over one association.
_TOGETHER = 20

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


class StorageCommitmentService:
    """The life of a transaction, from request to report; may be shared by all threads.

    `due` is set when it may have changed what is due, or when. Everything raises IndexUnavailable.
    """

    def __init__(
        self,
        archive: Archive,
        index: CommitmentIndex,
        settings: Callable[[], CommitmentConfig],
        *,
        clock: Clock = _now,
        counted: Callable[[str], None] | None = None,
    ) -> None:
        """`settings` may change while it runs; `counted` hears what becomes of transactions."""
        self.due = threading.Event()
        self._settings = settings
        self._archive = archive
        self._index = index
        self._clock = clock
        self._count = counted or (lambda outcome: None)

    def request(
        self, request: CommitmentRequest, calling_ae: str, peer: str, *, claim: bool
    ) -> tuple[Transaction, bool]:
        """Commit a transaction; when this returns, power may fail. With `claim` the caller tries to report it first.

        Returns the transaction, and whether it is the caller's. Raises InvalidArgumentValue when the
        Transaction UID was used for something else, ResourceLimitation when the index does not answer.
        """
        now = self._clock()
        until = self._later(LEASE_SECONDS) if claim else None
        schedule = Schedule(now, until, now + timedelta(seconds=self._settings().give_up_after))
        try:
            transaction = self._index.add(request, calling_ae, peer, schedule)
        except IndexUnavailable as error:
            raise ResourceLimitation(str(error)) from error
        self._count("requested")
        self.due.set()
        return transaction, until is not None and transaction.claimed_until == until

    # ---------------------------------------------------------------- verification

    def verify(self, transaction: Transaction, interrupted: Callable[[], bool]) -> Transaction | None:
        """Verify what is not verified yet; the transaction with its claim renewed, or None.

        None when `interrupted`, asked again and again, says so, which gives the claim back, or
        when the claim was lost. What was verified until then is kept.
        """
        current: Transaction | None = transaction
        while current is not None and (batch := self._index.unverified(current, _BATCH_INSTANCES)):
            self._verify_batch(batch, interrupted)
            if interrupted():
                self.release(current)
                return None
            current = self.renew(current, LEASE_SECONDS)
        return current and self.renew(current, LEASE_SECONDS)

    def _verify_batch(self, batch: list[tuple[int, Reference]], interrupted: Callable[[], bool]) -> None:
        results: dict[int, int] = {}
        ends = time.monotonic() + _BATCH_SECONDS
        for key, reference in batch:
            if interrupted() or time.monotonic() > ends:
                break
            reason = self._check(reference, interrupted)
            if reason is None:
                break
            results[key] = reason
        if results:
            self._index.verified(results)

    def _check(self, reference: Reference, interrupted: Callable[[], bool]) -> FailureReason | None:
        """The first thing that is wrong with an instance (PS3.3 C.14.1.1); None when interrupted."""
        stored = self._archive.find(reference.sop_instance_uid)
        if stored is None:
            return FailureReason.NO_SUCH_OBJECT_INSTANCE
        if stored.sop_class_uid != reference.sop_class_uid:
            return FailureReason.CLASS_INSTANCE_CONFLICT
        intact = self._archive.verify(stored, interrupted)
        if intact is None:
            return None
        return FailureReason.NONE if intact else FailureReason.PROCESSING_FAILURE

    # ---------------------------------------------------------------- reporting

    def claim_due(self) -> list[Transaction]:
        """Claim what is due for one AE; empty when nothing is."""
        return self._index.claim_due(self._clock(), self._later(LEASE_SECONDS), _TOGETHER)

    def seconds_to_next(self) -> float | None:
        """How long until the next transaction is due, in seconds; None when none waits."""
        due = self._index.next_due()
        return None if due is None else max(0.0, (due - self._clock()).total_seconds())

    def report(
        self, transaction: Transaction, retrieve_ae_title: str, transfer_syntax_uid: str
    ) -> tuple[CommitmentEvent, bytes]:
        """The event type and the data set that report a verified transaction."""
        results = self._index.results(transaction)
        return encode_report(transaction.transaction_uid, retrieve_ae_title, results, transfer_syntax_uid)

    def renew(self, transaction: Transaction, seconds: float) -> Transaction | None:
        """Hold the claim for `seconds` from now; None if it was lost."""
        until = self._later(seconds)
        held = self._index.change(transaction, claimed_until=until)
        self.due.set()
        return replace(transaction, claimed_until=until) if held else None

    def delivered(self, transaction: Transaction) -> None:
        """The peer has the report."""
        if self._index.reported(transaction, self._clock()):
            self._count("reported")
            log.info("commitment reported", extra=_fields(transaction))

    def release(self, transaction: Transaction) -> None:
        """Leave the report to whoever is next, at once; this was no attempt."""
        if self._index.change(transaction, claimed_until=None):
            self.due.set()

    def failed(self, transaction: Transaction, reason: str) -> None:
        """An attempt to report failed: try again after a while that doubles each time, or give up."""
        now = self._clock()
        attempts = transaction.attempts + 1
        values = {"attempts": attempts, "last_error": reason, "claimed_until": None}
        fields = {**_fields(transaction), "attempts": attempts, "reason": reason}
        if now >= transaction.give_up_at:
            if self._index.change(transaction, status=CommitmentStatus.GIVEN_UP, **values):
                self._count("given_up")
                log.error("commitment report given up", extra=fields)
            return
        # The last attempt is made when the time is up, not whenever its turn would come.
        next_try = min(now + timedelta(seconds=self._wait(attempts)), transaction.give_up_at)
        if self._index.change(transaction, next_try_at=next_try, **values):
            wait = round((next_try - now).total_seconds(), 1)
            log.warning("commitment report failed", extra={**fields, "next_try_seconds": wait})
            self.due.set()

    def _wait(self, attempts: int) -> float:
        settings = self._settings()
        # Sixty doublings are past any maximum.
        return min(settings.retry_first * 2.0 ** min(attempts - 1, 60), settings.retry_max)

    def _later(self, seconds: float) -> datetime:
        return self._clock() + timedelta(seconds=seconds)

    # ---------------------------------------------------------------- for people

    def retry(self, key: int) -> bool:
        """Make an unreported transaction due now, given up or not; whether there is one of that number."""
        now = self._clock()
        return self._index.retry(key, now, now + timedelta(seconds=self._settings().give_up_after))

    def summaries(self, *, everything: bool, limit: int) -> Sequence[Summary]:
        """The newest transactions, the newest last: those not reported, or `everything`."""
        return self._index.summaries(everything=everything, limit=limit)

    def gauges(self) -> dict[str, float]:
        """How many transactions wait, were given up, and for how long the oldest waits, in seconds."""
        now, undelivered = self._clock(), self._index.undelivered()
        oldest = 0.0 if undelivered.oldest is None else (now - undelivered.oldest).total_seconds()
        return {
            "pacs_commitment_pending": undelivered.pending,
            "pacs_commitment_given_up": undelivered.given_up,
            "pacs_commitment_oldest_undelivered_seconds": max(0.0, oldest),
        }


def _fields(transaction: Transaction) -> dict[str, object]:
    return {"transaction_uid": transaction.transaction_uid, "calling_ae": transaction.calling_ae}
