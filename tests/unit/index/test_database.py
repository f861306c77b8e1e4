"""Connections, transactions and what becomes of a database's failures."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import IntegrityError

from pacs_server.errors import ConfigError, IndexUnavailable
from pacs_server.index.database import Database

pytestmark = pytest.mark.no_tables


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    with database.begin() as connection:
        connection.execute(text("CREATE TABLE thing (name VARCHAR PRIMARY KEY)"))
    yield database
    database.close()


def add(database: Database, name: str) -> None:
    with database.begin() as connection:
        connection.execute(text("INSERT INTO thing VALUES (:name)"), {"name": name})


def names(database: Database) -> set[str]:
    with database.connect() as connection:
        return set(connection.scalars(text("SELECT name FROM thing")))


def pragma(database: Database, name: str) -> object:
    with database.connect() as connection:
        return connection.scalar(text(f"PRAGMA {name}"))


def test_begin_commits(database):
    add(database, "a")
    assert names(database) == {"a"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_begin_rolls_back_on_any_exception(database, error):
    def fail() -> None:
        with database.begin() as connection:
            connection.execute(text("INSERT INTO thing VALUES ('a')"))
            raise error

    with pytest.raises(error):
        fail()
    assert names(database) == set()


def test_connect_keeps_nothing(database):
    with database.connect() as connection:
        connection.execute(text("INSERT INTO thing VALUES ('a')"))
    assert names(database) == set()


def test_taken_key_passes_through(database):
    add(database, "a")
    with pytest.raises(IntegrityError):
        add(database, "a")


def test_failed_statement_is_index_unavailable(database):
    with pytest.raises(IndexUnavailable), database.connect() as connection:
        connection.execute(text("SELECT * FROM nowhere"))


def test_messages_show_no_values(database):
    with pytest.raises(IndexUnavailable) as caught, database.connect() as connection:
        connection.execute(text("SELECT * FROM thing WHERE nothing = :name"), {"name": "Doe^John"})
    assert "Doe" not in str(caught.value) + str(caught.value.__cause__)


def test_readers_work_while_a_writer_has_not_committed(database):
    add(database, "a")
    with database.begin() as connection:
        connection.execute(text("INSERT INTO thing VALUES ('b')"))
        with ThreadPoolExecutor(4) as threads:
            seen = list(threads.map(lambda _: names(database), range(8)))
    assert seen == [{"a"}] * 8


def test_many_threads_hold_connections_at_once(database):
    everybody = threading.Barrier(24)

    def hold(_: int) -> bool:
        with database.connect() as connection:
            everybody.wait(timeout=60)
            return connection.scalar(text("SELECT 1")) == 1

    with ThreadPoolExecutor(24) as threads:
        assert all(threads.map(hold, range(24)))


@pytest.mark.slow
def test_parallel_writers_wait_for_each_other(database):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: add(database, str(number)), range(64)))
    assert len(names(database)) == 64


def test_locked_database_is_index_unavailable(database, database_url):
    impatient = Database(with_short_wait(database_url))
    with database.begin() as connection:
        connection.execute(text("INSERT INTO thing VALUES ('a')"))
        with pytest.raises(IndexUnavailable, match="lock"):
            add(impatient, "a")
    impatient.close()
    assert names(database) == {"a"}


def with_short_wait(url: str) -> str:
    option = {"timeout": "0.1"} if url.startswith("sqlite") else {"options": "-c lock_timeout=100ms"}
    return make_url(url).update_query_dict(option).render_as_string(hide_password=False)


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(("set_to", "used"), [("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")])
def test_a_commit_waits_for_the_disk_whatever_the_database_is_set_to(
    database: Database, database_url: str, set_to: str, used: str
) -> None:
    with database.begin() as connection:
        name = connection.scalar(text("SELECT current_database()"))
        connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = {set_to}"))
    other = Database(database_url)
    with other.connect() as connection:
        assert connection.scalar(text("SHOW synchronous_commit")) == used
    other.close()


def test_a_connection_that_is_given_back_late_is_closed(database):
    with database.connect() as connection:
        driver = connection.connection.driver_connection
        database.close()
        assert connection.scalar(text("SELECT 1")) == 1
    with pytest.raises(database.engine.dialect.loaded_dbapi.Error, match="closed"):
        driver.execute("SELECT 1")
    # Used again, it opens others.
    assert [database.revision() for _ in range(3)] == [None] * 3


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_postgresql_settings(database):
    with database.connect() as connection:
        assert connection.scalar(text("SHOW lock_timeout")) == "10s"


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_lost_connection_is_index_unavailable_and_the_next_one_works(database, database_url):
    def lose() -> None:
        with database.connect() as connection:
            terminate(database_url, connection.scalar(text("SELECT pg_backend_pid()")))
            connection.execute(text("SELECT 1"))

    with pytest.raises(IndexUnavailable):
        lose()
    with database.connect() as connection:
        backend = connection.scalar(text("SELECT pg_backend_pid()"))
    # Now it idles in the pool.
    terminate(database_url, backend)
    assert names(database) == set()


def terminate(url: str, backend: int | None) -> None:
    database = Database(url)
    with database.connect() as connection:
        assert connection.scalar(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": backend})
    database.close()


@pytest.mark.parametrize(
    ("wal_mode", "fsync", "expected"),
    [(True, True, ("wal", 2)), (True, False, ("wal", 0)), (False, True, ("delete", 2))],
)
def test_sqlite_settings(tmp_path, wal_mode, fsync, expected):
    database = Database(f"sqlite:///{tmp_path}/pacs.db", wal_mode=wal_mode, fsync=fsync)
    assert (pragma(database, "journal_mode"), pragma(database, "synchronous")) == expected
    assert pragma(database, "foreign_keys") == 1
    assert pragma(database, "busy_timeout") == 10_000
    with database.connect() as connection:
        assert connection.scalar(text("SELECT 'A' LIKE 'a'")) == 0
    database.close()


def test_sqlite_file_that_is_none_is_index_unavailable(tmp_path: Path):
    (tmp_path / "pacs.db").write_bytes(b"not a database at all" * 100)
    database = Database(f"sqlite:///{tmp_path}/pacs.db")
    with pytest.raises(IndexUnavailable, match="not a database"), database.connect():
        pass
    database.close()


def test_sqlite_directory_that_is_missing_is_index_unavailable(tmp_path: Path):
    database = Database(f"sqlite:///{tmp_path}/missing/pacs.db")
    with pytest.raises(IndexUnavailable, match="unable to open"), database.connect():
        pass


def test_unreachable_server_is_index_unavailable(tmp_path: Path):
    database = Database(f"postgresql://somebody@/pacs?host={tmp_path}")
    with pytest.raises(IndexUnavailable) as caught, database.connect():
        pass
    # Peers are told too: the reason at once, and not where the server is.
    assert str(caught.value) == "the database failed: No such file or directory"


def test_a_database_that_takes_and_gives_has_no_problem(database):
    assert database.problem() is None


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_is_read_only_says_so_before_anything_is_written(database_url):
    options = {"options": "-c default_transaction_read_only=on"}
    standby = Database(make_url(database_url).update_query_dict(options).render_as_string(hide_password=False))
    assert standby.problem() == "the database is read-only"
    standby.close()


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"f_flag": os.ST_RDONLY}, "the database is on a file system that is mounted read-only"),
        ({"f_bavail": 255}, "the database is on a full disk"),
        ({"f_bavail": 256}, None),
    ],
)
def test_a_sqlite_file_that_cannot_be_written_says_so_before_it_is(tmp_path, monkeypatch, state, problem):
    values = {"f_flag": 0, "f_bavail": 1000, "f_frsize": 4096} | state
    monkeypatch.setattr("pacs_server.index.sqlite.os.statvfs", lambda _: SimpleNamespace(**values))
    database = Database(f"sqlite:///{tmp_path}/pacs.db")
    assert database.problem() == problem
    database.close()


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_server_without_space_says_no_more_than_that(database):
    fail = "DO $$ BEGIN RAISE 'could not extend file \"base/16384/2\": No space' USING ERRCODE = 'disk_full'; END $$"
    with pytest.raises(IndexUnavailable) as caught, database.connect() as connection:
        connection.exec_driver_sql(fail)
    assert str(caught.value) == "the database failed: the database server has no space left"


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://host/pacs", "sqlite://", "sqlite:///:memory:"])
def test_unusable_urls_are_refused(url):
    with pytest.raises(ConfigError):
        Database(url)


def test_url_without_password():
    database = Database("postgresql://me:secret@host/pacs?password=secret")
    assert "secret" not in database.url_without_password
    assert "host/pacs" in database.url_without_password


def test_size_grows(database):
    before = database.size_bytes()
    with database.begin() as connection:
        connection.execute(
            text("INSERT INTO thing VALUES (:name)"), [{"name": f"{number:0900}"} for number in range(1000)]
        )
    assert database.size_bytes() > before > 0


def test_more_connections_cost_the_earlier_ones_no_lock(tmp_path):
    """The locks of a process are gone when it closes the file once; the next process to leave then takes the log."""
    path = tmp_path / "pacs.db"
    ours, again = Database(f"sqlite:///{path}"), Database(f"sqlite:///{path}")
    with ours.begin() as connection:
        connection.execute(text("CREATE TABLE thing (name TEXT)"))
    with ours.connect() as first, ours.connect() as second, again.connect() as third:
        for connection in (first, second, third):
            connection.execute(text("SELECT * FROM thing")).all()
            connection.rollback()
        program = (
            "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('SELECT 1 FROM thing'); db.close()"
        )
        subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=30)
        assert path.with_name("pacs.db-wal").exists()
    again.close()
    ours.close()
