"""Servers of one index are upgraded one after the other: the older ones go on with a schema that is one step newer."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import servers
from alembic import command
from datasets import make_study
from servers import STUDY_FIND, associated
from sqlalchemy import Inspector, inspect, text
from strategies import identifier

from pacs_server.config.model import DatabaseConfig
from pacs_server.dicom.levels import Level
from pacs_server.errors import SchemaError
from pacs_server.index import revisions
from pacs_server.index.copying import restore_snapshot, take_snapshot
from pacs_server.index.database import Database
from pacs_server.index.revisions import alembic_config, scripts

REVISIONS = sorted(script.revision for script in scripts().walk_revisions())
HEAD = int(REVISIONS[-1])
# From here on servers of neighbouring versions share an index.
FIRST_TO_ROLL = "0009"
# What a later version might add: a column, a table, an index, all of which servers of today know nothing of.
NEXT = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "{0:04}", "{1:04}"


def upgrade():
    op.add_column("instance", sa.Column("added_{0:04}", sa.String(), server_default="x", nullable=False))
    op.create_table("made_{0:04}", sa.Column("id", sa.Integer(), primary_key=True), sa.Column("value", sa.String()))
    op.create_index("ix_added_{0:04}", "instance", ["added_{0:04}"])
    op.execute("INSERT INTO made_{0:04} (id, value) VALUES (1, 'of a newer version')")
"""


@contextmanager
def newer_program(directory: Path, steps: int) -> Iterator[None]:
    """Within, this is a program that knows so many migrations more."""
    folder = directory / "migrations"
    shutil.copytree(scripts().dir, folder, dirs_exist_ok=True)
    for number in range(HEAD + 1, HEAD + 1 + steps):
        (folder / "versions" / f"{number:04}_later.py").write_text(NEXT.format(number, number - 1))
    with mock.patch.object(revisions, "directory", return_value=folder):
        yield


def upgraded_by_a_newer_program(directory: Path, url: str, steps: int) -> str:
    with newer_program(directory, steps), closing(Database(url)) as database:
        database.migrate()
        database.check_schema(exactly=True)
        return str(database.revision())


@pytest.mark.slow
def test_a_server_goes_on_with_a_schema_that_is_one_step_newer(tmp_path, database_url, caplog):
    configured = servers.config(tmp_path).model_copy(update={"database": DatabaseConfig(url=database_url)})
    first, second, third = (make_study(1, 2) for _ in range(3))
    with servers.running(configured) as pacs:
        assert servers.store(pacs, *first) == [0, 0]
        # Another server is upgraded while this one runs.
        revision = upgraded_by_a_newer_program(tmp_path, database_url, 1)
        assert servers.store(pacs, *second) == [0, 0]
        assert pacs.status()["not_ready"] is None
    caplog.set_level(logging.WARNING)
    with servers.running(configured) as pacs:
        assert servers.store(pacs, *third) == [0, 0]
        with associated(pacs, STUDY_FIND) as link:
            found = list(link.send_c_find(identifier("STUDY", StudyInstanceUID=""), STUDY_FIND))
        uids = {str(ds.StudyInstanceUID) for status, ds in found if status.Status == 0xFF00}
        assert uids == {str(each[0].StudyInstanceUID) for each in (first, second, third)}
        _, got = servers.get(pacs, identifier("STUDY", StudyInstanceUID=first[0].StudyInstanceUID))
        assert {uid for uid, _ in got} == {str(ds.SOPInstanceUID) for ds in first}
        deletion = pacs.archive.deletions.delete(Level.STUDY, str(second[0].StudyInstanceUID), "a test")
        assert pacs.archive.deletions.restore(deletion.folder).instances == 2
    assert "the database schema is one step newer than this program" in caplog.messages
    with closing(Database(database_url)) as database, database.connect() as connection:
        assert database.revision() == revision
        assert connection.scalar(text(f"SELECT count(*) FROM instance WHERE added_{revision} = 'x'")) == 6
        assert connection.scalar(text(f"SELECT value FROM made_{revision}")) == "of a newer version"


@pytest.mark.slow
def test_two_steps_are_refused_and_nothing_is_changed(tmp_path, database_url):
    revision = upgraded_by_a_newer_program(tmp_path, database_url, 2)
    with closing(Database(database_url)) as database:
        for check in (database.check_schema, database.migrate):
            with pytest.raises(SchemaError) as raised:
                check()
            assert str(raised.value) == (
                f"the database schema ({revision}) was made by a newer version; upgrade pacs-server or restore a "
                f"backup (this version works with revision {HEAD:04} and the next one)"
            )
        assert database.revision() == revision


@pytest.mark.slow
def test_what_copies_all_tables_is_left_to_the_newer_program(tmp_path, database_url):
    """It would leave out what it does not know, and nobody would notice before they need it."""
    upgraded_by_a_newer_program(tmp_path, database_url, 1)
    with (
        closing(Database(database_url)) as database,
        pytest.raises(SchemaError, match="one step newer"),
    ):
        take_snapshot(database, tmp_path / "snapshot.db")
    assert not (tmp_path / "snapshot.db").exists()
    newer = tmp_path / "newer.db"
    upgraded_by_a_newer_program(tmp_path, f"sqlite:///{newer}", 1)
    with closing(Database(f"sqlite:///{tmp_path}/into.db")) as into, pytest.raises(SchemaError, match="one step newer"):
        restore_snapshot(newer, into)


@pytest.mark.slow
@pytest.mark.no_tables
def test_migrations_only_add(database_url):
    """A server of the version before reads and writes what it always did."""
    with closing(Database(database_url)) as database:
        before = None
        for revision in REVISIONS[REVISIONS.index(FIRST_TO_ROLL) :]:
            with database.begin() as connection:
                config = alembic_config()
                config.attributes["connection"] = connection
                command.upgrade(config, revision)
                assert revisions.revision_of(connection) == revision
            after = _described(inspect(database.engine))
            if before is not None:
                _assert_only_added(revision, before, after)
            before = after


def _described(inspector: Inspector) -> dict[str, Any]:
    return {
        table: {
            "columns": {column["name"]: column for column in inspector.get_columns(table)},
            "unique": {tuple(each["column_names"]) for each in inspector.get_unique_constraints(table)}
            | {tuple(each["column_names"]) for each in inspector.get_indexes(table) if each["unique"]},
            "keys": {tuple(each["constrained_columns"]) for each in inspector.get_foreign_keys(table)},
        }
        for table in inspector.get_table_names()
    }


def _assert_only_added(revision: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    for name, table in before.items():
        assert name in after, f"{revision} takes table {name} away"
        for column, was in table["columns"].items():
            now = after[name]["columns"].get(column)
            assert now is not None, f"{revision} takes {name}.{column} away"
            assert (str(now["type"]), now["nullable"]) == (str(was["type"]), was["nullable"]), f"{name}.{column}"
        for column, now in after[name]["columns"].items():
            known = column in table["columns"] or now["nullable"] or now["default"] is not None
            assert known, f"{revision}: a server of the version before leaves {name}.{column} out"
        for rule in ("unique", "keys"):
            assert after[name][rule] <= table[rule], f"{revision} refuses rows of {name} that were allowed"
