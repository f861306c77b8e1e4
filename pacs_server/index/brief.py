"""Statements that may not take long: what is nice to know, but not worth waiting for."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

# SQLite asks after so many of its steps, which are some microseconds, whether to go on.
_STEPS: Final = 2000
# PostgreSQL's SQLSTATE for a statement that was cancelled.
_CANCELLED: Final = "57014"


@contextmanager
def stopped_after(seconds: float, cursor: Any) -> Iterator[None]:
    """Statements on a cursor of the driver end with an error, which `is_stop` knows, once so many seconds are over."""
    if not isinstance(cursor, sqlite3.Cursor):
        # The setting ends with the transaction.
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", (str(max(1, int(seconds * 1000))),))
        yield
        return
    deadline = time.monotonic() + seconds
    cursor.connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        yield
    finally:
        cursor.connection.set_progress_handler(None, 0)


def is_stop(error: Exception) -> bool:
    """Whether the driver raised this because a statement took too long."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT
    return getattr(error, "sqlstate", None) == _CANCELLED
