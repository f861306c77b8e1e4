"""The engine for SQLite: it sets up connections, and refuses a database file that was removed or replaced."""

import os
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event

Synchronous = Literal["OFF", "NORMAL", "FULL"]

# With less free space than this, in bytes, a transaction may fail.
_LEAST_ROOM: Final = 1 << 20
# Error codes of SQLite for a file that is damaged or is no database.
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def sqlite_engine(
    url: URL, file: "DatabaseFile | None", *, lock_wait: int, wal_mode: bool, synchronous: Synchronous
) -> Engine:
    """An engine whose writers wait up to `lock_wait` seconds for each other; `file` is None if the URL has no path."""
    pragmas = {
        # First, because the following pragmas may have to wait for a lock.
        "busy_timeout": int(float(str(url.query.get("timeout", lock_wait))) * 1000),
        "journal_mode": "WAL" if wal_mode else "DELETE",
        # In WAL mode only FULL syncs at every commit. With NORMAL a power loss may take the last ones, in their order,
        # and each commit with FULL makes all before it durable.
        "synchronous": synchronous,
        "foreign_keys": "ON",
        "case_sensitive_like": "ON",
    }
    # A connection is a few file handles: the number of associations limits them, not the pool.
    # Last in, first out: a write by another connection invalidates the page cache of a connection.
    engine = create_engine(
        url, poolclass=QueuePool, pool_size=16, max_overflow=-1, pool_use_lifo=True, hide_parameters=True,
        connect_args={"check_same_thread": False},
    )  # fmt: skip
    if file is not None:
        _stay_with(engine, file)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        # The driver's own BEGIN comes too late and is never IMMEDIATE; `begin` below does it.
        connection.isolation_level = None
        for name, value in pragmas.items():
            connection.execute(f"PRAGMA {name} = {value}")
        # PostgreSQL has this function.
        connection.create_function("split_part", 3, _split_part, deterministic=True)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
            return  # begun by the driver (see `kept`)
        # IMMEDIATE: a transaction that reads first and then writes would fail if another one has written meanwhile.
        write = connection.get_execution_options().get("write", False)
        # Directly on the driver's cursor, which saves a quarter of the cost of a transaction.
        connection.connection.cursor().execute("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _split_part(text: str, delimiter: str, number: int) -> str:
    """The part of that number, beginning with 1, of a text that is split at the delimiter; '' if there is none."""
    parts = text.split(delimiter)
    return parts[number - 1] if number <= len(parts) else ""


def is_damage(error: BaseException | None) -> bool:
    """Whether the driver raised this because the file is damaged."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def is_full(error: BaseException | None) -> bool:
    """Whether the disk was full; then nothing of the transaction is in the file."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL


def lack_of_room(path: Path) -> str | None:
    """Why the file cannot be written, as far as its file system tells; None if it can."""
    try:
        state = os.statvfs(path.parent)
    except OSError:  # what is wrong with the path SQLite says
        return None
    if state.f_flag & os.ST_RDONLY:
        return "the database is on a file system that is mounted read-only"
    return "the database is on a full disk" if state.f_bavail * state.f_frsize < _LEAST_ROOM else None


class DatabaseFile:
    """The file of a database. It is created at most once.

    Connections to a file that was removed go on without a word, and what they commit is lost; a new connection
    would begin an empty index.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._first: tuple[int, int] | None = None

    def make(self) -> None:
        """Create the file, for its owner only, if it is missing; raises sqlite3.OperationalError if it was replaced."""
        with self._lock:
            if self._first is not None:
                self.check()
                return
            # SQLite itself would make it readable for everybody; -wal and -shm get the mode of the file.
            # A file that is there is not opened: to close it again would drop the locks that this process has on it,
            # and another process would take the write-ahead log for nobody's (sqlite.org/howtocorrupt.html, 2.2).
            with suppress(OSError):  # what is wrong with the path SQLite says
                with suppress(FileExistsError):
                    os.close(os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                self._first = self._identity()

    def check(self) -> None:
        """Raise sqlite3.OperationalError if another file, or none, lies at the path."""
        try:
            same = self._identity() == self._first
        except OSError:
            same = False
        if not same:
            raise sqlite3.OperationalError("its file was removed or replaced; stop the server and put it back")

    def _identity(self) -> tuple[int, int]:
        status = os.stat(self._path)
        return status.st_dev, status.st_ino


def _stay_with(engine: Engine, file: DatabaseFile) -> None:
    @event.listens_for(engine, "do_connect")
    def make(_dialect: object, _record: object, _args: object, _options: object) -> None:
        file.make()

    @event.listens_for(engine, "checkout")
    def check(_connection: object, _record: object, _proxy: object) -> None:
        file.check()
