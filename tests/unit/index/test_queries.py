import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import Table, event, insert, text
from statements import statements
from strategies import encoded, identifier

from pacs_server.dicom.attributes import BY_KEYWORD
from pacs_server.dicom.identifier import Query, QueryOptions, RetrieveKeys, parse_find
from pacs_server.dicom.levels import InformationModel, Level
from pacs_server.dicom.matching import time_key
from pacs_server.dicom.person_name import fold_name
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import IndexUnavailable
from pacs_server.index.database import Database
from pacs_server.index.instances import StoredInstance
from pacs_server.index.models import instance, patient, series, study
from pacs_server.index.queries import QueryIndex, find_statement

PATIENT_ROOT, STUDY_ROOT = InformationModel.PATIENT_ROOT, InformationModel.STUDY_ROOT
IMPLICIT = "1.2.840.10008.1.2"
KEYWORDS = {attribute.tag: keyword for keyword, attribute in BY_KEYWORD.items()}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, fsync=False)
    database.migrate()
    yield database
    database.close()


def add(database: Database, table: Table, *rows: dict[str, object]) -> None:
    with database.begin() as connection:
        for row in rows:
            connection.execute(insert(table), row)


def patient_row(number: int, name: str, patient_id: str) -> dict[str, object]:
    return {
        "id": number, "patient_name": name, "patient_name_match": fold_name(name), "patient_id": patient_id,
        "issuer_of_patient_id": f"I{number}", "number_of_patient_related_studies": number,
    }  # fmt: skip


def study_row(number: int, patient_fk: int, **values: object) -> dict[str, object]:
    row: dict[str, object] = {"id": number, "patient_fk": patient_fk, "study_instance_uid": f"1.{number}"}
    return row | values | {"study_time_match": time_key(str(values.get("study_time", "")))}


def series_row(number: int, study_fk: int, **values: object) -> dict[str, object]:
    return {"id": number, "study_fk": study_fk, "series_instance_uid": f"2.{number}"} | values


def instance_row(number: int, series_fk: int, **values: object) -> dict[str, object]:
    row = {
        "id": number, "series_fk": series_fk, "sop_instance_uid": f"3.{number}", "sop_class_uid": "1.1",
        "transfer_syntax_uid": IMPLICIT, "path": f"a/{number}", "version": 1, "data_set_offset": 400, "size": 1 << 33,
        "digest": "d", "received_at": datetime.now(UTC),
    }  # fmt: skip
    return row | values


@pytest.fixture
def index(database: Database) -> QueryIndex:
    """Two patients; the first with two studies, of which one has two series of two and one instances."""
    add(database, patient, patient_row(1, "Müller^Jörg=山田^太郎", "P1"), patient_row(2, "Smith^John", "P2"))
    add(
        database, study,
        study_row(1, 1, study_date="20200101", study_time="1030", modalities_in_study="CT\\MR",
                  number_of_study_related_instances=3, sop_classes_in_study="1.1\\1.2"),
        study_row(2, 1, study_date="2020.06.15", modalities_in_study="US", accession_number="A_1"),
        study_row(3, 2, study_date="20210101", study_time="235959", modalities_in_study="M", accession_number="AB1"),
    )  # fmt: skip
    add(database, series, series_row(1, 1, series_number="10", modality="CT"),
        series_row(2, 1, series_number="9", modality="MR"), series_row(3, 2), series_row(4, 3))  # fmt: skip
    add(database, instance, instance_row(1, 1, instance_number="10"), instance_row(2, 1, instance_number="9"),
        instance_row(3, 2), instance_row(4, 3), instance_row(5, 4))  # fmt: skip
    return QueryIndex(database)


def query(level: str, model: InformationModel = STUDY_ROOT, *, relational: bool = False, **keys: object) -> Query:
    options = QueryOptions(relational=relational)
    return parse_find(encoded(identifier(level, SpecificCharacterSet="ISO_IR 192", **keys)), IMPLICIT, model, options)


def find(index: QueryIndex, asked: Query) -> list[dict[str, str]]:
    names = [KEYWORDS[key.tag] for key in asked.returns]
    return [dict(zip(names, row, strict=True)) for row in index.find(asked)]


def studies(index: QueryIndex, **keys: object) -> list[str]:
    rows = find(index, query("STUDY", **({"StudyInstanceUID": ""} | keys)))
    return [row["StudyInstanceUID"] for row in rows]


def test_there_is_one_row_per_patient(index: QueryIndex) -> None:
    asked = query("PATIENT", PATIENT_ROOT, PatientID="", NumberOfPatientRelatedStudies="")
    assert find(index, asked) == [
        {"PatientID": "P1", "NumberOfPatientRelatedStudies": "1"},
        {"PatientID": "P2", "NumberOfPatientRelatedStudies": "2"},
    ]


def test_studies_carry_their_patients_attributes_in_study_root(index: QueryIndex) -> None:
    asked = query("STUDY", PatientName="", StudyInstanceUID="", NumberOfStudyRelatedInstances="", ModalitiesInStudy="")
    assert find(index, asked) == [
        {"ModalitiesInStudy": "CT\\MR", "PatientName": "Müller^Jörg=山田^太郎", "StudyInstanceUID": "1.1",
         "NumberOfStudyRelatedInstances": "3"},
        {"ModalitiesInStudy": "US", "PatientName": "Müller^Jörg=山田^太郎", "StudyInstanceUID": "1.2",
         "NumberOfStudyRelatedInstances": "0"},
        {"ModalitiesInStudy": "M", "PatientName": "Smith^John", "StudyInstanceUID": "1.3",
         "NumberOfStudyRelatedInstances": "0"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("muller*", ["1.1", "1.2"]),
        ("山田*", ["1.1", "1.2"]),
        ("山田^太郎", ["1.1", "1.2"]),
        ("*太郎", ["1.1", "1.2"]),
        ("SMITH^JOHN", ["1.3"]),
        ("smith", []),
        ("smith^john^*", ["1.3"]),
        ("*=山*", ["1.1", "1.2"]),
        ("s_ith*", []),
    ],
)
def test_studies_by_name(index: QueryIndex, name: str, expected: list[str]) -> None:
    assert studies(index, PatientName=name) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"StudyDate": "20200101-20200630"}, ["1.1", "1.2"]),
        ({"StudyDate": "20200615"}, ["1.2"]),
        ({"StudyDate": "20200616-"}, ["1.3"]),
        ({"StudyTime": "10"}, ["1.1", "1.2"]),
        ({"StudyTime": "1031-"}, ["1.2", "1.3"]),
        ({"ModalitiesInStudy": "M"}, ["1.3"]),
        ({"ModalitiesInStudy": "M*"}, ["1.1", "1.3"]),
        ({"ModalitiesInStudy": ["US", "CT"]}, ["1.1", "1.2"]),
        ({"SOPClassesInStudy": ["1.2", "1.9"]}, ["1.1", "1.2", "1.3"]),
        ({"SOPClassesInStudy": "1.9"}, ["1.2", "1.3"]),
        ({"AccessionNumber": "A_1"}, ["1.1", "1.2"]),
        ({"AccessionNumber": "A_*"}, ["1.1", "1.2"]),
        ({"AccessionNumber": "A?1"}, ["1.1", "1.2", "1.3"]),
        ({"AccessionNumber": "a*"}, ["1.1"]),
        ({"PatientID": "P2"}, ["1.3"]),
        ({"PatientID": "P"}, []),
        ({"StudyInstanceUID": ["1.1", "1.3", "1.7"]}, ["1.1", "1.3"]),
        ({"PatientName": "M*", "ModalitiesInStudy": "US"}, ["1.2"]),
    ],
)
def test_studies_by_other_keys(index: QueryIndex, keys: dict[str, object], expected: list[str]) -> None:
    # Studies without a value are found by every value (PS3.4 C.2.2.1.2).
    assert studies(index, **keys) == expected


def test_series_and_instances_of_their_parents(index: QueryIndex) -> None:
    rows = find(index, query("SERIES", StudyInstanceUID="1.1", SeriesInstanceUID="", Modality="MR"))
    assert rows == [{"Modality": "MR", "StudyInstanceUID": "1.1", "SeriesInstanceUID": "2.2"}]
    asked = query("IMAGE", StudyInstanceUID="1.1", SeriesInstanceUID="2.1", SOPInstanceUID="",
                  AvailableTransferSyntaxUID="")  # fmt: skip
    assert [row["SOPInstanceUID"] for row in find(index, asked)] == ["3.1", "3.2"]
    assert find(index, asked)[0]["AvailableTransferSyntaxUID"] == IMPLICIT
    assert find(index, query("IMAGE", StudyInstanceUID="1.2", SeriesInstanceUID="2.1", SOPInstanceUID="")) == []


def test_relational_queries_reach_up(index: QueryIndex) -> None:
    asked = query("IMAGE", PATIENT_ROOT, relational=True, PatientName="M*", Modality="CT", SOPInstanceUID="")
    assert [row["SOPInstanceUID"] for row in find(index, asked)] == ["3.1", "3.2", "3.4"]


def test_a_query_may_ask_for_nothing_but_matches(index: QueryIndex) -> None:
    assert list(index.find(query("STUDY"))) == [(), (), ()]


@pytest.mark.slow
def test_thousands_of_uids_and_of_rows(database: Database) -> None:
    add(database, patient, patient_row(1, "A", "P"))
    with database.begin() as connection:
        connection.execute(insert(study), [study_row(n, 1) for n in range(1, 3001)])
    index = QueryIndex(database)
    assert len(studies(index)) == 3000
    assert len(studies(index, StudyInstanceUID=[f"1.{n}" for n in range(1, 10_001)])) == 3000
    keys = RetrieveKeys(Level.STUDY, study_instance_uids=tuple(f"1.{n}" for n in range(1, 10_001)))
    assert index.select(keys) == []


@pytest.mark.slow
def test_many_alternatives_are_left_to_python(index: QueryIndex) -> None:
    classes = [f"1.{n}" for n in range(2, 3000)]
    assert studies(index, SOPClassesInStudy=classes, PatientID="P1") == ["1.1", "1.2"]
    assert studies(index, AccessionNumber=[f"A{n}*" for n in range(1500)] + ["AB*"]) == ["1.1", "1.3"]


def test_closing_early_gives_the_connection_back(database: Database, index: QueryIndex) -> None:
    rows = index.find(query("STUDY", StudyInstanceUID=""))
    next(rows)
    assert database.engine.pool.checkedout() == 1  # type: ignore[attr-defined]
    rows.close()
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_queries_run_side_by_side(index: QueryIndex) -> None:
    first = index.find(query("STUDY", StudyInstanceUID=""))
    assert next(first) == ("1.1",)
    seen: list[list[str]] = []
    thread = threading.Thread(target=lambda: seen.append(studies(index)))
    thread.start()
    thread.join()
    assert seen == [["1.1", "1.2", "1.3"]]
    assert list(first) == [("1.2",), ("1.3",)]


def test_a_broken_database_is_unavailable(database: Database, index: QueryIndex) -> None:
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE study RENAME TO elsewhere"))
    with pytest.raises(IndexUnavailable):
        studies(index)
    with pytest.raises(IndexUnavailable):
        index.select(RetrieveKeys(Level.STUDY, study_instance_uids=("1.1",)))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("keys", "used"),
    [
        ({"StudyDate": "20200101-20200102"}, "ix_study_study_date"),
        ({"AccessionNumber": "A12*"}, "ix_study_accession_number"),
        ({"PatientName": "MÜL*"}, "ix_patient_patient_name_match (patient_name_match>? AND patient_name_match<?)"),
        ({"PatientID": "P1"}, "patient_id=?"),
    ],
)
def test_common_keys_use_their_index(database: Database, index: QueryIndex, keys: dict[str, object], used: str) -> None:
    clause, _ = find_statement(query("STUDY", **keys))
    with database.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {clause.sql}", clause.values).all()
    assert used in "\n".join(str(step) for step in plan)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_query_is_one_statement_and_nothing_is_compiled_for_it(database: Database, index: QueryIndex) -> None:
    compiled: list[object] = []
    event.listen(database.engine, "before_execute", lambda *args: compiled.append(args[1]))
    with statements(database) as sent:
        assert studies(index, PatientID="P1", StudyDate="20200101-20200102", PatientName="M*") == ["1.1"]
        assert selected(index, RetrieveKeys(Level.STUDY, study_instance_uids=("1.3",))) == ["3.5"]
    assert (len(sent), compiled) == (2, []), sent


@pytest.mark.parametrize("database_url", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True)
def test_postgresql_keeps_the_rows_that_were_not_asked_for(database: Database, index: QueryIndex) -> None:
    found = index.find(query("STUDY", StudyInstanceUID=""))
    next(found)
    with database.connect() as connection:
        last = connection.scalars(text("SELECT query FROM pg_stat_activity WHERE state = 'idle in transaction'")).all()
    found.close()
    assert [each for each in last if each.startswith("FETCH FORWARD 256 ")], last


def test_values_are_never_in_the_text_of_a_statement() -> None:
    hostile = "x'; DROP TABLE study; --"
    keys = {"PatientID": hostile, "AccessionNumber": f"{hostile}*", "PatientName": hostile}
    clause, _ = find_statement(query("STUDY", ModalitiesInStudy="C'T", StudyDate="20200101-", **keys))
    assert "DROP" not in clause.sql
    assert "C'T" not in clause.sql
    assert clause.sql.count("?") == len(clause.values)
    assert clause.sql.count("'") % 2 == 0


def selected(index: QueryIndex, keys: RetrieveKeys) -> list[str]:
    return [stored.uids.sop for stored in index.select(keys)]


def test_instances_to_retrieve_come_by_number(index: QueryIndex) -> None:
    assert selected(index, RetrieveKeys(Level.STUDY, study_instance_uids=("1.1", "1.3"))) == [
        "3.3",
        "3.2",
        "3.1",
        "3.5",
    ]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (RetrieveKeys(Level.PATIENT, ("P1",)), ["3.3", "3.2", "3.1", "3.4"]),
        (RetrieveKeys(Level.PATIENT, ("P",)), []),
        (RetrieveKeys(Level.SERIES, (), ("1.1",), ("2.1", "2.3")), ["3.2", "3.1"]),
        (RetrieveKeys(Level.IMAGE, (), ("1.1",), ("2.1",), ("3.1", "3.3")), ["3.1"]),
        (RetrieveKeys(Level.IMAGE, sop_instance_uids=("3.5",)), ["3.5"]),
        (RetrieveKeys(Level.STUDY, ("P2",), ("1.1",)), []),
    ],
)
def test_instances_of_each_level(index: QueryIndex, keys: RetrieveKeys, expected: list[str]) -> None:
    assert selected(index, keys) == expected


def test_a_selected_instance_is_complete(index: QueryIndex) -> None:
    assert index.select(RetrieveKeys(Level.IMAGE, sop_instance_uids=("3.4",))) == [
        StoredInstance(InstanceUIDs("1.2", "2.3", "3.4"), "1.1", IMPLICIT, "a/4", 400, 1 << 33, "d", 1)
    ]


def test_odd_numbers_come_last(database: Database, index: QueryIndex) -> None:
    add(database, instance, instance_row(6, 1, instance_number="x"), instance_row(7, 1, instance_number="+9 "))
    assert selected(index, RetrieveKeys(Level.SERIES, (), (), ("2.1",))) == ["3.2", "3.7", "3.1", "3.6"]
