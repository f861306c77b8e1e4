"""Queries by findscu: models, levels, wild cards, ranges and character sets."""

from pathlib import Path

import dcmtk
import pytest
from datasets import make_ct, uid
from processes import PacsProcess
from pydicom import dcmread
from pydicom.data import get_charset_files
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian
from rawpeer import Instance, association, store

pytestmark = pytest.mark.interop

STUDIES = [
    {"PatientID": "F1", "PatientName": "Müller^Jörg", "StudyDate": "20240101", "StudyTime": "0800", "Modality": "CT"},
    {"PatientID": "F1", "PatientName": "Müller^Jörg", "StudyDate": "20240229", "StudyTime": "2300", "Modality": "MR"},
    {"PatientID": "F2", "PatientName": "Mueller^Anna", "StudyDate": "20241231", "StudyTime": "1200", "Modality": "CT"},
    {"PatientID": "F_3%", "PatientName": "O'Neil^Conor", "StudyDate": "", "StudyTime": "", "Modality": "US"},
]


@pytest.fixture(scope="module")
def known(pacs: PacsProcess) -> list[Dataset]:
    """The first instance of each study; a study has two series with two instances each."""
    everything = []
    for number, attributes in enumerate(STUDIES):
        study = uid()
        for series_number in (1, 2):
            series = uid()
            for instance_number in (1, 2):
                numbers = {"SeriesNumber": series_number, "InstanceNumber": instance_number}
                everything.append(make_ct(study, series, AccessionNumber=f"ACC{number}", **numbers, **attributes))
    send(pacs, everything)
    return everything[::4]


def send(pacs: PacsProcess, instances: list[Dataset]) -> None:
    with association(pacs.port, {(str(ds.SOPClassUID), ExplicitVRLittleEndian) for ds in instances}) as link:
        assert {store(link, Instance.of(ds)).status for ds in instances} == {0}


def find(pacs: PacsProcess, directory: Path, model: str, *keys: str, query_file: Path | None = None) -> list[Dataset]:
    """The response identifiers of a findscu call; `keys` are KEYWORD=VALUE or KEYWORD."""
    directory.mkdir(exist_ok=True)
    for old in directory.glob("rsp*.dcm"):
        old.unlink()
    options = [option for key in keys for option in ("-k", key)]
    files = [query_file] if query_file else []
    done = dcmtk.run("findscu", model, "-X", "-od", directory, *options, "127.0.0.1", pacs.port, *files)
    assert done.returncode == 0, done.stderr
    return [dcmread(path) for path in sorted(directory.glob("rsp*.dcm"))]


def test_every_level_of_the_study_root(pacs: PacsProcess, known: list[Dataset], tmp_path: Path) -> None:
    study = known[0]
    answers = find(
        pacs, tmp_path, "-S", "QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study.StudyInstanceUID}", "PatientID",
        "PatientName", "ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
    )  # fmt: skip
    (found,) = answers
    assert (found.PatientID, str(found.PatientName), found.ModalitiesInStudy) == ("F1", "Müller^Jörg", "CT")
    assert (found.NumberOfStudyRelatedSeries, found.NumberOfStudyRelatedInstances) == (2, 4)
    assert (found.QueryRetrieveLevel, found.RetrieveAETitle) == ("STUDY", "PACS_SERVER")

    series = find(
        pacs, tmp_path, "-S", "QueryRetrieveLevel=SERIES", f"StudyInstanceUID={study.StudyInstanceUID}",
        "SeriesInstanceUID", "SeriesNumber", "NumberOfSeriesRelatedInstances",
    )  # fmt: skip
    assert sorted((item.SeriesNumber, item.NumberOfSeriesRelatedInstances) for item in series) == [(1, 2), (2, 2)]

    images = find(
        pacs, tmp_path, "-S", "QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={study.StudyInstanceUID}",
        f"SeriesInstanceUID={study.SeriesInstanceUID}", "SOPInstanceUID", "InstanceNumber=2",
    )  # fmt: skip
    assert [image.InstanceNumber for image in images] == [2]


def test_every_level_of_the_patient_root(pacs: PacsProcess, known: list[Dataset], tmp_path: Path) -> None:
    (patient,) = find(
        pacs, tmp_path, "-P", "QueryRetrieveLevel=PATIENT", "PatientID=F1", "PatientName",
        "NumberOfPatientRelatedStudies",
    )  # fmt: skip
    assert (str(patient.PatientName), patient.NumberOfPatientRelatedStudies) == ("Müller^Jörg", 2)

    studies = find(pacs, tmp_path, "-P", "QueryRetrieveLevel=STUDY", "PatientID=F1", "StudyInstanceUID", "StudyDate")
    assert {item.StudyInstanceUID for item in studies} == {known[0].StudyInstanceUID, known[1].StudyInstanceUID}

    above = (f"StudyInstanceUID={known[0].StudyInstanceUID}", "PatientID=F1")
    assert len(find(pacs, tmp_path, "-P", "QueryRetrieveLevel=SERIES", *above, "SeriesInstanceUID")) == 2
    below = (*above, f"SeriesInstanceUID={known[0].SeriesInstanceUID}")
    assert len(find(pacs, tmp_path, "-P", "QueryRetrieveLevel=IMAGE", *below, "SOPInstanceUID")) == 2


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["PatientID=F?"], {0, 1, 2}),
        (["PatientID=F*"], {0, 1, 2, 3}),
        (["PatientID=F_3%"], {3}),
        (["PatientID=F%"], set()),
        (["PatientName=mueller*"], {2}),
        (["PatientName=MULLER*"], {0, 1}),
        (["PatientName=o'neil^con?r"], {3}),
        # PS3.4 C.2.2.1.2: a Required Key whose value is not known matches everything.
        (["PatientID=F*", "StudyDate=20240101-20240229"], {0, 1, 3}),
        (["PatientID=F*", "StudyDate=20240229-"], {1, 2, 3}),
        (["PatientID=F*", "StudyDate=-20240229"], {0, 1, 3}),
        (["PatientID=F*", "StudyDate=20240101"], {0, 3}),
        (["PatientID=F*", "StudyTime=1100-1300"], {2, 3}),
        (["PatientID=F*", "ModalitiesInStudy=MR"], {1}),
        (["PatientID=F*", "AccessionNumber=ACC[0]"], set()),
        (["PatientID=F*", "AccessionNumber=acc0"], set()),
        (["PatientID=F*", "AccessionNumber=ACC0"], {0}),
    ],
)
def test_matching(pacs: PacsProcess, known: list[Dataset], tmp_path: Path, keys: list[str], expected: set[int]) -> None:
    found = find(pacs, tmp_path, "-S", "QueryRetrieveLevel=STUDY", "StudyInstanceUID", *keys)
    numbers = {ds.StudyInstanceUID: number for number, ds in enumerate(known)}
    assert {numbers[item.StudyInstanceUID] for item in found} == expected
    assert len(found) == len(expected)


def test_a_list_of_uids(pacs: PacsProcess, known: list[Dataset], tmp_path: Path) -> None:
    wanted = {known[0].StudyInstanceUID, known[3].StudyInstanceUID}
    keys = "StudyInstanceUID=" + "\\".join([*wanted, "1.2.3.4"])
    found = find(pacs, tmp_path, "-S", "QueryRetrieveLevel=STUDY", keys)
    assert {item.StudyInstanceUID for item in found} == wanted


def test_an_identifier_that_breaks_the_model_is_refused(sqlite_pacs: PacsProcess) -> None:
    done = dcmtk.run(
        "findscu", "-v", "-S", "-k", "QueryRetrieveLevel=SERIES", "-k", "SeriesInstanceUID", "127.0.0.1",
        sqlite_pacs.port,
    )  # fmt: skip
    assert "Error: DataSetDoesNotMatchSOPClass" in done.stderr


def test_cancel(pacs: PacsProcess, known: list[Dataset], tmp_path: Path) -> None:
    """findscu asks to stop after one response; how many more come is a race, the association's health is not."""
    done = dcmtk.run(
        "findscu", "-v", "-S", "--cancel", 1, "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID",
        "127.0.0.1", pacs.port,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Releasing Association" in done.stdout + done.stderr


CHARSET_FILES = [path for path in map(Path, get_charset_files()) if path.suffix == ".dcm" and "SQ" not in path.name]


@pytest.fixture(scope="module")
def named(pacs: PacsProcess) -> dict[str, Dataset]:
    """pydicom's character set files, each stored as it is encoded under UIDs and a Patient ID of its own."""
    files: dict[str, Dataset] = {}
    for path in CHARSET_FILES:
        ds = dcmread(path)
        ds.PatientID = path.stem.upper()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = uid(), uid(), uid()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        files[path.name] = ds
    send(pacs, list(files.values()))
    return files


def query_file(path: Path, name: str, character_set: object) -> Path:
    """A STUDY query by patient name in a character set, as a file for findscu."""
    ds = Dataset()
    ds.SpecificCharacterSet = character_set
    ds.QueryRetrieveLevel = "STUDY"
    ds.PatientName = name
    ds.PatientID = ds.StudyInstanceUID = ""
    dcmwrite(path, ds, implicit_vr=False, little_endian=True)
    return path


@pytest.mark.parametrize(
    ("utf8", "wild"),
    [(False, False), (False, True), (True, True)],
    ids=["own set", "own set, wild card", "UTF-8, wild card"],
)
@pytest.mark.parametrize("name", [path.name for path in CHARSET_FILES])
def test_names_in_their_character_sets(
    pacs: PacsProcess, named: dict[str, Dataset], tmp_path: Path, name: str, utf8: bool, wild: bool
) -> None:
    ds = named[name]
    text = str(ds.PatientName)
    asked = text[:2] + "*" if wild else text
    character_set = "ISO_IR 192" if utf8 else ds.SpecificCharacterSet

    found = find(pacs, tmp_path, "-S", query_file=query_file(tmp_path / "query.dcm", asked, character_set))

    mine = [item for item in found if item.PatientID == ds.PatientID]
    assert [str(item.PatientName) for item in mine] == [text]
    # A name matches by any of its component groups, so others may have theirs in common with it.
    for other in found:
        assert any(group.startswith(text[:2]) for group in str(other.PatientName).split("="))
    if utf8:
        assert mine[0].SpecificCharacterSet == "ISO_IR 192"
