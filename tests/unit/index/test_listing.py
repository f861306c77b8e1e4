"""Lists by pages, on both databases."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from archives import SmallArchive
from datasets import make_ct, make_study

from pacs_server.dicom.identifier import Query
from pacs_server.dicom.levels import Level
from pacs_server.dicom.scope import Scope
from pacs_server.dicom.text_query import query_of
from pacs_server.index import mark_filter
from pacs_server.index.listing import ListingIndex, Place
from pacs_server.index.mark_filter import MarkFilter
from pacs_server.index.marks import Mark, MarkIndex, MarkKind, Reading, StudyMarks

NOW = datetime(2026, 3, 29, tzinfo=UTC)


@pytest.fixture
def archive(tmp_path: Path, database_url: str) -> Iterator[SmallArchive]:
    archive = SmallArchive(tmp_path, database_url)
    yield archive
    archive.close()


def studies(**keys: str) -> Query:
    return query_of(Level.STUDY, keys, ("StudyInstanceUID", "PatientID"))


def ids(index: ListingIndex, query: Query, size: int) -> list[list[str]]:
    """The Patient IDs on each page."""
    pages, after = [], None
    column = [each.tag for each in query.returns].index(0x00100020)
    while rows := index.page(query, Place(size, after)):
        pages.append([row.texts[column] for row in rows])
        after = rows[-1].id
    return pages


def test_pages_are_the_newest_first_and_leave_nothing_out(archive: SmallArchive) -> None:
    for number in range(5):
        archive.study(1, PatientID=f"P{number}")
    index = ListingIndex(archive.database)
    assert ids(index, studies(), 2) == [["P4", "P3"], ["P2", "P1"], ["P0"]]


def test_what_python_has_to_match_fills_pages_too(archive: SmallArchive) -> None:
    for number in range(6):
        archive.study(1, PatientID=f"P{number}", PatientName="Doe^Jane=Smith^Joe" if number % 2 else "Doe^Jim")
    index = ListingIndex(archive.database)
    query = query_of(Level.STUDY, {"PatientName": "smith joe"}, ("PatientID",), fuzzy=True)
    assert ids(index, query, 2) == [["P5", "P3"], ["P1"]]


def test_one_row_can_be_asked_for(archive: SmallArchive) -> None:
    archive.study(1)
    archive.study(1, PatientID="P2")
    index = ListingIndex(archive.database)
    first, second = index.page(studies(), Place(10))
    assert index.page(studies(), Place(1, only=second.id)) == [second]
    assert index.page(studies(PatientID="P2"), Place(1, only=second.id)) == []
    assert first.id > second.id


def test_extents_are_of_all_that_lies_below(archive: SmallArchive) -> None:
    stored = archive.store([*make_study(2, 2, PatientID="P1"), make_ct(PatientID="P1"), make_ct(PatientID="P2")])
    index = ListingIndex(archive.database)
    (patient,) = index.page(query_of(Level.PATIENT, {"PatientID": "P1"}, ("PatientID",)), Place(1))
    extent = index.extent(Level.PATIENT, patient.id)
    assert (extent.instances, extent.bytes) == (5, sum(each.size for each in stored[:5]))
    assert extent.first_received_at is not None
    assert extent.last_received_at is not None
    assert extent.first_received_at.tzinfo is not None
    assert extent.first_received_at < extent.last_received_at
    study = index.page(studies(StudyInstanceUID=stored[0].uids.study), Place(1))[0]
    assert index.extent(Level.STUDY, study.id).instances == 4
    nothing = index.extent(Level.STUDY, 10**12)
    assert (nothing.instances, nothing.bytes, nothing.first_received_at) == (0, 0, None)


def test_the_file_of_an_instance(archive: SmallArchive) -> None:
    (stored,) = archive.study(1)
    index = ListingIndex(archive.database)
    (row,) = index.page(query_of(Level.IMAGE, {"SOPInstanceUID": stored.uids.sop}, ("SOPInstanceUID",)), Place(1))
    file = index.file(row.id)
    assert file is not None
    assert (file.path, file.size, file.digest) == (stored.path, stored.size, stored.digest)
    assert (file.calling_ae, file.peer, file.version) == ("CT1", "127.0.0.1", 1)
    assert index.file(row.id + 1) is None


def test_with_limits_only_what_is_seen_is_listed_and_counted(archive: SmallArchive) -> None:
    stored = archive.store([*make_study(2, 2, PatientID="P1"), make_ct(PatientID="P2"), make_ct(PatientID="P3")])
    uids = stored[0].uids
    archive.sql(f"UPDATE series SET modality = 'MR' WHERE series_instance_uid = '{uids.series}'")
    index, scope = ListingIndex(archive.database), Scope(modalities=("MR",))
    query = query_of(Level.STUDY, {}, ("PatientID", "NumberOfStudyRelatedInstances", "NumberOfStudyRelatedSeries"))
    (row,) = index.page(query, Place(10), scope)
    texts = dict(zip([each.tag for each in query.returns], row.texts, strict=True))
    assert texts == {0x00100020: "P1", 0x00201206: "1", 0x00201208: "2"}
    assert index.extent(Level.STUDY, row.id, scope).instances == 2
    assert index.extent(Level.STUDY, row.id).instances == 4
    (series,) = index.page(query_of(Level.SERIES, {}, ("SeriesInstanceUID",)), Place(10), scope)
    assert index.page(query_of(Level.SERIES, {}, ("SeriesInstanceUID",)), Place(1, only=series.id), scope) == [series]
    assert series.texts == (uids.series,)
    of_people = Scope(patients=(("P2", ""), ("P3", "")))
    assert [len(page) for page in ids(index, studies(), 1)] == [1, 1, 1]
    assert len(index.page(studies(), Place(10), of_people)) == 2
    assert index.page(query_of(Level.IMAGE, {}, ("SOPInstanceUID",)), Place(10), Scope(ae_titles=("CT9",))) == []


MARKS = (
    MarkFilter(("a",)), MarkFilter(("a", "b")), MarkFilter(("none",)), MarkFilter(assigned_to="ann"),
    MarkFilter(assigned_to=""), MarkFilter(reading=Reading.UNREAD), MarkFilter(reading=Reading.READ),
    MarkFilter(("a",), "ann", Reading.UNREAD), MarkFilter(("b",), "", Reading.UNREAD),
)  # fmt: skip


@pytest.mark.parametrize("few", [0, 2000], ids=["frequent", "rare"])
def test_studies_are_listed_by_their_marks(archive: SmallArchive, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(mark_filter, "_FEW", few)
    index, marks = ListingIndex(archive.database), MarkIndex(archive.database)
    uids = [archive.study(1, PatientID=f"P{number}")[0].uids.study for number in range(8)]
    for number, uid in enumerate(uids):
        said = [(MarkKind.LABEL, "a")] * (number % 2) + [(MarkKind.LABEL, "b")] * (number % 3 == 0)
        said += [(MarkKind.ASSIGN, "ann")] * (number in (1, 2, 3)) + [(MarkKind.READING, "read")] * (number in (3, 4))
        marks.apply([Mark(uid, kind, value, NOW, "ann") for kind, value in said])
    known = {uid: StudyMarks() for uid in uids} | marks.of(uids)
    column = [each.tag for each in studies().returns].index(0x0020000D)
    for wanted in MARKS:
        expected = [
            uid
            for uid in reversed(uids)
            if {*wanted.labels} <= {*known[uid].labels}
            and wanted.assigned_to in (None, known[uid].assigned_to)
            and wanted.reading in (None, known[uid].reading)
        ]
        found, after = [], None
        while rows := index.page(studies(), Place(2, after), marks=wanted):
            found += [row.texts[column] for row in rows]
            after = rows[-1].id
        assert found == expected, wanted
    limited = index.page(studies(PatientID="P3"), Place(9), Scope(ae_titles=("CT1",)), MarkFilter(("a", "b")))
    assert [row.texts[column] for row in limited] == [uids[3]]
