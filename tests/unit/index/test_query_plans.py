"""Queries by the keys of an index use that index, however large the archive is."""

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import pytest
from plans import explained
from sqlalchemy import insert

from benchmarks.filling import fill, study
from benchmarks.scale_rows import ROWS, Row, fill_worklist
from pacs_server.dicom.levels import Level
from pacs_server.dicom.text_query import query_of
from pacs_server.index.database import Database
from pacs_server.index.listing import ListingIndex, Place
from pacs_server.index.mark_filter import MarkFilter
from pacs_server.index.mark_models import study_label, study_reading
from pacs_server.index.marks import Reading

STUDIES, ORDERS = 4000, 1000
# What is to be in the plan. SQLite names the indexes of constraints itself.
PATIENT_ID, PATIENT_NAME = "(ix|uq)_patient_patient_id", "ix_patient_patient_name_match .*patient_name_match_groups"
STUDY_UID = "(uq_study_study_instance_uid_patient_fk|sqlite_autoindex_study_1)"
SERIES_UID = "(uq_series_series_instance_uid_study_fk|sqlite_autoindex_series_1)"
SOP_UID = "(uq_instance_sop_instance_uid|sqlite_autoindex_instance_1)"
# Both begin with the date.
BY_DATE = "ix_study_(study_date|newest)"
USED = {
    "patient: PatientID": PATIENT_ID,
    "patient: PatientName": PATIENT_NAME,
    "patient: PatientName, Family*": PATIENT_NAME,
    "study: PatientID": f"{PATIENT_ID}.*ix_study_patient_fk",
    "study: PatientName": PATIENT_NAME,
    "study: PatientName, Family*": f"{PATIENT_NAME}.*ix_study_patient_fk",
    "study: StudyDate": BY_DATE,
    "study: StudyDate, 10 days": BY_DATE,
    "study: StudyDate and Modality": BY_DATE,
    "study: open StudyDate and PatientID": f"{PATIENT_ID}.*ix_study_patient_fk",
    "study: open StudyDate, Family*": f"{PATIENT_NAME}.*ix_study_patient_fk",
    "study: AccessionNumber": "ix_study_accession_number",
    "study: AccessionNumber, prefix*": "ix_study_accession_number",
    "study: StudyID": "ix_study_study_id",
    "study: ReferringPhysicianName": "ix_study_referring_physician_name_match .*referring_physician_name_match_groups",
    "study: StudyInstanceUID": STUDY_UID,
    "series: StudyInstanceUID": f"{STUDY_UID}.*ix_series_study_fk",
    "series: StudyInstanceUID and Modality": f"{STUDY_UID}.*ix_series_study_fk",
    "series: SeriesInstanceUID": SERIES_UID,
    "series: PatientID (relational)": f"{PATIENT_ID}.*ix_study_patient_fk.*ix_series_study_fk",
    "image: SeriesInstanceUID": f"{SERIES_UID}.*ix_instance_series_fk",
    "image: SOPInstanceUID": SOP_UID,
    "image: SOPInstanceUID (relational)": SOP_UID,
    "image: StudyInstanceUID (relational)": f"{STUDY_UID}.*ix_series_study_fk.*ix_instance_series_fk",
    "retrieve: instances of a study": f"{STUDY_UID}.*ix_series_study_fk.*ix_instance_series_fk",
    "worklist: station and day": "ix_worklist_station_ae_title_start_date",
    "worklist: day and Modality": "ix_worklist_item_shown",
    "worklist: PatientID": "ix_worklist_item_patient_id",
    "worklist: PatientName": "ix_worklist_item_patient_name_match .*patient_name_match_groups",
    "worklist: AccessionNumber": "ix_worklist_item_accession_number",
    "worklist: all that is open": "ix_worklist_item_shown",
}
OF_EACH = "study_label"
MARKED = {
    MarkFilter(("rare",)): f"{STUDY_UID}.*study_label|study_label.*{STUDY_UID}",
    MarkFilter(reading=Reading.REVIEW): f"{STUDY_UID}.*ix_study_reading_state|ix_study_reading_state.*{STUDY_UID}",
    MarkFilter(("frequent",)): OF_EACH,
}
# They have no index, or ask for all.
READ_ALL = {
    "store: one instance, with its commit", "study: PatientName, *Given", "study: ModalitiesInStudy, rare",
    "study: all", "monitoring: counts",
}  # fmt: skip
# A table from end to end, or in the order of its keys; the index of the few names with groups may be read through.
SCAN = re.compile(r"SCAN (?!.*_groups$)|Seq Scan on|Index Scan using pk_.*\n(?!.*Index Cond)", re.MULTILINE)


@pytest.fixture
def large(database_url: str) -> Iterator[Database]:
    with closing(Database(database_url, fsync=False)) as database:
        database.migrate()
        fill(database, range(1, STUDIES + 1), instances=5)
        fill_worklist(database, range(1, ORDERS + 1))
        mark(database)
        if not database.is_sqlite:
            # As autovacuum does it while a server runs.
            with database.begin() as connection:
                connection.exec_driver_sql("ANALYZE")
        yield database


def test_every_row_of_the_benchmark_is_expected_here() -> None:
    assert {row.title for row in ROWS} == USED.keys() | READ_ALL


@pytest.mark.slow
def test_queries_by_key_use_its_index_and_read_no_table_through(large: Database) -> None:
    for row in ROWS:
        if row.title in USED:
            (plan,) = plans_of(large, row)
            assert re.search(USED[row.title], plan, re.DOTALL), (row.title, plan)
            assert not SCAN.search(plan), (row.title, plan)

    for wanted, used in MARKED.items():
        with explained(large) as plans:
            assert ListingIndex(large).page(query_of(Level.STUDY, {}, ("PatientID",)), Place(3), marks=wanted)
        assert re.search(used, plans[-1], re.DOTALL), (wanted, plans[-1])
        # The newest studies are looked at one by one, in the order of their keys, until the page is full.
        assert used == OF_EACH or not SCAN.search(plans[-1]), (wanted, plans[-1])


def mark(database: Database) -> None:
    """Label and read all studies, and a few of them otherwise."""
    uids, now = [study(number).uid for number in range(1, STUDIES + 1)], datetime(2026, 3, 29, tzinfo=UTC)
    with database.begin() as connection:
        for uid in uids:
            values = {"study_instance_uid": uid, "at": now}
            labels = ["frequent", "rare"] if uid in uids[:3] else ["frequent"]
            connection.execute(insert(study_label), [values | {"label": label} for label in labels])
            state = "review" if uid in uids[:3] else "read"
            connection.execute(insert(study_reading), values | {"state": state})


def plans_of(database: Database, row: Row) -> list[str]:
    with closing(row.prepare(database, [study(ORDERS)])) as operations, explained(database) as plans:
        assert next(operations)() > 0
    return plans
