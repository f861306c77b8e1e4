"""Commits that do not wait for the disk, what makes them durable, and the check of new connections."""

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres import PostgresProcess
from sqlalchemy import Connection, text

from pacs_server.errors import IndexUnavailable
from pacs_server.index.database import WRITER_LOCK, Database, FirstRow
from pacs_server.index.group_commit import GroupCommit
from pacs_server.index.instances import InstanceIndex
from pacs_server.index.prepared import Raw

on_postgresql = pytest.mark.parametrize(
    "database_url", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def synchronous(connection: Connection) -> bool:
    """Whether a commit on this connection waits for the disk."""
    if connection.dialect.name == "sqlite":
        return {1: False, 2: True}[int(connection.scalar(text("PRAGMA synchronous")) or 0)]
    return {"off": False, "on": True}[str(connection.scalar(text("SHOW synchronous_commit")))]


def driver(connection: Connection) -> int:
    return id(connection.connection.driver_connection)


def test_no_other_commit_is_relaxed(database: Database) -> None:
    relaxed, others = set(), set()
    for error in (None, RuntimeError("rolled back"), None):
        with suppress(RuntimeError), database.begin(relaxed=True, lock=WRITER_LOCK) as connection:
            assert not synchronous(connection)
            relaxed.add(driver(connection))
            if error is not None:
                raise error
        for options in ({}, {"lock": WRITER_LOCK}, {"unchecked": True}):
            with database.begin(**options) as connection, database.connect() as reader:  # type: ignore[arg-type]
                assert synchronous(connection)
                assert synchronous(reader)
                others |= {driver(connection), driver(reader)}
    # On SQLite the connection decides, on PostgreSQL the transaction.
    assert bool(relaxed & others) is not database.is_sqlite


@pytest.mark.parametrize(
    ("relaxed", "waits"), [([True, True], False), ([True, False], True), ([False, True], True), ([False, False], True)]
)
def test_a_batch_waits_for_the_disk_if_one_of_it_has_to(database: Database, relaxed: list[bool], waits: bool) -> None:
    batches: list[tuple[int, bool]] = []

    def write(raw: Raw, entries: list[bool]) -> list[Any]:
        batches.append((len(entries), synchronous(raw.connection)))
        return [None] * len(entries)

    commits = GroupCommit(database, write, lock=WRITER_LOCK)
    with commits._leading, ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(commits.add, each, relaxed=each) for each in relaxed]
        while len(commits._pending) < 2:
            time.sleep(0.001)
        commits._leading.release()
        try:
            for each in waiting:
                each.result(20)
        finally:
            commits._leading.acquire()
    assert batches == [(2, waits)]


def test_a_database_that_never_waits_has_no_relaxed_commits(tmp_path: Path) -> None:
    for options, relaxes in (({}, True), ({"fsync": False}, False), ({"wal_mode": False}, False)):
        database = Database(f"sqlite:///{tmp_path}/{''.join(options)}.db", **options)  # type: ignore[arg-type]
        assert database.relaxes is relaxes
        database.close()


# ---------------------------------------------------------------- made durable


def test_each_time_something_is_written(database: Database, database_url: str) -> None:
    index = InstanceIndex(database)

    def log_position() -> int:
        if database.file is not None:
            return Path(f"{database.file}-wal").stat().st_size
        with database.connect() as connection:
            return int(connection.scalar(text("SELECT pg_current_wal_flush_lsn() - '0/0'")) or 0)

    positions = []
    for _ in range(4):
        index.make_durable()
        positions.append(log_position())
    assert positions == sorted(set(positions))


_COMMITS = """
import sys
from sqlalchemy import text
from pacs_server.index.database import Database
from pacs_server.index.instances import InstanceIndex

database = Database(sys.argv[1])
index = InstanceIndex(database)
for number in range(3):
    for each in range(4):
        with database.begin(relaxed=True) as connection:
            connection.execute(text(f"INSERT INTO archive_state (key, value) VALUES ('{number} {each}', '')"))
    print("relaxed", file=sys.stderr, flush=True)
    index.make_durable()
    print("durable", file=sys.stderr, flush=True)
"""


@pytest.mark.slow
def test_sqlite_syncs_once_for_many_relaxed_commits(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed; on Debian and Ubuntu: apt-get install strace")
    import schema

    schema.prepare(tmp_path / "pacs.db")
    trace = tmp_path / "trace"
    traced = (strace, "-f", "-qq", "-y", "-s", "8", "-e", "trace=fsync,fdatasync,write", "-o", str(trace))
    command = [*traced, sys.executable, "-c", _COMMITS, f"sqlite:///{tmp_path}/pacs.db"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    calls = re.findall(r'f(?:data)?sync\(\d+<\S*pacs\.db(-wal)>|"(relaxed|durable)', trace.read_text())
    steps = ["".join(call) for call in calls]
    # The log is synced once when it begins, and when it is closed.
    assert steps[steps.index("relaxed") : -1] == ["relaxed", "-wal", "durable"] * 3


@pytest.mark.postgres
def test_postgresql_flushes_the_relaxed_commits_before(own_postgres: PostgresProcess) -> None:
    database = Database(own_postgres.url.render_as_string())
    database.migrate()
    own_postgres.hold_writes()

    def position(name: str) -> int:
        with psycopg.connect(own_postgres.url.set(drivername="postgresql").render_as_string()) as connection:
            found: Any = connection.execute(f"SELECT pg_current_wal_{name}_lsn() - '0/0'").fetchone()  # type: ignore[arg-type]
            return int(found[0])

    for number in range(3):
        with database.begin(relaxed=True, lock=WRITER_LOCK) as connection:
            connection.execute(text(f"INSERT INTO archive_state (key, value) VALUES ('{number}', '')"))
        written = position("insert")
        assert position("flush") < written
        InstanceIndex(database).make_durable()
        assert position("flush") >= written
    database.close()


# ---------------------------------------------------------------- new connections are checked


@on_postgresql
def test_each_new_connection_is_checked_before_it_is_used(database: Database) -> None:
    seen: list[int] = []

    def check(first: FirstRow) -> None:
        seen.append(first("SELECT pg_backend_pid()", ())[0])

    def pid(connection: Connection) -> int:
        return int(connection.scalar(text("SELECT pg_backend_pid()")) or 0)

    database.when_connected(check)
    with (
        database.connect() as first,
        database.begin(relaxed=True, lock=WRITER_LOCK) as second,
        database.connect() as third,
    ):
        assert seen == [pid(first), pid(second), pid(third)]
    # From the pool they come as they are.
    with database.connect() as connection, database.begin(relaxed=True, lock=WRITER_LOCK) as other:
        assert {pid(connection), pid(other)} <= set(seen)
    with database.rows("SELECT '1'", ()) as rows:
        assert list(rows) == [("1",)]
    assert len(seen) == 3
    with database.begin(unchecked=True) as connection:
        assert pid(connection) not in seen
        again = pid(connection)
    with database.begin(unchecked=True) as connection:
        assert pid(connection) not in (*seen, again)
    assert len(seen) == 3


@on_postgresql
@pytest.mark.parametrize("relaxed", [False, True])
@pytest.mark.parametrize("way", ["raises", "fails"])
def test_a_connection_whose_check_fails_is_closed(
    database: Database, database_url: str, relaxed: bool, way: str
) -> None:
    checked = []

    def check(first: FirstRow) -> None:
        checked.append(first("SELECT pg_backend_pid()", ())[0])
        if way == "raises":
            raise IndexUnavailable("rows are lost")
        first("SELECT * FROM nowhere", ())

    def use() -> None:
        with database.begin(relaxed=True, lock=WRITER_LOCK) if relaxed else database.connect():
            pytest.fail("it was used")

    database.when_connected(check)
    for number in range(1, 4):
        with pytest.raises(IndexUnavailable, match="rows are lost" if way == "raises" else "database failed"):
            use()
        assert len(checked) == number
    database.when_connected(lambda first: None)
    with database.begin(relaxed=True, lock=WRITER_LOCK) if relaxed else database.connect() as connection:
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid = ANY (:pids)"
        assert eventually(lambda: connection.scalar(text(others), {"pids": checked}) == 0)
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@on_postgresql
def test_who_listens_outlives_a_check_that_fails(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pacs_server.index.notifications._PAUSE", 0.05)

    def check(first: FirstRow) -> None:
        raise IndexUnavailable("rows are lost")

    database.when_connected(check)
    seen = database.wakeups
    assert not database.wait(seen, 0.2)
    assert "notifications of PostgreSQL are lost for now" in caplog.text
    database.when_connected(lambda first: None)
    # It wakes everybody when it listens again.
    assert database.wait(seen, 20)
    assert "notifications" in [thread.name for thread in threading.enumerate()]


# ---------------------------------------------------------------- the file of SQLite


@pytest.mark.slow
@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("relaxed", [False, True])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_removed_or_replaced_is_refused(
    tmp_path: Path, relaxed: bool, replaced: bool, used_before: bool
) -> None:
    path = tmp_path / "pacs.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()

    def write() -> None:
        with database.begin(relaxed=relaxed) as connection:
            connection.execute(text("INSERT INTO archive_state (key, value) VALUES (hex(randomblob(8)), '')"))

    if used_before:
        write()
    path.rename(tmp_path / "away.db")
    if replaced:
        path.write_bytes((tmp_path / "away.db").read_bytes())
    with pytest.raises(IndexUnavailable, match="removed or replaced"):
        write()
    assert path.exists() == replaced
    path.unlink(missing_ok=True)
    (tmp_path / "away.db").rename(path)
    write()
    database.close()
