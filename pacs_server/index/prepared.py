"""Statements that are compiled once, because SQLAlchemy's work at each execution costs more than running them."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import ClauseElement, ColumnElement, Connection, Dialect, Row, Select, bindparam
from sqlalchemy.engine import result_tuple


class _Compiled(NamedTuple):
    """A statement for one kind of database: its SQL, the order of its parameters, and converters for their values.

    `literals` are the parameters that it has of itself; `in_order` makes what the driver takes of values by name.
    """

    sql: str
    order: list[str] | None
    processors: dict[str, Callable[[Any], Any]]
    literals: dict[str, Any]
    in_order: Callable[[dict[str, Any]], Any]


class _Columns(NamedTuple):
    """The columns of a statement for one kind of database: how a row is made, and converters by their places."""

    row_of: Callable[[Sequence[Any]], Row[Any]]
    converters: list[tuple[int, Callable[[Any], Any]]]


class Raw:
    """A connection as its driver has it, for one transaction at a time; `dialect` says how its SQL is written."""

    __slots__ = ("_connection", "_driver", "cursor", "dialect", "memory", "style")

    def __init__(self, connection: Connection, dialect: Dialect | None = None) -> None:
        self._connection = connection
        self.dialect = connection.dialect if dialect is None else dialect
        # Which of its compiled forms a statement is run in.
        self.style = _style(self.dialect)
        self._driver: Any = connection.connection.driver_connection
        self.cursor: Any = connection.connection.cursor()
        # What whoever writes here remembers from one transaction of a kept connection to the next.
        self.memory: Any = None

    @property
    def connection(self) -> Connection:
        """The connection of SQLAlchemy, on which all has been run that came before."""
        return self._connection

    def begin(self, *statements: str) -> None:
        """Begin a transaction with these statements."""
        for statement in statements:
            self.cursor.execute(statement)

    def rows(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        found: list[tuple[Any, ...]] = self.cursor.execute(sql, values).fetchall()
        return found

    def write(self, sql: str, values: Sequence[Any]) -> None:
        """Run a statement that gives no rows, at the latest in `finish`."""
        self.cursor.execute(sql, values)

    def write_many(self, sql: str, rows: list[Any]) -> None:
        """Run it with each of these rows for its values."""
        self.cursor.executemany(sql, rows)

    def finish(self) -> None:
        """Return when all statements have been run; raises what is wrong with one of them."""

    def commit(self) -> None:
        """Commit what has been run since `begin`."""
        if self._connection.in_transaction():  # SQLAlchemy has taken part
            self._connection.commit()
        else:
            self._connection.dialect.do_commit(self._driver)

    def close(self) -> None:
        """Roll back, and close the connection, so that nobody else gets one whose state is not known."""
        with suppress(self._connection.dialect.loaded_dbapi.Error):
            # Until its cursor is closed SQLite goes on with a transaction, whoever closes the connection.
            self.cursor.close()
            self._connection.connection.rollback()
        self._connection.invalidate()
        self._connection.close()

    @property
    def was_lost_before(self) -> bool:
        """Whether the connection was lost before the database has answered anything in this transaction."""
        return False


def _style(dialect: Dialect) -> str:
    return f"{dialect.name}, {dialect.paramstyle}"


class Prepared:
    """A statement compiled once and run on the driver's own cursor: a fraction of the cost of executing it.

    Values come back as the driver has them. They go to it as they are, too, except in `run_many` and `all`.
    """

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._compiled: dict[str, _Compiled] = {}
        self._columns: dict[str, _Columns] = {}

    def run(self, raw: Raw, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Run it with these values for its bound parameters and return its rows."""
        compiled = self._compiled.get(raw.style) or self._for(raw.dialect)
        return raw.rows(compiled.sql, compiled.in_order(values))

    def run_many(self, connection: Connection, rows: list[dict[str, Any]]) -> int:
        """Run it once with each of these rows, which hold a value of any type for every bound parameter.

        Returns how many rows of the database it has written.
        """
        sql, order, processors, *_ = self._for(connection.dialect)
        if processors:
            rows = [row | {name: process(row[name]) for name, process in processors.items()} for row in rows]
        parameters: Any = rows if order is None else [tuple([row[name] for name in order]) for row in rows]
        return int(connection.exec_driver_sql(sql, parameters).rowcount)

    def write(self, raw: Raw, rows: list[dict[str, Any]]) -> None:
        """Run it as `run_many` does, with the driver's own means, at the latest in `Raw.finish`."""
        compiled = self._compiled.get(raw.style) or self._for(raw.dialect)
        for name, process in compiled.processors.items():
            rows = [row | {name: process(row[name])} for row in rows]
        if len(rows) == 1:
            raw.write(compiled.sql, compiled.in_order(rows[0]))
        else:
            raw.write_many(compiled.sql, [compiled.in_order(row) for row in rows])

    def all(self, connection: Connection, values: dict[str, Any]) -> list[Row[Any]]:
        """Run it with a value of any type for every bound parameter; return its rows as SQLAlchemy would.

        Only for statements all of whose columns have names.
        """
        sql, order, processors, literals, _ = self._for(connection.dialect)
        values = literals | values
        values |= {name: process(values[name]) for name, process in processors.items()}
        parameters: Any = values if order is None else tuple([values[name] for name in order])
        rows = [list(row) for row in connection.exec_driver_sql(sql, parameters)]
        row_of, converters = self._columns_for(connection.dialect)
        for row in rows:
            for place, convert in converters:
                row[place] = convert(row[place])
        return [row_of(row) for row in rows]

    def sql(self, raw: Raw) -> str:
        """The statement as `raw` runs it."""
        return self._for(raw.dialect).sql

    def _for(self, dialect: Dialect) -> _Compiled:
        style = _style(dialect)
        if style not in self._compiled:
            compiled: Any = self._statement.compile(dialect=dialect)
            kinds = {name: bound.type.dialect_impl(dialect) for name, bound in compiled.binds.items()}
            processors = {name: kind.bind_processor(dialect) for name, kind in kinds.items()}
            needed = {name: process for name, process in processors.items() if process is not None}
            literals = {name: bound.effective_value for name, bound in compiled.binds.items() if not bound.required}
            order = compiled.positiontup
            self._compiled[style] = _Compiled(compiled.string, order, needed, literals, _in_order(order))
        return self._compiled[style]

    def _columns_for(self, dialect: Dialect) -> _Columns:
        if dialect.name not in self._columns:
            columns: Any = self._statement.exported_columns  # type: ignore[attr-defined]
            converters = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
            needed = [(place, convert) for place, convert in enumerate(converters) if convert is not None]
            self._columns[dialect.name] = _Columns(result_tuple([column.name for column in columns]), needed)
        return self._columns[dialect.name]


def _in_order(order: list[str] | None) -> Callable[[dict[str, Any]], Any]:
    if order is None:
        return dict
    if len(order) == 1:
        (only,) = order
        return lambda values: (values[only],)
    return itemgetter(*order) if order else lambda values: ()


# Larger batches are rare, and their statements are compiled each time.
_MOST_COUNTS = 64


class PreparedForMany:
    """A statement about any number of values, compiled once for each number of them."""

    def __init__(self, column: ColumnElement[Any], statement: Select[Any]) -> None:
        """`statement` is narrowed to the rows whose `column` is one of the values."""
        self._column = column
        self._statement = statement
        self._of = lru_cache(_MOST_COUNTS)(self._make)

    def all(self, raw: Raw, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """Run it and return all rows."""
        names, statement = self._of(len(values))
        return statement.run(raw, dict(zip(names, values, strict=True)))

    def _make(self, count: int) -> tuple[list[str], Prepared]:
        names = [f"v{number}" for number in range(count)]
        return names, Prepared(self._statement.where(self._column.in_([bindparam(name) for name in names])))
