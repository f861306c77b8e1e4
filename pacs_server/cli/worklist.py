"""The commands of the worklist: `pacs-server worklist add|import|list|show|update|cancel|remove|unmatched`."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date as Date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pacs_server.cli.mpps import loop_lines
from pacs_server.cli.options import ConfigOption, fail, load_config
from pacs_server.cli.tables import print_table
from pacs_server.errors import InvalidWorklistItem

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from pacs_server.app.assembly import OpenArchive
    from pacs_server.index.mpps import UnmatchedStudy
    from pacs_server.index.worklist import ItemRow

app = typer.Typer(help="The worklist: scheduled procedure steps that modalities ask for.", rich_markup_mode=None)

_IDENTIFIERS: Final = {
    "accession": ("AccessionNumber", "Accession number."),
    "procedure_id": ("RequestedProcedureID", "Requested procedure id; made if it is not given."),
    "step_id": ("ScheduledProcedureStepID", "Scheduled procedure step id; made if it is not given."),
}
_FIELDS: Final = {
    "patient_name": ("PatientName", "As Family^Given."),
    "patient_id": ("PatientID", "Patient id."),
    "issuer": ("IssuerOfPatientID", "Who issued the patient id."),
    "birth_date": ("PatientBirthDate", "YYYY-MM-DD."),
    "sex": ("PatientSex", "M, F or O."),
    "referring": ("ReferringPhysicianName", "Referring physician, as Family^Given."),
    "study_uid": ("StudyInstanceUID", "Study Instance UID; made if it is not given."),
    "procedure": ("RequestedProcedureDescription", "What is asked for; as --description if it is not given."),
    "procedure_code": ("RequestedProcedureCodeSequence", "The same as value^scheme^meaning."),
    "priority": ("RequestedProcedurePriority", "STAT, HIGH, ROUTINE, MEDIUM or LOW."),
    "description": ("ScheduledProcedureStepDescription", "What is to be done."),
    "protocol_code": ("ScheduledProtocolCodeSequence", "The same as value^scheme^meaning."),
    "modality": ("Modality", "As CT or MR."),
    "station": ("ScheduledStationAETitle", "AE title of the modality."),
    "date": ("ScheduledProcedureStepStartDate", "Start, YYYY-MM-DD."),
    "time": ("ScheduledProcedureStepStartTime", "Start, HH:MM or HH:MM:SS."),
    "physician": ("ScheduledPerformingPhysicianName", "Who performs it, as Family^Given."),
    "location": ("ScheduledProcedureStepLocation", "Where it is done."),
}
_COLUMNS: Final = (
    *(("ID", 6), ("STATUS", 12), ("DATE", 8), ("TIME", 6), ("MODALITY", 8), ("STATION", 16)),
    *(("ACCESSION", 16), ("PATIENT ID", 16), ("PATIENT NAME", 24), ("DESCRIPTION", 0)),
)

_Fields = Mapping[str, tuple[str, str]]
IDArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The number of the item, its accession number, or its step id.")
]


def _with_fields(fields: _Fields) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field, in place of its `**fields`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        options = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    str | None, typer.Option(f"--{name.replace('_', '-')}", metavar="TEXT", help=text)
                ],
            )
            for name, (_, text) in fields.items()
        ]
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        command.__annotations__ = {one.name: one.annotation for one in (*own, *options)}
        command.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        return command

    return decorate


@contextmanager
def _archive(context: typer.Context, config: Path | None) -> "Iterator[OpenArchive]":
    from pacs_server.app.assembly import open_archive

    with open_archive(load_config(context, config)) as archive:
        yield archive


@app.command()
@_with_fields(_IDENTIFIERS | _FIELDS)
def add(context: typer.Context, config: ConfigOption = None, **fields: str | None) -> None:
    """Add one item and print its number; a known one (same identifiers) is updated."""
    from pacs_server.dicom.worklist import items_from_dataset

    try:
        (item,) = items_from_dataset(_overlaid(None, fields), "command line")
    except InvalidWorklistItem as error:
        fail(_with_option(str(error)), 2)
    with _archive(context, config) as archive:
        archive.worklist.put([item])
        rows = list(archive.worklist.list(accession_number=item.accession_number))
    typer.echo(next(row.id for row in rows if row.item.identity == item.identity))


@app.command("import")
def import_(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".json, .wl or .csv files.")],
    config: ConfigOption = None,
) -> None:
    """Take items from files, each file whole or not at all."""
    from pacs_server.intake.worklist_files import read_items

    rejected = 0
    with _archive(context, config) as archive:
        for file in files:
            try:
                result = archive.worklist.put(read_items(file))
            except (InvalidWorklistItem, OSError) as error:
                rejected += 1
                reason = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{file}: ")
                typer.echo(f"rejected {_escaped(f'{file}: {reason}')}", err=True)
            else:
                typer.echo(f"{_escaped(str(file))}: {result.added} added, {result.updated} updated")
    if rejected:
        raise typer.Exit(1)


@app.command("list")
def list_(
    context: typer.Context,
    *,
    status: Annotated[str | None, typer.Option(help="As SCHEDULED or 'IN PROGRESS'.")] = None,
    date: Annotated[str | None, typer.Option(help="Start date, YYYY-MM-DD or today.")] = None,
    station: Annotated[str | None, typer.Option(help="AE title.")] = None,
    accession: Annotated[str | None, typer.Option(help="Accession number.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many at most.")] = None,
    config: ConfigOption = None,
) -> None:
    """List items by start date and time."""
    from pacs_server.dicom.worklist import ItemStatus

    wanted = None if status is None else status.upper().replace("_", " ")
    if wanted is not None and wanted not in tuple(ItemStatus):
        fail(f"--status: is none of {', '.join(ItemStatus)}", 2)
    with _archive(context, config) as archive:
        rows = archive.worklist.list(
            status=None if wanted is None else ItemStatus(wanted),
            date=None if date is None else _day(date),
            station=station,
            accession_number=accession,
            limit=limit,
        )
        print_table([title for title, _ in _COLUMNS], map(_cells, rows), wrapping=("DESCRIPTION",), line=_padded)


@app.command()
def show(
    context: typer.Context,
    key: IDArgument,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As DICOM JSON, which import takes.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show one item with all its attributes."""
    with _archive(context, config) as archive:
        row = _found(archive, key)
        if as_json:
            typer.echo(json.dumps(row.item.data_set, indent=2, ensure_ascii=False))
            return
        typer.echo(f"item {row.id}: {row.item.status}")
        typer.echo(f"from {row.item.source}, added {row.created_at:%Y-%m-%d %H:%M:%S}, ", nl=False)
        typer.echo(f"last changed {row.updated_at:%Y-%m-%d %H:%M:%S}")
        for line in loop_lines(archive.mpps.loop_of(row.id, row.item.study_instance_uid)):
            typer.echo(_escaped(line))
        for line in _attributes(row.item.data_set):
            typer.echo(line)


@app.command()
@_with_fields(_FIELDS)
def update(context: typer.Context, key: IDArgument, config: ConfigOption = None, **fields: str | None) -> None:
    """Change attributes of an item, an empty text removes one; identifiers stay as they are."""
    from pydicom.dataset import Dataset

    from pacs_server.dicom.worklist import items_from_dataset

    if not any(text is not None for text in fields.values()):
        fail("update: there is nothing to change", 2)
    with _archive(context, config) as archive:
        row = _found(archive, key)
        before = Dataset.from_json(json.dumps(row.item.data_set))
        try:
            items = items_from_dataset(_overlaid(before, fields), row.item.source)
        except InvalidWorklistItem as error:
            fail(_with_option(str(error)), 2)
        archive.worklist.put(items)
    typer.echo(f"updated {row.id}")


@app.command()
def cancel(context: typer.Context, key: IDArgument, config: ConfigOption = None) -> None:
    """Take an item off the worklist, and keep it as cancelled."""
    from pacs_server.dicom.worklist import ItemStatus

    with _archive(context, config) as archive:
        row = _found(archive, key)
        archive.worklist.set_status([row], ItemStatus.CANCELLED)
    typer.echo(f"cancelled {row.id}")


@app.command()
def remove(context: typer.Context, key: IDArgument, config: ConfigOption = None) -> None:
    """Delete an item for good."""
    with _archive(context, config) as archive:
        row = _found(archive, key)
        archive.worklist.remove(row)
    typer.echo(f"removed {row.id}")


@app.command()
def unmatched(context: typer.Context, config: ConfigOption = None) -> None:
    """List the studies in the archive that no item is about: UID, date, modalities, accession number, instances."""
    with _archive(context, config) as archive:
        print_table(
            ("STUDY", "DATE", "MODALITIES", "ACCESSION", "INSTANCES"),
            map(_study_cells, archive.mpps.unmatched()),
            line=lambda cells: "  ".join(cells) + " instances",
            titled=False,
        )


# ------------------------------------------------------------------------------------ items and fields


def _found(archive: "OpenArchive", key: str) -> "ItemRow":
    row = archive.worklist.get(key)
    if row is None:
        fail(f"there is no worklist item {_escaped(key)}", 1)
    return row


def _overlaid(ds: "Dataset | None", fields: Mapping[str, str | None]) -> "Dataset":
    """The data set with the fields that are given; empty ones are removed."""
    from pydicom.dataset import Dataset

    from pacs_server.intake.worklist_files import STEP_FIELDS, element_of

    if ds is None:
        ds = Dataset()
        ds.ScheduledProcedureStepSequence = [Dataset()]
    step = ds.ScheduledProcedureStepSequence[0]
    for name, text in fields.items():
        if text is None:
            continue
        keyword = (_IDENTIFIERS | _FIELDS)[name][0]
        target = step if keyword in STEP_FIELDS else ds
        if keyword in target:
            delattr(target, keyword)
        if text.strip():
            try:
                target.add(element_of(keyword, text))
            except ValueError:
                fail(f"--{name.replace('_', '-')}: {keyword} may not have this value", 2)
    return ds


def _with_option(problem: str) -> str:
    """The sentence, with the option in front of the attribute that it begins with."""
    keyword = problem.split(" ", 1)[0]
    for name, (known, _) in (_IDENTIFIERS | _FIELDS).items():
        if known == keyword:
            return f"--{name.replace('_', '-')}: {problem}"
    return problem


def _day(text: str) -> str:
    try:
        day = Date.today() if text == "today" else Date.fromisoformat(text)
    except ValueError:
        fail("--date: is no date such as 2024-01-31", 2)
    return day.strftime("%Y%m%d")


# ------------------------------------------------------------------------------------ what people read


def _escaped(text: str) -> str:
    from pacs_server.kit.logs import escaped

    return escaped(text)


def _padded(cells: Sequence[str]) -> str:
    padded = (f"{cell:<{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=True))
    return "  ".join(padded).rstrip()


def _cells(row: "ItemRow") -> list[str]:
    from pacs_server.dicom.json_model import text_of

    whole, step = row.item.data_set, row.item.step
    start = [text_of(step, tag) for tag in ("00400002", "00400003", "00080060", "00400001")]
    patient = [text_of(whole, tag) for tag in ("00100020", "00100010")]
    return [str(row.id), row.item.status, *start, row.item.accession_number, *patient, text_of(step, "00400007")]


def _study_cells(study: "UnmatchedStudy") -> tuple[str, ...]:
    cells = (study.study_instance_uid, study.study_date, study.modalities, study.accession_number)
    return (*(cell or "-" for cell in cells), str(study.instances))


def _attributes(data_set: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    from pydicom.datadict import keyword_for_tag

    from pacs_server.dicom.json_model import text_of

    for tag, element in data_set.items():
        name = f"{indent}{keyword_for_tag(int(tag, 16))} ({tag[:4]},{tag[4:]})"
        if element["vr"] != "SQ":
            yield _escaped(f"{name}: {text_of(data_set, tag)}")
            continue
        for item in element.get("Value", []):
            yield f"{name}:"
            yield from _attributes(item, indent + "  ")
