"""How a database goes about what the index asks it: the plans of the very statements that reach the driver."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from pacs_server.index.database import Database


@contextmanager
def explained(database: Database, words: tuple[str, ...] = ("SELECT",)) -> Iterator[list[str]]:
    """The plans, as one text each, of the statements that are sent within and begin so; there when it ends."""
    sent: list[str] = []
    watch = _watch_sqlite if database.is_sqlite else _watch_postgresql

    def connected(connection: Any, _record: object) -> None:
        watch(connection, sent)

    # Only connections that are made from now on are seen.
    database.close()
    event.listen(database.engine, "connect", connected)
    plans: list[str] = []
    try:
        yield plans
    finally:
        event.remove(database.engine, "connect", connected)
        database.close()
    plans += [_plan(database, statement) for statement in sent if statement.lstrip().upper().startswith(words)]


def _watch_sqlite(connection: Any, sent: list[str]) -> None:
    connection.set_trace_callback(sent.append)


def _watch_postgresql(connection: Any, sent: list[str]) -> None:
    import psycopg  # an extra

    class Watched(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            sent.append(_complete(connection, query, params))
            return super().execute(query, params, **options)

    class WatchedAtServer(psycopg.ServerCursor[Any]):
        def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            sent.append(_complete(connection, query, params))
            return super().execute(query, params, **options)

    connection.cursor_factory, connection.server_cursor_factory = Watched, WatchedAtServer


def _complete(connection: Any, query: Any, parameters: Any) -> str:
    """A statement with its parameters in it."""
    import psycopg

    return psycopg.ClientCursor(connection).mogrify(query, parameters)


def _plan(database: Database, statement: str) -> str:
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    if not database.is_sqlite and statement.lstrip().upper().startswith("SELECT"):
        # A cursor is planned for another share of its rows than a statement, so that is what is explained.
        explain = "EXPLAIN DECLARE found CURSOR FOR "
    with database.connect() as connection:
        cursor: Any = connection.connection.cursor()
        return "\n".join(str(row[-1]) for row in cursor.execute(explain + statement).fetchall())
