"""A connection that is kept from one transaction to the next, for the writes of which there are most.

A connection from the pool and SQLAlchemy's part in a transaction cost several times what it takes to write a row.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import Connection, Engine

from pacs_server.index.prepared import Raw

T = TypeVar("T")


class KeptConnection:
    """A connection on which one thread at a time runs a transaction; shared by all threads.

    `engine` is asked for when a connection is needed, whose `info` is added to; `begin` is the SQL that begins a
    transaction, and `check` is called before each one.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        begin: Sequence[str],
        check: Callable[[], None],
        *,
        info: Mapping[str, object],
    ) -> None:
        self._engine = engine
        self._info = info
        self._begin = begin
        self._check = check
        self._in_use = threading.Lock()
        self._raw: Raw | None = None
        self._unwanted = False

    def write(self, work: Callable[[Raw], T]) -> T:
        """Call `work` in a transaction, commit it, and return what `work` returned; on any exception it is rolled back.

        `work` is called again if the connection turns out to be lost before the database has answered anything.
        Raises what SQLAlchemy and the driver raise.
        """
        with self._in_use:
            while True:
                before = self._raw
                raw = self._new() if before is None else before
                try:
                    result = self._run(raw, work)
                    break
                except BaseException as error:
                    again = before is not None and isinstance(error, Exception) and raw.was_lost_before
                    self._drop()
                    # A database server may have been started anew since the last transaction.
                    if not again:
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

    def _run(self, raw: Raw, work: Callable[[Raw], T]) -> T:
        self._check()
        raw.begin(*self._begin)
        result = work(raw)
        raw.commit()
        return result

    def _new(self) -> Raw:
        connection = self._engine().connect().execution_options(write=True)
        try:
            connection.info.update(self._info)
            raw = _raw_of(connection)
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        # Only what is whole is kept.
        self._raw = raw
        return raw

    def _drop(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()


def _raw_of(connection: Connection) -> Raw:
    if connection.dialect.name != "postgresql":
        return Raw(connection)
    from pacs_server.index.pipelined import Pipelined  # its driver is an extra

    return Pipelined(connection)
