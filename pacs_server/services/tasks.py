"""Tasks: background work that the server promised to do, from adding one to its end."""

import os
import random
import secrets
import socket
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from pacs_server.index.task_overview import OPEN_STATES, TaskFilter, TaskOverview
from pacs_server.index.task_values import Lease, NewTask, Task, TaskState
from pacs_server.index.tasks import Settlement, TaskIndex, Wanted

# How long a claim holds before it has to be renewed, in seconds: a crash costs a task this much time.
LEASE_SECONDS: Final = 60.0
# Tasks that were done or cancelled can be looked at for so long.
_KEEP: Final = timedelta(days=30)
_REMOVED_AT_ONCE: Final = 1000

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a kind of work is tried again: times in seconds, None for no limit.

    The wait after the first failed attempt is `first`, after each further one twice as long, up to `longest`,
    and differs at random by the fraction `jitter`, so that tasks that failed together are not retried together.
    A task is dead after `attempts` failures, or when an attempt fails later than `lasts` after it was made.
    """

    first: float = 10.0
    longest: float = 3600.0
    jitter: float = 0.2
    attempts: int | None = 10
    lasts: float | None = None

    def delay(self, failures: int, spread: float) -> float:
        """How long to wait after so many failures; `spread` from -1 to 1 chooses within the jitter."""
        # Sixty doublings are past any maximum.
        wait = min(self.longest, self.first * 2.0 ** min(failures - 1, 60))
        return wait * (1 + self.jitter * spread)

    def deadline(self, now: datetime) -> datetime | None:
        """The deadline of a task that is made or retried now."""
        return None if self.lasts is None else now + timedelta(seconds=self.lasts)


class TaskService:
    """Adds, claims, settles and shows tasks. Thread-safe; everything raises IndexUnavailable.

    `changed` is set when a task may have become due, for the worker of this process. Workers of other
    processes find out when they look again.
    """

    def __init__(
        self,
        index: TaskIndex,
        overview: TaskOverview,
        policies: Mapping[str, Callable[[], RetryPolicy]],
        *,
        clock: Clock = _now,
        lease_seconds: float = LEASE_SECONDS,
        counted: Callable[[str, str], None] | None = None,
        spread: Callable[[], float] = lambda: random.uniform(-1, 1),  # noqa: S311 - no secret
    ) -> None:
        """`policies` by kind may change while the server runs. `counted` hears the kind and outcome of each attempt."""
        self.changed = threading.Event()
        self.now = clock
        self.lease_seconds = lease_seconds
        self.node = f"{socket.gethostname()}:{os.getpid()}"
        self._index = index
        self._overview = overview
        self._policies = policies
        self._count = counted or (lambda kind, outcome: None)
        self._spread = spread

    def policy(self, kind: str) -> RetryPolicy:
        """How tasks of this kind are tried again, as configured now."""
        return self._policies.get(kind, RetryPolicy)()

    def add(self, new: NewTask) -> int:
        """Commit a task and return its number; the deadline is that of its kind unless it has one."""
        now = self.now()
        if new.deadline is None:
            new = replace(new, deadline=self.policy(new.kind).deadline(now))
        key = self._index.add(new, now)
        self.changed.set()
        return key

    def hasten(self, dedupe_key: str) -> bool:
        """Make the task of a key due now, unless it is done; whether there was one."""
        found = self._index.hasten(dedupe_key, self.now())
        self.changed.set()
        return found

    # ---------------------------------------------------------------- for workers

    def lease(self) -> Lease:
        """A lease from now on with a new owner."""
        return Lease(secrets.token_hex(16), self.node, self._later(self.lease_seconds))

    def claim(self, wanted: Wanted) -> list[Task]:
        """Claim due tasks of one kind and target; empty when nothing is due."""
        return self._index.claim(wanted, self.lease(), self.now())

    def seconds_to_next(self, wanted: Wanted) -> float | None:
        """How long until the next task can be claimed, or the next lease ends; None when no task waits."""
        due = self._index.next_due(wanted)
        return None if due is None else max(0.0, (due - self.now()).total_seconds())

    def renew(self, tasks: Sequence[Task], seconds: float | None = None) -> set[int]:
        """Hold tasks for exactly `seconds` from now on, or at least for the usual time of a lease.

        Returns the numbers of those that their owner still had.
        """
        if seconds is None:
            return self._index.renew(tasks, self._later(self.lease_seconds))
        held = self._index.renew(tasks, self._later(seconds), shorten=True)
        if seconds < self.lease_seconds:
            # The lease may end sooner than the worker thinks.
            self.changed.set()
        return held

    def unsettled(self, tasks: Sequence[Task]) -> list[Task]:
        """Those of one claim's tasks that are still running under its owner."""
        return self._index.unsettled(tasks)

    def expire(self, kinds: Collection[str], owners: Collection[str] = ()) -> list[Task]:
        """Make tasks of these kinds ready again whose owner has disappeared, or dead after too many of them.

        Returns these tasks. The `owners` are known to be there.
        """
        return self._count_lost(self._index.expire(kinds, owners, self.now()))

    def take_back(self, kinds: Collection[str]) -> list[Task]:
        """Do the same with all tasks of these kinds that run, because no process is there that runs them."""
        return self._count_lost(self._index.take_back(kinds, self.now()))

    def _count_lost(self, tasks: list[Task]) -> list[Task]:
        for task in tasks:
            self._count(task.kind, "dead" if task.state == TaskState.DEAD else "lost")
        return tasks

    def done(self, task: Task) -> bool:
        """Finish a task; whether its owner still had it. Work that was added meanwhile makes it ready again."""
        return self._settle(task, Settlement(TaskState.DONE, task.attempts + 1), "done") is not None

    def fail(self, task: Task, reason: str) -> Settlement | None:
        """Count a failed attempt: try again after a while that doubles each time, or give the task up.

        Returns what became of the task; None if its owner no longer had it.
        """
        now, policy, attempts = self.now(), self.policy(task.kind), task.attempts + 1
        spent = policy.attempts is not None and attempts >= policy.attempts
        if spent or (task.deadline is not None and now >= task.deadline):
            return self.give_up(task, reason)
        due = now + timedelta(seconds=policy.delay(attempts, self._spread()))
        if task.deadline is not None:
            # The last attempt is made when the time is up, not whenever its turn would come.
            due = min(due, task.deadline)
        settlement = Settlement(TaskState.READY, attempts, reason, due)
        return self._settle(task, settlement, "failed")

    def give_up(self, task: Task, reason: str) -> Settlement | None:
        """Make a task dead at once, since another attempt would fail the same way; None if its owner lost it."""
        settlement = Settlement(TaskState.DEAD, task.attempts + 1, reason)
        return self._settle(task, settlement, "dead")

    def postpone(self, task: Task, reason: str, seconds: float) -> Settlement | None:
        """Try again after `seconds`, because the target is busy. This counts as a failure only after the deadline.

        Returns what became of the task; None if its owner no longer had it.
        """
        due = self._later(seconds)
        if task.deadline is not None:
            if self.now() >= task.deadline:
                return self.give_up(task, reason)
            due = min(due, task.deadline)
        settlement = Settlement(TaskState.READY, task.attempts, reason, due)
        return self._settle(task, settlement, "busy")

    def release(self, task: Task, reason: str = "", seconds: float = 0.0) -> bool:
        """Give a task back as if it had not been claimed, because of `reason`; with `seconds` it is due after them."""
        due = self._later(seconds) if seconds else None
        settlement = Settlement(TaskState.READY, task.attempts, reason or task.last_error, due)
        return self._settle(task, settlement, "released") is not None

    def progress(self, task: Task, progress: Mapping[str, object]) -> None:
        """Say how far a running task has come, in numbers and words for people."""
        self._index.set_progress(task, progress)

    def give_up_overdue(self, kind: str, target: str, reason: str) -> list[Task]:
        """Make the tasks dead that wait for a target and whose deadline has passed, because of `reason`."""
        given_up = self._index.give_up_overdue(kind, target, reason, self.now())
        for task in given_up:
            self._count(task.kind, "dead")
        return given_up

    def _settle(self, task: Task, settlement: Settlement, outcome: str) -> Settlement | None:
        """What became of the task, None if its owner had lost it. Work that was added meanwhile makes it ready."""
        settled = self._index.settle(task, settlement, self.now())
        if settled is None:
            return None
        self._count(task.kind, outcome)
        if settled.state == TaskState.READY:
            self.changed.set()
        return replace(settlement, state=settled.state, attempts=settled.attempts, due=settlement.due and settled.due)

    def _later(self, seconds: float) -> datetime:
        return self.now() + timedelta(seconds=seconds)

    def remove_finished(self, interrupted: Callable[[], bool] = lambda: False) -> int:
        """Remove tasks that were done or cancelled long ago, until `interrupted` says so; return how many."""
        removed = 0
        while not interrupted() and (count := self._index.remove_finished(self.now() - _KEEP, _REMOVED_AT_ONCE)):
            removed += count
        return removed

    # ---------------------------------------------------------------- for people

    def find(self, key: int) -> Task | None:
        """The task of that number."""
        return self._overview.find(key)

    def tasks(self, wanted: TaskFilter, limit: int, before: int | None = None) -> Sequence[Task]:
        """The newest tasks that the filter lets through, the newest last; `before` is a number that all are below."""
        return self._overview.tasks(wanted, limit, before)

    def retry(self, task: Task) -> bool:
        """Make a task due now that is ready, dead or cancelled, with all its time and attempts before it.

        One without a deadline gets none: what caused it does not give up.

        Returns False if it has changed meanwhile, or the same work waits as another task.
        """
        now, policy = self.now(), self.policy(task.kind)
        attempts = None if policy.attempts is None else 0
        deadline = None if task.deadline is None else policy.deadline(now)
        retried = self._index.retry(task.id, now, deadline, attempts)
        self.changed.set()
        return retried

    def cancel(self, key: int) -> bool:
        """Cancel a task that is ready, running or dead; whether there was one of that number."""
        return self._index.cancel(key, self.now())

    def counts(self) -> tuple[Mapping[tuple[str, str], int], Mapping[str, float]]:
        """How many tasks there are by kind and state, and how long the oldest due one of each kind waits, in seconds.

        Kinds with a policy of their own are there even if they have no task.
        """
        now = self.now()
        known = {(kind, str(state)): 0 for kind in self._policies for state in OPEN_STATES}
        oldest = {kind: (now - due).total_seconds() for kind, due in self._overview.oldest_due(now).items()}
        return known | self._overview.counts(), dict.fromkeys(self._policies, 0.0) | oldest

    def summary(self) -> dict[str, object]:
        """How many tasks there are by state, and how long the oldest due one waits, in seconds."""
        counts, oldest = self.counts()
        states = {str(state): sum(n for (_, name), n in counts.items() if name == state) for state in OPEN_STATES}
        return {**states, "oldest_due_seconds": round(max(oldest.values(), default=0.0), 1)}
