"""The command line: without a subcommand it runs the server.

Modules that take long to import are imported by the commands that need them. Exit codes: 0 done, 1 failed, 2 wrong
setting or argument, 130 interrupted.
"""

import warnings
from typing import Annotated

import typer

from pacs_server import __version__
from pacs_server.cli import (
    about,
    audit,
    backup,
    commitment,
    completion,
    conflicts,
    delete,
    deliveries,
    exporting,
    find,
    importing,
    keys,
    manual,
    mark,
    mpps,
    peers,
    polling,
    rebuild,
    remote_asking,
    route,
    samples,
    setup,
    show,
    synthetic,
    tasks,
    temporary,
    users,
    verify,
    worklist,
)
from pacs_server.cli.options import ConfigOption, Options, fail, load_config
from pacs_server.errors import ConfigError, PacsError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# In the order in which `--help` lists the commands.
app.add_typer(setup.app)
app.add_typer(importing.app)
app.add_typer(samples.app)
app.add_typer(synthetic.app)
app.add_typer(about.app)
app.add_typer(backup.app)
app.add_typer(rebuild.app)
app.add_typer(audit.app, name="audit")
app.add_typer(commitment.app, name="commitment")
app.add_typer(conflicts.app)
app.add_typer(find.app)
app.add_typer(show.app)
app.add_typer(exporting.app)
app.add_typer(mark.app)
app.add_typer(delete.app, name="delete")
app.add_typer(delete.trash, name="trash")
app.add_typer(mpps.app, name="mpps")
app.add_typer(peers.app, name="peers")
app.add_typer(remote_asking.app, name="remote")
app.add_typer(polling.app, name="polling")
app.add_typer(deliveries.app)
app.add_typer(route.app, name="route")
app.add_typer(tasks.app, name="tasks")
app.add_typer(users.app, name="user")
app.add_typer(keys.app, name="key")
app.add_typer(verify.app)
app.add_typer(worklist.app, name="worklist")
app.add_typer(temporary.app)
app.add_typer(completion.app)
app.add_typer(manual.app)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # The warnings of pydicom quote values, and values are patient data.
    warnings.filterwarnings("ignore", module="pydicom")
    completion.prepare()
    try:
        # Also for `python -m pacs_server`, so that usage and completion are the same.
        app(prog_name=completion.PROGRAM)
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
    storage_dir: Annotated[str | None, typer.Option(metavar="DIR", help="The directory for the stored files.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A DICOM archive server. Without a command, the server runs until it is stopped."""
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
