"""The engines of one database: one for ordinary transactions, and others for those that wait for less.

Relaxed transactions do not wait for the disk. A power loss, or a database server that is killed, may take the last of
them, in their order, and each ordinary one that has written something makes all before it durable.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, event

from pacs_server.errors import ConfigError
from pacs_server.index.sqlite import DatabaseFile, Synchronous, sqlite_engine

# Runs a SELECT and returns its first row.
FirstRow = Callable[[str, Sequence[object]], tuple[Any, ...]]


class Engines:
    """The engines of one database; those that are not `ordinary` are made when they are first used.

    `check` looks at each new connection to a database server before it is used, because the server may have been killed
    and have lost relaxed transactions. It gets a function that runs a SELECT of the driver on the connection. What it
    raises, whoever wanted the connection gets. It must not use other connections than those of `unchecked`.
    """

    def __init__(
        self,
        url: URL,
        file: Path | None,
        *,
        lock_wait: int,
        wal_mode: bool,
        fsync: bool,
        given_back: Callable[[Any, Any], None],
    ) -> None:
        """`given_back` is told each connection that comes back to a pool, with its record."""
        self.check: Callable[[FirstRow], None] | None = None
        self._url = url
        self._is_sqlite = url.get_backend_name() == "sqlite"
        self._file = DatabaseFile(file) if file is not None else None
        self._lock_wait = lock_wait
        self._wal_mode = wal_mode
        self._given_back = given_back
        self._making = threading.Lock()
        self._relaxed: Engine | None = None
        self._unchecked: Engine | None = None
        self.ordinary = self._new("FULL" if fsync else "OFF")

    def relaxed(self) -> Engine:
        """The engine for relaxed transactions: on SQLite the connection decides, on PostgreSQL the transaction."""
        if not self._is_sqlite:
            return self.ordinary
        with self._making:
            if self._relaxed is None:
                self._relaxed = self._new("NORMAL")
            return self._relaxed

    def unchecked(self) -> Engine:
        """An engine whose connections are new, not checked, and used once."""
        if self._is_sqlite:
            return self.ordinary
        with self._making:
            if self._unchecked is None:
                self._unchecked = self._postgresql(pooled=False)
            return self._unchecked

    def check_file(self) -> None:
        """Raise sqlite3.OperationalError if the file of an embedded database was removed or replaced."""
        if self._file is not None:
            self._file.check()

    def dispose(self) -> None:
        """Close the connections that are in no use."""
        for engine in (self.ordinary, self._relaxed, self._unchecked):
            if engine is not None:
                engine.dispose()

    def _new(self, synchronous: Synchronous) -> Engine:
        if self._is_sqlite:
            engine = sqlite_engine(
                self._url, self._file, lock_wait=self._lock_wait, wal_mode=self._wal_mode, synchronous=synchronous
            )
        else:
            engine = self._postgresql(pooled=True)
            event.listen(engine, "connect", self._connected)
        event.listen(engine, "checkin", self._given_back)
        return engine

    def _postgresql(self, *, pooled: bool) -> Engine:
        try:
            from pacs_server.index.postgresql import postgresql_engine  # its driver is an extra
        except ModuleNotFoundError as error:
            raise ConfigError("PostgreSQL needs its driver: pip install 'pacs-server[postgres]'") from error
        return postgresql_engine(self._url, lock_wait=self._lock_wait, pooled=pooled)

    def _connected(self, connection: Any, _record: object) -> None:
        if self.check is None:
            return

        def first(select: str, values: Sequence[object]) -> tuple[Any, ...]:
            row: tuple[Any, ...] = connection.execute(select, values).fetchone()
            connection.rollback()
            return row

        try:
            self.check(first)
        except BaseException:
            connection.close()
            raise
