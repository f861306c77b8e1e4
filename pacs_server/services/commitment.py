"""Storage commitment: keep a request, verify each instance against its file, and say what to report.

A task of the outbox stands for the report of each transaction. Whoever has claimed the task verifies and reports:
the door that took the request, on the same association, or the worker.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pacs_server.archive.archive import Archive
from pacs_server.config.sections.commitment import CommitmentConfig
from pacs_server.dicom.commitment import CommitmentEvent, CommitmentRequest, FailureReason, Reference, encode_report
from pacs_server.errors import IndexUnavailable, ResourceLimitation
from pacs_server.index.commitment import CommitmentIndex, Schedule, Summary, Transaction
from pacs_server.index.task_values import Lease, Task, TaskState
from pacs_server.services.tasks import RetryPolicy, TaskService

log = logging.getLogger(__name__)

# Results are kept, and the lease renewed, after so many instances or seconds.
_BATCH_INSTANCES = 200
_BATCH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ReportTask:
    """A transaction, and the task that reports it."""

    transaction: Transaction
    task: Task


def retry_policy(settings: CommitmentConfig) -> RetryPolicy:
    """When reports that failed are tried again: peers see exactly the configured times, without jitter."""
    return RetryPolicy(settings.retry_first, settings.retry_max, 0.0, attempts=None, lasts=settings.give_up_after)


class StorageCommitmentService:
    """The life of a transaction, from request to report. Thread-safe; everything raises IndexUnavailable."""

    def __init__(
        self,
        archive: Archive,
        index: CommitmentIndex,
        tasks: TaskService,
        settings: Callable[[], CommitmentConfig],
        *,
        counted: Callable[[str], None] | None = None,
    ) -> None:
        """`settings` may change while the server runs; `counted` hears what becomes of transactions."""
        self._settings = settings
        self._archive = archive
        self._index = index
        self._tasks = tasks
        self._count = counted or (lambda outcome: None)

    def request(
        self, request: CommitmentRequest, calling_ae: str, peer: str, *, claim: bool
    ) -> tuple[ReportTask, bool]:
        """Commit a transaction; when this returns, power may fail. With `claim` the caller tries to report it first.

        Returns the transaction with its task, and whether the caller has claimed the task. Raises
        InvalidArgumentValue when the Transaction UID was used for something else, ResourceLimitation when the
        index does not answer.
        """
        lease = self._tasks.lease() if claim else None
        try:
            transaction, task = self._index.add(request, calling_ae, peer, self._schedule(lease))
        except IndexUnavailable as error:
            raise ResourceLimitation(str(error)) from error
        self._count("requested")
        self._tasks.changed.set()
        return ReportTask(transaction, task), lease is not None and task.owner == lease.owner

    def take_over(self) -> None:
        """Make tasks for the transactions that have none, because the version before this one kept no tasks."""
        count = self._index.take_over(self._tasks.now())
        if count:
            log.info("commitment reports taken over", extra={"transactions": count})

    def _schedule(self, lease: Lease | None = None) -> Schedule:
        now = self._tasks.now()
        return Schedule(now, now + timedelta(seconds=self._settings().give_up_after), lease)

    # ---------------------------------------------------------------- verification

    def verify(self, report: ReportTask, interrupted: Callable[[], bool]) -> bool:
        """Verify what is not verified yet; whether all is, and the task still held by the caller.

        `interrupted` is asked again and again; when it is true, the task is released. What was verified until
        then is kept.
        """
        held = True
        while held and (batch := self._index.unverified(report.transaction, _BATCH_INSTANCES)):
            self._verify_batch(batch, interrupted)
            if interrupted():
                self.release(report)
                return False
            held = self.hold(report)
        return held

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

    def reports(self, tasks: Sequence[Task]) -> list[ReportTask]:
        """The transactions that claimed tasks are to report; the tasks of those reported already are done."""
        transactions = self._index.find([task.payload["commitment"] for task in tasks])
        found = []
        for task in tasks:
            transaction = transactions.get(task.payload["commitment"])
            if transaction is None:
                self._tasks.done(task)
            else:
                found.append(ReportTask(transaction, task))
        return found

    def report(
        self, transaction: Transaction, retrieve_ae_title: str, transfer_syntax_uid: str
    ) -> tuple[CommitmentEvent, bytes]:
        """The event type and the data set that report a verified transaction."""
        results = self._index.results(transaction)
        return encode_report(transaction.transaction_uid, retrieve_ae_title, results, transfer_syntax_uid)

    def hold(self, report: ReportTask, seconds: float | None = None) -> bool:
        """Renew the lease, for `seconds` from now; False if the caller has lost it or the report was delivered."""
        if report.task.id not in self._tasks.renew([report.task], seconds):
            return False
        if self._index.find([report.transaction.id]):
            return True
        # A late answer on the association of the request has come in between.
        self._tasks.done(report.task)
        return False

    def delivered(self, report: ReportTask) -> None:
        """The peer has the report, whoever holds the task now."""
        done = self._tasks.done(report.task)
        # The task may be in other hands, or be ready once more.
        reported = self._index.reported(report.transaction, self._tasks.now())
        if done or reported:
            self._count("reported")
            log.info("commitment reported", extra=_fields(report.transaction))

    def release(self, report: ReportTask) -> None:
        """Leave the report to whoever is next, at once; this was no attempt."""
        self._tasks.release(report.task)

    def failed(self, report: ReportTask, reason: str) -> None:
        """An attempt to report failed: try again after a while that doubles each time, or give up."""
        settled = self._tasks.fail(report.task, reason)
        if settled is None:
            return
        fields = {**_fields(report.transaction), "attempts": settled.attempts, "reason": reason}
        if settled.state == TaskState.DEAD:
            self._count("given_up")
            log.error("commitment report given up", extra=fields)
        elif settled.due is not None:
            wait = round((settled.due - self._tasks.now()).total_seconds(), 1)
            log.warning("commitment report failed", extra={**fields, "next_try_seconds": wait})

    # ---------------------------------------------------------------- for people

    def retry(self, key: int) -> bool:
        """Make an unreported transaction due now, given up or not; whether there is one of that number."""
        retried = self._index.retry(key, self._schedule())
        self._tasks.changed.set()
        return retried

    def summaries(self, *, everything: bool, limit: int) -> Sequence[Summary]:
        """The newest transactions, the newest last: those not reported, or `everything`."""
        return self._index.summaries(everything=everything, limit=limit)

    def gauges(self) -> dict[str, float]:
        """How many transactions wait, were given up, and for how long the oldest waits, in seconds."""
        now, undelivered = self._tasks.now(), self._index.undelivered()
        oldest = 0.0 if undelivered.oldest is None else (now - undelivered.oldest).total_seconds()
        return {
            "pacs_commitment_pending": undelivered.pending,
            "pacs_commitment_given_up": undelivered.given_up,
            "pacs_commitment_oldest_undelivered_seconds": max(0.0, oldest),
        }


def _fields(transaction: Transaction) -> dict[str, object]:
    return {"transaction_uid": transaction.transaction_uid, "calling_ae": transaction.calling_ae}
