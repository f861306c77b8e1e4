"""The form of an order: its fields, how they are shown, and what people have typed as DICOM wants it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.vr import dictionary_vr
from pacs_server.dicom.worklist import SCHEDULED_PROCEDURE_STEP_SEQUENCE
from pacs_server.intake.worklist_fields import STEP_FIELDS, element_of_field, expected, field_tag, set_field
from pacs_server.web.pages.languages import marked


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field of the form: its label, what to write, and what there is to choose from; the browser knows its kind."""

    keyword: str
    label: str
    hint: str = ""
    kind: str = "text"
    choices: tuple[tuple[str, str], ...] = ()
    suggestions: tuple[str, ...] = ()
    needed: bool = False
    fixed: bool = False
    """It says which item it is, so it cannot be changed."""


_NAME: Final = marked("such as Miller, Anna")
_MADE: Final = marked("assigned automatically if left empty")
_SEXES: Final = (("F", marked("female")), ("M", marked("male")), ("O", marked("other sex")))
# PS3.3 C.4.11: Requested Procedure Priority.
_PRIORITIES: Final = (
    ("STAT", marked("at once (STAT)")), ("HIGH", marked("high")), ("ROUTINE", marked("routine")),
    ("MEDIUM", marked("medium")), ("LOW", marked("low")),
)  # fmt: skip
_MODALITIES: Final = ("CR", "CT", "DX", "ECG", "ES", "IO", "MG", "MR", "NM", "OT", "PT", "PX", "RF", "US", "XA", "XC")

GROUPS: Final = (
    (marked("Patient"), (
        Field(keyword="PatientName", label=marked("Patient's name"), hint=_NAME, needed=True),
        Field(keyword="PatientID", label=marked("Patient ID"), needed=True),
        Field(keyword="PatientBirthDate", label=marked("Date of birth"), kind="date"),
        Field(keyword="PatientSex", label=marked("Sex"), choices=_SEXES),
    )),
    (marked("Examination"), (
        Field(keyword="RequestedProcedureDescription", label=marked("Procedure"),
              hint=marked("required here or as the procedure step")),
        Field(keyword="AccessionNumber", label=marked("Accession number"), fixed=True),
        Field(keyword="RequestedProcedurePriority", label=marked("Priority"), choices=_PRIORITIES),
        Field(keyword="ReferringPhysicianName", label=marked("Referring physician"), hint=_NAME),
        Field(keyword="RequestedProcedureID", label=marked("Procedure ID"), hint=_MADE, fixed=True),
    )),
    (marked("When and where"), (
        Field(keyword="ScheduledProcedureStepStartDate", label=marked("Day"), kind="date", needed=True),
        Field(keyword="ScheduledProcedureStepStartTime", label=marked("Time"), kind="time", needed=True),
        Field(keyword="Modality", label=marked("Modality"), hint=marked("such as CT or MR"), suggestions=_MODALITIES,
              needed=True),
        Field(keyword="ScheduledStationAETitle", label=marked("AE title of the station"), needed=True),
        Field(keyword="ScheduledProcedureStepDescription", label=marked("Procedure step"),
              hint=marked("same as the procedure if left empty")),
        Field(keyword="ScheduledProcedureStepID", label=marked("Step ID"), hint=_MADE, fixed=True),
    )),
)  # fmt: skip
"""The fields of an order that the form has, in groups."""
FIELDS: Final = {field.keyword: field for _, fields in GROUPS for field in fields}


def texts(data_set: Mapping[str, Any]) -> dict[str, str]:
    """The fields of an item as DICOM has them."""
    step = step_of(data_set)
    return {keyword: text_of(step if keyword in STEP_FIELDS else data_set, field_tag(keyword)) for keyword in FIELDS}


def shown(data_set: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the form for an item."""
    return {keyword: _shown(keyword, text) for keyword, text in texts(data_set).items()}


def typed(form: Mapping[str, str]) -> dict[str, str]:
    """What somebody has typed, as DICOM wants it where there is no doubt what is meant."""
    return {keyword: _typed(keyword, form.get(keyword, "").strip()) for keyword in FIELDS}


def problems(values: Mapping[str, str]) -> dict[str, str]:
    """What each field that is wrong has to be, in English; all of them, so that nobody has to try again and again."""
    found = {}
    for keyword, text in values.items():
        try:
            if text:
                element_of_field(keyword, text)
        except ValueError:
            found[keyword] = expected(keyword)
    return found


def changed(data_set: dict[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """An item with the fields in which the form shows something else now; all other attributes stay as they are."""
    order, step, before = dict(data_set), dict(step_of(data_set)), shown(data_set)
    for keyword, text in values.items():
        if not FIELDS[keyword].fixed and text != _typed(keyword, before[keyword]):
            set_field(order, step, keyword, text)
    return order | {SCHEDULED_PROCEDURE_STEP_SEQUENCE: {"vr": "SQ", "Value": [step]}}


def step_of(data_set: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduled procedure step of an item."""
    step: dict[str, Any] = data_set[SCHEDULED_PROCEDURE_STEP_SEQUENCE]["Value"][0]
    return step


def _typed(keyword: str, text: str) -> str:
    vr = _vr(keyword)
    # PS3.5 6.2.1: ^ is between the parts of a name. People write a comma, which would be a part of the family name.
    if vr == "PN" and "^" not in text and text.count(",") == 1:
        return "^".join(part.strip() for part in text.split(",")).rstrip("^")
    return text.upper() if vr == "CS" else text


def _shown(keyword: str, text: str) -> str:
    vr = _vr(keyword)
    if vr == "PN" and text.count("^") == 1 and not {"=", ","} & set(text):
        return ", ".join(filter(None, text.split("^")))
    # What browsers take for the fields of dates and times.
    if vr == "DA" and len(text) == 8:
        return f"{text[:4]}-{text[4:6]}-{text[6:]}"
    if vr == "TM" and text[:2].isdecimal():
        return ":".join(filter(None, (text[:2], text[2:4] or "00", text[4:6])))
    return text


def _vr(keyword: str) -> str:
    return dictionary_vr(int(field_tag(keyword), 16))
