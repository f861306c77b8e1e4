"""Statements compiled once: the same rows as SQLAlchemy would write and read, on both databases."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Column, DateTime, Integer, MetaData, String, Table, bindparam, event, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.compiler import SQLCompiler

from pacs_server.index.database import Database
from pacs_server.index.prepared import Prepared, Raw

TABLE = Table(
    "thing",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", String),
    Column("at", DateTime(timezone=True)),
)
INSERT = insert(TABLE).values({name: bindparam(name) for name in ("id", "name", "at")})
NOW = datetime(2024, 2, 29, 10, 15, 30, 250, UTC)
ROWS = [{"id": number, "name": f"Müller {number}", "at": NOW} for number in (1, 2, 3)]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    with database.begin() as connection:
        TABLE.create(connection)
    yield database
    database.close()


def test_what_is_written_is_read_as_usual(database: Database) -> None:
    rows = [dict(row) for row in ROWS]
    with database.begin() as connection:
        connection.execute(INSERT, ROWS[0] | {"id": 4})
        Prepared(INSERT).run_many(connection, rows)
        # The same bytes in the database, whoever wrote them.
        assert len(set(connection.exec_driver_sql("SELECT at FROM thing").all())) == 1
    # What it was given is as it was.
    assert rows == ROWS
    with database.connect() as connection:
        found = [dict(row) for row in connection.execute(select(TABLE).limit(3).order_by(TABLE.c.id)).mappings()]
        second = Prepared(select(TABLE.c.name).where(TABLE.c.id == bindparam("id")))
        assert second.run(Raw(connection), {"id": 2}) == [("Müller 2",)]
    assert [row | {"at": row["at"].replace(tzinfo=UTC)} for row in found] == ROWS


def test_rows_come_back_as_sqlalchemy_reads_them(database: Database) -> None:
    wanted = select(TABLE).where(TABLE.c.at <= bindparam("latest"), TABLE.c.id > 1).order_by(TABLE.c.id).limit(1)
    changed = update(TABLE).where(TABLE.c.id == bindparam("_id")).values(at=bindparam("_at")).returning(TABLE)
    with database.begin() as connection:
        connection.execute(INSERT, ROWS)
        (row,) = Prepared(wanted).all(connection, {"latest": NOW})
        assert (row, row.at) == (connection.execute(wanted, {"latest": NOW}).one(), row[2])
        (row,) = Prepared(changed).all(connection, {"_id": 3, "_at": NOW + timedelta(seconds=1)})
        assert row == connection.execute(select(TABLE).where(TABLE.c.id == 3)).one()
        assert Prepared(changed).all(connection, {"_id": 4, "_at": None}) == []


def test_a_taken_key_is_an_integrity_error(database: Database) -> None:
    statement = Prepared(INSERT)
    with pytest.raises(IntegrityError), database.begin() as connection:
        statement.run_many(connection, [*ROWS, ROWS[0]])


def test_it_is_compiled_once_and_many_rows_are_one_statement(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    real = SQLCompiler.__init__
    monkeypatch.setattr(
        SQLCompiler, "__init__", lambda self, *args, **named: (compiled.append(self), real(self, *args, **named))[1]
    )
    executed: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda _c, _k, sql, *_: executed.append(sql))
    statement = Prepared(INSERT)
    with database.begin() as connection:
        for row in ROWS:
            statement.run_many(connection, [row, row | {"id": int(row["id"]) + 10}])
    assert len(compiled) == 1
    assert sum(sql.startswith("INSERT") for sql in executed) == len(ROWS)
