"""What the commands share: the options that stand before them, the settings, failing with a sentence."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from pacs_server.config.model import Config

ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The configuration file.")]


@dataclass(frozen=True, slots=True)
class Options:
    """The options that stand before a subcommand."""

    config: Path | None
    overrides: dict[str, object] = field(default_factory=dict)


def load_config(context: typer.Context, file: Path | None = None, *, check: bool = True) -> "Config":
    """The settings, from the file named after the subcommand or before it; raises ConfigError."""
    from pacs_server.config.load import check_filesystem, load

    options: Options = context.obj
    config = load(file or options.config, environ=os.environ, overrides=options.overrides)
    if check:
        check_filesystem(config)
    return config


def fail(sentence: str, code: int) -> NoReturn:
    """End the process with a sentence on standard error and an exit code."""
    print(f"pacs-server: {sentence}", file=sys.stderr)
    raise SystemExit(code)


@contextmanager
def progress_shown(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """What to call with what is done, how many of it and of how many (0: nobody knows); on a terminal it shows that."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    shown = 0.0

    def show(what: str, done: int, total: int) -> None:
        nonlocal shown
        if done == total or time.monotonic() - shown > 0.2:
            shown = time.monotonic()
            typer.echo(f"\r{what}: {done}{f' of {total}' if total else ''} {unit}  ", nl=False, err=True)

    try:
        yield show
    finally:
        typer.echo("", err=True)
