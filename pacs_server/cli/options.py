"""What the commands share: the options that stand before them, the settings, failing with a sentence."""

import os
import sys
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


def shown(value: object) -> str:
    """The value of a setting, or of a field of the status, for people."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
