"""Upgrades of databases with data: from every earlier revision, broken off anywhere, and by several at a time."""

import contextlib
import hashlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rows
import servers
from alembic import command
from datasets import make_ct
from patients import add, header
from pydicom.uid import CTImageStorage
from rows import PER_STUDY, STUDIES, everything
from servers import STUDY_FIND, associated
from sqlalchemy import MetaData, event, text
from strategies import encoded, identifier

from pacs_server.config import DatabaseConfig
from pacs_server.dicom.part10 import encode_head
from pacs_server.errors import IndexUnavailable
from pacs_server.index.database import Database
from pacs_server.index.instances import InstanceIndex
from pacs_server.index.revisions import alembic_config, scripts

pytestmark = pytest.mark.no_tables

REVISIONS = sorted(script.revision for script in scripts().walk_revisions())
# A migration is never changed. From the first revision all of them run, from the last but one the newest does; more of
# the newest, because they may be wrong together. From those between only `make soak` begins.
FROM = [
    pytest.param(revision, marks=() if at in (0, 7) or at > len(REVISIONS) - 4 else pytest.mark.soak)
    for at, revision in enumerate(REVISIONS[:-1])
]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


# ------------------------------------------------------------------------------------ a database as it was


def at_revision(database: Database, revision: str) -> None:
    """The schema of that revision, with a value in every column of every table it has by then."""
    with database.begin() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        tables = MetaData()
        tables.reflect(connection)
        rows.fill(connection, [table for table in tables.sorted_tables if table.name != "alembic_version"])


def kept(before: dict[str, list[dict[str, object]]], after: dict[str, list[dict[str, object]]]) -> bool:
    """Whether every row and value of before is there after."""
    for name, found in before.items():
        columns = found[0].keys() if found else ()
        assert [{column: row[column] for column in columns} for row in after[name]] == found, name
    return True


# ------------------------------------------------------------------------------------ upgrades


@pytest.mark.slow
@pytest.mark.parametrize("revision", FROM)
def test_every_value_outlives_the_upgrade(database, revision):
    at_revision(database, revision)
    before = everything(database)
    assert all(before.values())
    database.migrate()
    database.check_schema()
    assert kept(before, everything(database))
    if database.is_sqlite:
        with database.connect() as connection:
            assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
            assert connection.scalar(text("PRAGMA integrity_check")) == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("revision", FROM)
def test_an_upgraded_index_is_the_one_that_would_be_made_today(tmp_path, revision):
    """So it answers queries as one does that is made anew from the same files."""
    today, old = (Database(f"sqlite:///{tmp_path}/{name}.db") for name in ("today", "old"))
    today.migrate()
    for number in range(6):
        values = {
            "patient_id": f"P{number % 3 % 2}",
            "patient_name": f"D\u00f6e^{number % 3 % 2}=\u5c71",
            "study_time": "0930",
        }
        add(InstanceIndex(today), header(f"1.{number % 3}", f"2.{number % 4}.{number % 3}", f"3.{number}", **values))
    made = {name: found for name, found in everything(today).items() if found}
    assert made.keys() == {"patient", "study", "series", "instance"}
    with old.begin() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        tables = MetaData()
        tables.reflect(connection)
        for name in ("patient", "study", "series", "instance"):
            known = tables.tables[name].columns.keys()
            for row in made[name]:
                connection.execute(tables.tables[name].insert().values({each: row[each] for each in known}))
    old.migrate()
    assert {name: found for name, found in everything(old).items() if found} == made
    old.close()
    today.close()


@pytest.mark.slow
@pytest.mark.parametrize("revision", FROM)
def test_an_archive_of_an_earlier_version_is_served(tmp_path, database_url, revision):
    database = Database(database_url)
    at_revision(database, revision)
    archive = tmp_path / "archive"
    images = {number: _write(archive, database, number) for number in range(1, STUDIES * PER_STUDY + 1)}
    database.close()
    with servers.running(_settings(tmp_path, database_url)) as pacs:
        with associated(pacs, STUDY_FIND) as link:
            found = list(link.send_c_find(identifier("STUDY", StudyInstanceUID="", PatientID=""), STUDY_FIND))
        studies = {str(ds.StudyInstanceUID): str(ds.PatientID) for status, ds in found if status.Status == 0xFF00}
        assert found[-1][0].Status == 0
        assert studies == {f"1.2.{n}": f"patient_id {n} 'Ä山%_" for n in range(1, STUDIES + 1)}
        _, got = servers.get(pacs, identifier("STUDY", StudyInstanceUID="1.2.2"))
        assert dict(got) == {f"1.4.{number}": images[number] for number in (3, 4)}
        new = _image(study="1.2.99", series="1.3.99", sop="1.4.99")
        assert servers.store(pacs, new) == [0]
        with pacs.archive.database.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM instance")) == STUDIES * PER_STUDY + 1


def _image(study: str, series: str, sop: str) -> Any:
    return make_ct(study, series, sop, rows=8, columns=8, PatientID="NEW")


def _write(archive: Path, database: Database, number: int) -> bytes:
    """The file of an instance as an earlier version wrote it: without where it came from."""
    parent = (number - 1) // PER_STUDY + 1
    data = encoded(_image(f"1.2.{parent}", f"1.3.{parent}", f"1.4.{number}"), servers.EXPLICIT)
    head = encode_head(str(CTImageStorage), f"1.4.{number}", servers.EXPLICIT, "CT1")
    path = archive / f"1.2.{parent}/1.3.{parent}/1.4.{number}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + data)
    with database.begin() as connection:
        connection.execute(
            text("UPDATE instance SET data_set_offset = :at, size = :size, digest = :digest WHERE id = :id"),
            {"at": len(head), "size": len(head + data), "digest": hashlib.sha256(data).hexdigest(), "id": number},
        )
    return data


def _settings(tmp_path: Path, url: str) -> Any:
    base = servers.config(tmp_path)
    return base.model_copy(update={"database": DatabaseConfig(url=url)})


@pytest.mark.slow
def test_ids_of_instances_do_not_come_again_after_the_upgrade(database):
    at_revision(database, "0008")
    with database.begin() as connection:
        connection.execute(text("DELETE FROM instance WHERE id = 2"))
    database.migrate()
    assert [row["id"] for row in everything(database)["instance"]] == [1, 3, 4, 5, 6]
    with database.begin() as connection:
        connection.execute(text("DELETE FROM instance WHERE id = 6"))
    add(InstanceIndex(database), header(study="1.2.1", series="1.3.1", sop="1.5.1"))
    assert [row["id"] for row in everything(database)["instance"]] == [1, 3, 4, 5, 7]


# ------------------------------------------------------------------------------------ broken off


def _breaking(database: Database, at: int, how: Callable[[], None]) -> Callable[[], int]:
    """Do `how` before statement number `at` that changes something; the result tells how many there were."""
    count = 0

    @event.listens_for(database.engine, "before_cursor_execute")
    def before(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal count
        if statement.lstrip().upper().startswith(("CREATE", "ALTER", "DROP", "INSERT", "UPDATE", "DELETE")):
            count += 1
            if count == at:
                how()

    return lambda: count


class _BrokenOff(Exception):
    pass


def _break_off() -> None:
    raise _BrokenOff


@pytest.mark.slow
def test_a_migration_that_fails_at_any_statement_changes_nothing(database, database_url):
    # All migrations are in its way.
    revision = REVISIONS[0]
    at_revision(database, revision)
    before = everything(database)
    at, broken = 1, True
    while broken:
        other = Database(database_url)
        seen = _breaking(other, at, _break_off)
        with contextlib.closing(other):
            try:
                other.migrate()
                broken = False
            except _BrokenOff:
                assert database.revision() == revision
                assert everything(database) == before
        # Every statement of the first, then fewer and fewer: it takes its time.
        at += 1 + at // 4
        assert at < 1000
    assert seen() > 5
    database.check_schema()
    assert kept(before, everything(database))


def _killed_at(url: str, at: int) -> None:
    database = Database(url)
    _breaking(database, at, lambda: os.kill(os.getpid(), signal.SIGKILL))
    database.migrate()
    database.close()


# Killed before that statement: the third of 0009 drops the table that the rows are copied from.
@pytest.mark.slow
@pytest.mark.parametrize(("revision", "at"), [("0003", 15), ("0008", 3)])
def test_a_migration_that_is_killed_is_done_by_the_next(database, database_url, revision, at):
    at_revision(database, revision)
    before = everything(database)
    process = multiprocessing.get_context("spawn").Process(target=_killed_at, args=(database_url, at))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert database.revision() == revision
    assert everything(database) == before
    database.migrate()
    database.check_schema()
    assert kept(before, everything(database))


@pytest.mark.slow
@pytest.mark.parametrize("revision", FROM)
def test_a_migration_without_room_changes_nothing(tmp_path, revision):
    path = tmp_path / "pacs.db"
    database, full = Database(f"sqlite:///{path}"), Database(f"sqlite:///{path}")
    at_revision(database, revision)
    before = everything(database)
    with database.connect() as connection:
        pages = connection.scalar(text("PRAGMA page_count"))

    @event.listens_for(full.engine, "connect")
    def limit(connection: Any, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    with contextlib.closing(full), contextlib.suppress(IndexUnavailable):
        full.migrate()
        # There is room for a column in what is there already.
        assert revision >= "0006"
        return
    assert (database.revision(), everything(database)) == (revision, before)
    database.migrate()
    assert kept(before, everything(database))
    database.close()


def _migrate(url: str) -> None:
    database = Database(url)
    database.migrate()
    database.close()


@pytest.mark.slow
def test_processes_that_upgrade_at_once_do_it_once(database, database_url):
    at_revision(database, "0002")
    before = everything(database)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_migrate, args=(database_url,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    database.check_schema()
    assert kept(before, everything(database))


@pytest.mark.slow
def test_an_upgrade_says_so_before_and_after(database, caplog):
    caplog.set_level(logging.INFO, "pacs_server")
    at_revision(database, "0003")
    database.migrate()
    assert [record.message for record in caplog.records] == [
        "the database is being migrated",
        "the database was migrated",
    ]
    assert (caplog.records[0].before, caplog.records[0].to) == ("0003", REVISIONS[-1])
    caplog.clear()
    database.migrate()
    assert caplog.records == []
