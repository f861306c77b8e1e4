"""The commands of deleting: `pacs-server delete study|series|instance`, `pacs-server trash list|restore|empty`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pacs_server.cli.options import ConfigOption, fail, open_archive
from pacs_server.cli.tables import print_table
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.config.sections.storage import StorageConfig
    from pacs_server.dicom.levels import Level
    from pacs_server.index.deletion_document import Deletion
    from pacs_server.services.deletion import DeletionService, Extent

app = typer.Typer(
    help="Delete a study, a series or an instance. It can be restored while it is in the trash.",
    rich_markup_mode=None,
)
trash = typer.Typer(help="The trash: what was deleted, until it is removed for good.", rich_markup_mode=None)

_COLUMNS: Final = ("ID", "LEVEL", "UID", "DELETED AT", "BY", "INSTANCES", "BYTES", "STATUS", "REMOVED AFTER", "REASON")
_LEVEL_NAMES: Final = {"STUDY": "study", "SERIES": "series", "IMAGE": "instance"}

UIDArgument = Annotated[str, typer.Argument(metavar="UID", help="Its UID.")]
ReasonOption = Annotated[str, typer.Option(metavar="TEXT", help="The reason, for the trash and the audit trail.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be deleted, and change nothing.")]
IDArgument = Annotated[str, typer.Argument(metavar="ID", help="The ID that `trash list` prints.")]


@app.command()
def study(
    context: typer.Context, uid: UIDArgument, reason: ReasonOption, *, yes: YesOption = False,
    dry_run: DryRunOption = False, config: ConfigOption = None,
) -> None:  # fmt: skip
    """Move a study to the trash."""
    from pacs_server.dicom.levels import Level

    _delete(context, config, Level.STUDY, uid, reason, yes=yes, dry_run=dry_run)


@app.command()
def series(
    context: typer.Context, uid: UIDArgument, reason: ReasonOption, *, yes: YesOption = False,
    dry_run: DryRunOption = False, config: ConfigOption = None,
) -> None:  # fmt: skip
    """Move a series to the trash."""
    from pacs_server.dicom.levels import Level

    _delete(context, config, Level.SERIES, uid, reason, yes=yes, dry_run=dry_run)


@app.command()
def instance(
    context: typer.Context, uid: UIDArgument, reason: ReasonOption, *, yes: YesOption = False,
    dry_run: DryRunOption = False, config: ConfigOption = None,
) -> None:  # fmt: skip
    """Move an instance, with all its versions, to the trash."""
    from pacs_server.dicom.levels import Level

    _delete(context, config, Level.IMAGE, uid, reason, yes=yes, dry_run=dry_run)


@trash.command("list")
def list_(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
    patient: Annotated[bool, typer.Option("--patient", help="Also print the patient IDs.")] = False,
    config: ConfigOption = None,
) -> None:
    """List what is in the trash, the oldest first."""
    with _deletions(context, config) as (deletions, settings):
        rows = [(found, _patient(deletions, found) if patient else None) for found in deletions.contents()]
    if as_json:
        typer.echo(json.dumps([_as_json(found, who, settings) for found, who in rows], indent=1))
        return
    print_table(
        _COLUMNS + (("PATIENT ID",) if patient else ()),
        (_cells(found, who, settings) for found, who in rows),
        wrapping=("REASON",),
    )


@trash.command()
def restore(context: typer.Context, key: IDArgument, config: ConfigOption = None) -> None:
    """Restore a deletion as it was."""
    from pacs_server.kit.logs import escaped

    with _deletions(context, config) as (deletions, _):
        restored = deletions.restore(key)
    for uid in restored.conflicts:
        typer.echo(f"not restored {escaped(uid)}: it was stored again since", err=True)
    for uid in restored.missing:
        typer.echo(f"not restored {escaped(uid)}: its file is not in the trash", err=True)
    typer.echo(f"restored {counted(restored.instances, 'instance')}")
    if restored.conflicts or restored.missing:
        raise typer.Exit(1)


@trash.command()
def empty(
    context: typer.Context,
    *,
    older_than: Annotated[
        int | None, typer.Option(metavar="DAYS", min=0, help="Only what was deleted more than this number of days ago.")
    ] = None,
    yes: YesOption = False,
    config: ConfigOption = None,
) -> None:
    """Delete the contents of the trash for good: all, or those older than some days."""
    with _deletions(context, config) as (deletions, _):
        if not yes and not typer.confirm("Remove it for good? It cannot be restored then."):
            fail("nothing was removed", 1)
        removed = deletions.empty(timedelta(days=older_than or 0))
    instances = sum(one.instances for one in removed)
    typer.echo(f"removed {counted(len(removed), 'deletion')}, {counted(instances, 'instance')}")


# ------------------------------------------------------------------------------------ what they share


@contextmanager
def _deletions(
    context: typer.Context, config: Path | None, *, recovered: bool = False
) -> "Iterator[tuple[DeletionService, StorageConfig]]":
    """The trash; with `recovered`, what dead processes left is dealt with before.

    What a power loss took the name of would not go into the trash, and come back when a server starts.
    """
    with open_archive(context, config) as archive:
        if recovered:
            archive.recover()
        else:
            archive.deletions.resume()
        yield archive.deletions, archive.config().storage


def _delete(
    context: typer.Context, config: Path | None, level: "Level", uid: str, reason: str, *, yes: bool, dry_run: bool
) -> None:
    if not reason.strip():
        fail("--reason: say why", 2)
    with _deletions(context, config, recovered=not dry_run) as (deletions, settings):
        extent = deletions.extent(level, uid)
        what = _described(extent)
        if dry_run:
            typer.echo(f"would delete {what}")
            return
        if not yes and not typer.confirm(f"Delete {what}?"):
            fail("nothing was deleted", 1)
        deletion = deletions.delete(level, uid, _storable(reason))
    gone = counted(deletion.instances, "instance")
    typer.echo(f"deleted {gone}, in the trash as {deletion.folder}{_until(settings)}")


def _storable(text: str) -> str:
    """`text` without what a database refuses: NUL, and lone surrogates, which stand for bytes that are not UTF-8."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8").strip()


def _described(extent: "Extent") -> str:
    counts = (
        counted(extent.studies, "study", "studies"),
        counted(extent.series, "series", "series"),
        counted(extent.instances, "instance"),
    )
    return ", ".join(counts) + f" ({counted(extent.bytes, 'byte')})"


def _until(settings: "StorageConfig") -> str:
    return "" if settings.trash_days is None else f" for {counted(settings.trash_days, 'day')}"


def _removed_after(deletion: "Deletion", settings: "StorageConfig") -> str | None:
    if settings.trash_days is None:
        return None
    return f"{deletion.deleted_at + timedelta(days=settings.trash_days):%Y-%m-%d}"


def _patient(deletions: "DeletionService", deletion: "Deletion") -> str:
    from pacs_server.errors import StorageUnavailable

    try:
        return deletions.subject(deletion.folder).patient_id
    except StorageUnavailable:
        return ""


def _cells(deletion: "Deletion", patient: str | None, settings: "StorageConfig") -> tuple[str, ...]:
    return (
        *(deletion.folder, _LEVEL_NAMES[deletion.level.name], deletion.uid, f"{deletion.deleted_at:%Y-%m-%d %H:%M:%S}"),
        *(deletion.deleted_by, str(deletion.instances), str(deletion.bytes), deletion.status),
        *(_removed_after(deletion, settings) or "-", deletion.reason),
        *(() if patient is None else (patient or "-",)),
    )


def _as_json(deletion: "Deletion", patient: str | None, settings: "StorageConfig") -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": deletion.folder,
        "level": _LEVEL_NAMES[deletion.level.name],
        "uid": deletion.uid,
        "study_instance_uid": deletion.study_instance_uid,
        "deleted_at": deletion.deleted_at.isoformat(),
        "deleted_by": deletion.deleted_by,
        "instances": deletion.instances,
        "bytes": deletion.bytes,
        "status": deletion.status,
        "removed_after": _removed_after(deletion, settings),
        "reason": deletion.reason,
    }
    return shown if patient is None else shown | {"patient_id": patient}
