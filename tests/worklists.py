"""Worklist items and queries for tests."""

import base64
from typing import Any

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from pacs_server.dicom.worklist import WorklistItem, items_of_order

MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"


def with_values(values: dict[str, Any]) -> Dataset:
    """A data set of keywords, values not judged; a list of dicts is a sequence."""
    ds = Dataset()
    for keyword, value in values.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        vr = dictionary_VR(tag)
        given = Sequence(map(with_values, value)) if vr == "SQ" else value
        ds.add(DataElement(tag, vr, given, validation_mode=IGNORE))
    return ds


def json_of(ds: Dataset) -> dict[str, Any]:
    """A data set as pydicom has it in the DICOM JSON Model, numbers in strings as they are, text in Unicode."""
    return {
        f"{int(element.tag):08X}": _json_element(element)
        for element in ds
        if element.tag != 0x00080005 and element.tag.element
    }


def _json_element(element: DataElement) -> dict[str, Any]:
    vr, value = str(element.VR), element.value
    if vr in ("OB", "OD", "OF", "OL", "OV", "OW", "UN"):
        raw = bytes(value or b"")
        return {"vr": vr, "InlineBinary": base64.b64encode(raw).decode("ascii")} if raw else {"vr": vr}
    if element.is_empty:
        return {"vr": vr}
    if vr == "SQ":
        return {"vr": vr, "Value": [json_of(item) for item in value]}
    values = value if isinstance(value, MultiValue) else [value]
    found = [_json_value(each, vr) for each in values]
    return {"vr": vr, "Value": found} if any(each is not None for each in found) else {"vr": vr}


def _json_value(value: Any, vr: str) -> Any:
    if vr in ("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"):
        return float(value) if vr in ("FD", "FL") else int(value)
    if vr == "AT":
        return f"{int(value):08X}"
    # Leading blanks mean something in long texts only.
    text = str(value)
    text = text.rstrip() if vr in ("LT", "ST", "UR", "UT") else text.strip()
    if vr == "PN":
        groups = zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False)
        return {name: group.strip() for name, group in groups if group.strip()} or None
    return text or None


def code(value: str, meaning: str) -> dict[str, str]:
    return {"CodeValue": value, "CodingSchemeDesignator": "99LOCAL", "CodeMeaning": meaning}


STEP: dict[str, Any] = {
    "ScheduledStationAETitle": "CT1",
    "ScheduledProcedureStepStartDate": "20260105",
    "ScheduledProcedureStepStartTime": "093000",
    "Modality": "CT",
    "ScheduledPerformingPhysicianName": "Curie^Marie",
    "ScheduledProcedureStepDescription": "Thorax native",
    "ScheduledProtocolCodeSequence": [code("TX1", "Thorax"), code("TX2", "Thorax late")],
    "ScheduledProcedureStepID": "SPS1",
    "ScheduledStationName": "CT ROOM",
    "ScheduledProcedureStepLocation": "B1",
}
ORDER: dict[str, Any] = {
    "SpecificCharacterSet": "ISO_IR 192",
    "AccessionNumber": "A1",
    "ReferringPhysicianName": "Semmelweis^Ignaz",
    "PatientName": "M\u00fcller^Anna",
    "PatientID": "P1",
    "PatientBirthDate": "19700101",
    "PatientSex": "F",
    "PatientWeight": "70.50",
    "StudyInstanceUID": "1.2.3.1",
    "RequestedProcedureID": "RP1",
    "RequestedProcedureDescription": "CT thorax",
    "RequestedProcedureCodeSequence": [code("CTT", "CT thorax")],
    "CurrentPatientLocation": "Ward 3",
}


def item_dataset(step: dict[str, Any] | None = None, **order: Any) -> Dataset:
    """A worklist item as a data set; what is given replaces the defaults, None removes them."""
    steps = [{key: value for key, value in (STEP | (step or {})).items() if value is not None}]
    values = ORDER | {"ScheduledProcedureStepSequence": steps} | order
    return with_values({key: value for key, value in values.items() if value is not None})


def item(step: dict[str, Any] | None = None, **order: Any) -> WorklistItem:
    """A worklist item with defaults."""
    (found,) = items_of_order(json_of(item_dataset(step, **order)), "test")
    return found


def numbered(number: int, step: dict[str, Any] | None = None, **order: Any) -> WorklistItem:
    """An item of its own identity."""
    own = {"AccessionNumber": f"A{number}", "StudyInstanceUID": f"1.2.3.{number}", "PatientID": f"P{number}"}
    return item({"ScheduledProcedureStepID": f"SPS{number}"} | (step or {}), **(own | order))


def keys(step: dict[str, Any] | None = None, **top: Any) -> Dataset:
    """A worklist query: keys of the step, and others."""
    values: dict[str, Any] = {"PatientName": "", "PatientID": "", "AccessionNumber": ""}
    return with_values(values | {"ScheduledProcedureStepSequence": [step or {}]} | top)
