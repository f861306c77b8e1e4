"""Worklist identifiers: what they match, what is returned, and how."""

import zlib
from io import BytesIO
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from strategies import encoded
from worklists import STEP, code, item, keys, with_values

from pacs_server.dicom.worklist import ItemStatus, WorklistItem
from pacs_server.dicom.worklist_query import WorklistEncoder, WorklistQuery, parse_worklist, presented
from pacs_server.errors import InvalidIdentifier

IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN = (
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"),
    *("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"),
)


def parsed(query: Dataset) -> WorklistQuery:
    return parse_worklist(encoded(query), IMPLICIT)


def finds(query: Dataset, found: WorklistItem) -> bool:
    return parsed(query).matches(presented(found.data_set, found.status))


def at(**step: Any) -> Dataset:
    return keys(step)


def starting(date: str, time: str) -> WorklistItem:
    return item({"ScheduledProcedureStepStartDate": date, "ScheduledProcedureStepStartTime": time})


# ------------------------------------------------------------------------------------ matching


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (at(), True),
        (with_values({"PatientName": "*"}), True),
        (at(ScheduledStationAETitle="CT1"), True),
        (at(ScheduledStationAETitle="ct1"), False),
        (at(ScheduledStationAETitle="CT*"), True),
        (at(ScheduledStationAETitle="CT"), False),
        (at(ScheduledStationAETitle="CT1", Modality="MR"), False),
        (at(ScheduledProcedureStepStartDate="20260105"), True),
        (at(ScheduledProcedureStepStartDate="20260101-20260104"), False),
        (at(ScheduledProcedureStepStartTime="09"), True),
        (at(ScheduledProcedureStepStartTime="0931-"), False),
        (at(ScheduledPerformingPhysicianName="curie*"), True),
        (at(ScheduledPerformingPhysicianName="Bohr*"), False),
        (at(ScheduledProtocolCodeSequence=[{"CodeValue": "TX2"}]), True),
        (at(ScheduledProtocolCodeSequence=[{"CodeValue": "TX2", "CodeMeaning": "Thorax"}]), False),
        (keys(PatientName="MULLER^A*"), True),
        (keys(PatientID="P1"), True),
        (keys(PatientID="P2"), False),
        (keys(RequestedProcedureCodeSequence=[{"CodeValue": "CTT"}]), True),
        (keys(RequestedProcedureCodeSequence=[{"CodeValue": "MR"}]), False),
        (keys(RequestedProcedureDescription="CT*"), True),
        (keys(PatientSex="M"), False),
        (keys(CurrentPatientLocation="Ward ?"), True),
        (keys(CurrentPatientLocation="Ward"), False),
    ],
)
def test_matching(query: Dataset, expected: bool) -> None:
    assert finds(query, item()) is expected


def test_an_unknown_value_fails_to_match() -> None:
    """PS3.4 K.2.2.1.1.1: unlike in Query/Retrieve."""
    without = item({"ScheduledPerformingPhysicianName": None, "ScheduledProtocolCodeSequence": []}, AccessionNumber="")
    assert finds(at(ScheduledPerformingPhysicianName="*"), without)
    assert not finds(at(ScheduledPerformingPhysicianName="Curie*"), without)
    assert not finds(keys(AccessionNumber="A1"), without)
    assert not finds(at(ScheduledProtocolCodeSequence=[{"CodeValue": "TX1"}]), without)
    assert not finds(keys(RequestingPhysician="Curie*"), without)


@pytest.mark.parametrize(
    "query",
    [
        keys(PregnancyStatus=0),
        keys(PatientWeight="0"),
        keys(MedicalAlerts="NONE", Allergies="none", SpecialNeeds="x", PatientState="x"),
        keys(StudyDate="20991231", StudyTime="1"),
        keys(Modality="MR"),
        keys(ReferencedStudySequence=[{"ReferencedSOPInstanceUID": "1.2"}, {}]),
        keys(AcquisitionDuration=1.5),
        at(RequestedContrastAgent="Iodine", PreMedication="x"),
        at(ScheduledProtocolCodeSequence=[{"CodingSchemeVersion": "2"}]),
        at(ScheduledProtocolCodeSequence=[{"ProtocolContextSequence": [{"ValueType": "TEXT"}]}]),
    ],
)
def test_values_of_other_keys_are_not_matched(query: Dataset) -> None:
    """PS3.4 K.2.2.1.1.2: an optional key that is not matched is a return key. That is no case of FF01.

    Some clients send 0 in every number that they leave empty.
    """
    assert finds(query, item())
    assert parsed(query).unsupported == ()


def test_values_of_other_keys_are_not_judged() -> None:
    assert finds(keys(StudyDate="yesterday"), item())
    with pytest.raises(InvalidIdentifier):
        parsed(keys(PatientBirthDate="yesterday"))


def test_other_keys_are_returned() -> None:
    query = keys({"PreMedication": "x"}, PregnancyStatus=0, PatientWeight="0", AcquisitionDuration=1.5)
    found = answer(query, item({"PreMedication": "Sedation"}, PregnancyStatus=4))
    assert (found.PregnancyStatus, str(found.PatientWeight), found.AcquisitionDuration) == (4, "70.50", None)
    assert found.ScheduledProcedureStepSequence[0].PreMedication == "Sedation"


def test_one_of_several_stations() -> None:
    both = item({"ScheduledStationAETitle": ["CT1", "CT2"]})
    assert finds(at(ScheduledStationAETitle="CT2"), both)
    assert not finds(at(ScheduledStationAETitle="CT3"), both)


@pytest.mark.parametrize(
    ("date", "time", "expected"),
    [
        # The example of PS3.4 Table K.6-1: one time from the 5th at 10 to the 7th at 18 o'clock.
        ("20260705-20260707", "10-1759", ["05 1000", "06 0900", "06 2300", "07 1759"]),
        ("20260705-", "10-", ["05 1000", "06 0900", "06 2300", "07 1759", "07 2000"]),
        ("-20260706", "-12", ["05 0900", "05 1000", "06 0900"]),
        ("20260705-20260706", "22-08", []),
        # A night: the time range alone would go backwards.
        ("20260706-20260707", "23-08", ["06 2300"]),
        # Not two ranges of the same form, so each counts on its own.
        ("20260705-20260707", "10", ["05 1000"]),
        ("20260706", "1000-2359", ["06 2300"]),
        ("20260706-", "-1000", ["06 0900"]),
    ],
)
def test_start_date_and_time_are_a_pair(date: str, time: str, expected: list[str]) -> None:
    query = at(ScheduledProcedureStepStartDate=date, ScheduledProcedureStepStartTime=time)
    moments = ["05 0900", "05 1000", "06 0900", "06 2300", "07 1759", "07 2000"]
    found = [m for m in moments if finds(query, starting(f"202607{m[:2]}", m[3:]))]
    assert found == expected


def test_a_step_in_progress_is_started() -> None:
    found = item()
    query = parsed(at(ScheduledProcedureStepStatus="STARTED"))
    assert not query.matches(presented(found.data_set, ItemStatus.SCHEDULED))
    assert query.matches(presented(found.data_set, ItemStatus.IN_PROGRESS))
    arrived = item({"ScheduledProcedureStepStatus": "ARRIVED"})
    assert finds(at(ScheduledProcedureStepStatus="ARRIVED"), arrived)


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "query",
    [
        at(ScheduledProcedureStepStartDate="tomorrow"),
        at(ScheduledProcedureStepStartDate="20260107-20260105"),
        at(ScheduledProcedureStepStartTime="22-06"),
        at(ScheduledProcedureStepStartDate="20260105-20260105", ScheduledProcedureStepStartTime="22-06"),
        at(ScheduledProcedureStepStartDate="20260105-x", ScheduledProcedureStepStartTime="06-22"),
        with_values({"ScheduledProcedureStepSequence": [{"Modality": "CT"}, {"Modality": "MR"}]}),
        keys(RequestedProcedureCodeSequence=[code("A", "a"), code("B", "b")]),
    ],
)
def test_refusals(query: Dataset) -> None:
    with pytest.raises(InvalidIdentifier) as caught:
        parsed(query)
    assert len(str(caught.value)) <= 64


def test_rubbish_is_refused() -> None:
    for data in (b"\x08\x00\x05\x00", b"\xff" * 40):
        with pytest.raises(InvalidIdentifier):
            parse_worklist(data, IMPLICIT)
    with pytest.raises(InvalidIdentifier, match="cannot be decoded"):
        parse_worklist(b"rubbish", DEFLATED)


# ------------------------------------------------------------------------------------ answers


def answer(query: Dataset, found: WorklistItem, transfer_syntax: str = EXPLICIT) -> Dataset:
    asked = parse_worklist(encoded(query, transfer_syntax), transfer_syntax)
    data = WorklistEncoder(asked, transfer_syntax).encode(presented(found.data_set, found.status))
    if transfer_syntax == DEFLATED:
        data = zlib.decompress(data, -zlib.MAX_WBITS)
    return read_dataset(BytesIO(data), transfer_syntax == IMPLICIT, transfer_syntax != BIG_ENDIAN)


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN])
def test_only_what_was_asked_for(transfer_syntax: str) -> None:
    found = answer(keys({"Modality": "", "ScheduledStationName": ""}, PatientAge=""), item(), transfer_syntax)
    assert [element.keyword for element in found] == [
        *("SpecificCharacterSet", "AccessionNumber", "PatientName", "PatientID", "PatientAge"),
        "ScheduledProcedureStepSequence",
    ]
    (step,) = found.ScheduledProcedureStepSequence
    assert [element.keyword for element in step] == ["Modality", "ScheduledStationName"]
    assert (step.Modality, step.ScheduledStationName, found.PatientAge) == ("CT", "CT ROOM", "")


@pytest.mark.parametrize("empty", [[], [{}]])
def test_sequences_are_returned_whole(empty: list[dict[str, str]]) -> None:
    query = with_values({"ScheduledProcedureStepSequence": empty, "RequestedProcedureCodeSequence": empty})
    found = answer(query, item())
    assert [each.CodeMeaning for each in found.RequestedProcedureCodeSequence] == ["CT thorax"]
    (step,) = found.ScheduledProcedureStepSequence
    assert {element.keyword for element in step} == {*STEP, "ScheduledProcedureStepStatus"}
    assert [each.CodeValue for each in step.ScheduledProtocolCodeSequence] == ["TX1", "TX2"]


def test_of_a_matched_sequence_the_items_that_match() -> None:
    query = at(ScheduledProtocolCodeSequence=[{"CodeValue": "TX2", "CodeMeaning": ""}])
    (step,) = answer(query, item()).ScheduledProcedureStepSequence
    (found,) = step.ScheduledProtocolCodeSequence
    assert (found.CodeValue, found.CodeMeaning, "CodingSchemeDesignator" in found) == ("TX2", "Thorax late", False)


@pytest.mark.parametrize(
    ("asked", "name", "answered"),
    [
        ("ISO_IR 100", "Müller^Anna", "ISO_IR 100"),
        ("ISO_IR 100", "山田^太郎", "ISO_IR 192"),
        ("\\ISO 2022 IR 87", "山田^太郎", ["", "ISO 2022 IR 87"]),
        (None, "Müller^Anna", "ISO_IR 192"),
        (None, "Doe^John", None),
        ("ISO_IR 192", "Doe^John", "ISO_IR 192"),
    ],
)
def test_character_sets(asked: str | None, name: str, answered: object) -> None:
    query = keys(**({"SpecificCharacterSet": asked} if asked else {}))
    found = answer(query, item(PatientName=name))
    assert found.get("SpecificCharacterSet") == answered
    assert found.PatientName == name


def test_unsupported_keys_are_named_and_left_out() -> None:
    query = keys(Rows=512, PatientAge="")
    query.add_new(0x00101234, "LO", "not in the dictionary")
    query.add_new(0x00091001, "LO", "private")
    assert parsed(query).unsupported == (0x00101234, 0x00280010)
    found = answer(query, item())
    assert {0x00101234, 0x00280010, 0x00091001}.isdisjoint(found.keys())
    assert finds(query, item())


def test_nothing_asked_for_is_nothing_returned() -> None:
    assert len(answer(Dataset(), item())) == 0


def test_time_zone_is_returned_if_there_is_one() -> None:
    query = keys(TimezoneOffsetFromUTC="")
    assert "TimezoneOffsetFromUTC" not in answer(query, item())
    assert answer(query, item(TimezoneOffsetFromUTC="+0100")).TimezoneOffsetFromUTC == "+0100"
