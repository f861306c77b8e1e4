"""Logging set-up: one line per event, as text or JSON, on standard error and in a file that rotation may move.

Events carry their data as `extra`: log.info("instance stored", extra={"sop_instance_uid": uid}). Whatever a
peer sent is escaped, so that no value can start a new line or steer a terminal.
"""

import json
import logging
import re
import time
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Final

from pacs_server.config import LoggingConfig
from pacs_server.errors import ConfigError

_STANDARD: Final = frozenset([*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"])
_BARE: Final = re.compile(r"[!#-<>-\[\]-~]+")
_QUIET: Final = ("pynetdicom", "pydicom")


def configure(config: LoggingConfig, *, console: bool = True) -> None:
    """Send the server's log where `config` says, instead of where an earlier call did; `console` is standard error.

    Raises ConfigError when the file cannot be opened; the earlier set-up is then untouched.
    """
    formatter = JSONFormatter() if config.format == "json" else TextFormatter()
    handlers: list[logging.Handler] = [_Console()] if console else []
    if config.file is not None:
        handlers.append(_open(config.file))
    root = logging.getLogger()
    for old in _ours():
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    set_level(config.level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Log from `level` on: debug, info, warning or error."""
    logging.getLogger("pacs_server").setLevel(level.upper())


def reopen() -> None:
    """Open the log file again if it was moved away; the next line would do so too."""
    for handler in _ours():
        if isinstance(handler, _File):
            handler.acquire()
            try:
                handler.reopenIfNeeded()
            except OSError:
                logging.getLogger(__name__).exception("log file not reopened")
            finally:
                handler.release()


def _ours() -> list[logging.Handler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Console | _File)]


def _open(file: Path) -> "_File":
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return _File(file, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(f"logging.file: {file} cannot be opened: {error.strerror}") from error


class _Console(logging.StreamHandler):  # type: ignore[type-arg]
    """Standard error."""


class _File(WatchedFileHandler):
    """A log file that may be moved or lose its directory without harm to whoever logs."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # reopening fails outside the handler's own guard
            self.handleError(record)


class _Clock:
    """Timestamps in UTC with milliseconds; formats each second once."""

    def __init__(self) -> None:
        self._last = (-1, "")

    def text(self, seconds: float) -> str:
        whole = int(seconds)
        last, prefix = self._last
        if last != whole:
            prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            self._last = (whole, prefix)
        return f"{prefix}.{int((seconds - whole) * 1000):03d}+00:00"


class TextFormatter(logging.Formatter):
    """`2026-01-01T12:00:00.123+00:00 INFO  net.association  message key=value key="two words"`."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = _Clock()

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line; a traceback follows on indented lines."""
        name = record.name.removeprefix("pacs_server.")
        parts = [f"{self._clock.text(record.created)} {record.levelname:<5} {name}  {escaped(record.getMessage())}"]
        for key, value in record.__dict__.items():
            if key not in _STANDARD:
                parts.append(f"{key}={_quoted(value)}")
        line = " ".join(parts)
        for trace in _traces(self, record):
            # Indented, so that a line break inside an error's text cannot pose as a record.
            line += "".join(f"\n    {escaped(part)}" for part in trace.splitlines())
        return line


class JSONFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, then the record's extras."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = _Clock()
        self._encode = json.JSONEncoder(default=str, separators=(",", ":")).encode

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of ASCII."""
        fields: dict[str, object] = {
            "time": self._clock.text(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in record.__dict__.items():
            if key not in _STANDARD:
                fields[f"{key}_" if key in fields else key] = value
        if traces := _traces(self, record):
            fields["exception"] = "\n".join(traces)
        return self._encode(fields)


def _traces(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    traces = [formatter.formatException(record.exc_info)] if record.exc_info else []
    return [*traces, record.stack_info] if record.stack_info else traces


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    if _BARE.fullmatch(text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def escaped(text: str) -> str:
    """`text` with control characters, line breaks and lone surrogates as backslash escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
