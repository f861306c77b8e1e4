"""Tasks as values: what is to be done, how urgent it is, and where it stands."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Row

from pacs_server.index.deletion_document import in_utc


class Priority(StrEnum):
    """How much sooner than others a due task is claimed."""

    URGENT = "urgent"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


# For so long after it is due a task lets urgent ones go first that became due later. Because the time is limited,
# a stream of more urgent tasks delays a less urgent one and never stops it.
PATIENCE: Final[Mapping[Priority, timedelta]] = {
    Priority.URGENT: timedelta(0),
    Priority.HIGH: timedelta(minutes=5),
    Priority.MEDIUM: timedelta(minutes=15),
    Priority.LOW: timedelta(hours=1),
}


class TaskState(StrEnum):
    """Where a task stands. A dead task was given up; it waits for somebody to retry or cancel it."""

    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class NewTask:
    """Work to do. `payload` is for the handler of the kind and holds UIDs and numbers, never names of patients.

    `created_by` names the rule or the caller. `due` None means now. After `deadline` one more attempt is
    made at most; None means that only the number of attempts is limited. At most one task with the same
    `dedupe_key` is ready or running.
    """

    kind: str
    created_by: str
    target: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict)
    priority: Priority = Priority.MEDIUM
    due: datetime | None = None
    deadline: datetime | None = None
    dedupe_key: str | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a task until a moment. `owner` is a new random text for each claim."""

    owner: str
    node: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it stood when it was read; the table says what each field means."""

    id: int
    kind: str
    target: str
    priority: Priority
    due: datetime
    state: TaskState
    attempts: int
    lost_leases: int
    deadline: datetime | None
    claimed_until: datetime | None
    owner: str
    node: str
    dedupe_key: str | None
    payload: Mapping[str, Any]
    progress: Mapping[str, Any]
    last_error: str
    created: datetime
    created_by: str
    finished: datetime | None


def task_of(row: Row[Any]) -> Task:
    """The task of a whole row of the table."""
    return Task(
        id=row.id,
        kind=row.kind,
        target=row.target,
        priority=Priority(row.priority),
        due=in_utc(row.due),
        state=TaskState(row.state),
        attempts=row.attempts,
        lost_leases=row.lost_leases,
        deadline=row.deadline and in_utc(row.deadline),
        claimed_until=row.claimed_until and in_utc(row.claimed_until),
        owner=row.owner,
        node=row.node,
        dedupe_key=row.dedupe_key,
        payload=json.loads(row.payload),
        progress=json.loads(row.progress),
        last_error=row.last_error,
        created=in_utc(row.created),
        created_by=row.created_by,
        finished=row.finished and in_utc(row.finished),
    )
