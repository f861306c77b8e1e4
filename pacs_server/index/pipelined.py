"""Statements that go to PostgreSQL together, so that a transaction with many of them takes few round trips.

What gives rows is sent at once, with all that waits before it, and what gives none waits. Each statement is prepared
when a connection runs it for the first time. All of this is done with libpq, as psycopg wraps it, because the cursors
of psycopg take three times the processor time, in a pipeline of psycopg or not.

Imported only where PostgreSQL is used, since its driver is an extra.
"""

from collections.abc import Sequence
from typing import Any, Final

from psycopg import OperationalError, errors
from psycopg.abc import PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import RowMaker
from psycopg.waiting import Wait
from sqlalchemy import Connection, Dialect
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from pacs_server.index.prepared import Raw

# Those that come later are parsed each time: there is one for each number of series that are looked up at once.
_MOST_PREPARED: Final = 200
# Parameters as libpq takes them: $1, $2...
_DIALECT: Final[Dialect] = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]


class Pipelined(Raw):
    """A connection on which statements wait until they are sent together; they are run in their order.

    After an error the server runs nothing of what was sent with the statement, and the transaction can only be rolled
    back.
    """

    __slots__ = ("_answered", "_names", "_values", "_waiting")

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, _DIALECT)
        # psycopg would send a BEGIN of its own, which is one more round trip.
        self._driver.autocommit = True
        self._values = Transformer(self._driver)
        self._names: dict[str, bytes] = {}
        self._waiting: list[tuple[str, Sequence[Any]]] = []
        self._answered = False

    @property
    def connection(self) -> Connection:
        """The connection of SQLAlchemy, on which all has been run that came before."""
        self.finish()
        return self._connection

    @property
    def was_lost_before(self) -> bool:
        """Whether the connection was lost before the database has answered anything in this transaction."""
        return bool(self._driver.closed) and not self._answered

    def begin(self, *statements: str) -> None:
        """Begin a transaction with these statements, which are sent with what comes first."""
        self._answered = False
        self._waiting = [(statement, ()) for statement in statements]

    def rows(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a statement, and all that waits before it, and return its rows."""
        self.write(sql, values)
        result = self._run()[-1]
        self._values.set_pgresult(result)
        make_row: RowMaker[Any] = tuple
        return self._values.load_rows(0, result.ntuples, make_row)

    def write(self, sql: str, values: Sequence[Any]) -> None:
        """Have a statement wait; raises DataError if the driver does not take a value."""
        self._waiting.append((sql, self._values.dump_sequence(values, [PyFormat.TEXT] * len(values))))

    def write_many(self, sql: str, rows: list[Any]) -> None:
        """Have it wait once for each of these rows."""
        for values in rows:
            self.write(sql, values)

    def finish(self) -> None:
        """Run what waits; raises what is wrong with a statement."""
        if self._waiting:
            self._run()

    def commit(self) -> None:
        """Run what waits, and if nothing is wrong with it, commit: an error says which of the two has failed."""
        self.finish()
        super().commit()

    def _run(self) -> list[PGresult]:
        """Send all that waits, and return the results; that of the last statement is the last."""
        waiting, self._waiting = self._waiting, []
        connection: PGconn = self._driver.pgconn
        connection.enter_pipeline_mode()
        for statement in waiting:
            self._send(connection, *statement)
        connection.pipeline_sync()
        results: list[PGresult] = self._driver.wait(_answers(connection))
        failed = [result for result in results if result.status == ExecStatus.FATAL_ERROR]
        self._answered = self._answered or results[0] not in failed
        if connection.status == ConnStatus.OK:
            connection.exit_pipeline_mode()
        if failed:
            raise errors.error_from_result(failed[0])
        return results

    def _send(self, connection: PGconn, sql: str, values: Sequence[Any]) -> None:
        name = self._names.get(sql)
        if name is None:
            if len(self._names) >= _MOST_PREPARED:
                connection.send_query_params(sql.encode(), values)
                return
            name = self._names[sql] = b"pacs_%d" % len(self._names)
            connection.send_prepare(name, sql.encode())
        connection.send_query_prepared(name, values)


def _answers(connection: PGconn) -> PQGen[list[PGresult]]:
    """The results of what was sent; only those up to an error if the connection is lost as well."""
    results: list[PGresult] = []
    try:
        yield from _flush(connection)
        while True:
            if connection.is_busy():
                if (yield Wait.R):
                    connection.consume_input()
            elif (result := connection.get_result()) is None:  # the end of a statement
                _check(connection)
            elif result.status == ExecStatus.PIPELINE_SYNC:
                return results
            else:
                results.append(result)
    except OperationalError:
        # Why the server has ended the connection it has said before.
        if not any(result.status == ExecStatus.FATAL_ERROR for result in results):
            raise
        return results


def _flush(connection: PGconn) -> PQGen[None]:
    while connection.flush():
        if (yield Wait.RW) & Wait.R:
            connection.consume_input()


def _check(connection: PGconn) -> None:
    if connection.status == ConnStatus.BAD:
        raise OperationalError(connection.get_error_message())
