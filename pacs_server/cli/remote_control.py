"""`pacs-server remote status|pause|resume|retarget`: which remotes work, and who decides otherwise."""

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from pacs_server.cli.find import caller
from pacs_server.cli.options import ConfigOption, age, echo, open_archive
from pacs_server.cli.remote_sending import NameArgument, app
from pacs_server.cli.show import studies_named
from pacs_server.cli.tables import print_table
from pacs_server.kit.words import counted

# The group of commands that `remote_sending` begins.
__all__ = ["app"]

_COLUMNS = ("NAME", "STATE", "FOR", "WAITING", "DEAD", "OLDEST", "REASON")


@app.command()
def status(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """List the remotes: which can receive now, which cannot and why, and what is waiting for them."""
    with open_archive(context, config) as archive:
        found = archive.forwarding.remotes(archive.breakers)
    if as_json:
        typer.echo(json.dumps([each.as_json() for each in found], indent=1, default=str))
        return
    now = datetime.now(UTC)
    print_table(
        _COLUMNS,
        (
            (
                each.name,
                each.state,
                age((each.until - now).total_seconds()) if each.until else "-",
                str(each.waiting),
                str(each.dead),
                age(each.oldest_seconds) if each.waiting else "-",
                each.reason or "-",
            )
            for each in found
        ),
        wrapping=("REASON",),
    )


@app.command()
def pause(context: typer.Context, name: NameArgument, config: ConfigOption = None) -> None:
    """Send nothing to a remote until it is resumed. Deliveries wait and are not given up."""
    with open_archive(context, config) as archive:
        archive.breakers.pause(name, caller())
    echo(f"{name} is paused")


@app.command()
def resume(context: typer.Context, name: NameArgument, config: ConfigOption = None) -> None:
    """Send to a remote again, after a pause or after failures."""
    with open_archive(context, config) as archive:
        archive.breakers.resume(name, caller())
    echo(f"{name} is used again")


@app.command()
def retarget(
    context: typer.Context,
    name: NameArgument,
    target: Annotated[str, typer.Argument(metavar="TO", help="The name of the remote that gets them instead.")],
    *,
    study: Annotated[str | None, typer.Option(help="Only this study, by UID or accession number.")] = None,
    config: ConfigOption = None,
) -> None:
    """Redirect the waiting and dead deliveries of a remote to another one."""
    with open_archive(context, config) as archive:
        uid = studies_named(archive, study)[0]["StudyInstanceUID"] if study else None
        tasks = archive.forwarding.retarget(name, target, caller(), uid)
    echo(f"{counted(len(tasks), 'study', 'studies')} for {name} will go to {target}")
