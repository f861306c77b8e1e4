"""The migrations and the tables say the same."""

import logging
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from pacs_server.errors import IndexUnavailable, SchemaError
from pacs_server.index.database import Database
from pacs_server.index.workflow_models import metadata


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def test_migrated_schema_is_the_one_of_the_tables(database):
    database.migrate()
    with database.connect() as connection:
        # Alembic takes '' and no default for different things on SQLite; the next test compares them there.
        options = {"compare_server_default": not database.is_sqlite, "target_metadata": metadata}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_migrated_columns_are_those_of_the_tables(tmp_path):
    migrated, created = Database(f"sqlite:///{tmp_path}/a.db"), Database(f"sqlite:///{tmp_path}/b.db")
    migrated.migrate()
    with created.begin() as connection:
        metadata.create_all(connection)
    for table in metadata.sorted_tables:
        assert _columns(migrated, table.name) == _columns(created, table.name)
    migrated.close()
    created.close()


def _columns(database: Database, table: str) -> set[tuple[object, ...]]:
    with database.connect() as connection:
        rows = connection.execute(text(f"PRAGMA table_info({table})")).all()
    # Without the position, which a later migration cannot choose.
    return {tuple(row)[1:] for row in rows}


def test_migrating_twice_changes_nothing(database):
    database.migrate()
    revision = database.revision()
    database.migrate()
    assert revision is not None
    assert database.revision() == revision
    database.check_schema()


def test_check_schema_of_an_empty_database_names_the_command(database):
    with pytest.raises(SchemaError, match="pacs-server migrate"):
        database.check_schema()


def test_newer_schema_is_refused_and_left_alone(database):
    database.migrate()
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for check in (database.check_schema, database.migrate):
        with pytest.raises(SchemaError, match="made by a newer version; upgrade pacs-server or restore a backup"):
            check()
    assert database.revision() == "9999"


def test_failed_migration_leaves_nothing(database):
    with database.begin() as connection:
        # In the way of the last table that is made.
        connection.execute(text("CREATE TABLE instance (id INTEGER)"))
    with pytest.raises(IndexUnavailable):
        database.migrate()
    with database.connect() as connection:
        assert inspect(connection).get_table_names() == ["instance"]


def test_migration_leaves_logging_as_it_is(database):
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLogger("alembic").level)
    database.migrate()
    assert (list(root.handlers), root.level, logging.getLogger("alembic").level) == before


def test_threads_may_migrate_at_once(database):
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(database.migrate) for _ in range(4)]:
            done.result(timeout=60)
    database.check_schema()


def _migrate_in_process(url: str) -> None:
    database = Database(url)
    database.migrate()
    database.close()


def test_processes_may_migrate_at_once(database, database_url):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_migrate_in_process, args=(database_url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    database.check_schema()


def test_construction_makes_no_file(tmp_path: Path):
    path = tmp_path / "pacs.db"
    database = Database(f"sqlite:///{path}")
    assert not path.exists()
    database.migrate()
    assert path.exists()
    database.close()
