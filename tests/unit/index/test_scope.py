"""What callers with limits see: compared with the same, computed in Python from all rows."""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import pytest
from sqlalchemy import insert
from strategies import encoded, identifier

from pacs_server.dicom.attributes import BY_KEYWORD
from pacs_server.dicom.identifier import QueryOptions, RetrieveKeys, parse_find
from pacs_server.dicom.levels import InformationModel, Level
from pacs_server.dicom.scope import EVERYTHING, Scope, scope_of
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.index import models
from pacs_server.index.database import Database
from pacs_server.index.parents import joined
from pacs_server.index.queries import QueryIndex, find_statement
from pacs_server.index.scope import ScopeIndex

IMPLICIT = "1.2.840.10008.1.2"
SCOPES = [
    Scope(modalities=("CT",)),
    Scope(modalities=("CT", "MR")),
    Scope(modalities=("XA",)),
    Scope(ae_titles=("SCAN_B",)),
    Scope(patients=(("P1", ""),)),
    Scope(patients=(("P1", "HOSPITAL"), ("P2", ""))),
    Scope(modalities=("MR", "SR"), ae_titles=("SCAN_A",)),
    Scope(modalities=("CT",), patients=(("P2", ""),)),
    Scope(modalities=("SR",), ae_titles=("SCAN_A", "SCAN_B"), patients=(("P1", ""), ("P1", "HOSPITAL"))),
    Scope(studies=("1.1",)),
    Scope(studies=("1.3", "1.4")),
    Scope(studies=("9.9",)),
    Scope(modalities=("CT",), studies=("1.1", "1.2")),
    Scope(ae_titles=("SCAN_A",), patients=(("P1", ""),), studies=("1.1",)),
]


class Stored(NamedTuple):
    patient: tuple[str, str]
    study: str
    series: str
    modality: str
    sop: str
    sop_class: str
    ae_title: str


def stored() -> list[Stored]:
    """Three patients, two of one ID; studies of one and of several modalities; two senders in one series."""
    return [
        Stored(("P1", ""), "1.1", "2.1", "CT", "3.1", "5.1", "SCAN_A"),
        Stored(("P1", ""), "1.1", "2.1", "CT", "3.2", "5.1", "SCAN_B"),
        Stored(("P1", ""), "1.1", "2.2", "SR", "3.3", "5.2", "SCAN_A"),
        Stored(("P1", ""), "1.2", "2.3", "MR", "3.4", "5.3", "SCAN_A"),
        Stored(("P1", "HOSPITAL"), "1.3", "2.4", "SR", "3.5", "5.2", "SCAN_B"),
        Stored(("P2", ""), "1.4", "2.5", "MR", "3.6", "5.3", "SCAN_B"),
        Stored(("P2", ""), "1.4", "2.6", "CT", "3.7", "5.1", "SCAN_A"),
        Stored(("P2", ""), "1.4", "2.6", "CT", "3.8", "5.4", "SCAN_A"),
        Stored(("P2", ""), "1.5", "2.7", "", "3.9", "5.5", ""),
    ]


KEYS = {
    Level.PATIENT: lambda row: row.patient,
    Level.STUDY: lambda row: row.study,
    Level.SERIES: lambda row: row.series,
    Level.IMAGE: lambda row: row.sop,
}
RETURNED = {
    Level.PATIENT: (
        "PatientID", "IssuerOfPatientID", "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries",
        "NumberOfPatientRelatedInstances",
    ),
    Level.STUDY: (
        "StudyInstanceUID", "ModalitiesInStudy", "SOPClassesInStudy", "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
    ),
    Level.SERIES: ("SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances"),
    Level.IMAGE: ("SOPInstanceUID", "SOPClassUID"),
}  # fmt: skip


def answers(level: Level, rows: list[Stored]) -> set[tuple[str, ...]]:
    """What a query for everything answers if the archive holds these rows."""
    groups: dict[object, list[Stored]] = defaultdict(list)
    for row in rows:
        groups[KEYS[level](row)].append(row)
    return {_answer(level, group) for group in groups.values()}


def _answer(level: Level, group: list[Stored]) -> tuple[str, ...]:
    first = group[0]
    studies, series = ({KEYS[at](row) for row in group} for at in (Level.STUDY, Level.SERIES))
    match level:
        case Level.PATIENT:
            return (*first.patient, str(len(studies)), str(len(series)), str(len(group)))
        case Level.STUDY:
            kinds = joined(row.modality for row in group), joined(row.sop_class for row in group)
            return (first.study, *kinds, str(len(series)), str(len(group)))
        case Level.SERIES:
            return (first.series, first.modality, str(len(group)))
        case Level.IMAGE:
            return (first.sop, first.sop_class)


def seen_by(scope: Scope) -> list[Stored]:
    return [row for row in stored() if scope.shows(row.modality, row.ae_title, row.patient, row.study)]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, fsync=False)
    database.migrate()
    ids: dict[Level, dict[object, int]] = {level: {} for level in Level}
    tables = {level: models.TABLES[level] for level in Level}
    with database.begin() as connection:
        for row in stored():
            values = _columns(row)
            for level in Level:
                key = KEYS[level](row)
                if key not in ids[level]:
                    ids[level][key] = len(ids[level]) + 1
                    above = Level(level - 1) if level else None
                    parent = {f"{tables[above].name}_fk": ids[above][KEYS[above](row)]} if above is not None else {}
                    connection.execute(insert(tables[level]), {"id": ids[level][key], **parent, **values[level]})
    yield database
    database.close()


def _columns(row: Stored) -> dict[Level, dict[str, object]]:
    """The kept numbers and lists are all wrong: what is seen is never taken from them."""
    number, issuer = row.patient
    return {
        Level.PATIENT: {"patient_id": number, "issuer_of_patient_id": issuer, "number_of_patient_related_studies": 99},
        Level.STUDY: {
            "study_instance_uid": row.study, "modalities_in_study": "ZZ", "sop_classes_in_study": "9.9",
            "number_of_study_related_instances": 99,
        },
        Level.SERIES: {
            "series_instance_uid": row.series, "modality": row.modality, "number_of_series_related_instances": 99,
        },
        Level.IMAGE: {
            "sop_instance_uid": row.sop, "sop_class_uid": row.sop_class, "calling_ae": row.ae_title, "path": row.sop,
            "data_set_offset": 0, "size": 1, "digest": "", "received_at": datetime.now(UTC),
        },
    }  # fmt: skip


def find(database: Database, level: Level, scope: Scope, **keys: str) -> set[tuple[str, ...]]:
    names = RETURNED[level]
    data = encoded(identifier(level.name, **({name: "" for name in names} | keys)))
    asked = parse_find(data, IMPLICIT, InformationModel.PATIENT_ROOT, QueryOptions(relational=True))
    place = {key.tag: number for number, key in enumerate(asked.returns)}
    order = [place[BY_KEYWORD[name].tag] for name in names]
    found = [tuple(row[number] for number in order) for row in QueryIndex(database).find(asked, scope)]
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.parametrize("level", Level)
def test_a_limited_caller_finds_and_counts_what_is_seen_and_nothing_else(database: Database, level: Level) -> None:
    for scope in SCOPES:
        assert find(database, level, scope) == answers(level, seen_by(scope)), scope


def test_lists_are_matched_as_far_as_they_are_seen(database: Database) -> None:
    for scope, modality in itertools.product(SCOPES, ("CT", "MR", "S*", "ZZ", "CT\\SR")):
        wanted = modality.replace("*", "R").split("\\")
        # A study of which no modality is seen counts as unknown, which matches (PS3.4 C.2.2.1.2).
        expected = {
            row for row in answers(Level.STUDY, seen_by(scope)) if not row[1] or set(row[1].split("\\")) & set(wanted)
        }
        assert find(database, Level.STUDY, scope, ModalitiesInStudy=modality) == expected, (scope, modality)


def test_only_what_is_seen_is_selected(database: Database) -> None:
    for scope in SCOPES:
        for study in ("1.1", "1.4"):
            found = QueryIndex(database).select(RetrieveKeys(Level.STUDY, study_instance_uids=(study,)), scope)
            assert {each.uids.sop for each in found} == {row.sop for row in seen_by(scope) if row.study == study}
    foreign = RetrieveKeys(Level.IMAGE, sop_instance_uids=("3.1", "3.4"))
    assert [each.uids.sop for each in QueryIndex(database).select(foreign, SCOPES[0])] == ["3.1"]


@pytest.mark.parametrize(
    ("uids", "hidden"),
    [
        (InstanceUIDs("1.1", "2.1", "3.99"), False),
        (InstanceUIDs("1.1", "2.1", "3.1"), False),
        (InstanceUIDs("9.1", "9.2", "9.3"), False),
        # The study is seen, one of its series is not.
        (InstanceUIDs("1.1", "2.2", "9.3"), True),
        (InstanceUIDs("1.2", "9.2", "9.3"), True),
        (InstanceUIDs("9.1", "2.3", "9.3"), True),
        (InstanceUIDs("9.1", "9.2", "3.4"), True),
    ],
)
def test_it_is_known_whether_uids_belong_to_what_is_not_seen(
    database: Database, uids: InstanceUIDs, hidden: bool
) -> None:
    assert ScopeIndex(database).hides(uids, Scope(modalities=("CT",))) is hidden


def test_without_limits_a_query_is_as_it_was(database: Database) -> None:
    asked = parse_find(
        encoded(identifier("STUDY", StudyInstanceUID="1.1")), IMPLICIT, InformationModel.STUDY_ROOT, QueryOptions()
    )
    assert find_statement(asked, EVERYTHING) == find_statement(asked)
    assert "patient" not in find_statement(asked, EVERYTHING)[0].sql


def test_limits_are_kept_as_text() -> None:
    for scope in (EVERYTHING, *SCOPES, Scope(patients=(('"Ä\\^', "山"),))):
        assert scope_of(scope.as_json()) == scope
    assert EVERYTHING.as_json() == ""
