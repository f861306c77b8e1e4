"""Logging: one line for each event, as text or JSON, on standard error and in a file that log rotation may move.

Events carry their data as `extra`: log.info("instance stored", extra={"sop_instance_uid": uid}). Values are escaped, so
that nothing that a peer sent can start a new line or control a terminal.
"""

import json
import logging
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Final, cast

from pacs_server.errors import ConfigError
from pacs_server.kit.private_files import make_directory, opener

# The attribute in which a record keeps its formatted line. Because of the space, no `extra` has this name.
_LINE: Final = " line"
_STANDARD: Final = frozenset([*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", _LINE])
_COMPLAIN_SECONDS: Final = 60.0
_is_bare: Final = re.compile(r"[!#-<>-\[\]-~]+").fullmatch
# How many events keep what their records share.
_MOST_EVENTS: Final = 256
# The warnings of pydicom quote values, and the HTTP client tells addresses with what is searched for: patient data.
_LIBRARIES: Final = {
    "pynetdicom": logging.WARNING,
    "pydicom": logging.CRITICAL,
    "httpx2": logging.WARNING,
    "httpcore2": logging.WARNING,
}


def configure(*, level: str, json: bool, file: Path | None, console: bool) -> None:
    """Send the log of the server to `file` and, if `console`, to standard error. Replaces the set-up of earlier calls.

    Raises ConfigError if the file cannot be opened; the earlier set-up then stays.
    """
    formatter = JSONFormatter() if json else TextFormatter()
    handlers: list[logging.Handler] = [_Console()] if console else []
    if file is not None:
        handlers.append(_open(file))
    root = logging.getLogger()
    for old in _ours():
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    set_level(level)
    _skip_unused_attributes()
    for library, threshold in _LIBRARIES.items():
        logging.getLogger(library).setLevel(threshold)


def _skip_unused_attributes() -> None:
    """Make logging faster: do not look up the caller, thread and process of a record, which no line shows."""
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def set_level(level: str) -> None:
    """Set the lowest level that is logged: debug, info, warning or error."""
    logging.getLogger("pacs_server").setLevel(level.upper())


def event(log: logging.Logger, level: int, name: str, fields: Mapping[str, object]) -> None:
    """`log.log(level, name, extra=fields)` in a fraction of its time, for what happens all the time.

    Whoever calls it has asked whether `level` is enabled. No field has the name of an attribute of a record.
    """
    if logging.logThreads:
        # Whoever embeds the server has set up logging, and may show anything.
        log.log(level, name, extra=fields)
        return
    record = object.__new__(logging.LogRecord)
    now = time.time()
    record.__dict__ = {**_common(log.name, level, name), "created": now, "msecs": int(now % 1 * 1000) + 0.0, **fields}
    log.handle(record)


@lru_cache(_MOST_EVENTS)
def _common(logger: str, level: int, name: str) -> dict[str, object]:
    """The attributes that all records of an event share."""
    return logging.LogRecord(logger, level, "", 0, name, (), None).__dict__


def reopen() -> None:
    """Open the log file again if it was moved away. The next line would do this as well."""
    for handler in _ours():
        if isinstance(handler, _File):
            handler.acquire()
            try:
                handler.reopenIfNeeded()
            except OSError:
                logging.getLogger(__name__).exception("log file not reopened")
            finally:
                handler.release()


class Sparingly:
    """Limits the log lines that peers can cause: one a minute for each peer and reason, with a count of the others.

    At most `most` pairs of peer and reason are remembered. While that many pairs were logged within the last minute,
    other pairs are not logged at all, so that a flood from many addresses cannot fill the disk.
    """

    def __init__(
        self,
        log: logging.Logger,
        *,
        seconds: float = 60.0,
        most: int = 500,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        # For each pair: when it was last logged, and how many lines were left out since. In the order of logging.
        self._last: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def log(self, level: int, event: str, peer: str, reason: str, **extra: object) -> None:
        """Log `event`, unless there was a line for this `peer` and `reason` within the last minute."""
        left_out = self._left_out((peer, reason))
        if left_out is not None:
            counted = {"left_out": left_out} if left_out else {}
            self._log.log(level, event, extra={"peer": peer, "reason": reason, **extra, **counted})

    def _left_out(self, key: tuple[str, str]) -> int | None:
        """How many lines for this pair were left out since the last one; None if this one has to be left out too."""
        now = self._clock()
        with self._lock:
            when, count = self._last.get(key, (None, 0))
            if when is not None and now - when < self._seconds:
                self._last[key] = (when, count + 1)
                return None
            if when is None and len(self._last) >= self._most:
                oldest, (logged, _) = next(iter(self._last.items()))
                if now - logged < self._seconds:
                    return None
                del self._last[oldest]
            self._last[key] = (now, 0)
            self._last.move_to_end(key)
            return count


def _ours() -> list[logging.Handler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Console | _File)]


def _open(file: Path) -> "_File":
    try:
        make_directory(file.parent)
        return _File(file, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(f"logging.file: {file} cannot be opened: {error.strerror}") from error


class _Console(logging.StreamHandler):  # type: ignore[type-arg]
    """Standard error. As the library's, with fewer steps: there are no filters, and the lock is held for each line."""

    def handle(self, record: logging.LogRecord) -> bool:
        assert self.lock is not None
        with self.lock:
            self.emit(record)
        return True

    def flush(self) -> None:
        if self.stream is not None:
            self.stream.flush()


class _File(WatchedFileHandler):
    """A log file. If it is moved, if its directory is gone or its disk is full, the code that logs goes on."""

    _complained = float("-inf")
    handle = _Console.handle
    flush = _Console.flush

    def _open(self) -> TextIOWrapper:
        """Open the file; called again after the file was moved away."""
        return cast(
            TextIOWrapper,
            open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=opener),
        )

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.reopenIfNeeded()
            if self.stream is None:
                self.stream = self._open()
            logging.StreamHandler.emit(self, record)
        except OSError:  # a failure to open the file again
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Print once a minute why the file cannot be written. The log lines themselves also go to standard error."""
        error, now = sys.exception(), time.monotonic()
        if not isinstance(error, OSError):
            super().handleError(record)
        elif now - self._complained >= _COMPLAIN_SECONDS:
            self._complained = now
            with suppress(OSError):
                print(f"pacs-server: {self.baseFilename} cannot be written: {error.strerror}", file=sys.stderr)


class _Clock:
    """Formats timestamps in UTC with milliseconds; the text of a second is made only once."""

    def __init__(self) -> None:
        self._last = (-1, "")

    def text(self, seconds: float) -> str:
        whole = int(seconds)
        last, prefix = self._last
        if last != whole:
            prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            self._last = (whole, prefix)
        return f"{prefix}.{int((seconds - whole) * 1000):03d}+00:00"


class _LineFormatter(logging.Formatter):
    """Formats each record once, however many handlers write it."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = _Clock()

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line: str
        maker, line = record.__dict__.get(_LINE, (None, ""))
        if maker is not self:
            line = self._line(record)
            record.__dict__[_LINE] = self, line
        return line

    def _line(self, record: logging.LogRecord) -> str:
        raise NotImplementedError


class TextFormatter(_LineFormatter):
    """`2026-01-01T12:00:00.123+00:00 INFO  net.association  message key=value key="two words"`."""

    def _line(self, record: logging.LogRecord) -> str:
        """The record as one line; a traceback follows on indented lines."""
        message = record.getMessage() if record.args else str(record.msg)
        line = self._clock.text(record.created) + _beginning(record.levelname, record.name, message)
        for key, value in record.__dict__.items():
            if key in _STANDARD:
                continue
            kind = type(value)
            plain = kind is int or kind is float or (kind is str and _is_bare(value))
            line += f" {key}={value if plain else _quoted(value)}"
        if record.exc_info or record.stack_info:
            for trace in _traces(self, record):
                # Indented, so that text after a line break in an error message cannot look like a record of its own.
                line += "".join(f"\n    {escaped(part)}" for part in trace.splitlines())
        return line


class JSONFormatter(_LineFormatter):
    """One JSON object per line: time, level, logger, message, then the record's extras."""

    def __init__(self) -> None:
        super().__init__()
        self._encode = json.JSONEncoder(default=str, separators=(",", ":")).encode

    def _line(self, record: logging.LogRecord) -> str:
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


@lru_cache(_MOST_EVENTS)
def _beginning(level: str, logger: str, message: str) -> str:
    """A line as far as it is the same for most records of an event."""
    return f" {level:<5} {logger.removeprefix('pacs_server.')}  {escaped(message)}"


def _traces(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    traces = [formatter.formatException(record.exc_info)] if record.exc_info else []
    return [*traces, record.stack_info] if record.stack_info else traces


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    if _is_bare(text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def escaped(text: str) -> str:
    """`text` with control characters, line breaks and lone surrogates as backslash escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
