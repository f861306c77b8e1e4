"""A connection that is kept from one transaction to the next, for the writes of which there are most.

A connection from the pool and SQLAlchemy's part in a transaction cost several times what it takes to write a row.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from pacs_server.index.prepared import KEPT, Raw

T = TypeVar("T")


class KeptConnection:
    """A connection on which one thread at a time runs a transaction; shared by all threads.

    `engine` is asked for when a connection is needed, whose `info` is added to; `begin` is the SQL that begins a
    transaction, and `check` is called before each one.
    """

    def __init__(
        self, engine: Callable[[], Engine], begin: str, check: Callable[[], None], *, info: Mapping[str, object]
    ) -> None:
        self._engine = engine
        self._info = info
        self._begin_sql = begin
        self._check = check
        self._in_use = threading.Lock()
        self._connection: Connection | None = None
        self._driver: Any = None
        self._unwanted = False

    def write(self, work: Callable[[Connection], T]) -> T:
        """Call `work` in a transaction, commit it, and return what `work` returned; on any exception it is rolled back.

        `work` may use the connection as one of SQLAlchemy's. Raises what SQLAlchemy and the driver raise.
        """
        with self._in_use:
            connection = self._begun()
            try:
                result = work(connection)
                if connection.in_transaction():  # SQLAlchemy has taken part
                    connection.commit()
                else:
                    connection.dialect.do_commit(self._driver)
            except BaseException:
                self._drop()
                raise
        if self._unwanted:
            self.give_back()
        return result

    def give_back(self) -> None:
        """Close the connection, now or when the transaction that runs on it has ended; the next one opens another."""
        self._unwanted = True
        if self._in_use.acquire(blocking=False):
            try:
                self._unwanted = False
                self._drop()
            finally:
                self._in_use.release()

    def _begun(self) -> Connection:
        """The connection, in a transaction."""
        while True:
            before = self._connection
            connection = self._new() if before is None else before
            driver = self._driver
            try:
                self._check()
                driver.execute(self._begin_sql)
            except BaseException:
                self._drop()
                # A database server may have been started anew since the last transaction.
                if before is None or not getattr(driver, "closed", False):
                    raise
            else:
                return connection

    def _new(self) -> Connection:
        connection = self._engine().connect().execution_options(write=True)
        try:
            connection.info.update(self._info)
            connection.info[KEPT] = Raw(connection)
            driver: Any = connection.connection.driver_connection
            if connection.dialect.name == "postgresql":
                # psycopg would send a BEGIN of its own, which is one more round trip.
                driver.autocommit = True
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        # Only what is whole is kept.
        self._connection, self._driver = connection, driver
        return connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        raw: Raw = connection.info[KEPT]
        with suppress(connection.dialect.loaded_dbapi.Error):
            # Until its cursor is closed SQLite goes on with a transaction, whoever closes the connection.
            raw.cursor.close()
            connection.connection.rollback()
        # Nobody else gets a connection whose state is not known.
        connection.invalidate()
        connection.close()
