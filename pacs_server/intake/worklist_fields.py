"""Worklist items from texts as people write them: the columns of a CSV file and the options of `worklist add`."""

import re
from collections.abc import Callable, Mapping
from datetime import date as Date
from typing import Any, Final

from pydicom import config as pydicom_config
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement

from pacs_server.dicom.json_input import element_of_text
from pacs_server.dicom.vr import dictionary_vr
from pacs_server.dicom.worklist import SCHEDULED_PROCEDURE_STEP_SEQUENCE
from pacs_server.errors import InvalidWorklistItem

ROOT_FIELDS: Final = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientWeight"),
    *("PatientSize", "PregnancyStatus", "MedicalAlerts", "Allergies", "AccessionNumber", "StudyInstanceUID"),
    *("ReferringPhysicianName", "RequestingPhysician", "RequestingService", "RequestedProcedureID"),
    *("RequestedProcedureDescription", "RequestedProcedureCodeSequence", "RequestedProcedurePriority"),
    *("PatientTransportArrangements", "AdmissionID", "CurrentPatientLocation", "PatientState"),
)
STEP_FIELDS: Final = (
    *("Modality", "ScheduledStationAETitle", "ScheduledStationName", "ScheduledProcedureStepStartDate"),
    *("ScheduledProcedureStepStartTime", "ScheduledPerformingPhysicianName", "ScheduledProcedureStepID"),
    *("ScheduledProcedureStepDescription", "ScheduledProtocolCodeSequence", "ScheduledProcedureStepLocation"),
    *("PreMedication", "RequestedContrastAgent"),
)
FIELDS: Final = ROOT_FIELDS + STEP_FIELDS
"""The keywords that have a column; those of `STEP_FIELDS` belong to the Scheduled Procedure Step."""


def order_of_fields(values: Mapping[str, str], where: str) -> dict[str, Any]:
    """An order in the DICOM JSON Model from the texts of `FIELDS`; empty ones are left out.

    Dates may be YYYY-MM-DD, times HH:MM or HH:MM:SS, codes are value^scheme^meaning. Raises
    InvalidWorklistItem, which begins with `where` and names the field.
    """
    root: dict[str, Any] = {}
    step: dict[str, Any] = {}
    for keyword, text in values.items():
        if not text.strip():
            continue
        try:
            element = element_of_field(keyword, text)
        except (ValueError, TypeError, OverflowError):
            raise InvalidWorklistItem(f"{where}: {keyword} has a value that it may not have") from None
        (step if keyword in STEP_FIELDS else root)[field_tag(keyword)] = element
    root[SCHEDULED_PROCEDURE_STEP_SEQUENCE] = {"vr": "SQ", "Value": [step]}
    return root


def field_tag(keyword: str) -> str:
    """The tag of a field as in the DICOM JSON Model."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is no attribute")
    return f"{tag:08X}"


def element_of_field(keyword: str, text: str) -> dict[str, Any]:
    """An attribute from text as people write it; raises ValueError."""
    tag, text = field_tag(keyword), text.strip()
    vr = dictionary_vr(int(tag, 16))
    if not text.isprintable():
        raise ValueError("control characters")
    if vr == "SQ":
        return {"vr": "SQ", "Value": [_code(text)]}
    text = _AS_DICOM.get(vr, str)(text)
    # pydicom judges values by the rules of their VR, and raises ValueError.
    value = int(text) if vr == "US" else text
    DataElement(int(tag, 16), vr, value, validation_mode=pydicom_config.RAISE)
    return {"vr": vr, "Value": [value]} if isinstance(value, int) else element_of_text(vr, value)


def _date(text: str) -> str:
    found = re.fullmatch(r"(\d{4})-?(\d\d)-?(\d\d)", text, re.ASCII)
    if found is None:
        raise ValueError("not a date")
    year, month, day = found.groups()
    return Date(int(year), int(month), int(day)).strftime("%Y%m%d")


def _time(text: str) -> str:
    found = re.fullmatch(r"([01]\d|2[0-3]):?([0-5]\d)(?::?([0-5]\d))?", text, re.ASCII)
    if found is None:
        raise ValueError("not a time")
    return "".join(filter(None, found.groups()))


def _code(text: str) -> dict[str, Any]:
    value, scheme, meaning = (part.strip() for part in text.split("^"))
    if not (value and scheme and meaning):
        raise ValueError("not a code")
    parts = {
        "CodeValue" if len(value) <= 16 else "LongCodeValue": value,
        "CodingSchemeDesignator": scheme,
        "CodeMeaning": meaning,
    }
    return {field_tag(keyword): element_of_field(keyword, part) for keyword, part in parts.items()}


_AS_DICOM: Final[Mapping[str, Callable[[str], str]]] = {"DA": _date, "TM": _time}
