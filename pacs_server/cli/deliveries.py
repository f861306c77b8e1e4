"""`pacs-server deliveries`: what went to which remote, what waits, and why."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from pacs_server.cli.options import ConfigOption, age, fail, open_archive
from pacs_server.cli.show import studies_named
from pacs_server.cli.tables import print_table

if TYPE_CHECKING:
    from pacs_server.index.delivery_overview import Delivery, DeliveryGroup

app = typer.Typer(rich_markup_mode=None)

_GROUPS = ("STUDY", "REMOTE", "RULE", "STATE", "INSTANCES", "AGE", "LAST ANSWER", "DETAIL")
_EACH = ("ID", "SOP INSTANCE UID", "REMOTE", "RULE", "STATE", "ANSWERED BY", "AT", "STATUS", "ASSOCIATION", "DETAIL")


@app.command()
def deliveries(
    context: typer.Context,
    *,
    study: Annotated[str | None, typer.Option(help="Only this study, by UID or accession number.")] = None,
    remote: Annotated[str | None, typer.Option(metavar="NAME", help="Only those to this remote.")] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="waiting, delivered, dead or cancelled; may be given several times.")
    ] = None,
    instances: Annotated[
        bool, typer.Option("--instances", help="List each instance with the remote's answer.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many rows to list, the newest.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """List what is waiting to be sent or was given up, and why. With --study, also list what was sent."""
    from pacs_server.index.deliveries import DeliveryState
    from pacs_server.index.delivery_overview import OPEN_STATES, DeliveryFilter

    for name in state or ():
        if name not in set(DeliveryState):
            fail(f"--state: {name} is none of {', '.join(DeliveryState)}", 2)
    states = [DeliveryState(name) for name in state or (DeliveryState if study else OPEN_STATES)]
    with open_archive(context, config) as archive:
        uid = studies_named(archive, study)[0]["StudyInstanceUID"] if study else None
        wanted = DeliveryFilter(states, remote, study_instance_uid=uid)
        each = archive.forwarding.deliveries(wanted, limit)[::-1] if instances else []
        groups = [] if instances else archive.forwarding.groups(wanted, limit)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in each or groups], indent=1, default=str))
    elif instances:
        print_table(_EACH, (_cells(row) for row in each), wrapping=("DETAIL",))
    else:
        now = datetime.now(UTC)
        print_table(_GROUPS, (_group_cells(row, now) for row in groups), wrapping=("DETAIL",))


def _group_cells(row: "DeliveryGroup", now: datetime) -> tuple[str, ...]:
    return (
        row.study_instance_uid,
        row.remote,
        row.rule or "-",
        row.state,
        str(row.instances),
        age((now - row.since).total_seconds()),
        _moment(row.last),
        row.detail or "-",
    )


def _cells(row: "Delivery") -> tuple[str, ...]:
    return (
        str(row.id),
        row.sop_instance_uid,
        row.remote,
        row.rule or "-",
        row.state,
        row.answered_by or "-",
        _moment(row.answered_at),
        "-" if row.status is None else f"0x{row.status:04X}",
        row.association or "-",
        row.detail or "-",
    )


def _moment(moment: datetime | None) -> str:
    return "-" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
