"""Statements that go to a PostgreSQL server together: the same effects and errors as one after the other."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from statements import round_trips

from pacs_server.errors import IndexUnavailable
from pacs_server.index import pipelined
from pacs_server.index.database import Database
from pacs_server.index.prepared import Raw

pytestmark = [pytest.mark.postgres, pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)]

INSERT = "INSERT INTO thing (id, name) VALUES ($1, $2)"
NAMES = "SELECT name FROM thing WHERE id > $1 ORDER BY id"
PROCESS = "SELECT pg_backend_pid()"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(Database(database_url)) as database:
        with database.begin() as connection:
            connection.execute(text("CREATE TABLE thing (id bigint PRIMARY KEY, name text)"))
        yield database


def names(database: Database) -> list[Any]:
    with database.connect() as connection:
        return list(connection.scalars(text("SELECT name FROM thing ORDER BY id")))


def end(database: Database, process: int) -> None:
    with database.connect() as connection:
        assert connection.scalar(text("SELECT pg_terminate_backend(:process, 10000)"), {"process": process})


def process_of(database: Database) -> int:
    return int(database.write(lambda raw: raw.rows(PROCESS, ()))[0][0])


def test_what_gives_no_rows_waits_for_what_gives_some(database: Database) -> None:
    def work(raw: Raw) -> list[Any]:
        raw.write_many(INSERT, [(number, f"Müller {number}") for number in (1, 2, 3)])
        return raw.rows(NAMES, (1,))

    process_of(database)
    with round_trips() as counted:
        assert database.write(work) == [("Müller 2",), ("Müller 3",)]
    # All of it, and the commit.
    assert counted.total() == 2
    assert names(database) == ["Müller 1", "Müller 2", "Müller 3"]


def test_values_are_what_they_would_be_without(database: Database) -> None:
    at = datetime(2024, 2, 29, 10, 15, 30, 250, UTC)
    sql = "SELECT $1::varchar, $2::bigint, $3::timestamptz, $4::varchar, $5::boolean, $6::varchar"
    values = ("Ä\\'\"$1%s", -(1 << 40), at, None, True, "")
    assert database.write(lambda raw: raw.rows(sql, values)) == [values]


def test_sqlalchemy_finds_what_waited_in_the_same_transaction(database: Database) -> None:
    def work(raw: Raw) -> list[Any]:
        raw.write_many(INSERT, [(1, "one")])
        found = list(raw.connection.scalars(text("SELECT name FROM thing")))
        raw.write_many(INSERT, [(2, "two")])
        raise IndexUnavailable(str(found))

    with pytest.raises(IndexUnavailable, match="one"):
        database.write(work)
    assert names(database) == []


def test_an_error_is_that_of_its_statement_and_nothing_is_written(database: Database) -> None:
    database.write(lambda raw: raw.write_many(INSERT, [(7, "seven")]))
    with pytest.raises(IntegrityError) as raised:
        database.write(lambda raw: raw.write_many(INSERT, [(1, "one"), (7, "again"), (2, "two")]))
    assert getattr(raised.value.orig, "sqlstate", None) == "23505"
    assert names(database) == ["seven"]
    with pytest.raises(IndexUnavailable, match="division by zero"):
        database.write(lambda raw: raw.rows("SELECT 1 / $1", (0,)))
    with pytest.raises(IndexUnavailable, match="syntax error"):
        database.write(lambda raw: raw.rows("SELEC", ()))
    # What the driver does not take has not been sent.
    with pytest.raises(IndexUnavailable, match="DataError"):
        database.write(lambda raw: raw.write_many(INSERT, [(1, "one"), (2, "t\0wo")]))
    database.write(lambda raw: raw.write_many(INSERT, [(8, "eight")]))
    assert names(database) == ["seven", "eight"]


def test_a_connection_that_was_lost_since_the_last_transaction_is_opened_anew(database: Database) -> None:
    process = process_of(database)
    end(database, process)
    assert process_of(database) != process


def test_a_connection_that_is_lost_later_is_not(database: Database) -> None:
    calls: list[int] = []

    def work(raw: Raw) -> None:
        calls.extend(number for (number,) in raw.rows(PROCESS, ()))
        end(database, calls[-1])
        raw.write_many(INSERT, [(1, "one")])
        raw.finish()

    process = process_of(database)
    # The server has said why.
    with pytest.raises(IndexUnavailable, match="terminating connection"):
        database.write(work)
    assert calls == [process]
    assert names(database) == []


def test_an_interrupt_ends_the_transaction(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(connection: object) -> Any:
        raise KeyboardInterrupt
        yield

    process = process_of(database)
    with monkeypatch.context() as patch:
        patch.setattr(pipelined, "_answers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            database.write(lambda raw: raw.write_many(INSERT, [(1, "one")]))
    assert names(database) == []
    assert process_of(database) != process


def test_statements_of_which_there_are_too_many_are_not_prepared(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelined, "_MOST_PREPARED", 4)
    prepared = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'pacs%'"
    for number in range(5):
        assert database.write(lambda raw, sql=f"SELECT {number} + $1": raw.rows(sql, (1,))) == [(number + 1,)]
    assert database.write(lambda raw: raw.rows(prepared, ())) == [(4,)]
