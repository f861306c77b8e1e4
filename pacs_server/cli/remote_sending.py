"""`pacs-server remote send`: have studies sent to remotes."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pacs_server.cli.find import caller
from pacs_server.cli.options import ConfigOption, echo, fail, open_archive
from pacs_server.cli.show import studies_named
from pacs_server.cli.waiting import Far, Waiting
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.app.assembly import OpenArchive
    from pacs_server.dicom.identifier import RetrieveKeys
    from pacs_server.index.task_values import Task
    from pacs_server.services.forwarding import Forwarded

app = typer.Typer(help="Remotes: the other systems in remote_aes.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name of a remote in remote_aes.")]


@app.command()
def send(  # noqa: PLR0913 - an option each
    context: typer.Context,
    name: NameArgument,
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Study Instance UIDs or accession numbers.")],
    *,
    series: Annotated[
        list[str] | None, typer.Option(metavar="UID", help="Only this series of the study; repeatable.")
    ] = None,
    instance: Annotated[list[str] | None, typer.Option(metavar="UID", help="Only this instance; repeatable.")] = None,
    priority: Annotated[
        str | None, typer.Option(help="urgent, high, medium or low, instead of the remote's priority.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they are sent or given up.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Send studies to a remote, including what it has already. The running server does the work."""
    from pacs_server.index.task_values import Priority

    if (series or instance) and len(studies) > 1:
        fail("--series and --instance are about one study", 2)
    if priority is not None and priority not in set(Priority):
        fail(f"--priority: {priority} is none of {', '.join(Priority)}", 2)
    with open_archive(context, config) as archive:
        uids = [studies_named(archive, study)[0]["StudyInstanceUID"] for study in studies]
        keys = _keys(uids, series or [], instance or [])
        chosen = None if priority is None else Priority(priority)
        forwarded = archive.forwarding.forward(keys, [name], caller(), priority=chosen)
        _print(forwarded, as_json=as_json)
        tasks = _ended(archive, name, forwarded) if wait else []
    for task in tasks:
        if task.state != "done":
            echo(f"pacs-server: task {task.id} is {task.state}: {task.last_error}", err=True)
        elif not as_json:
            echo(f"task {task.id}: delivered to {task.target}")
    raise typer.Exit(1 if any(task.state != "done" for task in tasks) else 0)


def _keys(studies: Sequence[str], series: Sequence[str], instances: Sequence[str]) -> "RetrieveKeys":
    from pacs_server.dicom.identifier import RetrieveKeys
    from pacs_server.dicom.levels import Level

    level = Level.IMAGE if instances else Level.SERIES if series else Level.STUDY
    return RetrieveKeys(
        level,
        study_instance_uids=tuple(studies),
        series_instance_uids=tuple(series),
        sop_instance_uids=tuple(instances),
    )


def _print(forwarded: "Sequence[Forwarded]", *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in forwarded], indent=1))
        return
    for each in forwarded:
        instances = counted(each.instances, "instance")
        echo(f"task {each.task}: {instances} of study {each.study_instance_uid} to {each.remote}")


def _ended(archive: "OpenArchive", name: str, forwarded: "Sequence[Forwarded]") -> "list[Task]":
    """The tasks when all of them are over."""
    return Waiting(archive, name, lambda tasks: _sent(archive, forwarded), "sent").until_over(
        [each.task for each in forwarded]
    )


def _sent(archive: "OpenArchive", forwarded: "Sequence[Forwarded]") -> Far:
    """How many of the instances do not wait any more."""
    from pacs_server.index.deliveries import DeliveryState
    from pacs_server.index.delivery_overview import DeliveryFilter

    waiting = 0
    for each in forwarded:
        wanted = DeliveryFilter((DeliveryState.WAITING,), each.remote, "", each.study_instance_uid)
        waiting += sum(group.instances for group in archive.forwarding.groups(wanted, 1))
    total = sum(each.instances for each in forwarded)
    return Far(max(total - waiting, 0), total)
