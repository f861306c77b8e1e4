"""An archive that the version with schema 0008 made and used is upgraded, and nothing of it is lost.

`tests/fixtures/archive_0008` was made by that version itself: its files, and the rows of its SQLite index as they are
there. Instances were stored and replaced, one of them from another series; a study and the newest instance are in the
trash; patients were merged and a study was reassigned; there are worklist items, a step and storage commitment.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import feeds
import pytest
import servers
from alembic import command
from datasets import make_ct
from servers import STUDY_FIND, associated
from sqlalchemy import Boolean, DateTime, MetaData, Table, func, select, text
from strategies import identifier

from pacs_server.app.server import PacsServer
from pacs_server.config.model import DatabaseConfig
from pacs_server.index.database import Database
from pacs_server.index.feed import Consumer
from pacs_server.index.integrity import IntegrityIndex
from pacs_server.index.rebuilding import TAKEN_OVER, take_over
from pacs_server.index.revisions import alembic_config

FIXTURE = Path(__file__).parents[2] / "fixtures" / "archive_0008"
ROWS: dict[str, list[dict[str, Any]]] = json.loads((FIXTURE / "rows.json").read_text())
PATIENT = "P1"

pytestmark = pytest.mark.no_tables


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The index as that version left it."""
    with closing(Database(database_url)) as database:
        with database.begin() as connection:
            config = alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "0008")
            tables = MetaData()
            tables.reflect(connection)
            for table in tables.sorted_tables:
                _fill(connection, table)
        yield database


def _fill(connection: Any, table: Table) -> None:
    for row in ROWS.get(table.name, []):
        names = ", ".join(f'"{name}"' for name in row)
        places = ", ".join(f":{name}" for name in row)
        connection.execute(
            text(f'INSERT INTO "{table.name}" ({names}) VALUES ({places})'), _as_kept(connection, table, row)
        )
    if "id" in table.columns and ROWS.get(table.name) and connection.dialect.name == "postgresql":
        highest = max(row["id"] for row in ROWS[table.name])
        connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), {highest})"))


def _as_kept(connection: Any, table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """SQLite keeps 0 and 1, and UTC without saying so."""
    if connection.dialect.name == "sqlite":
        return row
    kinds = {column.name: column.type for column in table.columns}
    return {name: _value(kinds[name], value) for name, value in row.items()}


def _value(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(kind, Boolean):
        return bool(value)
    return f"{value}+00:00" if isinstance(kind, DateTime) else value


@pytest.fixture
def pacs(tmp_path: Path, database: Database, database_url: str) -> Iterator[PacsServer]:
    """The server of today on it."""
    configured = servers.config(tmp_path, storage={"trash_days": None, "duplicate_policy": "replace"})
    shutil.copytree(FIXTURE / "archive", configured.storage.directory)
    assert database.revision() == "0008"
    with servers.running(configured.model_copy(update={"database": DatabaseConfig(url=database_url)})) as pacs:
        yield pacs


def studies(pacs: PacsServer) -> dict[str, str]:
    """The Patient ID of each study."""
    with associated(pacs, STUDY_FIND) as link:
        found = list(link.send_c_find(identifier("STUDY", StudyInstanceUID="", PatientID=""), STUDY_FIND))
    assert found[-1][0].Status == 0
    return {str(ds.StudyInstanceUID): str(ds.PatientID) for status, ds in found if status.Status == 0xFF00}


def retrieved(pacs: PacsServer, study: str) -> dict[str, bytes]:
    return dict(servers.get(pacs, identifier("STUDY", StudyInstanceUID=study))[1])


def data_set(path: str, offset: int) -> bytes:
    return (FIXTURE / "archive" / path).read_bytes()[offset:]


@pytest.mark.slow
def test_an_archive_of_the_version_before_is_all_there(pacs, database):
    database.check_schema(exactly=True)
    # Merged, reassigned, and what came later and followed.
    assert studies(pacs) == dict.fromkeys(("1.2.1", "1.2.2", "1.2.4", "1.2.5"), PATIENT)
    expected = {row["sop_instance_uid"]: data_set(row["path"], row["data_set_offset"]) for row in ROWS["instance"]}
    assert {uid: data for study in studies(pacs) for uid, data in retrieved(pacs, study).items()} == expected
    assert list(IntegrityIndex(database).counter_faults()) == []
    archive = pacs.archive
    items = {row.item.accession_number: row.item.status for row in archive.worklist.list()}
    assert items == {row["accession_number"]: row["status"] for row in ROWS["worklist_item"]}
    assert [(step.sop_instance_uid, step.referenced, step.received) for step in archive.mpps.list()] == [
        ("1.2.9.1", 1, 1)
    ]
    with database.connect() as connection:
        kept = connection.execute(text("SELECT transaction_uid, status FROM commitment ORDER BY id")).all()
    assert [tuple(row) for row in kept] == [(row["transaction_uid"], row["status"]) for row in ROWS["commitment"]]


@pytest.mark.slow
def test_what_was_in_the_trash_comes_back(pacs, database):
    folders = {deletion.uid: deletion.folder for deletion in pacs.archive.deletions.contents()}
    assert pacs.archive.deletions.restore(folders["1.2.3"]).instances == 2
    assert pacs.archive.deletions.restore(folders["1.2.1.1.9"]).instances == 1
    assert studies(pacs)["1.2.3"] == "P3"
    assert retrieved(pacs, "1.2.3").keys() == {"1.2.3.1.1", "1.2.3.1.2"}
    assert "1.2.1.1.9" in retrieved(pacs, "1.2.1")
    assert list(IntegrityIndex(database).counter_faults()) == []


@pytest.mark.slow
def test_decisions_and_replacements_go_on(pacs, database):
    new = make_ct("1.2.6", "1.2.6.1", "1.2.6.1.1", rows=2, columns=2, PatientID="P2", PatientName="Muller^Anna")
    again = make_ct("1.2.1", "1.2.1.2", "1.2.1.1.2", rows=2, columns=2, PatientID="P1", InstanceNumber=99)
    assert servers.store(pacs, new, again) == [0, 0]
    # It follows the merge of that time.
    assert studies(pacs)["1.2.6"] == PATIENT
    patients = pacs.archive.patients
    other = patients.person(patients.study("1.2.4").person.reference)
    assert other.attributes["patient_id"] == PATIENT
    with database.connect() as connection:
        version, earlier = connection.execute(
            text("SELECT version, earlier_paths FROM instance WHERE sop_instance_uid = '1.2.1.1.2'")
        ).one()
        assert (version, earlier) == (3, "1.2.1/1.2.1.1/1.2.1.1.2.dcm")
        assert connection.scalar(text("SELECT value FROM archive_state WHERE key = 'changes'")) == "2"


@pytest.mark.slow
def test_a_rebuild_takes_over_all_there_is_of_a_schema_without_tasks_and_a_feed(tmp_path, database):
    """The tables that were added since are not lost: they never were there."""
    with closing(Database(f"sqlite:///{tmp_path}/rebuilt.db")) as rebuilt:
        rebuilt.migrate()
        assert take_over(database, rebuilt) == []
        with rebuilt.connect() as connection:
            for table in TAKEN_OVER:
                count = connection.scalar(select(func.count()).select_from(table))
                assert count == len(ROWS.get(table.name, [])), table.name
    assert database.revision() == "0008"


@pytest.mark.slow
def test_ids_go_on_and_consumers_of_the_feed_get_everything(tmp_path, database, database_url):
    database.migrate()
    shutil.copytree(FIXTURE / "archive", tmp_path / "archive")
    with closing(feeds.Place(tmp_path / "archive", database_url)) as place:
        assert [key for key, _ in place.instances()] == [row["id"] for row in ROWS["instance"]]
        lines = place.take_all(Consumer("pages", from_beginning=True), limit=2)
        assert [line.split()[-1] for line in lines] == [row["sop_instance_uid"] for row in ROWS["instance"]]
        place.store("1.2.7", "1.2.7.1", "1.2.7.1.1")
        newest = place.instances()[-1]
        assert newest[0] > ROWS["instance"][-1]["id"]
        assert place.take_all(Consumer("pages")) == ["ARRIVED 1.2.7 1.2.7.1 1.2.7.1.1"]
