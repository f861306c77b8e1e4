"""The section `logging`: what is logged, where, and in which form."""

from typing import Literal

from pacs_server.config.types import Live, OptionalPath, Restart, Section


class LoggingConfig(Section):
    """What is logged, where and in which form. Without a file the log goes to standard error only."""

    level: Live[Literal["debug", "info", "warning", "error"]] = "info"
    file: Restart[OptionalPath] = None
    format: Restart[Literal["text", "json"]] = "text"
