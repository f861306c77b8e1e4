"""`pacs-server sample`: sample studies for those who try the archive out."""

from typing import Annotated

import typer

from pacs_server.cli.options import ConfigOption, open_archive
from pacs_server.kit.words import counted

app = typer.Typer(rich_markup_mode=None)


@app.command()
def sample(
    context: typer.Context,
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Move the sample studies to the trash instead.")] = False,
    config: ConfigOption = None,
) -> None:
    """Store three synthetic studies with the label sample: a CT, an MR and a radiograph."""
    from pacs_server.audit.auditor import Auditor
    from pacs_server.audit.recorder import local_user
    from pacs_server.dicom.caller import Caller, Door
    from pacs_server.services.samples import SampleService

    caller = Caller(Door.COMMAND, "", user=local_user().user_id)
    with open_archive(context, config) as archive:
        samples = SampleService(
            archive.store, archive.marks, archive.retrieve, archive.deletions, Auditor(archive.audit)
        )
        found = samples.remove(caller) if remove else samples.add(caller)
    what = counted(len(found), "sample study", "sample studies")
    typer.echo(f"{what} moved into the trash" if remove else f"{what} in the archive")
