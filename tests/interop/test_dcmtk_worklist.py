"""The worklist against DCMTK: findscu -W as the modality, wlmscpfs with the same items as the reference."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dcmtk
import pytest
from processes import PacsProcess
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from worklists import MODALITY_WORKLIST, STEP, item_dataset, json_of, keys, with_values

from benchmarks.server_process import ServerProcess
from pacs_server.app.assembly import open_archive
from pacs_server.config import AuditConfig, Config, DatabaseConfig, StorageConfig
from pacs_server.dicom.worklist import SCHEDULED_PROCEDURE_STEP_STATUS, items_of_order

pytestmark = pytest.mark.interop

AE_TITLE = "PACS_SERVER"
JOERG = "M\u00fcller^J\u00f6rg"
MR = {"ScheduledStationAETitle": "MR1", "Modality": "MR"}
US = {"ScheduledStationAETitle": "US1", "Modality": "US"}
# What differs from one item to the next: its step, and the rest.
ITEMS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"ScheduledProcedureStepStartTime": "180000"}, {"PatientName": JOERG, "PatientSex": "M"}),
    ({"ScheduledProcedureStepStartDate": "20260106", "ScheduledProcedureStepStartTime": "0000"}, {}),
    ({"ScheduledProcedureStepStartDate": "20260107", "ScheduledProcedureStepStartTime": "120000.5"}, {}),
    ({"ScheduledProcedureStepStartDate": "20260107", "ScheduledProcedureStepStartTime": "235959"}, {}),
    ({"ScheduledStationAETitle": "MR1", "Modality": "MR"}, {"PatientName": "Doe^John", "PatientID": "P_2%"}),
    (
        {"ScheduledStationAETitle": "MR1", "Modality": "MR", "ScheduledPerformingPhysicianName": ""},
        {"PatientName": "Doe^Jane"},
    ),
    (
        {"ScheduledStationAETitle": "US1", "Modality": "US", "ScheduledProtocolCodeSequence": None},
        {"PatientName": "Doe"},
    ),
    ({"ScheduledStationAETitle": "XA1\\XA2", "Modality": "XA"}, {"RequestedProcedureCodeSequence": None}),
]


def dataset(number: int) -> Dataset:
    step, order = ITEMS[number]
    own = {"AccessionNumber": f"A{number}", "StudyInstanceUID": f"1.2.3.{number}", "PatientID": f"P{number}"}
    own |= {"SpecificCharacterSet": "ISO_IR 100"}
    return item_dataset({"ScheduledProcedureStepID": f"SPS{number}"} | step, **(own | order))


class WlmSCPFS(ServerProcess):
    """wlmscpfs that keeps the character set of its files."""

    ae_title = AE_TITLE

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / AE_TITLE).mkdir(parents=True)
        (directory / AE_TITLE / "lockfile").touch()
        super().__init__(directory.with_name("wlmscpfs.log"))

    def add(self, name: str, ds: Dataset) -> None:
        write(ds, self.directory / AE_TITLE / f"{name}.wl")

    def command(self) -> list[str]:
        return [dcmtk.require("wlmscpfs"), "-csk", "-dfp", str(self.directory), str(self.port)]


def write(ds: Dataset, path: Path) -> None:
    ds.file_meta = Dataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = MODALITY_WORKLIST
    ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dcmwrite(path, ds, enforce_file_format=True)


@dataclass(frozen=True)
class Both:
    pacs: PacsProcess
    reference: WlmSCPFS


@pytest.fixture(scope="module")
def both(pacs: PacsProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """This server and the reference, with the same items."""
    reference = WlmSCPFS(tmp_path_factory.mktemp("wlm") / "items")
    config = Config(
        storage=StorageConfig(directory=pacs.archive),
        database=DatabaseConfig(url=database_url(pacs)),
        audit=AuditConfig(enabled=False),
    )
    with open_archive(config) as archive:
        for number in range(len(ITEMS)):
            archive.worklist.put(items_of_order(json_of(dataset(number)), "test"))
            reference.add(f"item{number}", dataset(number))
    with reference:
        yield Both(pacs, reference)


def database_url(pacs: PacsProcess) -> str:
    return pacs.database_url or f"sqlite:///{pacs.directory / 'pacs.db'}"


def answers(port: int, query: Dataset, directory: Path) -> dict[str, dict[str, Any]]:
    """The answers of a findscu call by accession number, as DICOM JSON."""
    directory.mkdir()
    write(query, directory / "query.dcm")
    arguments = ("-W", "-aet", "CT1", "-aec", AE_TITLE, "-X", "-od", directory, "127.0.0.1", port)
    done = dcmtk.run("findscu", *arguments, directory / "query.dcm")
    assert done.returncode == 0, done.stderr
    found = [dcmread(path) for path in sorted(directory.glob("rsp*.dcm"))]
    return {str(ds.AccessionNumber): json_of(ds) for ds in found}


def at(**step: Any) -> Dataset:
    return keys(step)


EVERYTHING_OF_THE_STEP = {keyword: "" for keyword in STEP if keyword != "ScheduledProtocolCodeSequence"}
# A scanner's query: where and when, and all that Table K.6-1 says will be there.
SCANNER = {
    "ReferringPhysicianName": "", "PatientBirthDate": "", "PatientSex": "", "PatientWeight": "", "StudyInstanceUID": "",
    "RequestedProcedureID": "", "RequestedProcedureDescription": "", "RequestedProcedurePriority": "",
    "RequestedProcedureCodeSequence": [], "ReferencedStudySequence": [], "CurrentPatientLocation": "",
}  # fmt: skip
CODE = {"CodeValue": "", "CodingSchemeDesignator": "", "CodeMeaning": ""}

# Query, and the numbers of the items that have to be found.
QUERIES: dict[str, tuple[Dataset, set[int]]] = {
    "universal": (at(ScheduledStationAETitle="", ScheduledProcedureStepStartDate="", Modality=""), set(range(9))),
    "no step": (with_values({"PatientName": "*", "AccessionNumber": ""}), set(range(9))),
    "step of zero length": (with_values({"AccessionNumber": "A1", "ScheduledProcedureStepSequence": []}), {1}),
    "date": (at(ScheduledProcedureStepStartDate="20260105"), {0, 1, 5, 6, 7, 8}),
    "dates": (at(ScheduledProcedureStepStartDate="20260106-20260107"), {2, 3, 4}),
    "from a date on": (at(ScheduledProcedureStepStartDate="20260107-"), {3, 4}),
    "up to a date": (at(ScheduledProcedureStepStartDate="-20260106"), {0, 1, 2, 5, 6, 7, 8}),
    "date and time as a pair": (
        at(ScheduledProcedureStepStartDate="20260105-20260107", ScheduledProcedureStepStartTime="1200-1300"),
        {1, 2, 3},
    ),
    "one date and times": (
        at(ScheduledProcedureStepStartDate="20260105", ScheduledProcedureStepStartTime="1200-2359"), {1}
    ),
    "from a moment on": (
        at(ScheduledProcedureStepStartDate="20260107-", ScheduledProcedureStepStartTime="1800-"), {4}
    ),
    "station": (at(ScheduledStationAETitle="MR1"), {5, 6}),
    "station and date": (
        at(ScheduledStationAETitle="CT1", ScheduledProcedureStepStartDate="20260105", Modality="CT"), {0, 1}
    ),
    "modality": (at(Modality="US"), {7}),
    "nothing": (at(Modality="OT"), set()),
    "physician": (at(ScheduledPerformingPhysicianName="Curie*", Modality="MR"), {5}),
    "name": (keys(PatientName="Doe^J*"), {5, 6}),
    "name of one letter more": (keys(PatientName="Doe^J??n"), {5}),
    "name in Latin 1": (keys(SpecificCharacterSet="ISO_IR 100", PatientName=JOERG), {1}),
    "patient": (keys(PatientID="P_2%"), {5}),
    "accession number": (keys(AccessionNumber="A3"), {3}),
    "requested procedure": (keys(RequestedProcedureID="RP1", AccessionNumber="A4"), {4}),
    "a scanner's": (
        keys(
            EVERYTHING_OF_THE_STEP | {"ScheduledProtocolCodeSequence": [CODE], "Modality": "CT"},
            **(SCANNER | {"RequestedProcedureCodeSequence": [CODE]}),
        ),
        {0, 1, 2, 3, 4},
    ),
    "sequences of zero length": (
        keys(EVERYTHING_OF_THE_STEP | {"ScheduledProtocolCodeSequence": []}, **SCANNER), set(range(9))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", QUERIES)
def test_same_answers(both: Both, name: str, tmp_path: Path) -> None:
    query, expected = QUERIES[name]
    ours = answers(both.pacs.port, query, tmp_path / "ours")
    theirs = answers(both.reference.port, query, tmp_path / "theirs")
    assert set(ours) == {f"A{number}" for number in expected}
    if any(is_whole(element) for element in query):
        ours, theirs = known(ours), known(theirs)
    assert ours == theirs


def is_whole(element: DataElement) -> bool:
    """Whether a key asks for whole items."""
    return bool(element.VR == "SQ" and not any(len(item) for item in element.value))


def known(value: Any) -> Any:
    """Answers without what is empty, and without Scheduled Procedure Step Status.

    Asked for whole items, wlmscpfs returns a list of its own with the unknown values empty; we return
    what the item has. The status we know ourselves, wlmscpfs has what the file says.
    """
    if isinstance(value, list):
        return [known(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: known(each) for key, each in value.items() if key != SCHEDULED_PROCEDURE_STEP_STATUS}
    return {key: each for key, each in kept.items() if not (isinstance(each, dict) and set(each) == {"vr"})}


def test_a_short_time_is_all_that_it_leaves_open(both: Both, tmp_path: Path) -> None:
    """For us 1200 ends with the minute, as it does in all other queries; for wlmscpfs it is 12:00:00."""
    query = at(ScheduledProcedureStepStartDate="20260107", ScheduledProcedureStepStartTime="1100-1200")
    assert set(answers(both.pacs.port, query, tmp_path / "ours")) == {"A3"}
    assert answers(both.reference.port, query, tmp_path / "theirs") == {}


def test_names_are_found_without_case_and_accents(both: Both, tmp_path: Path) -> None:
    """PS3.4 C.2.2.2.1.1 leaves it open; wlmscpfs compares letter by letter."""
    query = keys(PatientName="muller^jorg")
    assert set(answers(both.pacs.port, query, tmp_path / "ours")) == {"A1"}
    assert answers(both.reference.port, query, tmp_path / "theirs") == {}
