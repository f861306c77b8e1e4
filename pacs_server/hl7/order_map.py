"""**The** map from HL7 orders (ORM^O01, OMI^O23) to the worklist: which field gives which attribute.

The map follows IHE RAD TF-2 Appendix B, plus the fields in which systems without IHE send the same values.
docs/workflow.md shows the tables below, and a test compares the two.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import Any, Final

from pydicom.datadict import tag_for_keyword

from pacs_server.dicom.json_input import element_of_text
from pacs_server.dicom.vr import dictionary_vr
from pacs_server.dicom.worklist import SCHEDULED_PROCEDURE_STEP_SEQUENCE, WorklistItem, items_of_order
from pacs_server.errors import InvalidWorklistItem
from pacs_server.hl7.message import ErrorCondition, HL7Message, InvalidMessage, Segment, check_version

# An order or a step in the making, in the DICOM JSON Model.
_Attributes = dict[str, Any]

KINDS: Final = ("ORM^O01", "OMI^O23")

# The first place that holds something counts; SEG-field.component.
PLACES: Final[Mapping[str, str]] = {
    "PatientID": "PID-3.1",
    "IssuerOfPatientID": "PID-3.4",
    "AccessionNumber": "IPC-1 OBR-18 ORC-3 OBR-3 ORC-2 OBR-2",
    "StudyInstanceUID": "IPC-3 ZDS-1",
    "RequestedProcedureID": "IPC-2 OBR-19",
    "RequestedProcedureDescription": "OBR-44.2 OBR-44.5 OBR-4.2 OBR-4.5",
    "ReasonForTheRequestedProcedure": "OBR-31.2 OBR-31",
    "PatientTransportArrangements": "OBR-30",
    "RequestingService": "ORC-17.2 ORC-17",
    "PlacerOrderNumberImagingServiceRequest": "ORC-2 OBR-2",
    "FillerOrderNumberImagingServiceRequest": "ORC-3 OBR-3",
    "AdmissionID": "PV1-19",
    "CurrentPatientLocation": "PV1-3",
    "PatientState": "OBR-12.2 OBR-12",
    "Allergies": "AL1-3.2 AL1-3",
}
STEP_PLACES: Final[Mapping[str, str]] = {
    "ScheduledProcedureStepID": "IPC-4 OBR-20",
    "ScheduledProcedureStepDescription": "IPC-6.2 OBR-4.5 OBR-4.2",
    "ScheduledStationAETitle": "IPC-9 OBR-21 ORC-18",
    "ScheduledStationName": "IPC-7",
    "ScheduledProcedureStepLocation": "IPC-8",
    "Modality": "IPC-5 OBR-24",
}
NAMES: Final[Mapping[str, str]] = {"ReferringPhysicianName": "PV1-8", "RequestingPhysician": "OBR-16"}
CODES: Final[Mapping[str, str]] = {"RequestedProcedureCodeSequence": "OBR-44.1 OBR-4.1"}
STEP_CODES: Final[Mapping[str, str]] = {"ScheduledProtocolCodeSequence": "IPC-6.1 OBR-4.4"}
START: Final = "OBR-36 TQ1-7 ORC-7.4 OBR-27.4"
PRIORITY: Final = "TQ1-9 ORC-7.6 OBR-27.6"

# HL7 table 0001 in the words of Patient's Sex; what DICOM has no word for stays empty.
_SEXES: Final = {"M": "M", "F": "F", "O": "O", "A": "O", "N": "O"}
# IHE RAD TF-2 Table B-1.
_PRIORITIES: Final = {"S": "STAT", "A": "HIGH", "P": "HIGH", "C": "HIGH", "R": "ROUTINE", "T": "MEDIUM"}
_LIMITS: Final = {"SH": 16, "LO": 64, "ST": 1024, "LT": 10240, "PN": 64}
# Shortened, these would name something else; descriptions may be cut.
_IDENTIFYING: Final = frozenset(
    {"PatientID", "IssuerOfPatientID", "AccessionNumber", "RequestedProcedureID", "ScheduledProcedureStepID"}
)
_TIMESTAMP: Final = re.compile(r"([0-9]{8})([0-9]{2}(?:[0-9]{2}(?:[0-9]{2}(?:\.[0-9]{1,6})?)?)?)?(?:[+-][0-9]{4})?")
_GROUPED: Final = frozenset({"OBR", "TQ1", "IPC", "ZDS"})


class OrderAction(StrEnum):
    """What an order does to the worklist."""

    PUT = "put"
    CANCEL = "cancel"


ACTIONS: Final[Mapping[str, OrderAction]] = {
    **dict.fromkeys(("NW", "SC", "XO", "SN", "RP"), OrderAction.PUT),
    **dict.fromkeys(("CA", "OC", "DC"), OrderAction.CANCEL),
}


@dataclass(frozen=True, slots=True)
class CancellationKey:
    """The items that a cancellation is for: those of the accession number, and of the ids that are given."""

    accession_number: str
    requested_procedure_id: str
    scheduled_procedure_step_id: str


@dataclass(frozen=True, slots=True)
class Order:
    """What a message asks for: items to be put, or keys of items to be cancelled."""

    action: OrderAction
    items: Sequence[WorklistItem] = ()
    keys: Sequence[CancellationKey] = ()


@dataclass(slots=True)
class _Group:
    """One order of a message: its segments, by name."""

    message: HL7Message
    segments: dict[str, list[Segment]] = field(default_factory=dict)

    def first(self, name: str) -> Segment:
        found = self.segments.get(name)
        # IHE RAD TF-2 4.4: one ZDS stands for all orders of an ORM.
        return found[0] if found else self.message.first(name) if name not in _OWN else self.message.empty(name)

    def with_ipc(self, segment: Segment) -> "_Group":
        return _Group(self.message, {**self.segments, "IPC": [segment]})

    def get(self, places: str) -> str:
        """The first text that one of the places holds."""
        for place in places.split():
            name, _, path = place.partition("-")
            number, _, component = path.partition(".")
            if text := self.first(name).get(int(number), int(component or 1)):
                return text
        return ""

    def where(self, places: str) -> tuple[Segment, int, int] | None:
        """The first place that holds something, with its segment, field and component."""
        for place in places.split():
            name, _, path = place.partition("-")
            number, _, component = path.partition(".")
            if self.get(place):
                return self.first(name), int(number), int(component or 1)
        return None


_OWN: Final = _GROUPED - {"ZDS"} | {"ORC"}


def order_of(message: HL7Message) -> Order:
    """What the message asks for; raises InvalidMessage or InvalidWorklistItem, which name what is missing."""
    check_version(message)
    if message.kind not in KINDS:
        raise InvalidMessage("MSH-9: only ORM^O01 and OMI^O23 are supported", ErrorCondition.UNSUPPORTED_TYPE)
    if not message.control_id:
        raise InvalidMessage("MSH-10: the message control id is missing")
    if sum(segment.name == "PID" for segment in message.segments) != 1:
        raise InvalidMessage("PID: there must be one", ErrorCondition.SEGMENT_SEQUENCE)
    groups = _groups(message)
    action = _action(groups)
    if action is OrderAction.CANCEL:
        return Order(action, keys=[_key(group) for group in groups])
    items = [item for group in groups for order in _orders(group) for item in items_of_order(order, "hl7")]
    if len({item.identity for item in items}) < len(items):
        raise InvalidWorklistItem("two steps of the message have the same identifiers")
    return Order(action, items)


def _groups(message: HL7Message) -> list[_Group]:
    groups: list[_Group] = []
    for segment in message.segments:
        if segment.name == "ORC" or (segment.name == "OBR" and (not groups or "OBR" in groups[-1].segments)):
            groups.append(_Group(message))
        if segment.name == "ORC" or (segment.name in _GROUPED and groups):
            groups[-1].segments.setdefault(segment.name, []).append(segment)
    if not groups:
        raise InvalidMessage("ORC: there is no order", ErrorCondition.SEGMENT_SEQUENCE)
    return groups


def _action(groups: Sequence[_Group]) -> OrderAction:
    found = {_action_of(group) for group in groups}
    if len(found) > 1:
        # One message is taken whole or not at all, and these are two different things.
        raise InvalidMessage("ORC-1: orders and cancellations in one message", ErrorCondition.TABLE_VALUE)
    return found.pop()


def _action_of(group: _Group) -> OrderAction:
    control = group.first("ORC").get(1)
    if not control:
        raise InvalidMessage("ORC-1: the order control is missing")
    if control not in ACTIONS:
        raise InvalidMessage("ORC-1: this order control is not supported", ErrorCondition.TABLE_VALUE)
    # HL7 table 0038: a status change may say that the order was called off.
    if control == "SC" and group.first("ORC").get(5) in ("CA", "DC"):
        return OrderAction.CANCEL
    return ACTIONS[control]


def _key(group: _Group) -> CancellationKey:
    accession = _accession_number(group)
    # Several IPC are several steps of one procedure; a cancellation of one of them names no other.
    several = len(group.segments.get("IPC", ())) > 1
    step = "" if several else group.get(STEP_PLACES["ScheduledProcedureStepID"])
    return CancellationKey(accession, group.get(PLACES["RequestedProcedureID"]), step)


def _accession_number(group: _Group) -> str:
    number = _clean(group.get(PLACES["AccessionNumber"]))
    if not number:
        raise InvalidMessage("OBR-18 or ORC-3: there is no accession number")
    return number


# ------------------------------------------------------------------------------------ attributes


def _orders(group: _Group) -> Iterator[_Attributes]:
    """One data set for each procedure of an order, with the steps that its IPC segments describe."""
    steps = [group.with_ipc(ipc) for ipc in group.segments.get("IPC", ())] or [group]
    for _, of_procedure in groupby(steps, lambda step: [step.get(place) for place in ("IPC-1", "IPC-2", "IPC-3")]):
        first, *others = of_procedure
        procedure = _procedure(first)
        procedure[SCHEDULED_PROCEDURE_STEP_SEQUENCE] = {"vr": "SQ", "Value": [_step(one) for one in (first, *others)]}
        yield procedure


def _procedure(group: _Group) -> _Attributes:
    ds: _Attributes = {}
    _accession_number(group)
    for keyword, places in PLACES.items():
        _set(ds, keyword, group.get(places))
    for keyword, place in NAMES.items():
        segment, number = group.first(place[:3]), int(place[4:])
        _set(ds, keyword, _person(segment, next(iter(segment.repetitions(number)), ""), 2))
    for keyword, places in CODES.items():
        _set_code(ds, keyword, group, places)
    _set(ds, "RequestedProcedurePriority", _PRIORITIES.get(group.get(PRIORITY)[:1], ""))
    _set_patient(ds, group)
    return ds


def _step(group: _Group) -> _Attributes:
    ds: _Attributes = {}
    for keyword, places in STEP_PLACES.items():
        _set(ds, keyword, group.get(places))
    for keyword, places in STEP_CODES.items():
        _set_code(ds, keyword, group, places)
    # A name within a component: its parts are subcomponents.
    technician = [re.sub(r"[\^=]", " ", group.first("OBR").get(34, 1, part)) for part in (2, 3)]
    _set(ds, "ScheduledPerformingPhysicianName", "^".join(technician).rstrip("^"))
    _set_start(ds, group)
    return ds


def _set_patient(ds: _Attributes, group: _Group) -> None:
    pid = group.first("PID")
    groups = {"A": "", "I": "", "P": ""}
    for repetition in pid.repetitions(5):
        # HL7 table 4000: alphabetic, ideographic, phonetic, as the component groups of PN (PS3.5 6.2.1.1).
        representation = pid.part(repetition, 8) or "A"
        if not groups.get(representation, "known"):
            groups[representation] = _person(pid, repetition, 1)
    _set(ds, "PatientName", "=".join(groups.values()).rstrip("="))
    birth = pid.get(7)[:8]
    _set(ds, "PatientBirthDate", birth if re.fullmatch("[0-9]{8}", birth) else "")
    _set(ds, "PatientSex", _SEXES.get(pid.get(8).upper(), ""))
    # HL7 table 0009: B6 is pregnant; 3 is definitely pregnant (PS3.3 C.2.3).
    pregnant = "B6" in [group.first("PV1").part(one, 1) for one in group.first("PV1").repetitions(15)]
    if pregnant:
        ds[_tag("PregnancyStatus")] = {"vr": "US", "Value": [3]}


def _person(segment: Segment, repetition: str, first: int) -> str:
    """A name as PN: HL7 has the suffix before the prefix, PS3.5 6.2.1.2 behind it."""
    family, given, middle, suffix, prefix = (
        re.sub(r"[\^=]", " ", segment.part(repetition, first + offset)) for offset in range(5)
    )
    return "^".join((family, given, middle, prefix, suffix)).rstrip("^")


def _set_start(step: _Attributes, group: _Group) -> None:
    text = group.get(START)
    if not text:
        raise InvalidMessage(f"{START.replace(' ', ' or ')}: there is no start date")
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        raise InvalidMessage(f"{START.replace(' ', ' or ')}: this is no date and time", ErrorCondition.DATA_TYPE)
    _set(step, "ScheduledProcedureStepStartDate", found[1])
    # PS3.4 Table K.6-1 wants a time; an order for a day is due from its beginning.
    _set(step, "ScheduledProcedureStepStartTime", found[2] or "0000")


def _set_code(ds: _Attributes, keyword: str, group: _Group, places: str) -> None:
    place = group.where(places)
    if place is None:
        return
    segment, number, component = place
    value, meaning, scheme = (segment.get(number, component + offset) for offset in range(3))
    code: _Attributes = {}
    # PS3.3 8.1: what is too long for Code Value stands in Long Code Value.
    _set(code, "CodeValue" if len(value) <= 16 else "LongCodeValue", value)
    # HL7 table 0396: L is a local scheme, which is what a code without a scheme comes from.
    _set(code, "CodingSchemeDesignator", scheme or "L")
    _set(code, "CodeMeaning", meaning or value)
    ds[_tag(keyword)] = {"vr": "SQ", "Value": [code]}


def _clean(text: str) -> str:
    """`text` as one value: no control characters, and no backslash, which separates values (PS3.5 6.1.3)."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text.replace("\\", "/")).strip()


def _set(ds: _Attributes, keyword: str, text: str) -> None:
    tag = _tag(keyword)
    vr = dictionary_vr(int(tag, 16))
    value = _clean(text)
    limit = _LIMITS.get(vr, len(value))
    if vr == "PN":
        # PS3.5 6.2: 64 characters for each component group.
        value = "=".join(group[:limit].strip() for group in value.split("="))
    elif len(value) > limit:
        if keyword in _IDENTIFYING:
            raise InvalidWorklistItem(f"{keyword} is longer than {limit} characters")
        value = value[:limit].strip()
    if value:
        ds[tag] = element_of_text(vr, value)


def _tag(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return f"{tag:08X}"
