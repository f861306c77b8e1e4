"""The commands of API keys, which programs show at the HTTP door: `pacs-server key create|list|revoke`."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from pacs_server.cli.options import ConfigOption, fail, open_archive
from pacs_server.cli.rights import AEOption, ModalityOption, PatientOption, RoleOption, limits, rights
from pacs_server.cli.tables import print_table

if TYPE_CHECKING:
    from pacs_server.services.api_keys import APIKey

app = typer.Typer(help="API keys, for programs that use the web port.", no_args_is_help=True)

_COLUMNS = ("NAME", "ROLE", "LIMITS", "STATE", "CREATED", "BY", "EXPIRES", "LAST USED")
_FOR_EVER = "never"


@app.command()
def create(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What the key is for.")],
    role: RoleOption = "reader",
    expires: Annotated[
        str, typer.Option("--expires", metavar="TIME", help="When the key expires: after a time such as 90d, or never.")
    ] = "90d",
    modality: ModalityOption = None,
    ae: AEOption = None,
    patient: PatientOption = None,
    config: ConfigOption = None,
) -> None:
    """Create a key and print it. It is shown only this once. The running server accepts it at once."""
    granted, lasts = rights(role, modality, ae, patient), _lasting(expires)
    with open_archive(context, config) as archive:
        typer.echo(archive.keys.create(name, granted, lasts))
    typer.echo(f"key {name} made; it is not shown again", err=True)


@app.command("list")
def list_keys(context: typer.Context, config: ConfigOption = None) -> None:
    """List the keys, also those that no longer work. The last use is accurate to the hour."""
    with open_archive(context, config) as archive:
        print_table(_COLUMNS, map(_cells, archive.keys.list()))


@app.command()
def revoke(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the key.")],
    config: ConfigOption = None,
) -> None:
    """Revoke a key. A running server refuses it within two seconds."""
    with open_archive(context, config) as archive:
        archive.keys.revoke(name)
    typer.echo(f"key {name} revoked")


def _lasting(text: str) -> timedelta | None:
    from pacs_server.config.types import parse_duration

    if text == _FOR_EVER:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        fail(f"--expires: {error}", 2)
    if not isinstance(seconds, float) or seconds <= 0:
        fail("--expires: has to be more than nothing", 2)
    return timedelta(seconds=seconds)


def _cells(key: "APIKey") -> tuple[str, ...]:
    from pacs_server.config.rights import Rights

    scope = key.scope
    shown = limits(Rights(key.role.name.lower(), scope.modalities, scope.ae_titles, scope.patients))
    moments = (f"{moment:%Y-%m-%d %H:%M}" if moment else "" for moment in (key.expires, key.last_used))
    return (
        *(key.name, key.role.name.lower(), shown, key.state),
        *(f"{key.created:%Y-%m-%d %H:%M}", key.created_by, *moments),
    )
