"""`pacs-server import`: take files and folders into the archive."""

import itertools
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from pacs_server.cli.options import ConfigOption, load_config, places
from pacs_server.cli.progress import progress_shown

if TYPE_CHECKING:
    from pacs_server.config.model import Config
    from pacs_server.config.sections.logging import LoggingConfig
    from pacs_server.intake.importer import ImportSummary

app = typer.Typer(rich_markup_mode=None)


@app.command("import")
def import_(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files and folders, including subfolders.")],
    config: ConfigOption = None,
) -> None:
    """Import DICOM files into the archive. Run it again to resume after an interruption."""
    from pacs_server.intake.importer import check_paths

    check_paths(paths)
    settings = load_config(context, config)
    _configure_log(settings.logging)
    try:
        summary = _import(settings, paths)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    _print_summary(summary)
    raise typer.Exit(summary.exit_code)


def _configure_log(settings: "LoggingConfig") -> None:
    from pacs_server.app.logging import configure

    if settings.file is not None:
        configure(settings, console=False)
    elif sys.stderr.isatty():
        # The summary and the progress bar are for people, a line for every file is not.
        configure(settings.model_copy(update={"level": "error"}))
    else:
        configure(settings)


def _import(settings: "Config", paths: list[Path]) -> "ImportSummary":
    from pacs_server.app.assembly import open_archive
    from pacs_server.app.existence import parts_there
    from pacs_server.audit.events import EventID, Role
    from pacs_server.audit.recorder import local_user
    from pacs_server.audit.transfers import Arrivals
    from pacs_server.intake.importer import run_import

    new = [place for place, is_there in zip(places(settings), parts_there(settings), strict=True) if not is_there]
    with open_archive(settings) as archive, _progress(paths) as progress:
        if new:
            _tell(f"made {' and '.join(new)}")
        archive.recover()
        participants = (local_user(), archive.audit.own(Role.DESTINATION))
        arrivals = Arrivals(archive.audit, participants, EventID.IMPORT)
        return run_import(paths, archive.store, arrivals, progress=progress, tell=_tell)


def _tell(line: str) -> None:
    """Print a line on standard error, above the progress bar if there is one.

    The bar takes the place of `sys.stderr`, and typer.echo would go past it and write into the bar.
    """
    print(line, file=sys.stderr)


@contextmanager
def _progress(paths: list[Path]) -> Iterator[Callable[[Path], None]]:
    """A function to call after each file: it shows the progress, and lets Ctrl-C end the import between two files."""
    from pacs_server.intake.importer import files_below

    interrupted = False

    def interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the second one does not wait

    # Only a bar on a terminal needs the total.
    total = sum(1 for _ in files_below(paths, lambda path, error: None)) if sys.stderr.isatty() else 0
    done = itertools.count(1)
    with progress_shown("files", lines=True) as show:
        previous = signal.signal(signal.SIGINT, interrupt)

        def step(path: Path) -> None:
            show("importing", next(done), total)
            if interrupted:
                raise KeyboardInterrupt

        try:
            yield step
        finally:
            signal.signal(signal.SIGINT, previous)


def _print_summary(summary: "ImportSummary") -> None:
    if summary.stopped is not None:
        typer.echo(f"pacs-server: the import stopped early: {summary.stopped}", err=True)
    if summary.interrupted:
        typer.echo("pacs-server: interrupted; run it again to resume", err=True)
    typer.echo(str(summary))
