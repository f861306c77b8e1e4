"""`pacs-server mark`: labels of a study, who is to read it, and how far that is."""

from typing import Annotated

import typer

from pacs_server.cli.find import JSONOption, json_text
from pacs_server.cli.options import ConfigOption, fail, open_archive
from pacs_server.cli.show import StudyArgument, marked, studies_named

app = typer.Typer(rich_markup_mode=None)


@app.command()
def mark(
    context: typer.Context,
    study: StudyArgument,
    *,
    label: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Add a label.")] = None,
    remove_label: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Remove a label.")] = None,
    assign: Annotated[
        str | None, typer.Option(metavar="WHO", help='The person or role that should read it; "" for nobody.')
    ] = None,
    reading: Annotated[str | None, typer.Option(metavar="STATE", help="unread, reading, read or review.")] = None,
    as_json: JSONOption = False,
    config: ConfigOption = None,
) -> None:
    """Set labels, reader and reading state of a study. Without an option, show them."""
    from pacs_server.audit.recorder import local_user
    from pacs_server.dicom.subject import Subject
    from pacs_server.errors import InvalidRequest
    from pacs_server.index.marks import MarkKind

    wanted = [(MarkKind.LABEL, text) for text in label or ()]
    wanted += [(MarkKind.UNLABEL, text) for text in remove_label or ()]
    wanted += [(MarkKind.ASSIGN, assign)] if assign is not None else []
    wanted += [(MarkKind.READING, reading)] if reading is not None else []
    with open_archive(context, config) as archive:
        found = studies_named(archive, study)
        uid = found[0]["StudyInstanceUID"]
        subjects = [
            Subject(each["PatientID"], each["IssuerOfPatientID"], uid, each["AccessionNumber"]) for each in found
        ]
        try:
            archive.marks.set(wanted, subjects, local_user())
        except InvalidRequest as error:
            fail(str(error), 2)
        marks = archive.marks.of([uid])[uid]
    if as_json:
        told = {"labels": list(marks.labels), "assigned_to": marks.assigned_to, "reading": marks.reading}
        typer.echo(json_text({"StudyInstanceUID": uid, **told}, indent=1))
        return
    for line in marked(marks):
        typer.echo(line)
