"""The worklist in the database: put, look up, find, and how much a query looks at."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import func, select, text
from statements import statements
from strategies import encoded
from worklists import item, keys, numbered

from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.worklist import ItemStatus
from pacs_server.dicom.worklist_query import WorklistQuery, parse_worklist
from pacs_server.errors import InvalidWorklistItem, WorklistItemNotFound
from pacs_server.index.database import Database
from pacs_server.index.matching import Clause
from pacs_server.index.workflow_models import worklist_item, worklist_station
from pacs_server.index.worklist import PutResult, WorklistIndex, find_statement

IMPLICIT = "1.2.840.10008.1.2"
STATIONS = 3
DAYS = 5


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, fsync=False)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def index(database: Database) -> WorklistIndex:
    return WorklistIndex(database)


def query(step: dict[str, Any] | None = None, **top: Any) -> WorklistQuery:
    return parse_worklist(encoded(keys(step, **top)), IMPLICIT)


def found(index: WorklistIndex, asked: WorklistQuery, station: str | None = None) -> list[str]:
    return [item.accession_number for item in index.find(asked, station)]


# ------------------------------------------------------------------------------------ put


def test_put_adds_and_updates_by_identity(index: WorklistIndex) -> None:
    assert index.put([numbered(1), numbered(2)]) == PutResult(added=2, updated=0)
    changed = numbered(2, {"ScheduledStationAETitle": "CT2"}, PatientName="Changed")
    assert index.put([changed, numbered(3)]) == PutResult(added=1, updated=1)
    row = index.get("A2")
    assert row is not None
    assert row.item.data_set == changed.data_set
    assert row.updated_at > row.created_at
    assert found(index, query({"ScheduledStationAETitle": "CT2"})) == ["A2"]
    assert found(index, query({"ScheduledStationAETitle": "CT1"})) == ["A1", "A3"]


def test_an_update_keeps_the_status(index: WorklistIndex) -> None:
    index.put([numbered(1)])
    row = index.get("A1")
    assert row is not None
    index.set_status([row.id], ItemStatus.COMPLETED)
    index.put([numbered(1, PatientName="Changed")])
    row = index.get("A1")
    assert row is not None
    assert row.item.status is ItemStatus.COMPLETED


@pytest.mark.slow
def test_an_update_keeps_the_study_unless_another_is_given(index: WorklistIndex) -> None:
    index.put([numbered(1, StudyInstanceUID="1.2.77")])
    assert index.put([numbered(1, StudyInstanceUID=None)]).updated == 1
    row = index.get("A1")
    assert row is not None
    assert row.item.study_instance_uid == text_of(row.item.data_set, "0020000D") == "1.2.77"
    index.put([numbered(1, StudyInstanceUID="1.2.78")])
    row = index.get("A1")
    assert row is not None
    assert row.item.study_instance_uid == "1.2.78"


def test_steps_of_a_requested_procedure_share_its_study(index: WorklistIndex) -> None:
    index.put([numbered(1, StudyInstanceUID="1.2.77")])
    index.put([numbered(1, {"ScheduledProcedureStepID": "LATER"}, StudyInstanceUID=None)])
    row = index.get("LATER")
    assert row is not None
    assert row.item.study_instance_uid == "1.2.77"


def test_put_is_all_or_nothing(index: WorklistIndex, database: Database) -> None:
    index.put([numbered(1, AccessionNumber="")])
    # The same ids without an accession number, but somebody else.
    other = numbered(1, AccessionNumber="", PatientID="OTHER")
    with pytest.raises(InvalidWorklistItem, match="another patient"):
        index.put([numbered(2), other])
    with database.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(worklist_item)) == 1
        assert connection.scalar(select(func.count()).select_from(worklist_station)) == 1


def test_a_patient_id_may_be_corrected_under_an_accession_number(index: WorklistIndex) -> None:
    index.put([numbered(1)])
    assert index.put([numbered(1, PatientID="CORRECTED")]) == PutResult(added=0, updated=1)
    assert found(index, query(PatientID="CORRECTED")) == ["A1"]


def test_nothing_to_put(index: WorklistIndex) -> None:
    assert index.put([]) == PutResult(0, 0)


# ------------------------------------------------------------------------------------ look up, change


def test_get_by_any_key(index: WorklistIndex) -> None:
    index.put([numbered(7), numbered(8)])
    for key, expected in (("A8", "A8"), ("SPS7", "A7"), ("2", "A8"), ("1", "A7")):
        row = index.get(key)
        assert row is not None
        assert row.item.accession_number == expected
    for key in ("", "3", "A", "\u0663", "9" * 30):
        assert index.get(key) is None


def test_an_id_comes_before_an_accession_number(index: WorklistIndex) -> None:
    index.put([numbered(1, AccessionNumber="2"), numbered(2)])
    row = index.get("2")
    assert row is not None
    assert row.item.accession_number == "A2"


def test_list_is_by_start(index: WorklistIndex) -> None:
    index.put(
        [
            numbered(1, {"ScheduledProcedureStepStartDate": "20260106", "ScheduledProcedureStepStartTime": "08"}),
            numbered(2, {"ScheduledProcedureStepStartDate": "20260105", "ScheduledProcedureStepStartTime": "1000"}),
            numbered(3, {"ScheduledProcedureStepStartDate": "2026.01.05", "ScheduledStationAETitle": "MR1"}),
        ]
    )
    index.set_status([2], ItemStatus.IN_PROGRESS)

    def listed(**options: Any) -> list[str]:
        return [row.item.accession_number for row in index.list(**options)]

    assert listed() == ["A3", "A2", "A1"]
    assert listed(limit=1) == ["A3"]
    assert listed(date="20260105") == ["A3", "A2"]
    assert listed(station="CT1") == ["A2", "A1"]
    assert listed(status=ItemStatus.SCHEDULED, station="CT1") == ["A1"]


def test_what_is_not_there_cannot_be_changed(index: WorklistIndex) -> None:
    index.put([numbered(1)])
    with pytest.raises(WorklistItemNotFound):
        index.remove(2)
    with pytest.raises(WorklistItemNotFound):
        index.set_status([1, 2], ItemStatus.COMPLETED)
    row = index.get("1")
    assert row is not None
    assert row.item.status is ItemStatus.SCHEDULED


def test_remove_leaves_nothing(index: WorklistIndex, database: Database) -> None:
    index.put([numbered(1)])
    index.remove(1)
    assert index.get("1") is None
    with database.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(worklist_station)) == 0


# ------------------------------------------------------------------------------------ find


def test_only_what_is_to_be_done_is_shown(index: WorklistIndex) -> None:
    index.put([numbered(number) for number in range(1, 6)])
    for number, status in enumerate(ItemStatus, 1):
        index.set_status([number], status)
    assert found(index, query()) == ["A1", "A2"]


def test_only_the_own_station(index: WorklistIndex) -> None:
    index.put([numbered(1), numbered(2, {"ScheduledStationAETitle": ["MR1", "MR2"]})])
    assert found(index, query(), "MR2") == ["A2"]
    assert found(index, query({"ScheduledStationAETitle": "CT1"}), "MR2") == []
    assert found(index, query(), "XX") == []


def test_an_item_with_several_stations_is_found_once(index: WorklistIndex) -> None:
    index.put([item({"ScheduledStationAETitle": ["MR1", "MR2"]})])
    assert found(index, query({"ScheduledStationAETitle": ["MR1", "MR2"]})) == ["A1"]


@pytest.fixture
def busy(index: WorklistIndex, database: Database) -> WorklistIndex:
    """A worklist of some days at some stations, three items for each of both."""
    places = [(station, day) for station in range(STATIONS) for day in range(1, DAYS + 1)]
    steps = (
        {"ScheduledStationAETitle": f"ST{station}", "ScheduledProcedureStepStartDate": f"202601{day:02}"}
        for station, day in places
        for _ in range(3)
    )
    index.put([numbered(number, step) for number, step in enumerate(steps)])
    if not database.is_sqlite:
        with database.begin() as connection:
            connection.execute(text("ANALYZE"))
    return index


def rows_read(database: Database, statement: Clause) -> int:
    with database.rows(*statement) as rows:
        return len(list(rows))


NARROW = (
    (query({"ScheduledStationAETitle": "ST1", "ScheduledProcedureStepStartDate": "20260103"}), 3),
    (query({"ScheduledStationAETitle": "ST1", "ScheduledProcedureStepStartDate": "20260103-20260104"}), 6),
    (
        query(
            {
                "ScheduledStationAETitle": "ST1",
                "ScheduledProcedureStepStartDate": "20260103-20260104",
                "ScheduledProcedureStepStartTime": "1200-0800",
            }
        ),
        6,
    ),
    (query({"ScheduledProcedureStepStartDate": "20260103"}), 3 * STATIONS),
    (query({"Modality": "MR"}), 0),
    (query(PatientID="P17"), 1),
    (query(AccessionNumber="A17"), 1),
    (query(StudyInstanceUID="1.2.3.17"), 1),
    (query(PatientName="Doe*"), 0),
)


@pytest.mark.slow
def test_the_database_gives_no_more_than_it_has_to(busy: WorklistIndex, database: Database) -> None:
    for asked, most in NARROW:
        assert rows_read(database, find_statement(asked, None)) == most, asked
        assert len(found(busy, asked)) <= most


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_query_is_one_statement(busy: WorklistIndex, database: Database) -> None:
    with statements(database) as sent:
        found(busy, query({"ScheduledStationAETitle": "ST1", "ScheduledProcedureStepStartDate": "20260103"}))
    assert len(sent) == 1, sent


INDEXES = (
    (
        query({"ScheduledStationAETitle": "ST1", "ScheduledProcedureStepStartDate": "20260103"}),
        "ix_worklist_station_ae_title_start_date",
    ),
    (
        query({"ScheduledProcedureStepStartDate": "20260103"}),
        "ix_worklist_item_shown",
    ),
    (query(PatientID="P17"), "ix_worklist_item_patient_id"),
    (query(AccessionNumber="A17"), "ix_worklist_item_accession_number"),
    (query(StudyInstanceUID="1.2.3.17"), "ix_worklist_item_study_instance_uid"),
)


@pytest.mark.slow
@pytest.mark.usefixtures("busy")
def test_queries_use_their_index(database: Database) -> None:
    for asked, used in INDEXES:
        plan = plan_of(database, find_statement(asked, None))
        assert used in plan, plan
        assert "SCAN" not in plan, plan


def plan_of(database: Database, statement: Clause) -> str:
    sql = statement.sql if database.is_sqlite else statement.sql.replace("?", "%s")
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    with database.connect() as connection:
        if not database.is_sqlite:
            # A table this small would be read from end to end.
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(explain + sql, statement.values))
