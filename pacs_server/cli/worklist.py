"""The commands of the worklist: `pacs-server worklist add|import|list|show|update|cancel|remove|unmatched`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pacs_server.cli.mpps import loop_lines
from pacs_server.cli.options import ConfigOption, day_option, echo, fail, open_archive
from pacs_server.cli.tables import print_table
from pacs_server.cli.worklist_options import FIELDS, IDENTIFIERS, named_by_option, overlaid, with_options
from pacs_server.errors import InvalidWorklistItem

if TYPE_CHECKING:
    from pacs_server.app.assembly import OpenArchive
    from pacs_server.index.mpps import UnmatchedStudy
    from pacs_server.index.worklist import ItemRow

app = typer.Typer(help="The worklist: the scheduled procedure steps that modalities query.", rich_markup_mode=None)

_COLUMNS: Final = (
    *("ID", "STATUS", "DATE", "TIME", "MODALITY", "STATION"),
    *("ACCESSION", "PATIENT ID", "PATIENT NAME", "DESCRIPTION"),
)

IDArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The number of the item, its accession number, or its step id.")
]


@app.command()
@with_options(IDENTIFIERS | FIELDS)
def add(context: typer.Context, config: ConfigOption = None, **fields: str | None) -> None:
    """Add an item and print its number. An item with the same identifiers is updated."""
    from pacs_server.dicom.worklist import SCHEDULED_PROCEDURE_STEP_SEQUENCE, items_of_order

    order = {SCHEDULED_PROCEDURE_STEP_SEQUENCE: {"vr": "SQ", "Value": [{}]}}
    try:
        (item,) = items_of_order(overlaid(order, fields), "command line")
    except InvalidWorklistItem as error:
        fail(named_by_option(str(error)), 2)
    with open_archive(context, config) as archive:
        archive.worklist.put([item])
        rows = list(archive.worklist.list(accession_number=item.accession_number))
    typer.echo(next(row.id for row in rows if row.item.identity == item.identity))


@app.command("import")
def import_(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".json, .wl or .csv files.")],
    *,
    encoding: Annotated[
        str, typer.Option(help="The character set of CSV files. Excel writes plain CSV in windows-1252.")
    ] = "utf-8",
    config: ConfigOption = None,
) -> None:
    """Import items from files. Each file is imported as a whole or not at all."""
    from pacs_server.intake.worklist_files import read_items

    _check_encoding(encoding)
    rejected = 0
    with open_archive(context, config) as archive:
        for file in files:
            try:
                result = archive.worklist.put(read_items(file, encoding))
            except (InvalidWorklistItem, OSError) as error:
                rejected += 1
                reason = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{file}: ")
                echo(f"rejected {file}: {reason}", err=True)
            else:
                echo(f"{file}: {result.added} added, {result.updated} updated")
    if rejected:
        raise typer.Exit(1)


@app.command("list")
def list_(
    context: typer.Context,
    *,
    status: Annotated[str | None, typer.Option(help="Such as SCHEDULED or 'IN PROGRESS'.")] = None,
    date: Annotated[str | None, typer.Option(help="Start date, such as 2026-01-31, 31.01.2026 or today.")] = None,
    station: Annotated[str | None, typer.Option(help="AE title.")] = None,
    accession: Annotated[str | None, typer.Option(help="Accession number.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="List at most this many.")] = None,
    config: ConfigOption = None,
) -> None:
    """List items by start date and time."""
    from pacs_server.dicom.worklist import ItemStatus

    wanted = None if status is None else status.upper().replace("_", " ")
    if wanted is not None and wanted not in tuple(ItemStatus):
        fail(f"--status: is none of {', '.join(ItemStatus)}", 2)
    with open_archive(context, config) as archive:
        rows = archive.worklist.list(
            status=None if wanted is None else ItemStatus(wanted),
            date=None if date is None else day_option("--date", date),
            station=station,
            accession_number=accession,
            limit=limit,
        )
        print_table(_COLUMNS, map(_cells, rows), wrapping=("DESCRIPTION",))


@app.command()
def show(
    context: typer.Context,
    key: IDArgument,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print DICOM JSON, which `worklist import` reads.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show one item with all its attributes."""
    with open_archive(context, config) as archive:
        row = _found(archive, key)
        if as_json:
            typer.echo(json.dumps(row.item.data_set, indent=2, ensure_ascii=False))
            return
        typer.echo(f"item {row.id}: {row.item.status}")
        typer.echo(f"from {row.item.source}, added {row.created_at:%Y-%m-%d %H:%M:%S}, ", nl=False)
        typer.echo(f"last changed {row.updated_at:%Y-%m-%d %H:%M:%S}")
        for line in loop_lines(archive.mpps.loop_of(row.id, row.item.study_instance_uid)):
            echo(line)
        for line in _attributes(row.item.data_set):
            echo(line)


@app.command()
@with_options(FIELDS)
def update(context: typer.Context, key: IDArgument, config: ConfigOption = None, **fields: str | None) -> None:
    """Change attributes of an item. An empty text removes one; identifiers cannot be changed."""
    from pacs_server.dicom.worklist import items_of_order

    if not any(text is not None for text in fields.values()):
        fail("update: there is nothing to change", 2)
    with open_archive(context, config) as archive:
        row = _found(archive, key)
        try:
            items = items_of_order(overlaid(row.item.data_set, fields), row.item.source)
        except InvalidWorklistItem as error:
            fail(named_by_option(str(error)), 2)
        archive.worklist.put(items)
    typer.echo(f"updated {row.id}")


@app.command()
def cancel(context: typer.Context, key: IDArgument, config: ConfigOption = None) -> None:
    """Cancel an item. The worklist no longer shows it."""
    from pacs_server.dicom.worklist import ItemStatus

    with open_archive(context, config) as archive:
        row = _found(archive, key)
        archive.worklist.set_status([row], ItemStatus.CANCELLED)
    typer.echo(f"cancelled {row.id}")


@app.command()
def remove(context: typer.Context, key: IDArgument, config: ConfigOption = None) -> None:
    """Delete an item for good."""
    with open_archive(context, config) as archive:
        row = _found(archive, key)
        archive.worklist.remove(row)
    typer.echo(f"removed {row.id}")


@app.command()
def unmatched(context: typer.Context, config: ConfigOption = None) -> None:
    """List the studies that belong to no item: UID, date, modalities, accession number, instances."""
    with open_archive(context, config) as archive:
        print_table(
            ("STUDY UID", "DATE", "MODALITIES", "ACCESSION", "INSTANCES"), map(_study_cells, archive.mpps.unmatched())
        )


def _check_encoding(name: str) -> None:
    try:
        "a,b\n".encode(name)
    except (LookupError, UnicodeError):
        fail("--encoding: is no character set such as utf-8 or windows-1252", 2)


def _found(archive: "OpenArchive", key: str) -> "ItemRow":
    from pacs_server.kit.logs import escaped

    row = archive.worklist.get(key)
    if row is None:
        fail(f"there is no worklist item {escaped(key)}", 1)
    return row


def _cells(row: "ItemRow") -> list[str]:
    from pacs_server.dicom.json_model import text_of

    whole, step = row.item.data_set, row.item.step
    start = [text_of(step, tag) for tag in ("00400002", "00400003", "00080060", "00400001")]
    patient = [text_of(whole, tag) for tag in ("00100020", "00100010")]
    return [str(row.id), row.item.status, *start, row.item.accession_number, *patient, text_of(step, "00400007")]


def _study_cells(study: "UnmatchedStudy") -> tuple[str, ...]:
    cells = (study.study_instance_uid, study.study_date, study.modalities, study.accession_number)
    return (*cells, str(study.instances))


def _attributes(data_set: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    from pydicom.datadict import keyword_for_tag

    from pacs_server.dicom.json_model import text_of

    for tag, element in data_set.items():
        name = f"{indent}{keyword_for_tag(int(tag, 16))} ({tag[:4]},{tag[4:]})"
        if element["vr"] != "SQ":
            yield f"{name}: {text_of(data_set, tag)}"
            continue
        for item in element.get("Value", []):
            yield f"{name}:"
            yield from _attributes(item, indent + "  ")
