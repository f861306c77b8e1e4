"""What the commands share: options, the settings, the open archive, the audit of a long command, and how to fail."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date as Date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from pacs_server.app.assembly import OpenArchive
    from pacs_server.audit.events import Event
    from pacs_server.config.model import Config

ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The configuration file.")]
# The name that the documents give the configuration file.
USUAL_FILE = "pacs_server.yaml"


@dataclass(frozen=True, slots=True)
class Options:
    """The options that were given before the subcommand."""

    config: Path | None
    overrides: dict[str, object] = field(default_factory=dict)


def load_config(context: typer.Context, file: Path | None = None, *, check: bool = True) -> "Config":
    """Read the settings from the file that was named after the subcommand, or before it. Raises ConfigError.

    Without either, the variable PACS_SERVER_CONFIG names the file. If `check`, the settings are checked against the
    disk as well.
    """
    from pacs_server.config.disk import check_filesystem
    from pacs_server.config.load import load

    options: Options = context.obj
    config = load(file or options.config, environ=os.environ, overrides=options.overrides)
    if check:
        check_filesystem(config)
    return config


@contextmanager
def open_archive(context: typer.Context, file: Path | None = None) -> Iterator["OpenArchive"]:
    """The archive of the settings, open until the block ends; refused if there is none. Raises a PacsError."""
    from pacs_server.app import assembly

    settings = load_config(context, file)
    require_archive(settings)
    with assembly.open_archive(settings) as archive:
        yield archive


def require_archive(settings: "Config") -> None:
    """End the process with exit code 2 if the archive of the settings is not there. Raises a PacsError.

    Opening an archive makes what is missing, so a command that was given the wrong settings would work on a new one.
    """
    from pacs_server.app.existence import is_archive_there

    if not is_archive_there(settings):
        index, storage = places(settings)
        fail(f"there is no archive: neither {index} nor {storage} is there. {source(settings)}", 2)


def places(settings: "Config") -> tuple[str, str]:
    """The index and the storage of the settings, each with the place where it was set, for messages."""
    database = "database.path" if settings.database.url is None else "database.url"
    return (
        f"the index {settings.database.name} ({settings.where(database)})",
        f"the storage {settings.storage.directory} ({settings.where('storage.directory')})",
    )


def source(settings: "Config") -> str:
    """Where the settings came from, and how to name other ones."""
    from pacs_server.config.load import FILE_VARIABLE

    how = f"with --config FILE or with the variable {FILE_VARIABLE}"
    if settings.source is not None:
        by = f", which {FILE_VARIABLE} names" if os.environ.get(FILE_VARIABLE) == str(settings.source) else ""
        return f"The settings are those of {settings.source}{by}; name another file {how}"
    hint = f"; try --config {USUAL_FILE}" if Path(USUAL_FILE).is_file() else ""
    return f"No configuration file was read; name it {how}{hint}"


def echo(line: str, *, err: bool = False) -> None:
    """Print a line, on standard error if `err`; characters in it that could control the terminal are escaped."""
    from pacs_server.kit.logs import escaped

    typer.echo(escaped(line), err=err)


def fail(sentence: str, code: int) -> NoReturn:
    """Print a sentence on standard error and end the process with an exit code."""
    print(f"pacs-server: {sentence}", file=sys.stderr)
    raise SystemExit(code)


def day_option(option: str, text: str) -> str:
    """The day that an option names, as YYYYMMDD; ends the process if it names none."""
    from pacs_server.kit.dates import DATE_FORMATS, day_of

    try:
        return day_of(text, today=Date.today()).strftime("%Y%m%d")
    except ValueError:
        fail(f"{option}: has to be a date such as {DATE_FORMATS}, or today, yesterday, tomorrow", 2)


def bytes_per_second(rate: str | None) -> int | None:
    """The value of an option --rate, None without one; ends the process if it is no size, or nothing."""
    from pacs_server.config.types import parse_size

    if rate is None:
        return None
    try:
        size = parse_size(rate)
    except ValueError as error:
        fail(f"--rate: {error}", 2)
    if not isinstance(size, int) or size < 1:
        fail("--rate: at least one byte a second", 2)
    return size


@contextmanager
def audited(settings: "Config", event: "Event") -> Iterator[Callable[[int, str], None]]:
    """Record in the audit trail what the block does and how it ends. The block has to call the function that it gets.

    The function takes the number of problems and the detail of the event; without it the block has failed, and the
    detail is that of `event`. Who takes part in the event is filled in here.
    """
    from pacs_server.audit.events import Outcome, Role
    from pacs_server.audit.recorder import Recorder, local_user
    from pacs_server.audit.trail import open_trail

    if not settings.audit.enabled:
        yield lambda problems, detail: None
        return
    with open_trail(settings.audit) as trail:
        recorder = Recorder(trail, lambda: settings.server.ae_title)
        outcome, detail = Outcome.SERIOUS_FAILURE, event.detail

        def tell(problems: int, text: str) -> None:
            nonlocal outcome, detail
            outcome, detail = (Outcome.MINOR_FAILURE if problems else Outcome.SUCCESS), text

        try:
            yield tell
        finally:
            participants = (local_user(), recorder.own(Role.APPLICATION))
            ended = replace(event, participants=participants, outcome=outcome, detail=detail)
            recorder.note(ended, durable=True)


def shown(value: object) -> str:
    """A value, of a setting or of a field of the status page, as text for people."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def age(seconds: float) -> str:
    """A span of time for people: `1.5d`, `3.0h`, `2.5m` or `12s`."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
