"""`pacs-server rebuild-index`: make the index from the files alone."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pacs_server.cli.options import ConfigOption, audited, fail, load_config, places, source
from pacs_server.cli.progress import progress_shown

if TYPE_CHECKING:
    from pacs_server.config.model import Config
    from pacs_server.index.database import Database
    from pacs_server.upkeep.rebuild import RebuildReport

app = typer.Typer(rich_markup_mode=None)


@app.command("rebuild-index")
def rebuild_index(
    context: typer.Context,
    *,
    into: Annotated[
        str | None,
        typer.Option(
            metavar="URL|FILE", help="An empty database to fill, instead of the configured one.", show_default=False
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="How many files to read at a time.")] = 1,
    config: ConfigOption = None,
) -> None:
    """Rebuild the index from the files. The server must be stopped, unless you use --into."""
    from pacs_server.audit.events import Action, Event, EventID, EventType
    from pacs_server.index.database import Database

    settings = load_config(context, config)
    if not settings.storage.directory.is_dir():
        fail(f"there is no archive: {places(settings)[1]} is not there. {source(settings)}", 2)
    _configure_log(settings)
    event = Event(
        EventID.SECURITY_ALERT,
        Action.EXECUTE,
        (),
        event_type=EventType.SOFTWARE_CONFIGURATION,
        detail="index not rebuilt",
    )
    with audited(settings, event) as tell:
        file = Database(settings.database.sqlalchemy_url).file if into is None else None
        rebuilt = _into(settings, into, jobs) if file is None else _in_place(settings, file.resolve(), jobs)
        tell(rebuilt.problem_count, f"index rebuilt: {rebuilt}")
    raise typer.Exit(_report(rebuilt))


def _configure_log(settings: "Config") -> None:
    from pacs_server.app.logging import configure as configure_logging

    if settings.logging.file is not None:
        configure_logging(settings.logging, console=False)
    else:
        # The warnings about the instances were logged when they arrived.
        configure_logging(settings.logging.model_copy(update={"level": "error"}))


def _in_place(settings: "Config", path: Path, jobs: int) -> "RebuildReport":
    """Build the index in a new file beside the configured one at `path`, and then replace that one."""
    from pacs_server.storage.assembly import files_of
    from pacs_server.upkeep.rebuild_target import new_file, put_in_place

    with files_of(settings.storage).lock.exclusive():
        new = new_file(path)
        with closing(_built(new)) as database:
            rebuilt = _fill(settings, database, jobs)
            if path.exists():
                _take_over(settings, database)
        old = put_in_place(new, path)
    if old is not None:
        typer.echo(f"the old index is kept as {old}")
    return rebuilt


def _into(settings: "Config", into: str | None, jobs: int) -> "RebuildReport":
    """Build the index in an empty database: the one that `into` names, or the configured one if it is on a server."""
    from pacs_server.index.database import Database
    from pacs_server.storage.assembly import files_of

    lock = files_of(settings.storage).lock
    url = settings.database.sqlalchemy_url if into is None else into if "://" in into else f"sqlite:///{into}"
    with lock.exclusive() if into is None else lock.shared(), closing(Database(url)) as database:
        _refuse_rows(database)
        rebuilt = _fill(settings, database, jobs)
        if into is not None:
            _take_over(settings, database)
    return rebuilt


def _refuse_rows(database: "Database") -> None:
    from pacs_server.index.copying import is_empty

    if not is_empty(database):
        fail(
            "the database is not empty, and a rebuild never removes an index: make an empty database, rebuild "
            "with --into its URL, and set database.url to it",
            1,
        )


def _built(new: Path) -> "Database":
    from pacs_server.index.database import Database

    # The file is synced as a whole when it replaces the old one.
    return Database(f"sqlite:///{new}", wal_mode=False, fsync=False)


def _fill(settings: "Config", database: "Database", jobs: int) -> "RebuildReport":
    from pacs_server.storage.assembly import files_of
    from pacs_server.upkeep.rebuild import rebuild

    files = files_of(settings.storage)
    # While a restore is unfinished, files are missing, and the index would be incomplete.
    files.restoration.refuse_unfinished()
    database.migrate()
    with progress_shown("files") as progress:
        return rebuild(files, database, progress, jobs=jobs)


def _take_over(settings: "Config", database: "Database") -> None:
    from pacs_server.index.database import Database
    from pacs_server.index.rebuilding import take_over

    with closing(Database(settings.database.sqlalchemy_url, wal_mode=settings.database.wal_mode)) as old:
        lost = take_over(old, database)
    if lost:
        typer.echo(f"the old index did not give these tables: {', '.join(lost)}", err=True)


def _report(rebuilt: "RebuildReport") -> int:
    """Print the result and return the exit code."""
    from pacs_server.kit.logs import escaped

    for problem in rebuilt.problems:
        typer.echo(f"not indexed {escaped(problem)}", err=True)
    hidden = rebuilt.problem_count - len(rebuilt.problems)
    if hidden:
        typer.echo(f"and {hidden} more; with logging.file set, the log names them all", err=True)
    typer.echo(str(rebuilt))
    return 1 if rebuilt.problem_count else 0
