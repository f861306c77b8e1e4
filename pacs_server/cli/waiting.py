"""Wait for tasks that send or fetch, and say meanwhile how far they are and what they wait for."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import typer

from pacs_server.cli.options import age, echo
from pacs_server.cli.progress import line_shown
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.app.assembly import OpenArchive
    from pacs_server.index.task_values import Task

# While a command waits, it looks so often whether the tasks are over, and how far they are, in seconds.
_LOOK_SECONDS: Final = 0.2
_SHOW_SECONDS: Final = 1.0
# The rate is that of so many last seconds.
_RATE_SECONDS: Final = 15.0
# A server that runs begins a task that is due within ten seconds, see `pacs-server tasks retry --help`.
_BEGUN_WITHIN: Final = 15.0
# A server runs fewer tasks at a time.
_RUNNING_AT_MOST: Final = 100


@dataclass(frozen=True, slots=True)
class Far:
    """How many instances are there, and of how many; None if that is not known yet."""

    done: int
    total: int | None


@dataclass(slots=True)
class Waiting:
    """Waits for tasks of one remote. `far` says how far they are, and `done` is the word for what it counts."""

    archive: "OpenArchive"
    remote: str
    far: "Callable[[Sequence[Task]], Far]"
    done: str
    # Whether there is nothing more to wait for, although a task is ready or running.
    is_enough: "Callable[[Task], bool]" = lambda task: False
    clock: Callable[[], float] = time.monotonic
    _counts: deque[tuple[float, int]] = field(default_factory=deque)

    def until_over(self, numbers: Sequence[int]) -> "list[Task]":
        """The tasks when all of them are over. Ends the process with exit code 130 on Ctrl-C."""
        from pacs_server.kit.logs import escaped

        try:
            with line_shown(clock=self.clock) as show:
                shown = None
                while True:
                    tasks = [task for each in numbers if (task := self.archive.tasks.find(each)) is not None]
                    if not any(self._goes_on(task) for task in tasks):
                        return tasks
                    if shown is None or self.clock() - shown >= _SHOW_SECONDS:
                        shown = self.clock()
                        show(*map(escaped, self.said(tasks)))
                    time.sleep(_LOOK_SECONDS)
        except KeyboardInterrupt:
            _tell_how_to_go_on(numbers)
            raise typer.Exit(130) from None

    def said(self, tasks: "Sequence[Task]") -> tuple[str, str]:
        """How far the tasks are and what they wait for, and when that ends or how fast they are."""
        far, going = self.far(tasks), [task for task in tasks if self._goes_on(task)]
        count = (
            f"{far.done} of {counted(far.total, 'instance')} {self.done}" if far.total is not None else "not begun yet"
        )
        if any(_is_worked_on(task) for task in going):
            return (count if far.total is not None else f"asking {self.remote} what it has"), self._rate(far.done)
        reason, seconds = self._reason(min(going, key=lambda task: task.due))
        return f"{count}; {reason}", f", next try in {age(seconds)}" if seconds > 0 else ""

    def _goes_on(self, task: "Task") -> bool:
        return task.state in ("ready", "running") and not self.is_enough(task)

    def _reason(self, task: "Task") -> tuple[str, float]:
        """What a task that is ready waits for, and for how many seconds; 0 if nobody knows."""
        breakers, until = self.archive.breakers, (task.due - datetime.now(UTC)).total_seconds()
        # A remote that is paused, or is not used at this time of day, is fetched from nevertheless.
        sent_to = breakers.remote(self.remote) if task.kind == "forward" else None
        closed = breakers.failing(self.remote) if sent_to is None else breakers.closed(sent_to)
        if closed is not None:
            state = breakers.state(self.remote)
            if closed.fails:
                return state.last_error, max(closed.seconds, until)
            # Nobody knows when a paused remote is resumed.
            return closed.reason, 0.0 if state.paused else closed.seconds
        if until > 0:
            return task.last_error or "waits for its turn", until
        if until < -_BEGUN_WITHIN and not self._is_anything_running():
            return "no server has begun with it; does it run? `pacs-server status` tells", 0.0
        return "waits for its turn", 0.0

    def _is_anything_running(self) -> bool:
        from pacs_server.index.task_overview import TaskFilter
        from pacs_server.index.task_values import TaskState

        return any(map(_is_worked_on, self.archive.tasks.tasks(TaskFilter((TaskState.RUNNING,)), _RUNNING_AT_MOST)))

    def _rate(self, done: int) -> str:
        now, counts = self.clock(), self._counts
        counts.append((now, done))
        while now - counts[0][0] > _RATE_SECONDS:
            counts.popleft()
        seconds, more = now - counts[0][0], done - counts[0][1]
        return f", {more / seconds:.1f}/s" if seconds and more > 0 else ""


def _is_worked_on(task: "Task") -> bool:
    """Whether a server runs it: the lease of one that has ended runs out."""
    return task.state == "running" and task.claimed_until is not None and task.claimed_until > datetime.now(UTC)


def _tell_how_to_go_on(numbers: Sequence[int]) -> None:
    ids = " ".join(map(str, numbers))
    one = len(numbers) == 1
    goes_on = f"task {ids} goes on" if one else f"tasks {ids} go on"
    look = f"`pacs-server tasks show {ids}`" if one else "`pacs-server tasks list`"
    echo(
        f"pacs-server: not waiting any more; {goes_on} in the server. {look} shows how far, "
        f"and `pacs-server tasks cancel {ids}` ends {'it' if one else 'them'}.",
        err=True,
    )
