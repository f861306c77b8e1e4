"""Worklist items: one Scheduled Procedure Step each, with its procedure, request and patient (PS3.4 K.6.1.2.2).

An item is complete: every return key of type 1 in Table K.6-1 has a value. Values that an order lacks are generated
from the values that it has, so that the same order always gives the same items.
"""

import hashlib
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydicom.datadict import keyword_for_tag

from pacs_server.dicom.json_input import element_of_text
from pacs_server.dicom.json_model import SPECIFIC_CHARACTER_SET, DataSet, element_text, text_of
from pacs_server.dicom.matching import date_key, time_key
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import InvalidWorklistItem

SCHEDULED_PROCEDURE_STEP_SEQUENCE = "00400100"
SCHEDULED_PROCEDURE_STEP_STATUS = "00400020"
STUDY_INSTANCE_UID = "0020000D"

# The namespace of the name-based UUIDs in generated UIDs. It must never change.
_NAMESPACE = uuid.UUID("5d1b4a3e-7c55-4f0e-9d27-6a1f7f0c9b42")
# PS3.5 6.2: an AE title is 16 characters of the default repertoire.
_AE_TITLE = re.compile(r"[\x20-\x7e]{1,16}")
_CODE = re.compile(r"[A-Z0-9 _]{1,16}")
_SHORT_STRING = 16
# PS3.4 Table K.6-1: one of the two has to be present (return key type 1C).
_STEP_DESCRIPTION = ("00400007", "00400008")
_PROCEDURE_DESCRIPTION = ("00321060", "00321064")


class ItemStatus(StrEnum):
    """The status of a worklist item. A worklist query finds only items with the first two."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"
    CANCELLED = "CANCELLED"


SHOWN = (ItemStatus.SCHEDULED, ItemStatus.IN_PROGRESS)
"""The statuses of the items that a worklist query finds."""


@dataclass(frozen=True, slots=True)
class WorklistItem:
    """One scheduled procedure step; accession number, procedure id and step id together identify it.

    `data_set` is the whole item, with one item in Scheduled Procedure Step Sequence. `generated` tells that the Study
    Instance UID was generated here: if the index knows the procedure by another one, it keeps that.
    """

    accession_number: str
    requested_procedure_id: str
    scheduled_procedure_step_id: str
    study_instance_uid: str
    status: ItemStatus
    source: str
    data_set: DataSet
    generated: bool = False

    @property
    def identity(self) -> tuple[str, str, str]:
        """The identifiers that together are unique to the item."""
        return self.accession_number, self.requested_procedure_id, self.scheduled_procedure_step_id

    @property
    def step(self) -> DataSet:
        """The item of Scheduled Procedure Step Sequence."""
        step: DataSet = self.data_set[SCHEDULED_PROCEDURE_STEP_SEQUENCE]["Value"][0]
        return step


def items_of_order(order: DataSet, source: str) -> list[WorklistItem]:
    """The items of an order, one for each item of its Scheduled Procedure Step Sequence.

    Study Instance UID, Requested Procedure ID and Scheduled Procedure Step ID are generated if they are absent.
    Raises InvalidWorklistItem, which names the attribute that is missing or wrong.
    """
    whole = _normalised(order)
    steps = whole.pop(SCHEDULED_PROCEDURE_STEP_SEQUENCE, {}).get("Value", [])
    if not steps:
        raise InvalidWorklistItem("ScheduledProcedureStepSequence (0040,0100) is missing")
    _check_patient(whole)
    for step in steps:
        _check_step(step)
        _normalise_start(step)
        _fill_in_descriptions(whole, step)
    generated = _generate_identifiers(whole, steps)
    return [_item(whole, step, source, generated) for step in steps]


def _normalised(data_set: DataSet) -> dict[str, Any]:
    """A data set or item in the form in which worklist items are stored: in the order of its tags, names trimmed."""
    found: dict[str, Any] = {}
    for tag in sorted(data_set):
        element = data_set[tag]
        if element["vr"] == "SQ" and element.get("Value"):
            element = {"vr": "SQ", "Value": [_normalised(item) for item in element["Value"]]}
        elif element["vr"] == "PN":
            element = element_of_text("PN", element_text(element))
        # Text is Unicode here, so it has no Specific Character Set. Group lengths are retired.
        if tag != SPECIFIC_CHARACTER_SET and not tag.endswith("0000"):
            found[tag] = element
    return found


def _check_patient(whole: DataSet) -> None:
    # PS3.4 Table K.6-1: return keys of type 1.
    _required(whole, "00100010")
    _required(whole, "00100020")
    # Each has one value (PS3.6). With two of them, an item would be found under either.
    for tag in ("00100020", "00080050", "00401001"):
        _checked(whole, tag, _is_one_value, "has several values: a backslash separates them, leave it out")
    _checked(whole, STUDY_INSTANCE_UID, is_uid, "is not a UID")
    for tag in ("00080050", "00401001"):
        _checked(whole, tag, _is_short, "is longer than 16 characters")


def _check_step(step: DataSet) -> None:
    for tag in ("00400001", "00400002", "00400003", "00080060"):
        _required(step, tag)
    titles = text_of(step, "00400001").split("\\")
    if not all(_AE_TITLE.fullmatch(title) for title in titles):
        raise _wrong("00400001", "is not an AE title of at most 16 characters")
    _checked(step, "00400002", lambda text: bool(date_key(text)), "is not a date as YYYYMMDD")
    _checked(step, "00400003", lambda text: bool(time_key(text)), "is not a time as HHMMSS")
    _checked(step, "00080060", lambda text: _CODE.fullmatch(text) is not None, "is not a modality such as CT")
    _checked(step, "00400009", _is_short, "is longer than 16 characters")
    _checked(step, "00400009", _is_one_value, "has several values: a backslash separates them, leave it out")


def _normalise_start(step: dict[str, Any]) -> None:
    # PS3.5 6.2: YYYY.MM.DD and HH:MM:SS come from ACR-NEMA, and modalities do not have to understand them.
    step["00400002"] = {"vr": "DA", "Value": [date_key(text_of(step, "00400002"))]}
    step["00400003"] = {"vr": "TM", "Value": [text_of(step, "00400003").replace(":", "")]}


def _is_one_value(text: str) -> bool:
    return "\\" not in text


def _is_short(text: str) -> bool:
    return len(text) <= _SHORT_STRING


def _required(data_set: DataSet, tag: str) -> None:
    if not text_of(data_set, tag).strip("\\^="):
        raise _wrong(tag, "is missing")


def _checked(data_set: DataSet, tag: str, valid: Callable[[str], bool], fault: str) -> None:
    text = text_of(data_set, tag)
    if text and not valid(text):
        raise _wrong(tag, fault)


def _wrong(tag: str, fault: str) -> InvalidWorklistItem:
    return InvalidWorklistItem(f"{keyword_for_tag(int(tag, 16))} ({tag[:4]},{tag[4:]}) {fault}")


def _fill_in_descriptions(whole: dict[str, Any], step: dict[str, Any]) -> None:
    # PS3.4 Table K.6-1: step and procedure each need a description or a code (1C). If only one of the two has any, it
    # also describes the other.
    in_step, in_procedure = _description(step, *_STEP_DESCRIPTION), _description(whole, *_PROCEDURE_DESCRIPTION)
    if not in_step and not in_procedure:
        raise _wrong(_STEP_DESCRIPTION[0], "is missing")
    if not in_step:
        step[_STEP_DESCRIPTION[0]] = {"vr": "LO", "Value": [in_procedure]}
    if not in_procedure:
        whole[_PROCEDURE_DESCRIPTION[0]] = {"vr": "LO", "Value": [in_step]}


def _description(data_set: DataSet, text_tag: str, code_tag: str) -> str:
    codes = data_set.get(code_tag, {}).get("Value", [])
    meanings = (text_of(code, tag) for code in codes for tag in ("00080104", "00080100"))
    return text_of(data_set, text_tag) or next((meaning for meaning in meanings if meaning), "")


def _generate_identifiers(whole: dict[str, Any], steps: list[dict[str, Any]]) -> bool:
    """Generate the identifiers that are absent; returns whether Study Instance UID is one of them."""
    order = [text_of(whole, tag) for tag in ("00100020", "00100021", "00080050")]
    procedure = text_of(whole, "00401001")
    if not procedure:
        # An order without any number is identified by the station, start and modality of its first step.
        slot = [] if order[-1] else [text_of(steps[0], tag) for tag in ("00400001", "00400002", "00400003", "00080060")]
        procedure = _generated_id("RP", *order, *slot)
        whole["00401001"] = {"vr": "SH", "Value": [procedure]}
    for number, step in enumerate(steps, 1):
        if not text_of(step, "00400009"):
            step["00400009"] = {"vr": "SH", "Value": [_generated_id("SPS", *order, procedure, str(number))]}
    if len({text_of(step, "00400009") for step in steps}) < len(steps):
        raise _wrong("00400009", "is the same in two steps")
    if text_of(whole, STUDY_INSTANCE_UID):
        return False
    # PS3.5 B.2: a UID derived from a UUID.
    made = uuid.uuid5(_NAMESPACE, "\\".join((*order, procedure)))
    whole[STUDY_INSTANCE_UID] = {"vr": "UI", "Value": [f"2.25.{made.int}"]}
    return True


def _generated_id(prefix: str, *parts: str) -> str:
    """An identifier of 15 characters at most; the same parts always give the same identifier."""
    return prefix + hashlib.sha256("\\".join(parts).encode()).hexdigest()[:12].upper()


def _item(whole: DataSet, step: DataSet, source: str, generated: bool) -> WorklistItem:
    data_set = {**whole, SCHEDULED_PROCEDURE_STEP_SEQUENCE: {"vr": "SQ", "Value": [step]}}
    return WorklistItem(
        accession_number=text_of(whole, "00080050"),
        requested_procedure_id=text_of(whole, "00401001"),
        scheduled_procedure_step_id=text_of(step, "00400009"),
        study_instance_uid=text_of(whole, STUDY_INSTANCE_UID),
        status=ItemStatus.SCHEDULED,
        source=source,
        data_set=dict(sorted(data_set.items())),
        generated=generated,
    )
