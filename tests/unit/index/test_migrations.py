"""The migrations and the tables say the same."""

import logging
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import schema
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from pacs_server.errors import IndexUnavailable, SchemaError
from pacs_server.index import archive_models, login_models, outgoing_models, task_models, workflow_models
from pacs_server.index.database import Database
from pacs_server.index.revisions import alembic_config, known, scripts

pytestmark = pytest.mark.no_tables

_ROOT = Path(__file__).parents[3]

# Importing the modules puts all tables into one collection.
metadata = archive_models.metadata
assert metadata is workflow_models.metadata is task_models.metadata is outgoing_models.metadata
assert metadata is login_models.metadata


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def test_the_names_of_files_tell_the_revisions():
    assert known() == [script.revision for script in scripts().walk_revisions()][::-1]


@pytest.mark.slow
def test_a_database_that_is_up_to_date_needs_no_alembic(tmp_path):
    url = f"sqlite:///{tmp_path}/pacs.db"
    schema.prepare_at(url)
    code = (
        "import sys; from pacs_server.index.database import Database\n"
        f"database = Database({url!r}); database.migrate(); database.check_schema(); database.close()\n"
        "print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, check=True)
    assert done.stdout == b"False\n"


@pytest.mark.slow
def test_migrated_schema_is_the_one_of_the_tables(database):
    database.migrate()
    with database.connect() as connection:
        # Alembic takes '' and no default for different things on SQLite; the next test compares them there.
        options = {"compare_server_default": not database.is_sqlite, "target_metadata": metadata}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_newer_schema_is_refused_and_left_alone(database):
    database.migrate()
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for check in (database.check_schema, database.migrate):
        with pytest.raises(SchemaError, match="made by a newer version; upgrade pacs-server or restore a backup"):
            check()
    assert database.revision() == "9999"


@pytest.mark.parametrize("table", ["instance", "django_migrations"])
def test_a_database_of_something_else_is_refused_and_left_alone(database, table):
    with database.begin() as connection:
        connection.execute(text(f"CREATE TABLE {table} (id INTEGER)"))
    with pytest.raises(SchemaError, match=f"table {table}.*give it a database of its own"):
        database.migrate()
    with database.connect() as connection:
        assert inspect(connection).get_table_names() == [table]


@pytest.mark.slow
def test_migration_leaves_logging_as_it_is(database):
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLogger("alembic").level)
    database.migrate()
    assert (list(root.handlers), root.level, logging.getLogger("alembic").level) == before


@pytest.mark.slow
def test_threads_may_migrate_at_once(database):
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(database.migrate) for _ in range(4)]:
            done.result(timeout=60)
    database.check_schema()


def _migrate_in_process(url: str) -> None:
    database = Database(url)
    database.migrate()
    database.close()


@pytest.mark.slow
def test_processes_may_migrate_at_once(database, database_url):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_migrate_in_process, args=(database_url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    database.check_schema()


@pytest.mark.slow
def test_construction_makes_no_file(tmp_path: Path):
    path = tmp_path / "pacs.db"
    database = Database(f"sqlite:///{path}")
    assert not path.exists()
    database.migrate()
    assert path.exists()
    database.close()


def fill_at_revision(database: Database, revision: str, studies: int, per_study: int) -> None:
    """A database of that revision with so many studies, each of a patient and a series of its own."""
    with database.begin() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        numbers = [{"n": n, "uid": f"1.{n}", "series": f"2.{n}", "who": f"P{n}"} for n in range(1, studies + 1)]
        for statement in (
            "INSERT INTO patient (id, patient_id) VALUES (:n, :who)",
            "INSERT INTO study (id, patient_fk, study_instance_uid, study_id) VALUES (:n, :n, :uid, 'S')",
            "INSERT INTO series (id, study_fk, series_instance_uid, modality) VALUES (:n, :n, :series, 'CT')",
        ):
            connection.execute(text(statement), numbers)
        instances = [
            {"id": n * per_study + i, "n": n, "uid": f"3.{n}.{i}"}
            for n in range(1, studies + 1)
            for i in range(per_study)
        ]
        connection.execute(
            text("""
                INSERT INTO instance (id, series_fk, sop_instance_uid, path, data_set_offset, size, digest, received_at)
                VALUES (:id, :n, :uid, 'x', 0, 1, '', '2024-01-01 00:00:00')"""),
            instances,
        )


@pytest.mark.slow
def test_patients_studies_and_series_outlive_the_migration_of_their_constraints(database):
    fill_at_revision(database, "0004", studies=20, per_study=3)
    database.migrate()
    with database.begin() as connection:
        for table, count in (("patient", 20), ("study", 20), ("series", 20), ("instance", 60)):
            assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == count
        row = connection.execute(text("SELECT * FROM study WHERE id = 7")).mappings().one()
        assert (row["study_instance_uid"], row["patient_fk"], row["study_id"], row["variant"]) == ("1.7", 7, "S", 0)
        # The same UIDs with another patient, and in another study.
        connection.execute(text("INSERT INTO study (id, patient_fk, study_instance_uid) VALUES (90, 1, '1.7')"))
        connection.execute(text("INSERT INTO series (id, study_fk, series_instance_uid) VALUES (90, 1, '2.7')"))
        connection.execute(text("INSERT INTO patient (id, patient_id, variant) VALUES (90, 'P7', 1)"))
    for statement in (
        "INSERT INTO study (id, patient_fk, study_instance_uid) VALUES (91, 7, '1.7')",
        "INSERT INTO series (id, study_fk, series_instance_uid) VALUES (91, 7, '2.7')",
        "INSERT INTO patient (id, patient_id) VALUES (91, 'P7')",
        "DELETE FROM study WHERE id = 7",
        "DELETE FROM series WHERE id = 7",
    ):
        with pytest.raises(IntegrityError), database.begin() as connection:
            connection.execute(text(statement))


@pytest.mark.slow
def test_migration_that_is_interrupted_leaves_the_data_as_it_was(database):
    fill_at_revision(database, "0004", studies=5, per_study=2)
    with database.begin() as connection:
        # In the way of what the migration makes last.
        connection.execute(text("CREATE TABLE patient_alias (id INTEGER)"))
    with pytest.raises(IndexUnavailable):
        database.migrate()
    assert database.revision() == "0004"
    with database.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM series JOIN study ON study.id = study_fk")) == 5
        connection.execute(text("DROP TABLE patient_alias"))
    database.migrate()
    database.check_schema()
