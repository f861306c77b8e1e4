"""The commands of performed procedure steps, `pacs-server mpps list|show`, and their lines in `worklist show`."""

import json
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from pacs_server.cli.options import ConfigOption, echo, open_archive
from pacs_server.cli.tables import print_table
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.index.mpps import StepRow
    from pacs_server.services.mpps import Loop, Step

app = typer.Typer(help="Performed procedure steps: what modalities report.", rich_markup_mode=None)

_COLUMNS = ("UID", "STATUS", "START", "STATION", "MODALITY", "RECEIVED", "REFERENCED", "PATIENT ID")
# How many of the instances that have not come in `show` names.
_SHOWN_MISSING = 20


@app.command("list")
def list_(
    context: typer.Context,
    config: ConfigOption = None,
    limit: Annotated[int, typer.Option(min=1, help="The number of steps to print.")] = 100,
    status: Annotated[str | None, typer.Option(help="IN PROGRESS, COMPLETED or DISCONTINUED only.")] = None,
) -> None:
    """List the steps, the newest first: UID, status, start, station, modality, patient, instances received."""
    wanted = status.upper() if status else None
    with open_archive(context, config) as archive, closing(archive.mpps.list()) as steps:
        found = islice((step for step in steps if wanted in (None, step.status)), limit)
        print_table(_COLUMNS, ((*_cells(step), step.patient_id) for step in found))


@app.command()
def show(
    context: typer.Context,
    uid: Annotated[str, typer.Argument(metavar="UID", help="The SOP Instance UID of the step.")],
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print its attributes in the DICOM JSON Model.")] = False,
) -> None:
    """Show a step: its attributes, its worklist items, and the instances that have not arrived."""
    with open_archive(context, config) as archive:
        step = archive.mpps.show(uid)
    if as_json:
        typer.echo(json.dumps(step.data_set, ensure_ascii=False, indent=1))
        return
    for line in _described(step):
        echo(line)


def summary(step: "StepRow") -> str:
    """A step in one line."""
    *cells, received, referenced = _cells(step)
    return "  ".join((*(cell or "-" for cell in cells), f"received {received} of {referenced}"))


def _cells(step: "StepRow") -> tuple[str, ...]:
    start = f"{step.start_date} {step.start_time}".strip()
    cells = (step.sop_instance_uid, step.status, start, step.performed_station_ae_title, step.modality)
    return (*cells, str(step.received), str(step.referenced))


def loop_lines(loop: "Loop") -> Iterator[str]:
    """The lines about a worklist item that say which steps performed it and how many instances were received."""
    for step in loop.steps:
        yield f"performed: {summary(step)}"
    if not loop.steps:
        yield "performed: no step refers to it"
    yield f"received: {counted(loop.instances_in_study, 'instance')} in its study"


def _described(step: "Step") -> Iterator[str]:
    row = step.row
    fields = {
        "SOP Instance UID": row.sop_instance_uid,
        "status": row.status,
        "id": row.performed_procedure_step_id,
        "started": f"{row.start_date} {row.start_time}",
        "station": row.performed_station_ae_title,
        "modality": row.modality,
        "patient": f"{row.patient_id} {row.patient_name}",
        "study": row.study_instance_uid,
        "created by": f"{row.calling_ae} at {row.created_at:%Y-%m-%d %H:%M:%S}",
        "last set at": f"{row.updated_at:%Y-%m-%d %H:%M:%S}",
        "received": f"{row.received} of {counted(row.referenced, 'instance')}",
    }
    yield from (f"{name}: {value.strip()}" for name, value in fields.items())
    for key, status in step.items:
        yield f"worklist item: {key} {status}"
    yield from (f"not received: {uid}" for uid in step.missing[:_SHOWN_MISSING])
    if len(step.missing) > _SHOWN_MISSING:
        yield f"not received: {len(step.missing) - _SHOWN_MISSING} more"
