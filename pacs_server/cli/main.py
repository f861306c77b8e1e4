"""The command line: without a subcommand it runs the server.

Modules that take long to import are imported by the commands that need them. Exit codes: 0 done, 1 failed,
2 a setting or an argument is wrong, 130 interrupted.
"""

import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from pacs_server import (
    __version__,
)
from pacs_server.cli import audit as cli_audit
from pacs_server.cli import backup as cli_archive
from pacs_server.cli import commitment as cli_commitment
from pacs_server.cli import conflicts as cli_conflicts
from pacs_server.cli import delete as cli_delete
from pacs_server.cli import mpps as cli_mpps
from pacs_server.cli import peers as cli_peers
from pacs_server.cli import rebuild as cli_rebuild
from pacs_server.cli import users as cli_users
from pacs_server.cli import verify as cli_verify
from pacs_server.cli import worklist as cli_worklist
from pacs_server.cli.options import ConfigOption, Options, fail, load_config
from pacs_server.errors import ConfigError, PacsError

if TYPE_CHECKING:
    from pacs_server.config.model import Config
    from pacs_server.intake.importer import ImportSummary

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(cli_archive.app)
app.add_typer(cli_rebuild.app)
app.add_typer(cli_audit.app, name="audit")
app.add_typer(cli_commitment.app, name="commitment")
app.add_typer(cli_conflicts.app)
app.add_typer(cli_delete.app, name="delete")
app.add_typer(cli_delete.trash, name="trash")
app.add_typer(cli_mpps.app, name="mpps")
app.add_typer(cli_peers.app, name="peers")
app.add_typer(cli_users.app, name="user")
app.add_typer(cli_verify.app)
app.add_typer(cli_worklist.app, name="worklist")


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # pydicom's warnings quote values, and values are patient data.
    warnings.filterwarnings("ignore", module="pydicom")
    try:
        app()
    except ConfigError as error:
        fail(str(error), 2)
    except PacsError as error:
        fail(str(error), 1)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pacs-server {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="The DICOM port; 0 takes any free one.")] = None,
    ae_title: Annotated[str | None, typer.Option(help="The server's AE title.")] = None,
    storage_dir: Annotated[str | None, typer.Option(metavar="DIR", help="Where the objects are kept.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A DICOM archive server. Without a command it runs the server until it is told to stop."""
    overrides: dict[str, object] = {
        "server.host": host,
        "server.port": port,
        "server.ae_title": ae_title,
        "storage.directory": storage_dir,
        "logging.level": log_level,
    }
    context.obj = Options(config, overrides)
    if context.invoked_subcommand is None:
        raise typer.Exit(_serve(context))


def _serve(context: typer.Context) -> int:
    from pacs_server.app.server import PacsServer

    config = load_config(context)
    return PacsServer(config, reload=lambda: load_config(context)).run()


@app.command("check-config")
def check_config(context: typer.Context, config: ConfigOption = None) -> None:
    """Check the configuration and print every setting, and where it was set if not by default."""
    from pacs_server.config.cautions import cautions

    settings = load_config(context, config)
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
    for number, remote in enumerate(plain.pop("remote_aes")):
        plain[f"remote_aes[{number}]"] = remote
    for section, values in plain.items():
        yield from ((f"{section}.{key}", _shown(value)) for key, value in values.items())


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


@app.command()
def migrate(context: typer.Context, config: ConfigOption = None) -> None:
    """Bring the database schema up to date."""
    from pacs_server.app.assembly import refuse_lost_index
    from pacs_server.index.database import Database
    from pacs_server.kit.private_files import make_directory

    whole = load_config(context, config)
    settings = whole.database
    if settings.url is None:
        make_directory(settings.path.parent)
    database = Database(settings.sqlalchemy_url, wal_mode=settings.wal_mode)
    try:
        refuse_lost_index(whole, database)
        before = database.revision()
        database.migrate()
        after = database.revision()
    finally:
        database.close()
    if before == after:
        typer.echo(f"the database is at revision {after} already")
    else:
        typer.echo(f"migrated from {before or 'an empty database'} to revision {after}")


@app.command("import")
def import_(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files and folders; folders with all below.")],
    config: ConfigOption = None,
) -> None:
    """Take DICOM files into the archive; run it again to resume."""
    from pacs_server.app.assembly import open_archive
    from pacs_server.app.logging import configure as configure_logging
    from pacs_server.audit.events import EventID, Role
    from pacs_server.audit.recorder import local_user
    from pacs_server.audit.transfers import Arrivals
    from pacs_server.intake import importer
    from pacs_server.upkeep.recovery import recover

    importer.check_paths(paths)
    settings = load_config(context, config)
    if settings.logging.file is not None:
        configure_logging(settings.logging, console=False)
    elif sys.stderr.isatty():
        # The report and the progress bar are for people, a line for every file is not.
        configure_logging(settings.logging.model_copy(update={"level": "error"}))
    else:
        configure_logging(settings.logging)
    try:
        with open_archive(settings) as archive, _progress(paths) as progress:
            with archive.deletions.settled():
                recover(archive.archive, archive.storage, archive.audit)
            participants = (local_user(), archive.audit.own(Role.DESTINATION))
            arrivals = Arrivals(archive.audit, participants, EventID.IMPORT)
            summary = importer.run_import(paths, archive.store, arrivals, progress=progress)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    _report(summary)
    raise typer.Exit(summary.exit_code)


@contextmanager
def _progress(paths: list[Path]) -> Iterator[Callable[[Path], None]]:
    """What to call after each file: moves a bar on a terminal, and lets Ctrl-C end the import between two files."""
    interrupted = False

    def interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the second one does not wait

    with _bar(paths) as update:
        previous = signal.signal(signal.SIGINT, interrupt)

        def step(path: Path) -> None:
            update(1)
            if interrupted:
                raise KeyboardInterrupt

        try:
            yield step
        finally:
            signal.signal(signal.SIGINT, previous)


@contextmanager
def _bar(paths: list[Path]) -> Iterator[Callable[[int], None]]:
    from pacs_server.intake.importer import files_below

    if not sys.stderr.isatty():
        yield lambda steps: None
        return
    total = sum(1 for _ in files_below(paths, lambda path, error: None))
    with typer.progressbar(length=total, label="importing", file=sys.stderr) as bar:
        yield bar.update


def _report(summary: "ImportSummary") -> None:
    for rejection in summary.rejections:
        typer.echo(f"rejected {rejection.path}: {rejection.reason}", err=True)
    hidden = summary.rejected - len(summary.rejections)
    if hidden:
        typer.echo(f"and {hidden} more; with logging.file set, the log names them all", err=True)
    if summary.stopped is not None:
        typer.echo(f"pacs-server: the import stopped early: {summary.stopped}", err=True)
    if summary.interrupted:
        typer.echo("pacs-server: interrupted; run it again to resume", err=True)
    typer.echo(str(summary))


@app.command()
def status(context: typer.Context, config: ConfigOption = None) -> None:
    """Ask the running server how it is."""
    from pacs_server.kit.logs import escaped

    monitoring = load_config(context, config, check=False).monitoring
    if not monitoring.enabled or monitoring.metrics_port == 0:
        fail("the status needs monitoring.enabled and a fixed monitoring.metrics_port", 1)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(monitoring.host, monitoring.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{monitoring.metrics_port}/status"
    for line in _readable(_get(url)):
        typer.echo(escaped(line))


def _get(url: str) -> object:
    """The JSON document at `url`, asked for without any proxy."""
    import json
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import ProxyHandler, build_opener

    try:
        with build_opener(ProxyHandler({})).open(url, timeout=10) as response:
            return json.loads(response.read(1_048_576))
    except HTTPError as error:
        error.close()
        fail(f"{url} answers {error.code} {error.reason}; is it this server?", 1)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        fail(f"no server answers at {url}: {getattr(reason, 'strerror', None) or reason}", 1)
    except ValueError:
        fail(f"what answers at {url} is not this server", 1)


def _readable(value: object, indent: str = "") -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{indent}{_shown(value)}"
        return
    for key, item in value.items():
        if isinstance(item, dict | list):
            yield f"{indent}{key}:"
            for part in [item] if isinstance(item, dict) else item:
                yield from _readable(part, indent + "  ")
        else:
            yield f"{indent}{key}: {_shown(item)}"


@app.command()
def conformance(
    context: typer.Context,
    config: ConfigOption = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write there instead of printing.")] = None,
) -> None:
    """Print the DICOM conformance statement of this server as configured."""
    from pacs_server.app.conformance import statement

    text = statement(load_config(context, config, check=False))
    if output is None:
        typer.echo(text)
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}", 1)
