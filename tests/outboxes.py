"""Nodes of an outbox for tests: a database, a clock that passes when told, and services on them."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import schema
from sqlalchemy import delete

from pacs_server.index.database import Database
from pacs_server.index.task_models import task
from pacs_server.index.task_overview import TaskFilter, TaskOverview
from pacs_server.index.task_values import NewTask, Priority, Task, TaskState
from pacs_server.index.tasks import TaskIndex, Wanted
from pacs_server.services.tasks import RetryPolicy, TaskService

LEASE = 60.0
WANTED = Wanted({"send": 10, "look": 1})


class Clock:
    """The time, which passes when told."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 29, 0, 59, 30, 123456, UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class OutboxNode:
    """One of the processes that share a database of tasks."""

    def __init__(
        self,
        url: str,
        clock: Callable[[], datetime] | None = None,
        policy: RetryPolicy | None = None,
        **options: Any,
    ) -> None:
        schema.prepare_at(url)
        self.database = Database(url, fsync=False)
        self.database.migrate()
        self.counted: list[tuple[str, str]] = []
        policies: Mapping[str, Callable[[], RetryPolicy]] = {"send": lambda: policy} if policy else {}
        if clock is not None:
            options["clock"] = clock
        self.index = TaskIndex(self.database)
        self.service = TaskService(
            self.index,
            TaskOverview(self.database),
            policies,
            counted=lambda kind, outcome: self.counted.append((kind, outcome)),
            **({"spread": lambda: 0.0} | options),
        )

    def clear(self) -> None:
        """Remove all tasks."""
        with self.database.begin() as connection:
            connection.execute(delete(task))

    def add(self, target: str = "A", priority: Priority = Priority.MEDIUM, kind: str = "send", **fields: Any) -> int:
        return self.service.add(NewTask(kind, "a test", target, priority=priority, **fields))

    def claim(self, **wanted: Any) -> list[Task]:
        return self.service.claim(Wanted(WANTED.kinds, **wanted))

    def task(self, key: int) -> Task:
        found = self.service.find(key)
        assert found is not None
        return found

    def states(self) -> list[str]:
        return [task.state for task in self.service.tasks(TaskFilter(tuple(TaskState)), 1000)]
