"""`pacs-server export`: write a study as files with a DICOMDIR, for a CD, a stick or a mail."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pacs_server.cli.find import caller
from pacs_server.cli.options import ConfigOption, echo, fail, open_archive
from pacs_server.cli.progress import progress_shown
from pacs_server.cli.show import StudyArgument, studies_named, whole_study
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.app.assembly import OpenArchive
    from pacs_server.services.export import ExportReport
    from pacs_server.services.export_targets import ExportTarget

app = typer.Typer(rich_markup_mode=None)

# So many instances with which something is wrong are named.
_SHOWN = 20


@app.command()
def export(
    context: typer.Context,
    study: StudyArgument,
    destination: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory, or a new file.")],
    *,
    zip_: Annotated[bool, typer.Option("--zip", help="Write one ZIP file instead of a directory.")] = False,
    config: ConfigOption = None,
) -> None:
    """Write a study as it is stored, with a DICOMDIR. Overwrites nothing; a failed export leaves nothing behind."""
    from pacs_server.services.export_targets import DirectoryTarget, ZipTarget

    with open_archive(context, config) as archive:
        if destination.resolve().is_relative_to(archive.config().storage.directory):
            fail(f"{destination} lies in the archive itself", 2)
        found = studies_named(archive, study)
        if len(found) > 1:
            fail("the study is known with several patients; `pacs-server conflicts` lists them", 1)
        target = ZipTarget(destination) if zip_ else DirectoryTarget(destination)
        try:
            report = _export(archive, found[0]["StudyInstanceUID"], target)
        except OSError as error:
            fail(f"{destination} cannot be written: {error.strerror or error}", 1)
        except KeyboardInterrupt:
            fail("interrupted; nothing was exported", 130)
    _print_report(report, destination)
    raise typer.Exit(1 if report.failed else 0)


def _export(archive: "OpenArchive", uid: str, target: "ExportTarget") -> "ExportReport":
    from pacs_server.audit.auditor import Auditor
    from pacs_server.services.export import ExportService

    instances = archive.retrieve.select(whole_study(uid))
    with progress_shown("instances", lines=True) as show:
        return ExportService(archive.retrieve, Auditor(archive.audit)).export(
            instances, target, caller(), lambda done, total: show("exporting", done, total)
        )


def _print_report(report: "ExportReport", destination: Path) -> None:
    for what, troubles in (("not exported", report.failed), ("exported, but not in the DICOMDIR:", report.unlisted)):
        for trouble in troubles[:_SHOWN]:
            echo(f"{what} {trouble.sop_instance_uid}: {trouble.reason}", err=True)
        if len(troubles) > _SHOWN:
            echo(f"{what} {len(troubles) - _SHOWN} more", err=True)
    exported = counted(report.exported, "instance")
    left = f", {len(report.failed)} could not be read" if report.failed else ""
    echo(f"exported {exported} ({counted(report.bytes, 'byte')}) to {destination}{left}")
