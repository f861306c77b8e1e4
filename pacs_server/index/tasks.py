"""The outbox in SQL: add tasks, claim them, renew leases, settle tasks.

A claim changes tasks from ready to running and writes a lease: a new random owner, and a time. Every later
change by the worker names that owner, so that a worker whose lease has run out, and whose task somebody else
has claimed since, changes nothing. SQLite's only writer is alone anyway; on PostgreSQL a claim skips the rows
that another transaction has locked.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    and_,
    case,
    delete,
    literal,
    null,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError

from pacs_server.index import task_models
from pacs_server.index.database import Database
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.due_tasks import ADD, CLAIM, PROGRESS, add_once, expired_for, looks_for
from pacs_server.index.task_models import task as table
from pacs_server.index.task_values import PATIENCE, Lease, NewTask, Priority, Task, TaskState, task_of

# So many owners in a row may disappear, or more until the task's deadline. A task that kills its process would
# otherwise do so for ever.
MOST_LOST_LEASES: Final = 5

_LONGEST_PATIENCE: Final = max(PATIENCE.values())

_IS_READY = text(task_models.IS_READY)
_IS_RUNNING = text(task_models.IS_RUNNING)
_IS_OVER = text(task_models.IS_OVER)
# What is reset when nobody runs a task any more.
NOT_RUNNING: Final[Mapping[str, Any]] = {"owner": "", "claimed_until": None, "again": False}

# Told of a task whose state has changed, in the transaction that changes it, and whether somebody retried it by hand.
Follower = Callable[[Connection, Task, bool], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which tasks a worker would take: how many of each kind at a time, only urgent ones, and which targets not.

    `busy` holds pairs of kind and target.
    """

    kinds: Mapping[str, int]
    urgent_only: bool = False
    busy: Collection[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of a running task: done, dead, or ready again at `due` (None: as before)."""

    state: TaskState
    attempts: int
    last_error: str = ""
    due: datetime | None = None


# ------------------------------------------------------------------------------------ adding


def add_task(connection: Connection, new: NewTask, now: datetime, lease: Lease | None = None) -> int:
    """Insert a task in the caller's transaction and return its number; with `lease` the caller runs it.

    If a task of the same dedupe key is ready or running, that one's number is returned instead. One that is
    running runs once more afterwards, because it may have begun before the cause of this one.
    """
    values = {
        "kind": new.kind,
        "target": new.target,
        "priority": str(new.priority),
        **_when(new.due or now, new.priority),
        "state": str(TaskState.READY),
        "attempts": new.attempts,
        "deadline": new.deadline,
        "dedupe_key": new.dedupe_key,
        "payload": json.dumps(new.payload, separators=(",", ":")),
        "created": now,
        "created_by": new.created_by,
        "node": "",
        **NOT_RUNNING,
        **_running(lease),
    }
    statement = add_once(connection.dialect.name) if new.dedupe_key is not None else ADD
    key: int = statement.all(connection, values)[0].id
    return key


def make_due(
    connection: Connection, dedupe_key: str, now: datetime, deadline: datetime | None, lease: Lease | None = None
) -> Task | None:
    """Make the task of a key due now that is ready or running, else the newest that is not done; None without one.

    Its deadline stays as it is without another one.
    A dead or cancelled one is ready again. A running one stays with its owner, and is due at once if given back.
    """
    newest = (
        select(table)
        .where(table.c.dedupe_key == dedupe_key, table.c.state != TaskState.DONE)
        # Somebody may have retried one that is older than another that is over.
        .order_by(case((table.c.state.in_((TaskState.READY, TaskState.RUNNING)), 0), else_=1), table.c.id.desc())
        .limit(1)
        .with_for_update()
    )
    row = connection.execute(newest).one_or_none()
    if row is None:
        return None
    known = task_of(row)
    values: dict[str, Any] = {**_when(now, known.priority), "deadline": deadline or known.deadline}
    if known.state != TaskState.RUNNING or (known.claimed_until and known.claimed_until <= now):
        values |= {"state": TaskState.READY, "lost_leases": 0, "finished": None, **NOT_RUNNING, **_running(lease)}
    changed = update(table).where(table.c.id == known.id).values(**values).returning(table)
    return task_of(connection.execute(changed).one())


def set_progress(connection: Connection, task: Task, progress: Mapping[str, Any]) -> None:
    """Say how far a running task has come, if its owner still has it, in the caller's transaction."""
    said = json.dumps(progress, separators=(",", ":"))
    PROGRESS.run_many(connection, [{"_id": task.id, "_owner": task.owner, "_progress": said}])


def _when(due: datetime, priority: Priority) -> dict[str, datetime]:
    return {"due": due, "turn": due + PATIENCE[priority]}


def _running(lease: Lease | None) -> dict[str, Any]:
    if lease is None:
        return {}
    return {"state": str(TaskState.RUNNING), "owner": lease.owner, "node": lease.node, "claimed_until": lease.until}


class TaskIndex:
    """The tasks of one database, as workers and operators change them; every method raises IndexUnavailable."""

    def __init__(self, database: Database, followers: Mapping[str, Follower] | None = None) -> None:
        """`followers` by kind hear of each task that is settled, retried or cancelled, in the same transaction."""
        self._database = database
        self._followers = followers or {}

    def add(self, new: NewTask, now: datetime) -> int:
        """Commit a task and return its number, see `add_task`."""
        with self._database.begin() as connection:
            return add_task(connection, new, now)

    def hasten(self, dedupe_key: str, now: datetime) -> bool:
        """Make the task of a key due now, unless it is done, see `make_due`; whether there was one."""
        with self._database.begin() as connection:
            return make_due(connection, dedupe_key, now, None) is not None

    # ---------------------------------------------------------------- for workers

    def claim(self, wanted: Wanted, lease: Lease, now: datetime) -> list[Task]:
        """Claim due tasks of one kind and target, those whose turn it is; empty when nothing is due."""
        looks, values = looks_for(wanted.kinds, wanted.busy, urgent_only=wanted.urgent_only)
        values |= {"_now": now, "_latest": now + _LONGEST_PATIENCE}
        with self._database.connect() as connection:
            # Most often nothing is due. Finding that out needs no write transaction.
            found = looks.first.all(connection, values)
        if not found:
            return []
        kind, target = found[0].kind, found[0].target
        values |= {"_kind": kind, "_target": target, "_limit": wanted.kinds[kind]}
        # A power loss that takes the claim takes its owner as well, and then the task is ready, as it should be.
        with self._database.begin(relaxed=self._database.relaxes_alone) as connection:
            held = {"_owner": lease.owner, "_node": lease.node, "_until": lease.until}
            keys = [row.id for row in looks.candidates.all(connection, values)]
            rows = [CLAIM.all(connection, {"_id": key, **held})[0] for key in keys]
        return [task_of(row) for row in rows]

    def next_due(self, wanted: Wanted) -> datetime | None:
        """When the next task can be claimed, or the next lease ends; None when no task waits."""
        looks, values = looks_for(wanted.kinds, wanted.busy, urgent_only=wanted.urgent_only)
        with self._database.connect() as connection:
            rows = looks.next.all(connection, values) + looks.ending.all(connection, values)
        return min((in_utc(row[0]) for row in rows), default=None)

    def renew(self, tasks: Sequence[Task], until: datetime, *, shorten: bool = False) -> set[int]:
        """Renew the leases of claimed tasks; return the numbers of those that the owner still had.

        A lease that ends later than `until` stays as it is, unless `shorten` is set.
        """
        owners = {task.id: task.owner for task in tasks}
        latest: ColumnElement[datetime] = literal(until, DateTime(timezone=True))
        if not shorten:
            latest = case((table.c.claimed_until > latest, table.c.claimed_until), else_=latest)
        held = and_(_IS_RUNNING, table.c.id.in_(owners), table.c.owner.in_(set(owners.values())))
        renewed = update(table).where(held).values(claimed_until=latest).returning(table.c.id, table.c.owner)
        with self._database.begin() as connection:
            return {key for key, owner in connection.execute(renewed) if owners[key] == owner}

    def unsettled(self, tasks: Sequence[Task]) -> list[Task]:
        """Those of one claim's tasks that are still running under its owner."""
        held = and_(_IS_RUNNING, table.c.id.in_([task.id for task in tasks]), table.c.owner == tasks[0].owner)
        with self._database.connect() as connection:
            return [task_of(row) for row in connection.execute(select(table).where(held).order_by(table.c.id))]

    def settle(self, task: Task, settlement: Settlement, now: datetime) -> Task | None:
        """Finish a running task or make it ready again, if its owner still has it; return it as it is now, or None."""
        values: dict[str, Any] = {
            "state": settlement.state,
            "attempts": settlement.attempts,
            "last_error": settlement.last_error,
            "lost_leases": 0,
            **NOT_RUNNING,
        }
        if settlement.due is not None:
            values |= _when(settlement.due, task.priority)
        if settlement.state in (TaskState.DONE, TaskState.DEAD):
            values |= _over_or_again(task, settlement, now)
        held = and_(table.c.id == task.id, _IS_RUNNING, table.c.owner == task.owner)
        with self._database.begin() as connection:
            return self._change(connection, held, values)

    def set_progress(self, task: Task, progress: Mapping[str, Any]) -> None:
        """Say how far a running task has come, if its owner still has it."""
        with self._database.begin() as connection:
            set_progress(connection, task, progress)

    def give_up_overdue(self, kind: str, target: str, reason: str, now: datetime) -> list[Task]:
        """Make the ready tasks of a target dead whose deadline has passed, for one `reason`; return them."""
        overdue = and_(_IS_READY, table.c.kind == kind, table.c.target == target, table.c.deadline <= now)
        with self._database.connect() as connection:
            if connection.scalar(select(table.c.id).where(overdue).limit(1)) is None:
                return []
        values = {"state": TaskState.DEAD, "last_error": reason, **NOT_RUNNING}
        with self._database.begin() as connection:
            keys = connection.scalars(select(table.c.id).where(overdue).with_for_update(skip_locked=True)).all()
            changed = [self._change(connection, table.c.id == key, values) for key in keys]
        return [task for task in changed if task is not None]

    def expire(self, kinds: Collection[str], owners: Collection[str], now: datetime) -> list[Task]:
        """Make tasks of these kinds ready again whose lease has run out, or dead after too many lost leases.

        Returns these tasks. Tasks of the `owners` stay as they are.
        """
        lost, values = expired_for(kinds, owners)
        with self._database.connect() as connection:
            if not lost.all(connection, values | {"_now": now}):
                return []
        others = and_(table.c.kind.in_(kinds), table.c.owner.not_in(owners))
        return self._all_lost(and_(table.c.claimed_until <= now, others), now)

    def take_back(self, kinds: Collection[str], now: datetime) -> list[Task]:
        """Do the same with all tasks of these kinds that run: no process is there that runs them."""
        return self._all_lost(table.c.kind.in_(kinds), now)

    def _all_lost(self, which: ColumnElement[bool], now: datetime) -> list[Task]:
        lost = select(table).where(and_(_IS_RUNNING, which)).with_for_update(skip_locked=True)
        with self._database.begin() as connection:
            return [self._lost(connection, task_of(row), now) for row in connection.execute(lost).all()]

    def _lost(self, connection: Connection, task: Task, now: datetime) -> Task:
        lost, in_time = task.lost_leases + 1, task.deadline is not None and now < task.deadline
        state = TaskState.DEAD if lost >= MOST_LOST_LEASES and not in_time else TaskState.READY
        error = f"{task.node} did not finish in time, or ended"
        values = {"state": state, "lost_leases": lost, "last_error": error, **NOT_RUNNING}
        changed = self._change(connection, table.c.id == task.id, values)
        assert changed is not None, "the row is locked"
        return changed

    # ---------------------------------------------------------------- for operators

    def retry(self, key: int, now: datetime, deadline: datetime | None, attempts: int | None) -> bool:
        """Make a task due now that is ready, dead or cancelled, with `attempts` made (None: as many as were).

        Returns whether there was one, of whose dedupe key no other one is ready or running.
        """
        retryable = table.c.state.in_((TaskState.READY, TaskState.DEAD, TaskState.CANCELLED))
        try:
            with self._database.begin() as connection:
                priority = connection.scalar(select(table.c.priority).where(table.c.id == key))
                if priority is None:
                    return False
                values: dict[str, Any] = {
                    **_when(now, Priority(priority)),
                    "state": TaskState.READY,
                    "deadline": deadline,
                    "attempts": table.c.attempts if attempts is None else attempts,
                    "lost_leases": 0,
                    "finished": None,
                }
                which = and_(table.c.id == key, retryable)
                return self._change(connection, which, values, retried=True) is not None
        except IntegrityError:
            return False

    def cancel(self, key: int, now: datetime) -> bool:
        """Cancel a task that is ready, running or dead, and return whether there was one.

        The owner of a running one finds out when it renews its lease.
        """
        states = (TaskState.READY, TaskState.RUNNING, TaskState.DEAD)
        values = {"state": TaskState.CANCELLED, "finished": now, **NOT_RUNNING}
        with self._database.begin() as connection:
            return self._change(connection, and_(table.c.id == key, table.c.state.in_(states)), values) is not None

    def remove_finished(self, before: datetime, limit: int) -> int:
        """Remove up to `limit` tasks that were done or cancelled before a moment; return how many."""
        old = select(table.c.id).where(_IS_OVER, table.c.finished < before).order_by(table.c.finished).limit(limit)
        with self._database.begin() as connection:
            return connection.execute(delete(table).where(table.c.id.in_(old.scalar_subquery()))).rowcount

    def _change(
        self, connection: Connection, which: ColumnElement[bool], values: Mapping[str, Any], *, retried: bool = False
    ) -> Task | None:
        row = connection.execute(update(table).where(which).values(**values).returning(table)).one_or_none()
        if row is None:
            return None
        task = task_of(row)
        follower = self._followers.get(task.kind)
        if follower is not None:
            follower(connection, task, retried)
        return task


def _over_or_again(task: Task, settlement: Settlement, now: datetime) -> dict[str, Any]:
    """A task is done or dead, unless the same work was added while it ran: then it runs once more."""
    moments = _when(now, task.priority)
    finished = now if settlement.state == TaskState.DONE else None
    return {
        "state": case((table.c.again, TaskState.READY), else_=settlement.state),
        "attempts": case((table.c.again, 0), else_=settlement.attempts),
        "finished": case((table.c.again, null()), else_=literal(finished, DateTime(timezone=True))),
        **{
            name: case((table.c.again, literal(moment, DateTime(timezone=True))), else_=table.c[name])
            for name, moment in moments.items()
        },
    }
