"""Storage commitment transactions: what was asked for, what came of it, and whose turn it is to report it.

Whoever works on a transaction holds a claim on it: a moment, `claimed_until`, that nobody else has
written there. It ends by itself when its holder dies, and one that was lost changes nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    ScalarSelect,
    and_,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from pacs_server.dicom.commitment import CommitmentRequest, Reference
from pacs_server.errors import InvalidArgumentValue
from pacs_server.index.database import Database
from pacs_server.index.workflow_models import commitment as table
from pacs_server.index.workflow_models import commitment_instance

_INSERT_ROWS = 5000
_CHUNK_ROWS = 1000


class CommitmentStatus(StrEnum):
    """Where a transaction stands."""

    PENDING = "PENDING"
    REPORTED = "REPORTED"
    GIVEN_UP = "GIVEN UP"


_UNREPORTED = (CommitmentStatus.PENDING, CommitmentStatus.GIVEN_UP)


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction as it stood when it was read; its claim is `claimed_until`, None without one."""

    id: int
    transaction_uid: str
    status: CommitmentStatus
    calling_ae: str
    peer: str
    requested_at: datetime
    attempts: int
    next_try_at: datetime
    give_up_at: datetime
    claimed_until: datetime | None
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
    """When a new transaction is due, until when it is claimed (None: it is not), and when to give up."""

    now: datetime
    claimed_until: datetime | None
    give_up_at: datetime


class CommitmentIndex:
    """The transactions of one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, request: CommitmentRequest, calling_ae: str, peer: str, schedule: Schedule) -> Transaction:
        """Commit a transaction as pending; the same one again, while not reported, is due anew.

        Raises InvalidArgumentValue if its UID stands for something else, or was reported.
        """
        try:
            return self._add(request, calling_ae, peer, schedule)
        except IntegrityError:
            # Two of the same at once: now it is there.
            return self._add(request, calling_ae, peer, schedule)

    def _add(self, request: CommitmentRequest, calling_ae: str, peer: str, schedule: Schedule) -> Transaction:
        same = and_(table.c.transaction_uid == request.transaction_uid, table.c.calling_ae == calling_ae)
        with self._database.begin() as connection:
            row = connection.execute(select(table).where(same).with_for_update()).one_or_none()
            if row is None:
                values = {"transaction_uid": request.transaction_uid, "calling_ae": calling_ae, "peer": peer}
                key = _insert(connection, values, request.references, schedule)
            else:
                key = row.id
                _check_same(connection, row, request)
                _due_again(connection, _transaction(row), schedule)
            return _transaction(connection.execute(select(table).where(table.c.id == key)).one())

    def claim_due(self, now: datetime, until: datetime, limit: int) -> list[Transaction]:
        """Claim what is due for one AE, the one that has waited longest; empty when nothing is."""
        due = _due(now)
        first = select(table.c.calling_ae).where(due).order_by(table.c.next_try_at).limit(1)
        with self._database.connect() as connection:
            # Most often there is nothing, which is no reason to write.
            calling_ae = connection.scalar(first)
        if calling_ae is None:
            return []
        # Another node may be at the same rows: those that it holds are its own.
        candidates = (
            select(table)
            .where(due, table.c.calling_ae == calling_ae)
            .order_by(table.c.next_try_at, table.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        with self._database.begin() as connection:
            keys = [row.id for row in connection.execute(candidates)]
            connection.execute(update(table).where(table.c.id.in_(keys)).values(claimed_until=until))
            rows = connection.execute(
                select(table).where(table.c.id.in_(keys)).order_by(table.c.next_try_at, table.c.id)
            ).all()
        return [_transaction(row) for row in rows]

    def next_due(self) -> datetime | None:
        """When the next transaction is due, those included that somebody holds a claim on."""
        later = case((table.c.claimed_until > table.c.next_try_at, table.c.claimed_until), else_=table.c.next_try_at)
        with self._database.connect() as connection:
            due = connection.scalar(select(func.min(later)).where(table.c.status == CommitmentStatus.PENDING))
        return _utc(due)

    def change(self, transaction: Transaction, **values: object) -> bool:
        """Set columns of a pending transaction if its claim still holds; whether it did."""
        held = table.c.claimed_until == transaction.claimed_until
        return self._change(transaction.id, and_(held, table.c.status == CommitmentStatus.PENDING), values)

    def reported(self, transaction: Transaction, now: datetime) -> bool:
        """Set a transaction to reported, whoever holds it; whether it was not so already."""
        open_ = table.c.status != CommitmentStatus.REPORTED
        values = {"status": CommitmentStatus.REPORTED, "reported_at": now, "claimed_until": None, "last_error": ""}
        return self._change(transaction.id, open_, values | {"attempts": table.c.attempts + 1})

    def retry(self, key: int, now: datetime, give_up_at: datetime) -> bool:
        """Make an unreported transaction due now, with a new time to give up; whether there is one."""
        values = {"status": CommitmentStatus.PENDING, "next_try_at": now, "give_up_at": give_up_at}
        return self._change(key, table.c.status != CommitmentStatus.REPORTED, values)

    def _change(self, key: int, condition: ColumnElement[bool], values: Mapping[str, Any]) -> bool:
        with self._database.begin() as connection:
            result = connection.execute(update(table).where(table.c.id == key, condition).values(**values))
            return bool(result.rowcount)

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
        """Every reference in the order of the request with its failure reason, as rows come from the database."""
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
                yield Reference(sop_class, sop_instance), reason

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
        return Undelivered(waiting, _utc(since), given_up)


_REFERENCE = (commitment_instance.c.sop_class_uid, commitment_instance.c.sop_instance_uid)


def _of(transaction: Transaction) -> ColumnElement[bool]:
    return commitment_instance.c.commitment_fk == transaction.id


def _count(*conditions: ColumnElement[bool]) -> ScalarSelect[int]:
    of_this = commitment_instance.c.commitment_fk == table.c.id
    return select(func.count()).where(of_this, *conditions).correlate(table).scalar_subquery()


def _due(now: datetime) -> ColumnElement[bool]:
    free = or_(table.c.claimed_until.is_(None), table.c.claimed_until <= now)
    return and_(table.c.status == CommitmentStatus.PENDING, table.c.next_try_at <= now, free)


def _insert(
    connection: Connection, values: Mapping[str, object], references: Sequence[Reference], schedule: Schedule
) -> int:
    moments = {
        "requested_at": schedule.now,
        "next_try_at": schedule.now,
        "give_up_at": schedule.give_up_at,
        "claimed_until": schedule.claimed_until,
    }
    status = {"status": CommitmentStatus.PENDING}
    key: int = connection.execute(
        insert(table).values(**values, **moments, **status).returning(table.c.id)
    ).scalar_one()
    for start in range(0, len(references), _INSERT_ROWS):
        rows = [
            {"commitment_fk": key, "sop_class_uid": sop_class, "sop_instance_uid": sop_instance}
            for sop_class, sop_instance in references[start : start + _INSERT_ROWS]
        ]
        connection.execute(insert(commitment_instance), rows)
    return key


def _check_same(connection: Connection, row: Row[Any], request: CommitmentRequest) -> None:
    if row.status == CommitmentStatus.REPORTED:
        # PS3.4 J.3.3.1.2: after the report the Transaction UID is no longer active.
        raise InvalidArgumentValue("the Transaction UID was used and reported before")
    known = connection.execute(select(*_REFERENCE).where(commitment_instance.c.commitment_fk == row.id))
    if {tuple(reference) for reference in known} != set(request.references):
        raise InvalidArgumentValue("the Transaction UID stands for other instances")


def _due_again(connection: Connection, known: Transaction, schedule: Schedule) -> None:
    """Whoever asks again is there to hear the report; a claim that somebody holds stays theirs."""
    values: dict[str, object] = {
        "status": CommitmentStatus.PENDING, "next_try_at": schedule.now, "give_up_at": schedule.give_up_at,
    }  # fmt: skip
    if known.claimed_until is None or known.claimed_until <= schedule.now:
        values["claimed_until"] = schedule.claimed_until
    connection.execute(update(table).where(table.c.id == known.id).values(**values))


def _transaction(row: Row[Any]) -> Transaction:
    return Transaction(
        id=row.id,
        transaction_uid=row.transaction_uid,
        status=CommitmentStatus(row.status),
        calling_ae=row.calling_ae,
        peer=row.peer,
        requested_at=_aware(row.requested_at),
        attempts=row.attempts,
        next_try_at=_aware(row.next_try_at),
        give_up_at=_aware(row.give_up_at),
        claimed_until=_utc(row.claimed_until),
        reported_at=_utc(row.reported_at),
        last_error=row.last_error,
    )


def _aware(moment: datetime) -> datetime:
    # SQLite keeps no time zone; what went in was UTC.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else _aware(moment)
