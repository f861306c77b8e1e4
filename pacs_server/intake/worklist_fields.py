"""Worklist items from texts as people write them: the columns of a CSV file and the options of `worklist add`."""

from collections.abc import Mapping
from datetime import date as Date
from typing import Any, Final

from pydicom import config as pydicom_config
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement

from pacs_server.dicom.json_input import element_of_text
from pacs_server.dicom.vr import dictionary_vr
from pacs_server.dicom.worklist import SCHEDULED_PROCEDURE_STEP_SEQUENCE
from pacs_server.errors import InvalidWorklistItem
from pacs_server.kit.dates import DATE_FORMATS, TIME_FORMATS, clock_time_of, day_of

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

# PS3.5 6.2, in words.
_EXPECTED: Final = {
    "DA": f"a date such as {DATE_FORMATS}",
    "TM": f"a time such as {TIME_FORMATS}",
    "PN": "a name such as Family^Given, of at most 64 characters",
    "SQ": "a code such as value^scheme^meaning",
    "UI": "a UID: digits and points, at most 64",
    "AE": "an AE title: at most 16 characters of ASCII, no backslash",
    "CS": "at most 16 capital letters, digits, blanks and underscores",
    "SH": "at most 16 characters",
    "LO": "at most 64 characters",
    "DS": "a number such as 72.5",
    "US": "a whole number from 0 to 65535",
}
_EXPECTED_OF: Final = {
    "PatientSex": "M, F or O",
    "RequestedProcedurePriority": "STAT, HIGH, ROUTINE, MEDIUM or LOW",
    "Modality": "a modality such as CT or MR",
}


def order_of_fields(values: Mapping[str, str], where: str) -> dict[str, Any]:
    """An order in the DICOM JSON Model from the texts of `FIELDS`; empty ones are left out.

    Dates and times may be written in all the ways of `kit.dates` but for words such as `today`; codes are
    value^scheme^meaning. Raises InvalidWorklistItem, which begins with `where`, names the field and says what it takes.
    """
    root: dict[str, Any] = {}
    step: dict[str, Any] = {}
    for keyword, text in values.items():
        if not text.strip():
            continue
        try:
            element = element_of_field(keyword, text)
        except ValueError:
            raise InvalidWorklistItem(f"{where}: {keyword} has to be {expected(keyword)}") from None
        (step if keyword in STEP_FIELDS else root)[field_tag(keyword)] = element
    root[SCHEDULED_PROCEDURE_STEP_SEQUENCE] = {"vr": "SQ", "Value": [step]}
    return root


def set_field(
    order: dict[str, Any], step: dict[str, Any], keyword: str, text: str, *, today: Date | None = None
) -> None:
    """Give a field of an order, or of its step, another text; an empty one takes it away. Raises ValueError."""
    target = step if keyword in STEP_FIELDS else order
    element = element_of_field(keyword, text, today=today) if text.strip() else None
    target.pop(field_tag(keyword), None)
    if element is not None:
        target[field_tag(keyword)] = element


def field_tag(keyword: str) -> str:
    """The tag of a field as in the DICOM JSON Model."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is no attribute")
    return f"{tag:08X}"


def element_of_field(keyword: str, text: str, *, today: Date | None = None) -> dict[str, Any]:
    """An attribute from text as people write it; raises ValueError.

    With `today`, a date may also be a word such as `today`. That is not for files, which may be read on another day.
    """
    tag, text = field_tag(keyword), text.strip()
    vr = dictionary_vr(int(tag, 16))
    if not text.isprintable():
        raise ValueError("control characters")
    if vr == "SQ":
        return {"vr": "SQ", "Value": [_code(text)]}
    if vr == "DA":
        text = day_of(text, today=today).strftime("%Y%m%d")
    elif vr == "TM":
        text = clock_time_of(text)
    try:
        # pydicom judges values by the rules of their VR.
        value = int(text) if vr == "US" else text
        DataElement(int(tag, 16), vr, value, validation_mode=pydicom_config.RAISE)
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    return {"vr": vr, "Value": [value]} if isinstance(value, int) else element_of_text(vr, value)


def expected(keyword: str) -> str:
    """What a field takes, in words for people, such as "a time such as 9:30 or 0930"."""
    vr = dictionary_vr(int(field_tag(keyword), 16))
    return _EXPECTED_OF.get(keyword) or _EXPECTED.get(vr, "printable text")


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
