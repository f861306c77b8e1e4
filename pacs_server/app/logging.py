"""Logging as the section `logging` of the settings says."""

from pacs_server.app.runtime import Runtime
from pacs_server.config.sections.logging import LoggingConfig
from pacs_server.kit import logs


def configure(config: LoggingConfig, *, console: bool = True) -> None:
    """Send the server's log where `config` says; `console` is standard error.

    Raises ConfigError when the file cannot be opened; the earlier set-up is then untouched.
    """
    logs.configure(level=config.level, json=config.format == "json", file=config.file, console=console)


class Logging:
    """The log of a running server; without `own_logs` whoever embeds the server has set logging up."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def start(self) -> None:
        """Send the log where the settings say. Raises ConfigError when the file cannot be opened."""
        if self._runtime.own_logs:
            configure(self._runtime.config().logging)

    def reload(self) -> None:
        """Take over the level."""
        if self._runtime.own_logs:
            logs.set_level(self._runtime.config().logging.level)
