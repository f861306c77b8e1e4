"""The commands that copy the whole archive: `pacs-server backup` and `restore`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pacs_server.cli.options import (
    ConfigOption,
    audited,
    bytes_per_second,
    fail,
    load_config,
    places,
    require_archive,
)
from pacs_server.cli.progress import progress_shown
from pacs_server.cli.tables import print_table
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.audit.events import Event
    from pacs_server.config.model import Config
    from pacs_server.index.database import Database
    from pacs_server.upkeep.backup import CopyReport
    from pacs_server.upkeep.backup_directory import BackupDirectory, Snapshot

app = typer.Typer(rich_markup_mode=None)

DirectoryArgument = Annotated[Path, typer.Argument(metavar="DIRECTORY", help="The directory of the backups.")]
RateOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="The maximum rate for each second, such as 50MB.", show_default=False)
]
JSONOption = Annotated[bool, typer.Option("--json", help="Print the result as a JSON object.")]


@app.command()
def backup(
    context: typer.Context,
    directory: DirectoryArgument,
    *,
    config: ConfigOption = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read and check the whole backup afterwards.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Print the snapshots instead of making one.")] = False,
    prune: Annotated[
        int | None,
        typer.Option(metavar="KEEP", min=1, help="Remove all but the newest KEEP snapshots instead of making one."),
    ] = None,
    rate: RateOption = None,
    as_json: JSONOption = False,
) -> None:
    """Back up the index and all files that are not in the backup yet. The server may keep running."""
    from pacs_server.upkeep.backup_directory import BackupDirectory

    if list_ and prune is not None:
        fail("--list and --prune are two commands", 2)
    backups = BackupDirectory(directory)
    if list_:
        _list(backups, as_json=as_json)
    elif prune is not None:
        _prune(backups, prune, as_json=as_json)
    else:
        settings = load_config(context, config)
        if backups.root.is_relative_to(settings.storage.directory):
            fail(f"{directory} lies in the archive itself", 2)
        require_archive(settings)
        raise typer.Exit(_back_up(settings, backups, rate, verify=verify, as_json=as_json))


@app.command()
def restore(
    context: typer.Context,
    directory: DirectoryArgument,
    *,
    config: ConfigOption = None,
    snapshot: Annotated[
        str | None, typer.Option(metavar="TIME", help="The snapshot to restore, instead of the newest.")
    ] = None,
    rate: RateOption = None,
    as_json: JSONOption = False,
) -> None:
    """Restore a backup into an empty archive and an empty database. Run it again to resume."""
    from pacs_server.audit.events import Action, Event, EventID
    from pacs_server.storage.assembly import files_of
    from pacs_server.upkeep.backup_directory import BackupDirectory
    from pacs_server.upkeep.rate_limit import RateLimit
    from pacs_server.upkeep.restore import RestoreTarget
    from pacs_server.upkeep.restore import restore as restored

    settings = load_config(context, config)
    backups, pace = BackupDirectory(directory), RateLimit(bytes_per_second(rate))
    chosen = backups.snapshot(snapshot)
    audit = settings.audit.directory
    beside = audit.with_name(f"{audit.name}.{chosen.name}")
    typer.echo(f"restoring {chosen.name} into {' and '.join(places(settings))}", err=True)
    with _database(settings) as database, progress_shown("instances") as show:
        target = RestoreTarget(database, files_of(settings.storage), beside)
        event = Event(EventID.IMPORT, Action.READ, (), detail=f"restore of {chosen.name} from {backups.root}")
        with audited(settings, event) as tell:
            report = restored(backups, chosen, target, pace, partial(show, "restoring"))
            tell(report.problem_count, _detail(event, report))
    code = _report(report, "restored", as_json=as_json)
    _warn_without_users(settings)
    raise typer.Exit(code)


def _warn_without_users(settings: "Config") -> None:
    """A backup does not hold the file of users, and without it nobody has to log in."""
    users = settings.user_identity.users_path
    if not users.exists():
        typer.echo(
            f"WARNING: there is no file of users at {users}, and the backup does not hold it. If the archive had "
            "users, put their file there before you start the server: until then nobody has to log in, and whoever "
            "sits at this machine sees all studies in the web pages.",
            err=True,
        )


def _back_up(settings: "Config", backups: "BackupDirectory", rate: str | None, *, verify: bool, as_json: bool) -> int:
    from pacs_server.audit.events import Action, Event, EventID
    from pacs_server.storage.assembly import files_of
    from pacs_server.upkeep.backup import BackupSource, back_up
    from pacs_server.upkeep.backup_check import verify_and_renew
    from pacs_server.upkeep.rate_limit import RateLimit

    files = files_of(settings.storage)
    with files.lock.shared(), _database(settings) as database:
        source = BackupSource(database, files, settings.audit.directory if settings.audit.enabled else None)
        event = Event(EventID.EXPORT, Action.READ, (), detail=f"backup to {backups.root}")
        with audited(settings, event) as tell:
            with progress_shown("instances") as show:
                report = back_up(source, backups, RateLimit(bytes_per_second(rate)), partial(show, "backing up"))
            tell(report.problem_count, _detail(event, report))
    if verify:
        with progress_shown("instances") as show:
            snapshot, shown = backups.snapshot(report.snapshot), partial(show, "verifying")
            for problem in verify_and_renew(files, backups, snapshot, shown):
                report.problem(problem)
    _note(settings, backups, report, verified=verify)
    return _report(report, "backed up and verified" if verify else "backed up", as_json=as_json)


def _note(settings: "Config", backups: "BackupDirectory", report: "CopyReport", *, verified: bool) -> None:
    """Have the archive remember the backup, which is good without that."""
    from pacs_server.errors import IndexUnavailable
    from pacs_server.index.state import StateIndex
    from pacs_server.upkeep.last_backup import note_backup

    try:
        with _database(settings) as database:
            snapshot = backups.snapshot(report.snapshot)
            note_backup(StateIndex(database), snapshot, report, str(backups.root), verified=verified)
    except IndexUnavailable as error:
        typer.echo(f"the backup is complete, but the archive cannot remember it: {error}", err=True)


def _detail(event: "Event", report: "CopyReport") -> str:
    count = report.problem_count
    return f"{event.detail}; {counted(count, 'file')} missing or damaged" if count else event.detail


def _list(backups: "BackupDirectory", *, as_json: bool) -> None:
    snapshots = backups.snapshots()
    if as_json:
        for snapshot in snapshots:
            typer.echo(json.dumps(asdict(snapshot)))
        return
    print_table(
        ("SNAPSHOT", "INSTANCES", "BYTES", "SCHEMA", "MISSING OR DAMAGED"),
        map(_cells, snapshots),
    )


def _cells(snapshot: "Snapshot") -> tuple[str, ...]:
    numbers = (snapshot.instances, snapshot.instance_bytes, snapshot.problems)
    instances, size, problems = map(str, numbers)
    return (snapshot.name, instances, size, snapshot.revision, problems)


def _prune(backups: "BackupDirectory", keep: int, *, as_json: bool) -> None:
    from pacs_server.upkeep.backup_pruning import prune

    pruned = prune(backups, keep)
    if as_json:
        typer.echo(json.dumps(asdict(pruned)))
    else:
        removed = f"{counted(pruned.snapshots, 'snapshot')} and {counted(pruned.files, 'file')}"
        typer.echo(f"removed {removed} ({counted(pruned.bytes, 'byte')})")


def _report(report: "CopyReport", what: str, *, as_json: bool) -> int:
    """Print the result and return the exit code."""
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        for problem in report.problems:
            typer.echo(problem, err=True)
        more = report.problem_count - len(report.problems)
        if more:
            typer.echo(f"and {more} more", err=True)
        size = counted(report.written_bytes, "byte")
        typer.echo(
            f"{what} {report.snapshot}: {counted(report.written, 'file')} written ({size}), "
            f"{report.there} there already, {report.problem_count} missing or damaged, {report.seconds:.1f} s"
        )
    return 1 if report.problem_count else 0


@contextmanager
def _database(settings: "Config") -> Iterator["Database"]:
    from pacs_server.app.assembly import make_database_directory
    from pacs_server.index.database import Database

    make_database_directory(settings)
    database = Database(settings.database.sqlalchemy_url, wal_mode=settings.database.wal_mode)
    try:
        yield database
    finally:
        database.close()
