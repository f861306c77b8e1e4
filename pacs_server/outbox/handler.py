"""What does the work of one kind of task, and what it can ask and tell while it does."""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from pacs_server.index.task_values import Task, TaskState
from pacs_server.index.tasks import Settlement
from pacs_server.services.tasks import TaskService

log = logging.getLogger(__name__)


class Work:
    """Tasks of one kind and target that were claimed together, for the thread that runs them.

    The handler settles each of them once, by one of the methods here or of the service that its kind belongs
    to. The worker keeps the leases meanwhile.
    """

    def __init__(self, tasks: Sequence[Task], service: TaskService, stopping: Callable[[], bool]) -> None:
        """`stopping` says whether the worker is to stop."""
        self.tasks = tasks
        # The numbers of tasks that somebody else has taken over or cancelled.
        self.lost: set[int] = set()
        self._service = service
        self._stopping = stopping

    def is_interrupted(self) -> bool:
        """Whether to stop working: the server shuts down, or no task is left. Ask this often."""
        return self._stopping() or len(self.lost) == len(self.tasks)

    def progress(self, task: Task, **progress: object) -> None:
        """Say how far the task has come, in numbers and words for people."""
        self._service.progress(task, progress)

    def wait(self, task: Task, reason: str, seconds: float) -> None:
        """The task cannot be tried for a while; this counts as no attempt, and its time does not run out."""
        self._service.release(task, reason, seconds)

    def is_held(self, task: Task) -> bool:
        """Whether the task is still ours, with a new lease. Ask this before an effect that cannot be taken back."""
        return task.id not in self.lost and task.id in self._service.renew([task])

    def done(self, task: Task) -> None:
        """The work is done."""
        if self._service.done(task):
            log.info("task done", extra=fields(task))

    def failed(self, task: Task, reason: str) -> None:
        """The attempt failed; another one may succeed."""
        tell(task, self._service.fail(task, reason))

    def give_up(self, task: Task, reason: str) -> None:
        """The attempt failed, and every other one would: the error is permanent."""
        tell(task, self._service.give_up(task, reason))

    def busy(self, task: Task, reason: str, seconds: float) -> None:
        """The target asked to come back, after so many seconds; this is no failure."""
        tell(task, self._service.postpone(task, reason, seconds))

    def release(self, task: Task) -> None:
        """The task was not tried."""
        self._service.release(task)

    @property
    def now(self) -> datetime:
        """This moment, by the clock of the tasks."""
        return self._service.now()


class Handler(Protocol):
    """Does one kind of work; may be called by several threads at once."""

    @property
    def together(self) -> int:
        """How many tasks of one target to run together."""

    def at_once(self, target: str) -> int:
        """How many calls for this target may run at the same time, of the 8 that may run in all.

        With 8 a target that hangs can hold up all others; with 4 it cannot.
        """

    def run(self, work: Work) -> None:
        """Run the tasks and settle each.

        Those left unsettled have failed, also after an exception; after a PacsError they were not tried.
        """

    def stop(self) -> None:
        """End what blocks, because the server shuts down; tasks that are left unsettled then were not tried."""


def fields(task: Task) -> dict[str, object]:
    """What the log says of a task: no payload, which may hold identifiers."""
    return {"task": task.id, "kind": task.kind, "target": task.target}


def tell_dead(task: Task) -> None:
    """Say in the log that a task which nobody ran was given up."""
    tell(task, Settlement(task.state, task.attempts, task.last_error))


def tell(task: Task, settlement: Settlement | None) -> None:
    """Say in the log what became of a task that was not done; None: its owner no longer had it."""
    if settlement is None:
        return
    extra = {**fields(task), "attempts": settlement.attempts, "reason": settlement.last_error}
    if settlement.state == TaskState.DEAD:
        log.error("task dead", extra=extra)
    elif settlement.due is not None:
        log.warning("task put off", extra={**extra, "due": settlement.due.isoformat(timespec="seconds")})
