"""Worklist items from files: what is taken, and errors that name the place and no value."""

import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from worklists import item_dataset, json_of

from pacs_server.dicom.encoding import EXPLICIT_LE
from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.part10 import decode_head
from pacs_server.dicom.reader import read_elements
from pacs_server.dicom.worklist import items_of_order
from pacs_server.errors import InvalidWorklistItem
from pacs_server.intake.worklist_fields import FIELDS
from pacs_server.intake.worklist_files import items_of, read_items

PAGE = Path(__file__).parents[3] / "docs" / "workflow.md"
EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

CSV = (
    "PatientName,PatientID,PatientBirthDate,AccessionNumber,Modality,ScheduledStationAETitle,"
    "ScheduledProcedureStepStartDate,ScheduledProcedureStepStartTime,ScheduledProcedureStepDescription\n"
    "Müller^Anna,P1,1970-01-01,A1,CT,CT1,2026-01-05,09:30,Thorax\n"
    '"Doe^Jo",P2,,A2,MR,MR1,20260106,101500,"Head, both sides"\n'
)


def problem(data: bytes, suffix: str) -> str:
    with pytest.raises(InvalidWorklistItem) as caught:
        items_of(data, suffix, "x")
    return str(caught.value)


def encoded(
    ds: Dataset,
    *,
    meta: bool = True,
    preamble: bool = True,
    syntax: str = EXPLICIT,
    character_set: str | list[str] = "ISO_IR 192",
) -> bytes:
    ds.SpecificCharacterSet = character_set
    buffer = io.BytesIO()
    if meta:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = syntax
        ds.file_meta.MediaStorageSOPClassUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        ds.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue() if preamble else buffer.getvalue()[132:]
    ds.save_as(buffer, implicit_vr=syntax == IMPLICIT, little_endian=True)
    return buffer.getvalue()


def as_json(*steps: dict[str, Any], **order: Any) -> dict[str, Any]:
    found: dict[str, Any] = item_dataset(*steps, **order).to_json_dict()
    return found


# ------------------------------------------------------------------------------------ DICOM data sets


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"syntax": IMPLICIT},
        {"syntax": BIG_ENDIAN},
        {"preamble": False},
        {"meta": False},
        {"meta": False, "syntax": IMPLICIT},
        {"character_set": "ISO_IR 100"},
    ],
)
def test_a_data_set(options: dict[str, Any]) -> None:
    (item,) = items_of(encoded(item_dataset(), **options), ".wl", "x")
    assert item.identity == ("A1", "RP1", "SPS1")
    assert text_of(item.data_set, "00100010") == "Müller^Anna"
    assert [text_of(code, "00080100") for code in item.step["00400008"]["Value"]] == ["TX1", "TX2"]
    assert item.source == "wl"


NAMES = {
    "ISO_IR 100": "Müller^Jörg",
    "ISO_IR 192": "Yamada^Tarou = 山田^太郎=やまだ^たろう",
    "GB18030": "Wang^XiaoDong=王^小东",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎",
}


@pytest.mark.parametrize("character_set", NAMES)
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED])
def test_a_data_set_is_what_pydicom_reads(character_set: str, syntax: str) -> None:
    name = NAMES[character_set]
    ds = item_dataset({"ScheduledPerformingPhysicianName": name}, PatientName=name, PregnancyStatus=4)
    ds.FrameIncrementPointer = [0x00181063]
    ds.add_new(0x00091001, "UN", b"\1\2")
    data = encoded(ds, syntax=syntax, character_set=character_set)
    assert items_of(data, ".wl", "x") == items_of_order(json_of(dcmread(io.BytesIO(data))), "wl")


@pytest.mark.parametrize("data", [b"", b"lockfile", bytes(132), bytes(128) + b"DICM", b"\x08\0\x05\0CS\xff\xffISO"])
def test_what_is_no_data_set(data: bytes) -> None:
    assert problem(data, ".wl").startswith("x: ")


@pytest.mark.slow
def test_a_data_set_that_is_cut_off() -> None:
    whole = encoded(item_dataset())
    # Between two elements nothing tells that there were more.
    lengths = [len(element.raw or b"") for element in read_elements(memoryview(whole)[_offset(whole) :], EXPLICIT_LE)]
    boundaries = set(itertools.accumulate(lengths, initial=_offset(whole)))
    assert max(boundaries) == len(whole)
    for size in set(range(len(whole))) - boundaries:
        assert problem(whole[:size], ".wl").startswith("x: ")


def _offset(data: bytes) -> int:
    head = decode_head(data)
    assert head is not None
    return head.data_set_offset


def test_a_data_set_without_what_it_needs() -> None:
    assert problem(encoded(item_dataset(PatientID=None)), ".wl") == "x: PatientID (0010,0020) is missing"


# ------------------------------------------------------------------------------------ DICOM JSON


def test_an_object_and_an_array() -> None:
    one, two = as_json(), as_json(AccessionNumber="A2")
    assert [item.accession_number for item in items_of(json.dumps(one).encode(), ".json", "x")] == ["A1"]
    both = items_of(json.dumps([one, two]).encode("utf-8"), ".JSON", "x")
    assert [item.accession_number for item in both] == ["A1", "A2"]
    assert text_of(both[0].data_set, "00100010") == "Müller^Anna"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[", "x: line 1: is not JSON"),
        ("{\n]", "x: line 2: is not JSON"),
        ("[" * 100_000, "x: "),
        ("3", "x: is no DICOM JSON object"),
        ("[]", "x: holds no items"),
        ("[1]", "x: item 1: is no DICOM JSON object"),
        ('{"PatientName": "SECRET"}', "x: a name is no tag"),
        ('{"00100010": "SECRET"}', "x: PatientName (0010,0010) is not as"),
        ('{"00100010": {"vr": "XX", "Value": ["SECRET"]}}', "x: PatientName (0010,0010) is not as"),
        ('{"00100010": {"vr": "PN", "Value": ["SECRET"]}}', "x: PatientName (0010,0010) is not as"),
        ('{"00100010": {"vr": "PN", "Value": [{"Alphabetic": 3}]}}', "x: PatientName (0010,0010) is not as"),
        ('{"00080050": {"vr": "SH", "Value": [true]}}', "x: AccessionNumber (0008,0050) is not as"),
        ('{"00100010": {"vr": "PN", "Value": "SECRET"}}', "x: PatientName (0010,0010) is not as"),
        ('{"00100010": {"vr": "PN", "BulkDataURI": "http://SECRET"}}', "x: PatientName (0010,0010) is not as"),
        ('{"00400100": {"vr": "SQ", "Value": [3]}}', "x: ScheduledProcedureStepSequence (0040,0100) is not as"),
        ("{}", "x: ScheduledProcedureStepSequence (0040,0100) is missing"),
    ],
)
def test_what_is_no_dicom_json(document: str, message: str) -> None:
    error = problem(document.encode(), ".json")
    assert error.startswith(message)
    assert "SECRET" not in error


def test_an_error_names_the_item() -> None:
    bad = as_json({"Modality": None})
    assert problem(json.dumps([as_json(), bad]).encode(), ".json") == "x: item 2: Modality (0008,0060) is missing"


def test_the_same_item_twice() -> None:
    assert problem(json.dumps([as_json(), as_json()]).encode(), ".json") == "x: item 2: has the identifiers of item 1"


# ------------------------------------------------------------------------------------ CSV


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows(encoding: str, delimiter: str, end: str) -> None:
    text = CSV.replace(",", delimiter).replace(f"Head{delimiter}", "Head,").replace("\n", end)
    first, second = items_of(text.encode(encoding), ".csv", "x")
    assert text_of(first.data_set, "00100010") == "Müller^Anna"
    assert text_of(first.data_set, "00100030") == "19700101"
    assert [text_of(second.step, tag) for tag in ("00080060", "00400001", "00400002", "00400003", "00400007")] == [
        *("MR", "MR1", "20260106", "101500", "Head, both sides")
    ]


def test_rows_again_are_the_same_items() -> None:
    assert items_of(CSV.encode(), ".csv", "x") == items_of(CSV.encode(), ".csv", "y")


def test_codes() -> None:
    text = CSV.splitlines()[0] + ",RequestedProcedureCodeSequence\n" + CSV.splitlines()[1] + ",C1^99L^Chest\n"
    (item,) = items_of(text.encode(), ".csv", "x")
    (code,) = item.data_set["00321064"]["Value"]
    assert [text_of(code, tag) for tag in ("00080100", "00080102", "00080104")] == ["C1", "99L", "Chest"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("PatientName,", "Patient,", "x: line 1: column 1 is not one of PatientName, "),
        ("PatientName,", "PatientID,", "x: line 1: PatientID is given twice"),
        ("A1,CT", "A1,CT,CT", "x: line 2: has 10 fields, the header has 9"),
        ("2026-01-05", "1/5/2026", "x: line 2: ScheduledProcedureStepStartDate has to be a date such as 2026-01-31, "),
        ("2026-01-05", "today", "x: line 2: ScheduledProcedureStepStartDate has to be a date"),
        ("2026-01-05", "20260231", "x: line 2: ScheduledProcedureStepStartDate"),
        ("09:30", "9", "x: line 2: ScheduledProcedureStepStartTime"),
        ("MR1", "", "x: line 3: ScheduledStationAETitle (0040,0001) is missing"),
        ("A2", "A" * 17, "x: line 3: AccessionNumber"),
        ('"Head', '"Head"x', "x: line 3: is not CSV"),
        ('sides"', "sides", "x: line 3: is not CSV"),
        ("P2", "P\0", "x: line 3: "),
    ],
)
def test_what_is_wrong_in_a_row(old: str, new: str, message: str) -> None:
    assert problem(CSV.replace(old, new).encode(), ".csv").startswith(message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x: line 1: there is no header"),
        (CSV.splitlines()[0].encode(), "x: holds no items"),
        (CSV.encode("latin_1"), "x: is not UTF-8 text (byte 187): in Excel, save it as 'CSV UTF-8'"),
    ],
)
def test_what_is_no_table(data: bytes, message: str) -> None:
    assert problem(data, ".csv").startswith(message)


def test_the_page_names_every_column() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [field for field in FIELDS if f"`{field}`" not in page] == []


# ------------------------------------------------------------------------------------ files


def test_files_by_their_names(tmp_path: Path) -> None:
    for name, data in (("a.wl", encoded(item_dataset())), ("b.CSV", CSV.encode()), ("c.json", b"[]")):
        (tmp_path / name).write_bytes(data)
    assert len(read_items(tmp_path / "a.wl")) == 1
    assert len(read_items(tmp_path / "b.CSV")) == 2
    with pytest.raises(InvalidWorklistItem, match=r"c\.json: holds no items"):
        read_items(tmp_path / "c.json")
    with pytest.raises(InvalidWorklistItem, match="does not end in"):
        read_items(tmp_path / "d.txt")
    with pytest.raises(FileNotFoundError):
        read_items(tmp_path / "d.wl")
