"""An export is what is stored, byte for byte, with a DICOMDIR that leads to all of it; or there is no export."""

import io
import os
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from archives import SmallArchive
from datasets import data_set_bytes, make_ct, make_study, uid
from dicomdirs import listed
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from trails import Kept, recorder_of

from pacs_server.audit.auditor import Auditor
from pacs_server.audit.events import EventID, Outcome, Role
from pacs_server.dicom.caller import Caller, Door
from pacs_server.errors import AuditUnavailable, ConfigError, StorageUnavailable
from pacs_server.index.instances import StoredInstance
from pacs_server.index.queries import QueryIndex
from pacs_server.services.export import ExportReport, ExportService
from pacs_server.services.export_targets import DirectoryTarget, ExportTarget, ZipTarget
from pacs_server.services.retrieve import RetrieveService

ANN = Caller(Door.COMMAND, "", user="ann")
BASIC_TEXT_SR, GSPS = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.11.1"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallArchive]:
    archive = SmallArchive(tmp_path, f"sqlite:///{tmp_path}/pacs.db")
    yield archive
    archive.close()


@pytest.fixture
def trail() -> Kept:
    return Kept()


@pytest.fixture
def retrieve(small: SmallArchive) -> RetrieveService:
    return RetrieveService(small.archive, QueryIndex(small.database))


Export = Callable[[list[StoredInstance], ExportTarget], ExportReport]


@pytest.fixture
def export(retrieve: RetrieveService, trail: Kept) -> Export:
    service = ExportService(retrieve, Auditor(recorder_of(trail)))
    return lambda instances, target: service.export(instances, target, ANN, lambda done, total: None)


def data_set_at(small: SmallArchive, stored: StoredInstance) -> bytes:
    return small.file(stored).read_bytes()[stored.data_set_offset :]


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


@pytest.mark.slow
def test_files_and_directory(small: SmallArchive, export: Export, tmp_path: Path) -> None:
    stored = small.store(make_study(2, 2, PatientName="Müller^Jörg"))
    report = export(stored, DirectoryTarget(tmp_path / "cd"))
    assert names(tmp_path / "cd") == [
        *("DICOM/SE000001/IM000001", "DICOM/SE000001/IM000002", "DICOM/SE000002/IM000001", "DICOM/SE000002/IM000002"),
        "DICOMDIR",
    ]
    assert (report.exported, report.failed, report.unlisted) == (4, [], [])
    assert report.bytes == sum((tmp_path / "cd" / name).stat().st_size for name in names(tmp_path / "cd")[:-1])
    where = listed(tmp_path / "cd")
    assert len(where) == 4
    for instance in stored:
        path = tmp_path / "cd" / where[instance.uids.sop][0]
        assert data_set_bytes(path)[1] == data_set_at(small, instance)
        meta = pydicom.dcmread(path).file_meta
        assert (meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID) == (
            *(instance.uids.sop, instance.transfer_syntax_uid),
        )
        # Who sent it, and from where, does not leave the archive.
        assert "PrivateInformation" not in meta
        assert "SourceApplicationEntityTitle" not in meta
        assert path.stat().st_mode & 0o777 == 0o600
    records = pydicom.dcmread(tmp_path / "cd" / "DICOMDIR").DirectoryRecordSequence
    kinds = ["PATIENT", "STUDY", *["SERIES", "IMAGE", "IMAGE"] * 2]
    assert [record.DirectoryRecordType for record in records] == kinds
    assert records[0].PatientName == "Müller^Jörg"
    assert [str(record.ReferencedFileID[-1]) for record in records if "ReferencedFileID" in record] == [
        *("IM000001", "IM000002") * 2
    ]


@pytest.mark.slow
def test_a_zip_file_holds_the_same(small: SmallArchive, export: Export, tmp_path: Path) -> None:
    stored = small.study(3)
    assert export(stored, ZipTarget(tmp_path / "study.zip")).exported == 3
    assert (tmp_path / "study.zip").stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(tmp_path / "study.zip") as packed:
        assert packed.testzip() is None
        packed.extractall(tmp_path / "cd")
    assert set(listed(tmp_path / "cd")) == {instance.uids.sop for instance in stored}
    for number, instance in enumerate(stored, 1):
        path = tmp_path / "cd" / "DICOM" / "SE000001" / f"IM{number:06}"
        assert data_set_bytes(path)[1] == data_set_at(small, instance)


def report_object(study: str) -> Dataset:
    ds = make_ct(
        study, SOPClassUID=BASIC_TEXT_SR, Modality="SR", CompletionFlag="COMPLETE", VerificationFlag="VERIFIED"
    )
    del ds.PixelData
    title, language, text, observer = Dataset(), Dataset(), Dataset(), Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "18748-4", "LN", "Diagnostic Imaging Report"
    language.RelationshipType, language.ValueType = "HAS CONCEPT MOD", "CODE"
    language.ConceptNameCodeSequence, language.ConceptCodeSequence = [title], [title]
    text.RelationshipType, text.ValueType, text.TextValue = "CONTAINS", "TEXT", "a long story"
    observer.VerificationDateTime = "20260301120000"
    ds.ContentDate, ds.ContentTime, ds.ConceptNameCodeSequence = "20260301", "1200", [title]
    ds.ContentSequence, ds.VerifyingObserverSequence = [language, text], [observer]
    ds.file_meta.MediaStorageSOPClassUID = BASIC_TEXT_SR
    return ds


def test_documents_have_records_of_their_own(small: SmallArchive, export: Export, tmp_path: Path) -> None:
    study = uid()
    stored = small.store([make_ct(study), report_object(study)])
    assert export(stored, DirectoryTarget(tmp_path / "cd")).unlisted == []
    records = pydicom.dcmread(tmp_path / "cd" / "DICOMDIR").DirectoryRecordSequence
    (document,) = [record for record in records if record.DirectoryRecordType == "SR DOCUMENT"]
    assert document.ConceptNameCodeSequence[0].CodeMeaning == "Diagnostic Imaging Report"
    assert document.VerificationDateTime == "20260301120000"
    assert [item.RelationshipType for item in document.ContentSequence] == ["HAS CONCEPT MOD"]
    assert b"long story" not in (tmp_path / "cd" / "DICOMDIR").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_other_transfer_syntaxes(small: SmallArchive, export: Export, tmp_path: Path, syntax: str) -> None:
    study = uid()
    image, document = make_ct(study), report_object(study)
    image.file_meta.TransferSyntaxUID = document.file_meta.TransferSyntaxUID = syntax
    stored = small.store([image, document])
    assert export(stored, DirectoryTarget(tmp_path / "cd")).unlisted == []
    where = listed(tmp_path / "cd")
    for instance in stored:
        path = tmp_path / "cd" / where[instance.uids.sop][0]
        assert data_set_bytes(path) == (syntax, data_set_at(small, instance))
        assert where[instance.uids.sop][1] == syntax


@pytest.mark.slow
def test_what_a_dicomdir_cannot_hold_is_exported_and_told_of(
    small: SmallArchive, export: Export, tmp_path: Path
) -> None:
    study = uid()
    unknown, incomplete = make_ct(study, SOPClassUID="1.2.3.4"), make_ct(study, SOPClassUID=GSPS, Modality="PR")
    for ds in (unknown, incomplete):
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    stored = small.store([make_ct(study), unknown, incomplete])
    report = export(stored, DirectoryTarget(tmp_path / "cd"))
    assert report.exported == 3
    assert {trouble.sop_instance_uid: trouble.reason.split("'")[0] for trouble in report.unlisted} == {
        unknown.SOPInstanceUID: "a DICOMDIR has no records for its SOP class",
        incomplete.SOPInstanceUID: "The instance",
    }
    assert len(names(tmp_path / "cd")) == 4
    # No record is left over of a series that has nothing in it.
    kinds = [each.DirectoryRecordType for each in pydicom.dcmread(tmp_path / "cd" / "DICOMDIR").DirectoryRecordSequence]
    assert kinds == ["PATIENT", "STUDY", "SERIES", "IMAGE"]


def test_what_modalities_leave_empty_is_made_up_for_the_directory_alone(
    small: SmallArchive, export: Export, tmp_path: Path
) -> None:
    study = uid()
    empty = {"StudyID": "", "StudyDate": "", "StudyTime": "", "SeriesNumber": "", "InstanceNumber": "", "PatientID": ""}
    stored = small.store([make_ct(study, **empty), make_ct(study, **empty)])
    assert export(stored, DirectoryTarget(tmp_path / "cd")).unlisted == []
    patient, one, series, image, other, *_ = pydicom.dcmread(tmp_path / "cd" / "DICOMDIR").DirectoryRecordSequence
    assert (patient.PatientID, one.StudyID, one.StudyDate, one.StudyTime) == ("UNKNOWN", "1", "19000101", "000000")
    assert (series.SeriesNumber, image.InstanceNumber, other.SeriesNumber) == (1, 1, 2)
    assert len(listed(tmp_path / "cd")) == 2


@pytest.mark.slow
def test_one_that_cannot_be_read_or_has_changed_is_left_out(
    small: SmallArchive, export: Export, trail: Kept, tmp_path: Path
) -> None:
    stored = small.study(4)
    small.file(stored[0]).unlink()
    small.change(stored[1])
    report = export(stored, ZipTarget(tmp_path / "study.zip"))
    assert report.exported == 2
    assert [trouble.sop_instance_uid for trouble in report.failed] == [one.uids.sop for one in stored[:2]]
    assert report.failed[1].reason.endswith("is not as it was received")
    with zipfile.ZipFile(tmp_path / "study.zip") as packed:
        assert packed.namelist() == ["DICOM/SE000001/IM000003", "DICOM/SE000001/IM000004", "DICOMDIR"]
    (event,) = trail.of(EventID.EXPORT)
    assert (event.detail, event.outcome) == ("2 of 4 exported, 2 failed", Outcome.MINOR_FAILURE)


@pytest.mark.slow
def test_the_audit_trail_has_it_before_and_after(
    small: SmallArchive, export: Export, trail: Kept, tmp_path: Path
) -> None:
    stored = small.study(2)
    export(stored, DirectoryTarget(tmp_path / "cd"))
    begun, ended = trail.events
    assert (begun.event_id, ended.event_id) == (EventID.BEGIN_TRANSFERRING, EventID.EXPORT)
    for event in trail.events:
        (subject,) = event.subjects
        assert (subject.patient_id, subject.study_instance_uid) == ("P1", stored[0].uids.study)
        assert list(subject.sop_classes.values()) == [2]
        assert [(each.user_id, each.role, each.requestor) for each in event.participants] == [
            ("PACS", Role.SOURCE, False),
            (str(tmp_path / "cd"), Role.DESTINATION_MEDIA, False),
            ("ann", None, True),
        ]
    assert ended.detail == "2 of 2 exported, 0 failed"


@pytest.mark.parametrize("kind", [DirectoryTarget, ZipTarget])
def test_nothing_is_exported_that_the_audit_trail_cannot_record(
    small: SmallArchive, export: Export, trail: Kept, tmp_path: Path, kind: type[ExportTarget]
) -> None:
    stored = small.study(1)
    trail.full = True
    with pytest.raises(AuditUnavailable):
        export(stored, kind(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [DirectoryTarget, ZipTarget])
def test_nothing_is_overwritten(small: SmallArchive, export: Export, tmp_path: Path, kind: type[ExportTarget]) -> None:
    stored = small.study(1)
    (tmp_path / "file").write_text("old")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("old")
    for name in ("file", "full"):
        with pytest.raises(ConfigError, match="there already"):
            export(stored, kind(tmp_path / name))
    assert names(tmp_path / "full") == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_an_empty_directory_is_taken(small: SmallArchive, export: Export, tmp_path: Path) -> None:
    (tmp_path / "stick").mkdir(mode=0o755)
    export(small.study(1), DirectoryTarget(tmp_path / "stick"))
    assert len(names(tmp_path / "stick")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DirectoryTarget, ZipTarget])
@pytest.mark.parametrize("existed", [False, True])
def test_what_fails_leaves_nothing_behind(
    small: SmallArchive, retrieve: RetrieveService, trail: Kept, tmp_path: Path, kind: type[ExportTarget], existed: bool
) -> None:
    stored, out = small.study(3), tmp_path / "out"
    if existed and kind is DirectoryTarget:
        out.mkdir()

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ExportService(retrieve, Auditor(recorder_of(trail))).export(stored, kind(out), ANN, interrupt)
    assert out.exists() == (existed and kind is DirectoryTarget)
    assert not out.exists() or os.listdir(out) == []
    (event,) = trail.of(EventID.EXPORT)
    assert event.detail == "2 of 3 exported, 0 failed"


@pytest.mark.parametrize("kind", [DirectoryTarget, ZipTarget])
def test_a_disk_that_fails_between_two_reads(
    small: SmallArchive, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[ExportTarget]
) -> None:
    stored = small.study(2)
    monkeypatch.setattr(ExportService, "_check", lambda self, instance: None)
    small.file(stored[1]).write_bytes(b"")
    with pytest.raises(StorageUnavailable):
        export(stored, kind(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_an_instance(small: SmallArchive, export: Export, tmp_path: Path) -> None:
    stored = small.store([make_ct(rows=4096, columns=4096)])
    assert stored[0].size > 32_000_000
    for target in (DirectoryTarget(tmp_path / "cd"), ZipTarget(tmp_path / "study.zip")):
        tracemalloc.start()
        try:
            export(stored, target)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8_000_000


@pytest.mark.slow
def test_a_thousand_instances_have_their_records(small: SmallArchive, tmp_path: Path) -> None:
    """The offsets of a large directory lead from record to record."""
    from pacs_server.dicom.dicomdir import DicomDir, ReferencedFile

    directory = DicomDir()
    for number in range(1000):
        header = make_ct("1.2", f"1.3.{number % 7}", f"1.4.{number}", InstanceNumber=number + 1)
        del header.PixelData
        file_id = ("DICOM", "SE000001", f"IM{number:06}")
        directory.add(header, ReferencedFile(file_id, str(header.SOPClassUID), f"1.4.{number}", "1.2.840.10008.1.2.1"))
    ds = pydicom.dcmread(io.BytesIO(directory.encoded()))
    at = {item.seq_item_tell: item for item in ds.DirectoryRecordSequence}

    def walk(offset: int) -> Iterator[Dataset]:
        while offset:
            yield at[offset]
            yield from walk(at[offset].OffsetOfReferencedLowerLevelDirectoryEntity)
            offset = at[offset].OffsetOfTheNextDirectoryRecord

    walked = list(walk(ds.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity))
    assert len(walked) == len(at) == 1 + 1 + 7 + 1000
    assert at[ds.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity].DirectoryRecordType == "PATIENT"
