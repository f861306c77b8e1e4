"""Changes to attributes on the way out: what they do, what they leave behind, and what cannot be changed."""

from datetime import UTC, datetime

import pytest
from pydicom.dataset import Dataset

from pacs_server.dicom.tag_changes import Modifier, Operation, TagChange, change, mark, refuse_loop
from pacs_server.errors import InvalidRequest, TranscodeError

BY = Modifier("PACS", "a1b2", "1.0")
AT = datetime(2026, 3, 29, 1, 2, 3, 4, UTC)


def an_object() -> Dataset:
    ds = Dataset()
    ds.PatientID = "P1"
    ds.InstitutionName = "North Clinic"
    ds.OtherPatientIDs = ["A", "B"]
    ds.AccessionNumber = ""
    ds.StudyID = "S7"
    return ds


@pytest.mark.parametrize(
    ("made", "keyword", "expected"),
    [
        (TagChange(Operation.SET, "PatientComments", "sent on"), "PatientComments", "sent on"),
        (TagChange(Operation.SET, "OtherPatientIDs", "X\\Y"), "OtherPatientIDs", ["X", "Y"]),
        (TagChange(Operation.REMOVE, "InstitutionName"), "InstitutionName", None),
        (TagChange(Operation.REMOVE, "PatientComments"), "PatientComments", None),
        (TagChange(Operation.PREFIX, "PatientID", "N-"), "PatientID", "N-P1"),
        (TagChange(Operation.PREFIX, "OtherPatientIDs", "N-"), "OtherPatientIDs", ["N-A", "N-B"]),
        (TagChange(Operation.PREFIX, "AccessionNumber", "N-"), "AccessionNumber", ""),
        (TagChange(Operation.SUFFIX, "PatientID", "-N"), "PatientID", "P1-N"),
        (TagChange(Operation.REPLACE, "InstitutionName", "South", "North"), "InstitutionName", "South Clinic"),
        (TagChange(Operation.COPY, "AccessionNumber", "StudyID"), "AccessionNumber", "S7"),
        (TagChange(Operation.COPY, "AccessionNumber", "RequestedProcedureID"), "AccessionNumber", ""),
    ],
)
def test_each_operation_changes_its_attribute(made: TagChange, keyword: str, expected: object) -> None:
    made.check()
    ds = an_object()
    change(ds, [TagChange.of_json(made.as_json())], BY, AT)
    assert ds.get(keyword) == expected


def test_the_object_tells_what_it_was_and_who_changed_it() -> None:
    ds = an_object()
    change(ds, [TagChange(Operation.PREFIX, "PatientID", "N-"), TagChange(Operation.SET, "StudyID", "S7")], BY, AT)
    mark(ds, BY, AT, "rule north")
    (item,) = ds.OriginalAttributesSequence
    (before,) = item.ModifiedAttributesSequence
    # What stays the same was not modified.
    assert {element.keyword: element.value for element in before} == {"PatientID": "P1"}
    assert (item.ModifyingSystem, item.ReasonForTheAttributeModification) == ("PACS", "COERCE")
    assert str(item.AttributeModificationDateTime) == "20260329010203.000004+0000"
    (equipment,) = ds.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109103"
    assert (equipment.DeviceSerialNumber, equipment.ContributionDescription) == ("a1b2", "rule north")


def test_what_was_changed_here_is_not_changed_again() -> None:
    ds = an_object()
    refuse_loop(ds, BY.archive_id)
    mark(ds, Modifier("OTHER", "ffff", "1.0"), AT, "elsewhere")
    refuse_loop(ds, BY.archive_id)
    mark(ds, BY, AT, "here")
    with pytest.raises(TranscodeError, match="a loop"):
        refuse_loop(ds, BY.archive_id)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (TagChange(Operation.SET, "PatientNom", "x"), "no keyword of PS3.6"),
        (TagChange(Operation.SET, "SOPInstanceUID", "1.2"), "cannot be changed"),
        (TagChange(Operation.REMOVE, "Rows"), "cannot be changed"),
        (TagChange(Operation.REMOVE, "PixelData"), "cannot be changed"),
        (TagChange(Operation.REMOVE, "TransferSyntaxUID"), "cannot be changed"),
        (TagChange(Operation.COPY, "StudyID", "Nothing"), "no keyword"),
        (TagChange(Operation.PREFIX, "PregnancyStatus", "1"), "is no text"),
        (TagChange(Operation.SET, "PregnancyStatus", "1"), "which are no text"),
        (TagChange(Operation.REPLACE, "StudyID", "x"), "is empty"),
        (TagChange(Operation.SET, "StudyDate", "tomorrow"), "is no value for StudyDate"),
        (TagChange(Operation.SET, "PatientSex", "female"), "is no value for PatientSex"),
        (TagChange(Operation.SET, "AccessionNumber", "12345678901234567"), "is no value for AccessionNumber"),
    ],
)
def test_what_cannot_be_changed_is_refused_beforehand(wrong: TagChange, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        wrong.check()
