"""The commands to prepare a start: `pacs-server check-config` and `migrate`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from pacs_server.cli.options import ConfigOption, load_config, shown

if TYPE_CHECKING:
    from pacs_server.config.model import Config

app = typer.Typer(rich_markup_mode=None)


@app.command("check-config")
def check_config(context: typer.Context, config: ConfigOption = None) -> None:
    """Check the configuration, and print every setting and its source."""
    from pacs_server.config.cautions import cautions

    settings = load_config(context, config)
    if settings.routing.rules:
        from pacs_server.services.routing import compile_rules

        compile_rules(settings)
    if settings.polling:
        from pacs_server.app.polled import check_queries

        check_queries(settings)
    typer.echo("ok")
    for warning in cautions(settings):
        typer.echo(f"note: {warning}")
    for key, text in _described(settings):
        where = settings.where(key)
        typer.echo(f"{key}: {text}" + (f"  ({where})" if where != "default" else ""))


def _described(config: "Config") -> Iterator[tuple[str, str]]:
    plain = config.model_dump(exclude={"source", "origins", "secret_files"})
    if plain["database"]["url"] is None:
        del plain["database"]["url"]
    else:
        plain["database"] |= {"url": config.database.masked_url}
        del plain["database"]["path"]
    for number, rule in enumerate(plain["access_control"].pop("peers")):
        plain[f"access_control.peers[{number}]"] = rule
    for number, rule in enumerate(plain["routing"].pop("rules")):
        plain[f"routing.rules[{number}]"] = rule
    for name in ("remote_aes", "polling", "prefetch"):
        for number, entry in enumerate(plain.pop(name)):
            plain[f"{name}[{number}]"] = entry
    for section, values in plain.items():
        yield from ((f"{section}.{key}", shown(value)) for key, value in values.items())


@app.command()
def migrate(context: typer.Context, config: ConfigOption = None) -> None:
    """Update the database schema to this version."""
    from pacs_server.app.assembly import make_database_directory, refuse_lost_index
    from pacs_server.index.database import Database
    from pacs_server.storage.assembly import files_of

    whole = load_config(context, config)
    settings = whole.database
    make_database_directory(whole)
    database = Database(settings.sqlalchemy_url, wal_mode=settings.wal_mode)
    try:
        refuse_lost_index(files_of(whole.storage), database)
        before = database.revision()
        database.migrate()
        after = database.revision()
    finally:
        database.close()
    if before == after:
        typer.echo(f"the database is at revision {after} already: {settings.name}")
    else:
        typer.echo(f"migrated from {before or 'an empty database'} to revision {after}: {settings.name}")
