"""REST: background tasks."""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.dicom.caller import Role
from pacs_server.errors import Conflict, NotFound
from pacs_server.index.task_overview import OPEN_STATES, TaskFilter
from pacs_server.index.task_values import Priority, Task, TaskState
from pacs_server.web.api.binding import paged
from pacs_server.web.api.operation import Answer, Call, Operation, Page, Paging, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "tasks"
_PARTS: Final = {"task": "The `id` of a task."}
_GONE: Final = {404: "There is no such task."}


class TaskRow(Answer):
    """A background task: work that the server promised to do later."""

    id: int
    kind: Annotated[str, Field(description="The kind of work, such as commitment.")]
    target: Annotated[str, Field(description="For whom it is, such as an AE title.")]
    priority: Priority
    state: TaskState
    due: Annotated[datetime, Field(description="When it is tried next.")]
    deadline: Annotated[datetime | None, Field(description="When it is given up; null for never.")]
    attempts: Annotated[int, Field(description="How many attempts have failed.")]
    last_error: Annotated[str, Field(description="Why the last attempt failed.")]
    created: datetime
    created_by: Annotated[str, Field(description="The rule or the caller that caused it.")]
    finished: datetime | None
    progress: Annotated[dict[str, Any], Field(description="How far it has come; empty if it does not say.")]
    payload: Annotated[dict[str, Any], Field(description="What it is about: UIDs and numbers.")]


class TaskSearch(Paging):
    """Which tasks to list."""

    state: Annotated[
        list[TaskState] | None, Field(description="Only those in these states; without it, those that are not over.")
    ] = None
    kind: Annotated[str | None, Field(description="Only those of this kind.")] = None
    target: Annotated[str | None, Field(description="Only those for this target.")] = None


class TaskCount(Answer):
    """How many tasks of a kind there are that are not over."""

    kind: str
    ready: int
    running: int
    dead: int
    oldest_due_seconds: Annotated[float, Field(description="For how long the oldest one is due that nobody runs.")]


class TaskCounts(Answer):
    """How many tasks there are, by kind."""

    items: list[TaskCount]


class Tasks:
    """The resource tasks."""

    def __init__(self, services: WebServices) -> None:
        self._tasks = services.tasks
        self._auditor = services.auditor

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/tasks", name="list_tasks", tag=_TAG, role=Role.OPERATOR,
                summary="List background tasks, the last added first.",
                query=TaskSearch, answer=Page[TaskRow], run=self._list,
            ),
            Operation(
                method="GET", path="/tasks/counts", name="count_tasks", tag=_TAG, role=Role.OPERATOR,
                summary="Count the background tasks that are not over, by kind.", answer=TaskCounts, run=self._counts,
            ),
            Operation(
                method="GET", path="/tasks/{task}", name="show_task", tag=_TAG, role=Role.OPERATOR,
                summary="Show a task.", parts=_PARTS, answer=TaskRow, run=self._show, errors=_GONE,
            ),
            Operation(
                method="POST", path="/tasks/{task}/retry", name="retry_task", tag=_TAG, role=Role.OPERATOR,
                summary="Try a task now that is ready, dead or cancelled.", parts=_PARTS, answer=TaskRow,
                run=self._retry, errors=_GONE | {409: "It runs, is done, or another task does the same work."},
            ),
            Operation(
                method="POST", path="/tasks/{task}/cancel", name="cancel_task", tag=_TAG, role=Role.OPERATOR,
                summary="Cancel a task that is ready, running or dead; what it has done stays done.", parts=_PARTS,
                answer=TaskRow, run=self._cancel, errors=_GONE | {409: "The task is over."},
            ),
        ]  # fmt: skip

    def _list(self, call: Call[TaskSearch, None]) -> Answer:
        unlimited(call)
        query = call.query
        wanted = TaskFilter(query.state or OPEN_STATES, query.kind, query.target)
        rows = self._tasks.tasks(wanted, query.limit + 1, query.after)[::-1]
        shown, following = paged(call, rows)
        return Page[TaskRow](items=[_row(task) for task in shown], next=following)

    def _counts(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        counts, oldest = self._tasks.counts()
        kinds = sorted({kind for kind, _ in counts})
        return TaskCounts(
            items=[
                TaskCount(
                    kind=kind, oldest_due_seconds=round(oldest.get(kind, 0.0), 1),
                    **{str(state): counts.get((kind, str(state)), 0) for state in OPEN_STATES},
                )
                for kind in kinds
            ]
        )  # fmt: skip

    def _show(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        return _row(self._found(call))

    def _retry(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        task = self._found(call)
        self._auditor.restricted(call.caller, f"{task.kind} task {task.id} retried")
        if not self._tasks.retry(task):
            over = task.state in (TaskState.RUNNING, TaskState.DONE)
            raise Conflict(f"the task is {task.state}" if over else "another task does the same work")
        return _row(self._found(call))

    def _cancel(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        task = self._found(call)
        self._auditor.restricted(call.caller, f"{task.kind} task {task.id} cancelled")
        if not self._tasks.cancel(task.id):
            raise Conflict("the task is over, so it cannot be cancelled")
        return _row(self._found(call))

    def _found(self, call: Call[Any, None]) -> Task:
        key = call.path["task"]
        task = self._tasks.find(int(key)) if key.isascii() and key.isdigit() and len(key) < 19 else None
        if task is None:
            raise NotFound("there is no task of this id")
        return task


def _row(task: Task) -> TaskRow:
    return TaskRow(**{name: getattr(task, name) for name in TaskRow.model_fields})
