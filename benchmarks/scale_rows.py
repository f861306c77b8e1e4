"""The rows of the table that `benchmarks.scale` prints: operations on the index, with other values every time."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from pydicom.dataset import Dataset

from benchmarks.filling import MODALITIES, PER_STUDY, Study, study
from benchmarks.instances import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, encode
from pacs_server.dicom.caller import Door
from pacs_server.dicom.header import Header
from pacs_server.dicom.identifier import QueryOptions, RetrieveKeys, parse_find
from pacs_server.dicom.levels import InformationModel, Level
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.worklist import ItemStatus, WorklistItem, items_of_order
from pacs_server.dicom.worklist_query import parse_worklist
from pacs_server.index.database import Database
from pacs_server.index.instances import InstanceIndex, StoredInstance
from pacs_server.index.queries import QueryIndex
from pacs_server.index.worklist import WorklistIndex
from pacs_server.intake.worklist_fields import order_of_fields

Keys = dict[str, str]
Operations = Generator[Callable[[], int], None, None]
STATIONS = 20
# Orders for each station and day; and of how many one is still to be done.
_PER_DAY, _ONE_OPEN_OF = 10, 10
# What a workstation asks for at each level, besides its keys.
_RETURNS = {
    "PATIENT": ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "NumberOfPatientRelatedStudies"),
    "STUDY": (
        "PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID",
        "AccessionNumber", "StudyDescription", "ModalitiesInStudy", "ReferringPhysicianName",
        "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
    ),
    "SERIES": ("SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "NumberOfSeriesRelatedInstances"),
    "IMAGE": ("SOPInstanceUID", "SOPClassUID", "InstanceNumber", "ContentDate", "ContentTime"),
}  # fmt: skip
_ORIGIN = Origin("CT1", "PACS", "127.0.0.1", Door.DIMSE)
_MOST, _SECONDS = 40, 4.0


@dataclass(frozen=True, slots=True)
class Row:
    """One row; `prepare` gives operations on the index, of which each returns how many matches it found."""

    title: str
    prepare: Callable[[Database, Sequence[Study]], Operations]


def measure(row: Row, database: Database, studies: int) -> tuple[list[float], list[int]]:
    """The seconds and the matches of each operation, of some tens over all of the studies; bounded in time."""
    step = max(studies // _MOST, 1)
    some = [study(number) for number in range(studies, 0, -step)]
    seconds, matches = [], []
    ends = time.monotonic() + _SECONDS
    # Closed at the end in any case: it may have something to put back.
    with closing(row.prepare(database, some)) as operations:
        for operation in operations:
            started = time.perf_counter()
            matches.append(operation())
            seconds.append(time.perf_counter() - started)
            if time.monotonic() > ends:
                break
    # The first one pays for what later ones find prepared.
    return seconds[1:] or seconds, matches[1:] or matches


def _find(title: str, level: str, keys: Callable[[Study], Keys], *, relational: bool = False) -> Row:
    def prepare(database: Database, studies: Sequence[Study]) -> Operations:
        index = QueryIndex(database)
        model = InformationModel.PATIENT_ROOT if level == "PATIENT" else InformationModel.STUDY_ROOT
        for each in _repeated(studies):
            asked = {"QueryRetrieveLevel": level} | dict.fromkeys(_RETURNS[level], "") | keys(each)
            data = encode(_data_set(asked), implicit=True)
            query = parse_find(data, IMPLICIT_VR_LITTLE_ENDIAN, model, QueryOptions(relational=relational))
            yield lambda query=query: sum(1 for _ in index.find(query))

    return Row(f"{level.lower()}: {title}", prepare)


def _repeated(studies: Sequence[Study]) -> Generator[Study, None, None]:
    for number in range(_MOST + 1):
        yield studies[number % len(studies)]


def _data_set(values: dict[str, Any]) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def _stores(database: Database, studies: Sequence[Study]) -> Operations:
    """A study that comes in, instance by instance; it is taken out again at the end."""
    index, stored = InstanceIndex(database), []
    arriving = replace(studies[0], uid=f"{studies[0].uid}.0", patient_id="SCALE-1")

    def store(instance: StoredInstance, header: Header) -> int:
        index.add(instance, header, _ORIGIN)
        return 1

    try:
        for number in range(PER_STUDY):
            instance, header = _arrival(arriving, number)
            stored.append(instance.uids.sop)
            yield lambda instance=instance, header=header: store(instance, header)
    finally:
        for uid in stored:
            index.remove(uid)


def _arrival(of: Study, number: int) -> tuple[StoredInstance, Header]:
    uids = of.uids(number)
    values = {
        "patient_id": of.patient_id, "patient_name": of.patient_name, "patient_birth_date": of.birth_date,
        "study_instance_uid": of.uid, "study_date": of.date, "study_time": of.time, "study_id": of.study_id,
        "accession_number": of.accession_number, "referring_physician_name": of.referring_physician_name,
        "series_instance_uid": uids.series, "modality": of.modality, "sop_instance_uid": uids.sop,
        "instance_number": str(number),
    }  # fmt: skip
    header = Header(uids, CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, values)
    path = f"{uids.study}/{uids.series}/{uids.sop}.dcm"
    syntax = EXPLICIT_VR_LITTLE_ENDIAN
    return StoredInstance(uids, CT_IMAGE_STORAGE, syntax, path, 352, 526_000, f"{number:064x}", 1), header


def _selects(database: Database, studies: Sequence[Study]) -> Operations:
    index = QueryIndex(database)
    for each in _repeated(studies):
        keys = RetrieveKeys(Level.STUDY, study_instance_uids=(each.uid,))
        yield lambda keys=keys: len(index.select(keys))


def _counts(database: Database, studies: Sequence[Study]) -> Operations:
    index = InstanceIndex(database)
    for _ in _repeated(studies):
        yield lambda: min(index.counts().patients, 1)


def fill_worklist(database: Database, numbers: range) -> None:
    """An order for each study of these numbers; most of them are done."""
    WorklistIndex(database).put([_order(study(number)) for number in numbers])


def _order(of: Study) -> WorklistItem:
    step = {
        "ScheduledStationAETitle": _station(of), "ScheduledProcedureStepStartDate": _day(of),
        "ScheduledProcedureStepStartTime": of.time, "Modality": of.modality, "ScheduledProcedureStepID": of.study_id,
        "ScheduledProcedureStepDescription": "Thorax routine",
    }  # fmt: skip
    order = {
        "PatientName": of.patient_name, "PatientID": of.patient_id, "PatientBirthDate": of.birth_date,
        "PatientSex": "O", "AccessionNumber": of.accession_number, "StudyInstanceUID": of.uid,
        "RequestedProcedureID": of.study_id, "RequestedProcedureDescription": "Thorax",
        "ReferringPhysicianName": of.referring_physician_name,
    }  # fmt: skip
    (item,) = items_of_order(order_of_fields(order | step, "benchmark"), "benchmark")
    return replace(item, status=ItemStatus.COMPLETED if of.number % _ONE_OPEN_OF else ItemStatus.SCHEDULED)


def _station(of: Study) -> str:
    return f"STATION{of.number // _ONE_OPEN_OF % STATIONS}"


def _day(of: Study) -> str:
    number = of.number // (STATIONS * _PER_DAY)
    return f"{2026 + number // 336}{number // 28 % 12 + 1:02}{number % 28 + 1:02}"


def _worklist(title: str, keys: Callable[[Study], Keys], step: Callable[[Study], Keys] = lambda _: {}) -> Row:
    def prepare(database: Database, studies: Sequence[Study]) -> Operations:
        index = WorklistIndex(database)
        for each in _repeated([each for each in map(_open_one, studies) if each.number]):
            steps = dict.fromkeys(("Modality", "ScheduledProcedureStepID"), "") | step(each)
            returned = dict.fromkeys(("PatientName", "PatientID", "AccessionNumber", "StudyInstanceUID"), "")
            asked = returned | keys(each) | {"ScheduledProcedureStepSequence": [_data_set(steps)]}
            query = parse_worklist(encode(_data_set(asked), implicit=True), IMPLICIT_VR_LITTLE_ENDIAN)
            yield lambda query=query: sum(1 for _ in index.find(query))

    return Row(f"worklist: {title}", prepare)


def _open_one(near: Study) -> Study:
    """The last study up to this one whose order is still to be done."""
    return study(near.number - near.number % _ONE_OPEN_OF)


def _uids_of(of: Study, *, image: bool = False) -> Keys:
    uids = of.uids(3)
    found = {"StudyInstanceUID": uids.study, "SeriesInstanceUID": uids.series}
    return found | ({"SOPInstanceUID": uids.sop} if image else {})


def _ten_days(of: Study) -> Keys:
    last = datetime.strptime(of.date, "%Y%m%d") + timedelta(9)
    return {"StudyDate": f"{of.date}-{last:%Y%m%d}"}


def _alphabetic(of: Study) -> str:
    return of.patient_name.partition("=")[0]


def _study_rows() -> list[Row]:
    return [
        _find("PatientID", "STUDY", lambda s: {"PatientID": s.patient_id}),
        _find("PatientName", "STUDY", lambda s: {"PatientName": _alphabetic(s)}),
        _find("PatientName, Family*", "STUDY", lambda s: {"PatientName": f"{_alphabetic(s).partition('^')[0]}^*"}),
        _find("PatientName, *Given", "STUDY", lambda s: {"PatientName": f"*{_alphabetic(s).partition('^')[2]}"}),
        _find("StudyDate", "STUDY", lambda s: {"StudyDate": s.date}),
        _find("StudyDate, 10 days", "STUDY", _ten_days),
        _find("StudyDate and Modality", "STUDY", lambda s: {"StudyDate": s.date, "ModalitiesInStudy": s.modality}),
        _find("open StudyDate and PatientID", "STUDY", lambda s: {"StudyDate": "20160101-", "PatientID": s.patient_id}),
        _find("open StudyDate, Family*", "STUDY", lambda s: {
            "StudyDate": "20160101-", "PatientName": f"{_alphabetic(s).partition('^')[0]}^*"}),
        _find("AccessionNumber", "STUDY", lambda s: {"AccessionNumber": s.accession_number}),
        _find("AccessionNumber, prefix*", "STUDY", lambda s: {"AccessionNumber": f"{s.accession_number[:6]}*"}),
        _find("StudyID", "STUDY", lambda s: {"StudyID": s.study_id}),
        _find("ReferringPhysicianName", "STUDY", lambda s: {"ReferringPhysicianName": s.referring_physician_name}),
        _find("StudyInstanceUID", "STUDY", lambda s: {"StudyInstanceUID": s.uid}),
        _find("ModalitiesInStudy, rare", "STUDY", lambda _: {"ModalitiesInStudy": MODALITIES[-1]}),
        _find("all", "STUDY", lambda _: {}),
    ]  # fmt: skip


ROWS = (
    Row("store: one instance, with its commit", _stores),
    _find("PatientID", "PATIENT", lambda s: {"PatientID": s.patient_id}),
    _find("PatientName", "PATIENT", lambda s: {"PatientName": _alphabetic(s)}),
    _find("PatientName, Family*", "PATIENT", lambda s: {"PatientName": f"{_alphabetic(s).partition('^')[0]}^*"}),
    *_study_rows(),
    _find("StudyInstanceUID", "SERIES", lambda s: {"StudyInstanceUID": s.uid}),
    _find("StudyInstanceUID and Modality", "SERIES", lambda s: {"StudyInstanceUID": s.uid, "Modality": s.modality}),
    _find("SeriesInstanceUID", "SERIES", _uids_of),
    _find("PatientID (relational)", "SERIES", lambda s: {"PatientID": s.patient_id}, relational=True),
    _find("SeriesInstanceUID", "IMAGE", _uids_of),
    _find("SOPInstanceUID", "IMAGE", lambda s: _uids_of(s, image=True)),
    _find("SOPInstanceUID (relational)", "IMAGE", lambda s: {"SOPInstanceUID": s.uids(4).sop}, relational=True),
    _find("StudyInstanceUID (relational)", "IMAGE", lambda s: {"StudyInstanceUID": s.uid}, relational=True),
    Row("retrieve: instances of a study", _selects),
    Row("monitoring: counts", _counts),
    _worklist("station and day", lambda _: {}, lambda s: {
        "ScheduledStationAETitle": _station(s), "ScheduledProcedureStepStartDate": _day(s)}),
    _worklist("day and Modality", lambda _: {}, lambda s: {
        "Modality": s.modality, "ScheduledProcedureStepStartDate": _day(s)}),
    _worklist("PatientID", lambda s: {"PatientID": s.patient_id}),
    _worklist("PatientName", lambda s: {"PatientName": _alphabetic(s)}),
    _worklist("AccessionNumber", lambda s: {"AccessionNumber": s.accession_number}),
    _worklist("all that is open", lambda _: {}),
)  # fmt: skip
