"""Logging as the section `logging` of the settings says."""

from pacs_server.config.model import LoggingConfig
from pacs_server.kit import logs


def configure(config: LoggingConfig, *, console: bool = True) -> None:
    """Send the server's log where `config` says; `console` is standard error.

    Raises ConfigError when the file cannot be opened; the earlier set-up is then untouched.
    """
    logs.configure(level=config.level, json=config.format == "json", file=config.file, console=console)
