"""Storage commitment transactions: what was asked for, what was found, and whether it was reported.

A task of the outbox reports each transaction, see `index.tasks`; it is made in the transaction that keeps the
request. The task says when the next attempt is due and who makes it. Its state is repeated here, in the
same transaction, so that a transaction tells the whole story when its task is removed.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    ScalarSelect,
    String,
    and_,
    bindparam,
    cast,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from pacs_server.dicom.commitment import CommitmentRequest, FailureReason, Reference
from pacs_server.errors import InvalidArgumentValue
from pacs_server.index.database import Database
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.task_models import task as task_table
from pacs_server.index.task_values import Lease, NewTask, Priority, Task, TaskState, task_of
from pacs_server.index.tasks import add_task, make_due
from pacs_server.index.workflow_models import commitment as table
from pacs_server.index.workflow_models import commitment_instance

# The kind of the tasks that report transactions.
KIND: Final = "commitment"

_INSERT_ROWS = 5000
_CHUNK_ROWS = 1000


class CommitmentStatus(StrEnum):
    """Where a transaction stands."""

    PENDING = "PENDING"
    REPORTED = "REPORTED"
    GIVEN_UP = "GIVEN UP"
    CANCELLED = "CANCELLED"


_UNREPORTED = (CommitmentStatus.PENDING, CommitmentStatus.GIVEN_UP)
_STATUS_OF_TASK: Final = {
    TaskState.READY: CommitmentStatus.PENDING,
    TaskState.DEAD: CommitmentStatus.GIVEN_UP,
    TaskState.CANCELLED: CommitmentStatus.CANCELLED,
    TaskState.DONE: CommitmentStatus.REPORTED,
}


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction as it stood when it was read; `attempts` to report it were made, the last one with `last_error`."""

    id: int
    transaction_uid: str
    status: CommitmentStatus
    calling_ae: str
    peer: str
    requested_at: datetime
    attempts: int
    reported_at: datetime | None
    last_error: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A transaction with the number of its instances, and of those that are not committed to."""

    transaction: Transaction
    instances: int
    failed: int


@dataclass(frozen=True, slots=True)
class Undelivered:
    """How many transactions wait to be reported and since when, and how many were given up."""

    pending: int
    oldest: datetime | None
    given_up: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a transaction is due, when to give it up, and the lease of the caller who reports it first, if any."""

    now: datetime
    give_up_at: datetime
    lease: Lease | None = None


class CommitmentIndex:
    """The transactions of one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, request: CommitmentRequest, calling_ae: str, peer: str, schedule: Schedule
    ) -> tuple[Transaction, Task]:
        """Commit a transaction with the task that reports it; the same one again, while not reported, is due anew.

        Raises InvalidArgumentValue if its UID stands for something else, or was reported.
        """
        try:
            return self._add(request, calling_ae, peer, schedule)
        except IntegrityError:
            # Two requests with the same UID came at once. The other one is committed by now.
            return self._add(request, calling_ae, peer, schedule)

    def _add(
        self, request: CommitmentRequest, calling_ae: str, peer: str, schedule: Schedule
    ) -> tuple[Transaction, Task]:
        same = and_(table.c.transaction_uid == request.transaction_uid, table.c.calling_ae == calling_ae)
        with self._database.begin() as connection:
            row = _locked(connection, same)
            if row is not None:
                _check_same(connection, row, request)
                return _make_due(connection, row, schedule)
            values = {"transaction_uid": request.transaction_uid, "calling_ae": calling_ae, "peer": peer}
            row = _insert(connection, values, request.references, schedule)
            return _transaction(row), _add_task(connection, row, schedule)

    def find(self, keys: Collection[int]) -> dict[int, Transaction]:
        """The transactions with these numbers that are not reported yet, by number."""
        statement = select(table).where(table.c.id.in_(keys), table.c.status != CommitmentStatus.REPORTED)
        with self._database.connect() as connection:
            return {row.id: _transaction(row) for row in connection.execute(statement)}

    def reported(self, transaction: Transaction, now: datetime) -> bool:
        """Set a transaction to reported although its task is in other hands; whether it was not so already."""
        values = {"status": CommitmentStatus.REPORTED, "reported_at": now, "last_error": ""}
        open_ = and_(table.c.id == transaction.id, table.c.status != CommitmentStatus.REPORTED)
        with self._database.begin() as connection:
            statement = update(table).where(open_).values(**values, attempts=table.c.attempts + 1)
            return bool(connection.execute(statement).rowcount)

    def retry(self, key: int, schedule: Schedule) -> bool:
        """Make an unreported transaction due now, with a new time to give up; whether there is one."""
        unreported = and_(table.c.id == key, table.c.status != CommitmentStatus.REPORTED)
        with self._database.begin() as connection:
            row = _locked(connection, unreported)
            if row is not None:
                _make_due(connection, row, schedule)
        return row is not None

    def take_over(self, now: datetime) -> int:
        """Make tasks for the pending transactions that have none, and return how many there were.

        The version before the outbox kept the schedule of its reports in the table of transactions. What one of
        its nodes was reporting is due when the claim of that node ends.
        """
        live = and_(
            task_table.c.dedupe_key == literal(_key_of("")) + cast(table.c.id, String),
            task_table.c.state.in_((TaskState.READY, TaskState.RUNNING)),
        )
        orphans = select(table).where(table.c.status == CommitmentStatus.PENDING, ~exists().where(live))
        with self._database.begin() as connection:
            rows = connection.execute(orphans.order_by(table.c.id).with_for_update(skip_locked=True)).all()
            for row in rows:
                add_task(connection, _new_task(row, in_utc(row.give_up_at), _due(row, now)), now)
            for start in range(0, len(rows), _CHUNK_ROWS):
                some = table.c.id.in_([row.id for row in rows[start : start + _CHUNK_ROWS]])
                connection.execute(update(table).where(some).values(next_try_at=table.c.give_up_at))
        return len(rows)

    # ---------------------------------------------------------------- instances

    def unverified(self, transaction: Transaction, limit: int) -> list[tuple[int, Reference]]:
        """Up to `limit` references that have no result yet, each with its key."""
        columns = (commitment_instance.c.id, *_REFERENCE)
        wanted = and_(_of(transaction), commitment_instance.c.failure_reason.is_(None))
        statement = select(*columns).where(wanted).order_by(commitment_instance.c.id).limit(limit)
        with self._database.connect() as connection:
            return [(row[0], Reference(row[1], row[2])) for row in connection.execute(statement)]

    def verified(self, results: Mapping[int, int]) -> None:
        """Keep the failure reasons of references by their keys; 0 commits to the instance."""
        statement = (
            update(commitment_instance)
            .where(commitment_instance.c.id == bindparam("key"))
            .values(failure_reason=bindparam("reason"))
        )
        with self._database.begin() as connection:
            connection.execute(statement, [{"key": key, "reason": reason} for key, reason in results.items()])

    def results(self, transaction: Transaction) -> Iterator[tuple[Reference, int]]:
        """Every reference in the order of the request with its failure reason, as rows come from the database.

        A reference without a result has failed: nothing is committed to that was not verified.
        """
        statement = (
            select(*_REFERENCE, commitment_instance.c.failure_reason)
            .where(_of(transaction))
            .order_by(commitment_instance.c.id)
        )
        with (
            self._database.connect() as connection,
            connection.execution_options(yield_per=_CHUNK_ROWS).execute(statement) as rows,
        ):
            for sop_class, sop_instance, reason in rows:
                yield Reference(sop_class, sop_instance), FailureReason.PROCESSING_FAILURE if reason is None else reason

    # ---------------------------------------------------------------- for people

    def summaries(self, *, everything: bool, limit: int) -> Sequence[Summary]:
        """The newest transactions, the newest last: those not reported, or `everything`."""
        counts = (_count(), _count(commitment_instance.c.failure_reason != 0))
        statement = select(table, *counts).order_by(table.c.id.desc()).limit(limit)
        if not everything:
            statement = statement.where(table.c.status.in_(_UNREPORTED))
        with self._database.connect() as connection:
            rows = connection.execute(statement).all()
        return [Summary(_transaction(row), row[-2], row[-1]) for row in reversed(rows)]

    def undelivered(self) -> Undelivered:
        """What waits to be reported, and what was given up."""
        pending = table.c.status == CommitmentStatus.PENDING
        oldest = func.min(table.c.requested_at).filter(pending)
        statement = select(func.count().filter(pending), oldest, func.count().filter(~pending)).where(
            table.c.status.in_(_UNREPORTED)
        )
        with self._database.connect() as connection:
            waiting, since, given_up = connection.execute(statement).one()
        return Undelivered(waiting, since and in_utc(since), given_up)


def follow(connection: Connection, task: Task, retried: bool) -> None:
    """Repeat in a transaction what has become of its task, in the database transaction that changes the task."""
    values: dict[str, Any] = {
        "status": _STATUS_OF_TASK[task.state], "attempts": task.attempts, "last_error": task.last_error
    }  # fmt: skip
    if task.state == TaskState.DONE:
        values["reported_at"] = task.finished
    open_ = and_(table.c.id == task.payload[KIND], table.c.status != CommitmentStatus.REPORTED)
    connection.execute(update(table).where(open_).values(**values))


_REFERENCE = (commitment_instance.c.sop_class_uid, commitment_instance.c.sop_instance_uid)


def _of(transaction: Transaction) -> ColumnElement[bool]:
    return commitment_instance.c.commitment_fk == transaction.id


def _count(*conditions: ColumnElement[bool]) -> ScalarSelect[int]:
    of_this = commitment_instance.c.commitment_fk == table.c.id
    return select(func.count()).where(of_this, *conditions).correlate(table).scalar_subquery()


def _locked(connection: Connection, which: ColumnElement[bool]) -> Row[Any] | None:
    """Lock a transaction and return it.

    Its tasks are locked before it: whoever settles a task locks both in this order, and so they wait for each other
    and cause no deadlock.
    """
    key = connection.scalar(select(table.c.id).where(which))
    if key is None:
        return None
    tasks = select(task_table.c.id).where(task_table.c.dedupe_key == _key_of(key)).order_by(task_table.c.id)
    connection.execute(tasks.with_for_update())
    return connection.execute(select(table).where(which).with_for_update()).one_or_none()


def _insert(
    connection: Connection, values: Mapping[str, object], references: Sequence[Reference], schedule: Schedule
) -> Row[Any]:
    moments = {
        "requested_at": schedule.now, "next_try_at": schedule.give_up_at, "give_up_at": schedule.give_up_at
    }  # fmt: skip
    status = {"status": CommitmentStatus.PENDING}
    row = connection.execute(insert(table).values(**values, **moments, **status).returning(table)).one()
    for start in range(0, len(references), _INSERT_ROWS):
        rows = [
            {"commitment_fk": row.id, "sop_class_uid": sop_class, "sop_instance_uid": sop_instance}
            for sop_class, sop_instance in references[start : start + _INSERT_ROWS]
        ]
        connection.execute(insert(commitment_instance), rows)
    return row


def _check_same(connection: Connection, row: Row[Any], request: CommitmentRequest) -> None:
    if row.status == CommitmentStatus.REPORTED:
        # PS3.4 J.3.3.1.2: after the report the Transaction UID is no longer active.
        raise InvalidArgumentValue("the Transaction UID was used and reported before")
    known = connection.execute(select(*_REFERENCE).where(commitment_instance.c.commitment_fk == row.id))
    if {tuple(reference) for reference in known} != set(request.references):
        raise InvalidArgumentValue("the Transaction UID stands for other instances")


def _make_due(connection: Connection, row: Row[Any], schedule: Schedule) -> tuple[Transaction, Task]:
    """Have a transaction reported from now on: whoever asks for it is there to hear the report.

    A task that somebody runs stays with its owner.
    """
    values = {
        "status": CommitmentStatus.PENDING, "give_up_at": schedule.give_up_at, "next_try_at": schedule.give_up_at
    }  # fmt: skip
    row = connection.execute(update(table).where(table.c.id == row.id).values(**values).returning(table)).one()
    known = make_due(connection, _key_of(row.id), schedule.now, schedule.give_up_at, schedule.lease)
    return _transaction(row), known or _add_task(connection, row, schedule)


def _add_task(connection: Connection, row: Row[Any], schedule: Schedule) -> Task:
    key = add_task(connection, _new_task(row, schedule.give_up_at, None), schedule.now, schedule.lease)
    return task_of(connection.execute(select(task_table).where(task_table.c.id == key)).one())


def _new_task(row: Row[Any], deadline: datetime, due: datetime | None) -> NewTask:
    return NewTask(
        kind=KIND,
        created_by=f"request by {row.calling_ae}",
        target=row.calling_ae,
        payload={KIND: row.id},
        # A modality waits for the report, and keeps its images until then.
        priority=Priority.HIGH,
        due=due,
        deadline=deadline,
        dedupe_key=_key_of(row.id),
        attempts=row.attempts,
    )


def _key_of(transaction: int | str) -> str:
    return f"{KIND} {transaction}"


def _due(row: Row[Any], now: datetime) -> datetime:
    """When the version before the outbox would have reported a transaction next."""
    # The outbox sets `next_try_at` to the end, so that nodes of that version leave its transactions alone.
    due = in_utc(row.next_try_at) if row.next_try_at < row.give_up_at else now
    return due if row.claimed_until is None else max(due, in_utc(row.claimed_until))


def _transaction(row: Row[Any]) -> Transaction:
    return Transaction(
        id=row.id,
        transaction_uid=row.transaction_uid,
        status=CommitmentStatus(row.status),
        calling_ae=row.calling_ae,
        peer=row.peer,
        requested_at=in_utc(row.requested_at),
        attempts=row.attempts,
        reported_at=row.reported_at and in_utc(row.reported_at),
        last_error=row.last_error,
    )
