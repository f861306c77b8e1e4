"""Logging as the section `logging` of the settings says."""

import logging
import threading

from pacs_server.app.runtime import Runtime
from pacs_server.config.sections.logging import LoggingConfig
from pacs_server.kit import logs

log = logging.getLogger(__name__)


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
            # Python would tell it on standard error alone, and not in the form of the log.
            threading.excepthook = thread_failed

    def reload(self) -> None:
        """Take over the level."""
        if self._runtime.own_logs:
            logs.set_level(self._runtime.config().logging.level)


def thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Log that a thread was ended by an exception that nobody expected: what it did is not done any more."""
    if failure.exc_value is None or isinstance(failure.exc_value, SystemExit):
        return
    name = "?" if failure.thread is None else failure.thread.name
    log.critical("thread failed unexpectedly", exc_info=failure.exc_value, extra={"work": name})
