"""Tasks for people: lists, single tasks, and how many there are."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, literal, select, text, union_all

from pacs_server.index.database import Database
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.task_models import IS_DEAD, IS_READY, IS_RUNNING
from pacs_server.index.task_models import task as table
from pacs_server.index.task_values import Task, TaskState, task_of

# The states in which a task is counted. Those that are over are counted when they end.
OPEN_STATES = (TaskState.READY, TaskState.RUNNING, TaskState.DEAD)


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks to list: of these states, and of this kind and target if they are given."""

    states: Collection[TaskState] = OPEN_STATES
    kind: str | None = None
    target: str | None = None


class TaskOverview:
    """Reads the tasks of one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, key: int) -> Task | None:
        """The task of that number."""
        with self._database.connect() as connection:
            row = connection.execute(select(table).where(table.c.id == key)).one_or_none()
        return None if row is None else task_of(row)

    def tasks(self, wanted: TaskFilter, limit: int, before: int | None = None) -> Sequence[Task]:
        """The newest tasks that the filter lets through, the newest last; `before` is a number that all are below."""
        statement = select(table).where(table.c.state.in_(wanted.states)).order_by(table.c.id.desc()).limit(limit)
        if before is not None:
            statement = statement.where(table.c.id < before)
        for column, value in ((table.c.kind, wanted.kind), (table.c.target, wanted.target)):
            if value is not None:
                statement = statement.where(column == value)
        with self._database.connect() as connection:
            rows = connection.execute(statement).all()
        return [task_of(row) for row in reversed(rows)]

    def counts(self) -> dict[tuple[str, str], int]:
        """How many tasks of each kind are ready, running and dead."""
        counts = [
            select(table.c.kind, literal(str(state)), func.count()).where(text(condition)).group_by(table.c.kind)
            for state, condition in zip(OPEN_STATES, (IS_READY, IS_RUNNING, IS_DEAD), strict=True)
        ]
        with self._database.connect() as connection:
            return {(kind, state): count for kind, state, count in connection.execute(union_all(*counts))}

    def oldest_due(self, now: datetime) -> dict[str, datetime]:
        """Since when the tasks of each kind are due that wait the longest."""
        statement = (
            select(table.c.kind, func.min(table.c.due)).where(text(IS_READY), table.c.due <= now).group_by(table.c.kind)
        )
        with self._database.connect() as connection:
            return {kind: in_utc(due) for kind, due in connection.execute(statement)}
