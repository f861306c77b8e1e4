"""Statements that are compiled once, because SQLAlchemy's work at each execution costs more than running them."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import ClauseElement, ColumnElement, Connection, Row, Select, bindparam
from sqlalchemy.engine import result_tuple


class _Compiled(NamedTuple):
    """A statement for one kind of database: its SQL, the order of its parameters, and converters for their values.

    `literals` are the parameters that it has of itself.
    """

    sql: str
    order: list[str] | None
    processors: dict[str, Callable[[Any], Any]]
    literals: dict[str, Any]


class _Columns(NamedTuple):
    """The columns of a statement for one kind of database: how a row is made, and converters by their places."""

    row_of: Callable[[Sequence[Any]], Row[Any]]
    converters: list[tuple[int, Callable[[Any], Any]]]


class Prepared:
    """A statement compiled once and run on the driver's own cursor: a fraction of the cost of executing it.

    Values come back as the driver has them. They go to it as they are, too, except in `run_many` and `all`.
    """

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._compiled: dict[str, _Compiled] = {}
        self._columns: dict[str, _Columns] = {}

    def run(self, connection: Connection, **values: object) -> Any:
        """Run it with these values for its bound parameters and return the driver's cursor."""
        sql, order, *_ = self._for(connection)
        cursor = connection.connection.cursor()
        cursor.execute(sql, values if order is None else tuple(values[name] for name in order))
        return cursor

    def run_many(self, connection: Connection, rows: list[dict[str, Any]]) -> int:
        """Run it once with each of these rows, which hold a value of any type for every bound parameter.

        Returns how many rows of the database it has written.
        """
        sql, order, processors, _ = self._for(connection)
        if processors:
            rows = [row | {name: process(row[name]) for name, process in processors.items()} for row in rows]
        parameters: Any = rows if order is None else [tuple([row[name] for name in order]) for row in rows]
        return int(connection.exec_driver_sql(sql, parameters).rowcount)

    def all(self, connection: Connection, values: dict[str, Any]) -> list[Row[Any]]:
        """Run it with a value of any type for every bound parameter; return its rows as SQLAlchemy would.

        Only for statements all of whose columns have names.
        """
        sql, order, processors, literals = self._for(connection)
        values = literals | values
        values |= {name: process(values[name]) for name, process in processors.items()}
        parameters: Any = values if order is None else tuple([values[name] for name in order])
        rows = [list(row) for row in connection.exec_driver_sql(sql, parameters)]
        row_of, converters = self._columns_for(connection)
        for row in rows:
            for place, convert in converters:
                row[place] = convert(row[place])
        return [row_of(row) for row in rows]

    def insert(self, connection: Connection, values: dict[str, Any]) -> Any:
        """Run an INSERT of one row, whose values the driver takes as they are, and return what it returns."""
        sql, order, *_ = self._for(connection)
        parameters: Any = values if order is None else tuple([values[name] for name in order])
        return connection.exec_driver_sql(sql, parameters).scalar_one()

    def _for(self, connection: Connection) -> _Compiled:
        dialect = connection.dialect
        if dialect.name not in self._compiled:
            compiled: Any = self._statement.compile(dialect=dialect)
            kinds = {name: bound.type.dialect_impl(dialect) for name, bound in compiled.binds.items()}
            processors = {name: kind.bind_processor(dialect) for name, kind in kinds.items()}
            needed = {name: process for name, process in processors.items() if process is not None}
            literals = {name: bound.effective_value for name, bound in compiled.binds.items() if not bound.required}
            self._compiled[dialect.name] = _Compiled(compiled.string, compiled.positiontup, needed, literals)
        return self._compiled[dialect.name]

    def _columns_for(self, connection: Connection) -> _Columns:
        dialect = connection.dialect
        if dialect.name not in self._columns:
            columns: Any = self._statement.exported_columns  # type: ignore[attr-defined]
            converters = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
            needed = [(place, convert) for place, convert in enumerate(converters) if convert is not None]
            self._columns[dialect.name] = _Columns(result_tuple([column.name for column in columns]), needed)
        return self._columns[dialect.name]


# Larger batches are rare, and their statements are compiled each time.
_MOST_COUNTS = 64


class PreparedForMany:
    """A statement about any number of values, compiled once for each number of them."""

    def __init__(self, column: ColumnElement[Any], statement: Select[Any]) -> None:
        """`statement` is narrowed to the rows whose `column` is one of the values."""
        self._column = column
        self._statement = statement
        self._of = lru_cache(_MOST_COUNTS)(self._make)

    def all(self, connection: Connection, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """Run it and return all rows."""
        names = {f"v{number}": value for number, value in enumerate(values)}
        cursor = self._of(len(values)).run(connection, **names)
        try:
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows
        finally:
            cursor.close()

    def _make(self, count: int) -> Prepared:
        return Prepared(self._statement.where(self._column.in_([bindparam(f"v{n}") for n in range(count)])))
