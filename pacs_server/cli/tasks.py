"""`pacs-server tasks`: background work that waits, runs or was given up, and why."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from pacs_server.cli.options import ConfigOption, age, echo, fail, open_archive
from pacs_server.cli.tables import print_table
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.index.task_values import Task
    from pacs_server.services.tasks import TaskService

app = typer.Typer(help="Background tasks: what is waiting, running, or given up.", no_args_is_help=True)

# So many dead tasks are retried by one command.
_AT_ONCE = 100_000
_COLUMNS = ("ID", "KIND", "TARGET", "PRIORITY", "STATE", "AGE", "DUE", "ATTEMPTS", "NOTE")

_IDS = typer.Argument(metavar="ID...", help="Numbers that `tasks list` prints.")
KindOption = Annotated[str | None, typer.Option(help="Only tasks of this kind.")]
TargetOption = Annotated[str | None, typer.Option(help="Only tasks for this target, such as an AE title.")]
JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_tasks(
    context: typer.Context,
    *,
    kind: KindOption = None,
    state: Annotated[
        list[str] | None, typer.Option(help="ready, running, done, dead or cancelled; may be given several times.")
    ] = None,
    target: TargetOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Also list those that are done or cancelled.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many to list, the newest.")] = 100,
    as_json: JSONOption = False,
    config: ConfigOption = None,
) -> None:
    """List the tasks that are ready, running or dead, the newest last."""
    from pacs_server.index.task_overview import OPEN_STATES, TaskFilter
    from pacs_server.index.task_values import TaskState

    for name in state or ():
        if name not in set(TaskState):
            fail(f"--state: {name} is none of {', '.join(TaskState)}", 2)
    states = [TaskState(name) for name in state or (TaskState if everything else OPEN_STATES)]
    with open_archive(context, config) as archive:
        found = archive.tasks.tasks(TaskFilter(states, kind, target), limit)
    if as_json:
        typer.echo(json.dumps([asdict(task) for task in found], indent=1, default=str))
        return
    now = datetime.now(UTC)
    print_table(_COLUMNS, (_cells(task, now) for task in found), wrapping=("NOTE",))


@app.command()
def show(
    context: typer.Context,
    key: Annotated[int, typer.Argument(metavar="ID", help="The number that `tasks list` prints.")],
    *,
    as_json: JSONOption = False,
    config: ConfigOption = None,
) -> None:
    """Show everything about a task."""
    with open_archive(context, config) as archive:
        task = archive.tasks.find(key)
    if task is None:
        fail(f"there is no task {key}", 1)
    if as_json:
        typer.echo(json.dumps(asdict(task), indent=1, default=str))
        return
    for name, value in asdict(task).items():
        text = json.dumps(value) if isinstance(value, dict) else "-" if value in (None, "") else str(value)
        echo(f"{name}: {text}")


@app.command()
def retry(
    context: typer.Context,
    keys: Annotated[list[int] | None, _IDS] = None,
    *,
    dead: Annotated[bool, typer.Option("--dead", help="All dead tasks, limited by --kind and --target.")] = False,
    kind: KindOption = None,
    target: TargetOption = None,
    config: ConfigOption = None,
) -> None:
    """Make ready, dead or cancelled tasks due now. The running server starts them within ten seconds."""
    from pacs_server.index.task_overview import TaskFilter
    from pacs_server.index.task_values import TaskState

    if bool(keys) == dead or (keys and (kind or target)):
        fail("name tasks by their ID, or say --dead", 2)
    with open_archive(context, config) as archive:
        if dead:
            keys = [task.id for task in archive.tasks.tasks(TaskFilter([TaskState.DEAD], kind, target), _AT_ONCE)]
        problems = [problem for key in keys or () if (problem := _retry(archive.tasks, key))]
    for problem in problems:
        echo(f"pacs-server: {problem}", err=True)
    _end("due", len(keys or ()) - len(problems), failed=bool(problems))


@app.command()
def cancel(context: typer.Context, keys: Annotated[list[int], _IDS], config: ConfigOption = None) -> None:
    """Cancel tasks that are ready, running or dead. This does not undo what a task has done already."""
    with open_archive(context, config) as archive:
        left = [key for key in keys if not archive.tasks.cancel(key)]
    for key in left:
        echo(f"pacs-server: there is no task {key} that is ready, running or dead", err=True)
    _end("cancelled", len(keys) - len(left), failed=bool(left))


def _retry(tasks: "TaskService", key: int) -> str | None:
    """Make a task due now; why it cannot be."""
    task = tasks.find(key)
    if task is None:
        return f"there is no task {key}"
    if tasks.retry(task):
        return None
    if task.state in ("running", "done"):
        return f"task {key} is {task.state}"
    return f"task {key} stays as it is: another task does the same work"


def _end(what: str, count: int, *, failed: bool) -> None:
    echo(f"{counted(count, 'task')} {'is' if count == 1 else 'are'} {what}")
    if failed:
        raise typer.Exit(1)


def _cells(task: "Task", now: datetime) -> Sequence[str]:
    due = (task.due - now).total_seconds()
    return (
        str(task.id),
        task.kind,
        task.target or "-",
        task.priority,
        task.state,
        age((now - task.created).total_seconds()),
        f"in {age(due)}" if task.state == "ready" and due > 0 else "-",
        str(task.attempts),
        task.last_error or "-",
    )
